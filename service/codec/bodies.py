"""Bodies of requests and responses: JSON, or tensors beside JSON as `application/vnd.safetensors`.

In safetensors (Hugging Face's format, which holds nothing but numbers) a request's `TENSOR_NAMES` are
tensors, and its other fields are JSON under the metadata key `request`. A response's arrays are tensors
named by their dotted path in JSON, and its other fields are under `response`.
"""

import asyncio
import json
import zlib
from dataclasses import is_dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import orjson
import safetensors
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import save
from starlette.requests import Request

from service.errors import RequestError, field_errors, invalid, invalid_at
from service.schemas.values import MAX_DIMENSIONS, UNION_TAGS, BinaryTensor, DType

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

JSON, SAFETENSORS = "application/json", "application/vnd.safetensors"
"""Media types of bodies."""
TENSOR_NAMES = ("support.x", "support.y", "query.x", "query.y", "pool.x", "target.x")
"""Tensors that a safetensors request may hold, each under its dotted path in JSON."""
DTYPES: dict[str, DType] = {"F32": "float32", "F64": "float64", "I64": "int64", "U8": "uint8"}
"""Dtypes of a request's tensors, by their codes in safetensors."""
WBITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""zlib's `wbits` argument for each compression; HTTP's deflate is zlib's format."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""UTF-8's mark, which some editors and shells write before JSON."""

BodyT = TypeVar("BodyT", bound=BaseModel)


@lru_cache(maxsize=64)
def reply_type(accept: str) -> str:
    """The media type of the reply to this Accept header: safetensors where it is named, else JSON.

    Raises:
        RequestError: 406 where the header accepts neither.
    """
    accepted = accepted_types(accept)
    if SAFETENSORS in accepted:
        return SAFETENSORS
    if accepted & {JSON, "application/*", "*/*", ""}:
        return JSON
    raise RequestError("not-acceptable", f"replies are {JSON} or {SAFETENSORS}")


def accepted_types(accept: str) -> set[str]:
    """The media types and ranges that an Accept header names, without those of weight zero."""
    parts = ("".join(part.split()).lower().split(";") for part in accept.split(","))
    return {kind for kind, *more in parts if not {"q=0", "q=0.0", "q=0.00", "q=0.000"} & set(more)}


def parsed(content: bytes, media_type: str, body_type: type[BodyT]) -> BodyT:
    """The request in these bytes, validated in one pass over them.

    Raises:
        RequestError: 400 for bytes that are not JSON or not safetensors, 415 for another media type,
            422 for a body that does not fit `body_type`.
    """
    if media_type not in (JSON, SAFETENSORS):
        raise RequestError("unsupported-media-type", f"send {JSON} or {SAFETENSORS}")
    try:
        if media_type == JSON:
            return body_type.model_validate_json(content.removeprefix(BYTE_ORDER_MARK))
        return body_type.model_validate(_from_safetensors(content))
    except ValidationError as error:
        raise refused(error) from None


def refused(error: ValidationError) -> RequestError:
    """The problem that pydantic's error is for the caller: 400 for what is not JSON, else 422."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    if found[0]["type"] == "json_invalid":
        return RequestError("not-json", found[0]["msg"][:200])
    return invalid("the request body is not valid", *field_errors(found, UNION_TAGS))


def encoded(response: "DataclassInstance", media_type: str) -> bytes:
    """The bytes of a response: dataclasses whose leaves may be arrays."""
    if media_type == JSON:
        return orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY)
    tensors: dict[str, NDArray[Any]] = {}
    rest = _without_arrays(response, "", tensors)
    return save(tensors, metadata={"response": orjson.dumps(rest).decode()})


def _from_safetensors(content: bytes) -> dict[str, Any]:
    """A request as the fields of its JSON, with a `BinaryTensor` in the place of each tensor."""
    try:
        found = dict(safetensors.deserialize(content))  # type: ignore[no-untyped-call]
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (SafetensorError, ValueError, RecursionError):
        raise RequestError("not-safetensors", "the body is not in the safetensors format") from None
    try:
        request = orjson.loads((header.get("__metadata__") or {}).get("request", "{}"))
    except orjson.JSONDecodeError:
        raise RequestError("not-json", "the metadata key request is not JSON") from None
    if not isinstance(request, dict):
        raise invalid_at("", "the metadata key request is not an object")
    for name, tensor in found.items():
        if name not in TENSOR_NAMES:
            raise invalid_at("", f"tensors are {', '.join(TENSOR_NAMES)}")
        if tensor["dtype"] not in DTYPES:
            raise invalid_at(f"/{name.replace('.', '/')}", f"dtypes are {', '.join(DTYPES)}")
        part, _, field = name.partition(".")
        fields = request.setdefault(part, {})
        if not isinstance(fields, dict) or field in fields:
            raise invalid_at(f"/{part}", "given twice, as a tensor and in JSON")
        shape = tensor["shape"]
        if not 1 <= len(shape) <= MAX_DIMENSIONS:
            raise invalid_at(f"/{part}/{field}", "tensors have one to four dimensions")
        dtype = DTYPES[tensor["dtype"]]
        fields[field] = BinaryTensor(dtype=dtype, shape=shape, base64="", content=bytes(tensor["data"]))
    return request


def _without_arrays(node: Any, path: str, tensors: dict[str, NDArray[Any]]) -> Any:
    """The node without its arrays, which are added to `tensors` under their dotted names."""
    if not is_dataclass(node):
        return node
    rest = {}
    for name in node.__dataclass_fields__:
        value = getattr(node, name)
        if isinstance(value, np.ndarray):
            tensors[path + name] = value
        else:
            rest[name] = _without_arrays(value, f"{path}{name}.", tensors)
    return rest


class BodyReader:
    """Reads the bodies of requests; used on the event loop alone.

    Args:
        max_bytes: bytes of one body, as sent and decompressed alike.
        max_total_bytes: bytes of all bodies that are being received.
        timeout_s: seconds that a body may take to arrive.
    """

    def __init__(self, max_bytes: int, max_total_bytes: int, timeout_s: float) -> None:
        self._max_bytes, self._max_total_bytes, self._timeout_s = max_bytes, max_total_bytes, timeout_s
        self._total_bytes = 0

    async def read(self, request: Request) -> tuple[bytes, str]:
        """The body, decompressed, and its media type.

        Raises:
            RequestError: 413 for a body beyond `max_bytes`; 408 for one that arrives late; 429 where all
                bodies together exceed `max_total_bytes`; 415 for a compression other than gzip
                and deflate; 400 for a packed body that is not valid.
        """
        headers = request.headers
        media_type = headers.get("content-type", JSON).partition(";")[0].strip().lower()
        compression = headers.get("content-encoding", "identity").strip().lower()
        if compression != "identity" and compression not in WBITS:
            raise RequestError("unsupported-media-type", "bodies come plain or packed with gzip or deflate")
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:18]) > self._max_bytes:
            raise _too_large(self._max_bytes)
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._timeout_s):
                async for chunk in request.stream():
                    chunks.append(chunk)
                    size += len(chunk)
                    self._total_bytes += len(chunk)
                    if size > self._max_bytes:
                        raise _too_large(self._max_bytes)
                    if self._total_bytes > self._max_total_bytes:
                        detail = "too many bodies are on their way in"
                        raise RequestError("queue-full", detail, retry_after_s=1)
        except TimeoutError:
            detail = f"the body did not arrive within {self._timeout_s:g} s"
            raise RequestError("too-slow", detail, headers={"Connection": "close"}) from None
        finally:
            self._total_bytes -= size
        content = b"".join(chunks)  # of one chunk: the chunk itself
        if compression in WBITS:
            return _decompressed(content, compression, self._max_bytes), media_type
        return content, media_type


def _decompressed(content: bytes, compression: str, max_bytes: int) -> bytes:
    """The content of a packed body; at most one byte beyond the limit is decompressed."""
    decompressor = zlib.decompressobj(WBITS[compression])
    try:
        decompressed = decompressor.decompress(content, max_bytes + 1)
    except zlib.error:
        raise RequestError("bad-encoding", f"the body is not {compression}") from None
    if len(decompressed) > max_bytes:
        raise _too_large(max_bytes)
    if not decompressor.eof or decompressor.unused_data:
        raise RequestError("bad-encoding", f"the {compression} body ends early, or goes on after its end")
    return decompressed


def _too_large(max_bytes: int) -> RequestError:
    return RequestError("body-too-large", f"the body exceeds {max_bytes} bytes")
