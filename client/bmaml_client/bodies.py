"""Request and reply bodies: JSON, or tensors beside JSON in the safetensors format.

In safetensors, tensors have dotted names such as `support.x`. The rest of the body is JSON, in the
metadata under `request` or `response`.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from bmaml_client.errors import BadReply, InvalidInput
from bmaml_client.inputs import ImageFiles

JSON, BINARY = "application/json", "application/vnd.safetensors"
MIN_BINARY_BYTES = 16 << 10
"""Bytes of arrays from which a body is sent as safetensors."""


def encode(document: Mapping[str, Any], binary: bool | None) -> tuple[bytes, str]:
    """Encode a request: its bytes and their media type.

    Args:
        document: nested mappings; their leaves may be arrays and image files.
        binary: whether to send safetensors; None decides by size.

    Raises:
        InvalidInput: JSON has no such value.
    """
    if binary is None:
        binary = sum(array.nbytes for array in _arrays(document)) >= MIN_BINARY_BYTES
    if not binary:
        return _dump(_json_value(document)), JSON
    tensors: dict[str, NDArray[Any]] = {}
    rest = _json_value(_take_tensors(document, tensors))
    return save(tensors, metadata={"request": _dump(rest).decode()}), BINARY


def decode(content: bytes, media_type: str) -> Any:
    """Decode a reply; its numbers are arrays where it came as safetensors.

    Raises:
        BadReply: the media type is neither of the two, or the content does not follow it.
    """
    kind = media_type.partition(";")[0].strip().lower()
    try:
        if kind == BINARY:
            return _decode_safetensors(content)
        if kind == JSON or kind.endswith("+json"):
            return json.loads(content)
    except (SafetensorError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise BadReply(f"the reply says it is {kind} and cannot be read as that") from None
    raise BadReply(f"the reply is {kind or 'of no type'}, not {JSON}: is this the service's address?")


def _arrays(node: Any) -> Iterator[NDArray[Any]]:
    if isinstance(node, Mapping):
        for each in node.values():
            yield from _arrays(each)
    elif isinstance(node, np.ndarray):
        yield node


def _json_value(node: Any) -> Any:
    """Arrays as lists, arrays of bytes in base64, files in base64."""
    if isinstance(node, Mapping):
        return {key: _json_value(value) for key, value in node.items()}
    if isinstance(node, ImageFiles):
        return {"images": [base64.b64encode(each).decode() for each in node.contents]}
    if not isinstance(node, np.ndarray):
        return node
    if node.dtype == np.uint8 and node.size:  # a list of them would be read as values in [0, 1]
        content = base64.b64encode(np.ascontiguousarray(node).tobytes()).decode()
        return {"dtype": "uint8", "shape": list(node.shape), "base64": content}
    return node.tolist()


def _dump(value: Any) -> bytes:
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"the request cannot be written as JSON: {error}") from None


def _take_tensors(node: Any, tensors: dict[str, NDArray[Any]], path: str = "") -> Any:
    """The node without its arrays, which go to `tensors` under their dotted names; empty arrays stay."""
    if not isinstance(node, Mapping):
        return node
    rest = {}
    for key, value in node.items():
        if isinstance(value, np.ndarray) and value.size:
            tensors[f"{path}{key}"] = np.ascontiguousarray(value)
        else:
            rest[key] = _take_tensors(value, tensors, f"{path}{key}.")
    return rest


def _decode_safetensors(content: bytes) -> dict[str, Any]:
    tensors = load(content)
    # The library checks the whole format and gives no metadata of bytes: they are in the header.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    reply: dict[str, Any] = json.loads(header["__metadata__"]["response"])
    for name, array in tensors.items():
        *parents, leaf = name.split(".")
        node = reply
        for each in parents:
            node = node.setdefault(each, {})
        node[leaf] = array
    return reply
