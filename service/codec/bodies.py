"""Bytes to requests and replies to bytes: JSON, or tensors beside JSON as `application/vnd.safetensors`.

In safetensors (Hugging Face's format, which holds nothing but numbers) a request's `support.x`,
`support.y`, `query.x`, `pool.x` and `target.x` are tensors and everything else is JSON under the
metadata key `request`; a reply's arrays are tensors of the names they have in JSON, and the rest is
under `response`.
"""

import asyncio
import json
import zlib
from dataclasses import is_dataclass
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
from service.schemas.values import UNION_TAGS, BinaryTensor, DType

JSON, BINARY = "application/json", "application/vnd.safetensors"
TENSORS = ("support.x", "support.y", "query.x", "pool.x", "target.x")
DTYPES: dict[str, DType] = {"F32": "float32", "F64": "float64", "I64": "int64", "U8": "uint8"}

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

BodyT = TypeVar("BodyT", bound=BaseModel)


def reply_type(accept: str) -> str:
    """The form of a reply to this Accept header: binary where it is named, else JSON.

    Raises:
        RequestError: 406 where neither will do.
    """
    parts = ("".join(part.split()).lower().split(";") for part in accept.split(","))
    kinds = {kind for kind, *more in parts if not {"q=0", "q=0.0", "q=0.00", "q=0.000"} & set(more)}
    if BINARY in kinds:
        return BINARY
    if kinds & {JSON, "application/*", "*/*", ""}:
        return JSON
    raise RequestError("not-acceptable", f"replies are {JSON} or {BINARY}")


def parsed(body: bytes, kind: str, model: type[BodyT]) -> BodyT:
    """A request, validated in one pass over its bytes.

    Raises:
        RequestError: 400 for what is no JSON or no safetensors, 415 for another media type, 422 for what
            is not such a request.
    """
    if kind not in (JSON, BINARY):
        raise RequestError("unsupported-media-type", f"send {JSON} or {BINARY}")
    try:
        if kind == JSON:
            return model.model_validate_json(body)
        return model.model_validate(_from_safetensors(body))
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        if found[0]["type"] == "json_invalid":
            raise RequestError("not-json", found[0]["msg"][:200]) from None
        raise invalid("the request body is not valid", *field_errors(found, UNION_TAGS)) from None


def encoded(reply: "DataclassInstance", kind: str) -> bytes:
    """A response with arrays at its ends, as bytes."""
    if kind == JSON:
        return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)
    tensors: dict[str, NDArray[Any]] = {}
    rest = _without_arrays(reply, "", tensors)
    return save(tensors, metadata={"response": orjson.dumps(rest).decode()})


def _from_safetensors(body: bytes) -> dict[str, Any]:
    try:
        found = dict(safetensors.deserialize(body))  # type: ignore[no-untyped-call]
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    except (SafetensorError, ValueError, RecursionError):
        raise RequestError("not-safetensors", "the body is not in the safetensors format") from None
    try:
        request = orjson.loads((header.get("__metadata__") or {}).get("request", "{}"))
    except orjson.JSONDecodeError:
        raise RequestError("not-json", "the metadata key request is not JSON") from None
    if not isinstance(request, dict):
        raise invalid_at("", "the metadata key request is not an object")
    for name, tensor in found.items():
        if name not in TENSORS:
            raise invalid_at("", f"tensors are {', '.join(TENSORS)}")
        if tensor["dtype"] not in DTYPES:
            raise invalid_at(f"/{name.replace('.', '/')}", f"dtypes are {', '.join(DTYPES)}")
        part, _, axis = name.partition(".")
        place = request.setdefault(part, {})
        if not isinstance(place, dict) or axis in place:
            raise invalid_at(f"/{part}", "given twice, as a tensor and in JSON")
        shape = tensor["shape"]
        if len(shape) not in range(1, 5):
            raise invalid_at(f"/{part}/{axis}", "tensors have one to four dimensions")
        dtype = DTYPES[tensor["dtype"]]
        place[axis] = BinaryTensor(dtype=dtype, shape=shape, base64="", content=bytes(tensor["data"]))
    return request


def _without_arrays(node: Any, path: str, tensors: dict[str, NDArray[Any]]) -> Any:
    """The node without its arrays, which go to `tensors` under their dotted names."""
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


GZIP = 16 + zlib.MAX_WBITS
"""zlib's name for the gzip format."""
CLOSE = {"Connection": "close"}


class BodyReader:
    """Reads bodies; on the event loop alone.

    Args:
        most: bytes of one body, packed and unpacked alike.
        together: bytes of all bodies that are on their way in.
        within_s: how long a body may take to arrive.
    """

    def __init__(self, most: int, together: int, within_s: float) -> None:
        self._most, self._together, self._within_s = most, together, within_s
        self._held = 0

    async def read(self, request: Request) -> tuple[bytes, str]:
        """The body, unpacked, and its media type.

        Raises:
            RequestError: 413 for a body too large, 408 for one too slow, 429 where others fill the memory
                that there is for bodies, 415 for another packing than gzip, 400 for what is not gzip.
        """
        headers = request.headers
        kind = headers.get("content-type", JSON).partition(";")[0].strip().lower()
        packing = headers.get("content-encoding", "identity").strip().lower()
        if packing not in ("identity", "gzip"):
            raise RequestError("unsupported-media-type", "bodies come plain or packed with gzip")
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:18]) > self._most:
            raise _too_large(self._most)
        raw = bytearray()
        try:
            async with asyncio.timeout(self._within_s):
                async for chunk in request.stream():
                    raw += chunk
                    self._held += len(chunk)
                    if len(raw) > self._most:
                        raise _too_large(self._most)
                    if self._held > self._together:
                        crowded = "too many bodies are on their way in"
                        raise RequestError("queue-full", crowded, retry_after_s=1)
        except TimeoutError:
            late = f"the body did not arrive within {self._within_s:g} s"
            raise RequestError("too-slow", late, headers=CLOSE) from None
        finally:
            self._held -= len(raw)
        return (_unpacked(raw, self._most) if packing == "gzip" else bytes(raw)), kind


def _unpacked(packed: bytearray, most: int) -> bytes:
    """What a gzip body holds; never more than a byte above the limit is unpacked."""
    unpacker = zlib.decompressobj(GZIP)
    try:
        content = unpacker.decompress(packed, most + 1)
    except zlib.error:
        raise RequestError("bad-encoding", "the body is not gzip") from None
    if len(content) > most:
        raise _too_large(most)
    if not unpacker.eof or unpacker.unused_data:
        raise RequestError("bad-encoding", "the gzip body ends early, or goes on after its end")
    return content


def _too_large(most: int) -> RequestError:
    return RequestError("body-too-large", f"the body exceeds {most} bytes")
