"""Requests of the Open Inference Protocol as the service's own."""

import base64
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from pydantic import ValidationError

from model_store import Manifest
from service.codec.bodies import parsed, refused
from service.codec.open_inference.tensors import array_of, byte_strings
from service.errors import FieldError, RequestError, invalid, invalid_at
from service.schemas.open_inference import InferInput, InferRequest
from service.schemas.requests import AdaptPredictRequest
from service.schemas.values import BinaryTensor, DType

JSON, BINARY = "application/json", "application/octet-stream"
"""Media types of bodies; with tensors as bytes after the JSON it is the second."""
HEADER_LENGTH = "Inference-Header-Content-Length"
MAX_DIGITS = 18
"""Digits of a number of bytes; Python refuses to read thousands of them."""
"""The header with the length of the JSON, where bytes follow it."""
MAX_MESSAGE_CHARS = 2000
"""Characters of a failure's message."""
ONLY_ROWS = "policies take episodes, which this protocol has no tensors for: use POST /v1/adapt-predict"


@dataclass(frozen=True)
class Inference:
    """A request in both forms."""

    asked: InferRequest
    request: AdaptPredictRequest


def read_inference(
    content: bytes, media_type: str, header_length: str | None, model: str, version: int | None
) -> Inference:
    """The request in these bytes.

    Args:
        header_length: the header of that name; None where it was not sent.

    Raises:
        RequestError: 400 for what is not JSON, 415 for another media type, 422 for the rest.
    """
    if media_type not in (JSON, BINARY):
        raise RequestError("unsupported-media-type", f"send {JSON} or {BINARY}")
    if header_length is None:
        if media_type == BINARY:
            raise invalid(
                f"{HEADER_LENGTH} is needed with {BINARY}: the bytes of the JSON before the tensors"
            )
        header, rest = content, b""
    else:
        digits = header_length.lstrip("0") or "0"
        if not (header_length.isdecimal() and len(digits) <= MAX_DIGITS and int(digits) <= len(content)):
            raise invalid(f"{HEADER_LENGTH} is not a number of bytes within the body")
        length = int(digits)
        header, rest = content[:length], content[length:]
    asked = parsed(header, JSON, InferRequest)
    if asked.model_name not in (None, model):
        raise invalid_at("/model_name", "another model than that of the path")
    parts = _binary_parts(asked, rest)
    fields: dict[str, dict[str, Any]] = {}
    for index, (tensor, binary) in enumerate(zip(asked.inputs, parts, strict=True)):
        pointer = f"/inputs/{index}"
        part, _, field = tensor.name.partition(".")
        if field in fields.setdefault(part, {}):
            raise invalid_at(f"{pointer}/name", f"{tensor.name} is given twice")
        value = _inputs if field == "x" else _labels
        fields[part][field] = value(tensor, binary, pointer)
    if "query" not in fields:
        raise invalid_at("/inputs", "the input query.x is needed")
    if "support" in fields and len(fields["support"]) < 2:
        raise invalid_at("/inputs", "support.x and support.y are needed together")
    more = asked.parameters
    interval = more.interval
    request = {
        "model": model,
        "version": version,
        **fields,
        "posterior": more.posterior,
        "quantiles": more.quantiles,
        "interval": interval
        if more.interval_method is None
        else {"level": interval, "method": more.interval_method},
        "keep": None if more.keep_ttl_s is None else {"ttl_s": more.keep_ttl_s},
        "deadline_ms": math.ceil(more.timeout / 1000) or None,
    }
    try:
        return Inference(asked, AdaptPredictRequest.model_validate(request))
    except ValidationError as error:
        raise refused(error) from None


def check_rows_model(manifest: Manifest) -> None:
    """Refuse a policy.

    Raises:
        RequestError: 422.
    """
    if manifest.kind == "policy":
        raise invalid(ONLY_ROWS)


def message(error: RequestError) -> str:
    """The one string that the protocol has for a failure, with the places of the faults."""
    places = "; ".join(f"{_place(each)}: {each.detail}" for each in error.errors)
    return (f"{error.detail}: {places}" if places else error.detail)[:MAX_MESSAGE_CHARS]


def _place(error: FieldError) -> str:
    """The pointer, where it is to a part of our own form, as the tensor that it came from."""
    for name in ("support/x", "support/y", "query/x"):
        if error.pointer.startswith(f"/{name}"):
            return f"{name.replace('/', '.')}{error.pointer[len(name) + 1 :]}"
    return error.pointer


def _binary_parts(asked: InferRequest, rest: bytes) -> list[bytes | None]:
    """The bytes of each input, in their order; None where it has data."""
    parts: list[bytes | None] = []
    at = 0
    for index, tensor in enumerate(asked.inputs):
        size = tensor.parameters.binary_data_size
        if size is None:
            parts.append(None)
            continue
        if tensor.data is not None:
            raise invalid_at(f"/inputs/{index}", "data and binary_data_size exclude each other")
        if at + size > len(rest):
            detail = "the body ends before the bytes of this input"
            raise invalid_at(f"/inputs/{index}/parameters/binary_data_size", detail)
        parts.append(rest[at : at + size])
        at += size
    if at < len(rest):
        raise invalid(f"{len(rest) - at} bytes are left over after the last input")
    return parts


def _tensor(tensor: InferInput, binary: bytes | None, pointer: str) -> BinaryTensor:
    array = array_of(tensor, binary, pointer)
    dtype: DType
    if array.dtype.kind == "f":
        dtype = "float64" if array.dtype.itemsize == 8 else "float32"
    else:
        dtype = "uint8" if tensor.datatype == "UINT8" else "int64"
    content = array.astype(np.dtype(dtype).newbyteorder("<")).tobytes()
    return BinaryTensor(dtype=dtype, shape=tensor.shape, base64="", content=content)


def _inputs(tensor: InferInput, binary: bytes | None, pointer: str) -> Any:
    """Rows of numbers; of `BYTES`, image files (in JSON, as base64)."""
    if tensor.datatype == "BOOL":
        raise invalid_at(f"{pointer}/datatype", "inputs are numbers, or image files as BYTES")
    if tensor.datatype != "BYTES":
        return _tensor(tensor, binary, pointer)
    files = byte_strings(tensor, binary, pointer)
    return {"images": [(each if binary is None else base64.b64encode(each)).decode() for each in files]}


def _labels(tensor: InferInput, binary: bytes | None, pointer: str) -> Any:
    """Numbers, class names or truth values."""
    if tensor.datatype not in ("BYTES", "BOOL"):
        return _tensor(tensor, binary, pointer)
    if tensor.shape[1:] not in ([], [1]):
        raise invalid_at(f"{pointer}/shape", "[rows] is wanted")
    if tensor.datatype == "BOOL":
        labels: list[bool] = array_of(tensor, binary, pointer).ravel().tolist()
        return labels
    try:
        return [each.decode() for each in byte_strings(tensor, binary, pointer)]
    except UnicodeDecodeError:
        raise invalid_at(f"{pointer}/data", "class names are UTF-8") from None


def error_body(error: RequestError) -> bytes:
    """The body of a failure."""
    return orjson.dumps({"error": message(error)})
