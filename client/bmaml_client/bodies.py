"""Requests to bytes and bytes to replies: JSON, or tensors beside JSON as `application/vnd.safetensors`.

The format is eight bytes of length, a JSON header, and the raw numbers; it is written and read here so
that the client needs nothing but numpy.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmaml_client.errors import BadReply, InvalidInput
from bmaml_client.inputs import Files

JSON, BINARY = "application/json", "application/vnd.safetensors"
DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
}
NAMES = {(dtype.kind, dtype.itemsize): name for name, dtype in DTYPES.items()}
BINARY_FROM = 16 << 10
"""Bytes of numbers from which a body is sent as safetensors."""


def encoded(document: Mapping[str, Any], binary: bool | None) -> tuple[bytes, str]:
    """A request with arrays and files at its ends, as bytes, and their media type.

    Args:
        binary: whether to send safetensors; None decides by size.

    Raises:
        InvalidInput: a number that JSON does not have.
    """
    if binary is None:
        binary = sum(array.nbytes for array in _arrays(document)) >= BINARY_FROM
    if not binary:
        return _dumped(_json(document)), JSON
    tensors: dict[str, NDArray[Any]] = {}
    rest = _json(_without_tensors(document, tensors))
    return _safetensors(tensors, {"request": _dumped(rest).decode()}), BINARY


def decoded(content: bytes, kind: str) -> Any:
    """A reply, with arrays where it came as safetensors.

    Raises:
        BadReply: it is neither of the two, or not what it says it is.
    """
    kind = kind.partition(";")[0].strip().lower()
    try:
        if kind == BINARY:
            return _from_safetensors(content)
        if kind == JSON or kind.endswith("+json"):
            return json.loads(content)
    except (ValueError, KeyError, TypeError, IndexError):
        raise BadReply(f"the reply says it is {kind} and cannot be read as that") from None
    raise BadReply(f"the reply is {kind or 'of no type'}, not {JSON}: is this the service's address?")


def _arrays(node: Any) -> Iterator[NDArray[Any]]:
    if isinstance(node, Mapping):
        for each in node.values():
            yield from _arrays(each)
    elif isinstance(node, np.ndarray):
        yield node


def _json(node: Any) -> Any:
    """Arrays as lists, bytes as numbers in base64, files in base64."""
    if isinstance(node, Mapping):
        return {key: _json(value) for key, value in node.items()}
    if isinstance(node, Files):
        return {"images": [base64.b64encode(each).decode() for each in node.contents]}
    if not isinstance(node, np.ndarray):
        return node
    if node.dtype == np.uint8 and node.size:  # as numbers they would be read as values in [0, 1]
        content = base64.b64encode(np.ascontiguousarray(node).tobytes()).decode()
        return {"dtype": "uint8", "shape": list(node.shape), "base64": content}
    return node.tolist()


def _dumped(value: Any) -> bytes:
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"the request cannot be written as JSON: {error}") from None


def _without_tensors(node: Any, tensors: dict[str, NDArray[Any]], path: str = "") -> Any:
    """The node without its arrays, which go to `tensors` under their dotted names; empty ones stay."""
    if not isinstance(node, Mapping):
        return node
    kept = {}
    for key, value in node.items():
        if isinstance(value, np.ndarray) and value.size:
            tensors[f"{path}{key}"] = value
        else:
            kept[key] = _without_tensors(value, tensors, f"{path}{key}.")
    return kept


def _safetensors(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    chunks, end = [], 0
    for name, array in tensors.items():
        dtype = NAMES[array.dtype.kind, array.dtype.itemsize]
        chunk = array.astype(DTYPES[dtype], copy=False).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [end, end + len(chunk)],
        }
        chunks.append(chunk)
        end += len(chunk)
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    return len(told).to_bytes(8, "little") + told + b"".join(chunks)


def _from_safetensors(content: bytes) -> dict[str, Any]:
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    reply: dict[str, Any] = json.loads(header.pop("__metadata__")["response"])
    for name, told in header.items():
        first, last = told["data_offsets"]
        array = np.frombuffer(content[start + first : start + last], DTYPES[told["dtype"]])
        *parents, leaf = name.split(".")
        place = reply
        for each in parents:
            place = place.setdefault(each, {})
        place[leaf] = array.reshape(told["shape"])
    return reply
