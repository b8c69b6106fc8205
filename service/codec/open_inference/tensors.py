"""Tensors of the Open Inference Protocol as arrays and labels, and back, in JSON and as bytes."""

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.class_target import Label
from service.codec.inputs import in_words
from service.errors import invalid_at
from service.schemas.open_inference import InferInput

DTYPES = {
    "BOOL": np.dtype("?"),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
"""Array types by datatype; `BYTES`, which has none, is a list of byte strings."""
LENGTH = struct.Struct("<I")
"""The length before each element of `BYTES` in binary."""


def byte_strings(tensor: InferInput, binary: bytes | None, pointer: str) -> list[bytes]:
    """The elements of a `BYTES` tensor.

    Raises:
        RequestError: 422 where their number is not what the shape says, or bytes are missing or left over.
    """
    if binary is None:
        data: Any = tensor.data
        if data is None or any(not isinstance(each, str) for each in data):
            raise invalid_at(f"{pointer}/data", "BYTES in JSON are a flat list of strings")
        found = [each.encode() for each in data]
    else:
        found = _split(binary, f"{pointer}/data")
    _check_count(len(found), tensor, pointer)
    return found


def array_of(tensor: InferInput, binary: bytes | None, pointer: str) -> NDArray[Any]:
    """The elements of any other tensor, in its shape.

    Raises:
        RequestError: 422 where they do not fit the shape or the datatype, or are not finite.
    """
    dtype = DTYPES[tensor.datatype]
    if binary is not None:
        expected = math.prod(tensor.shape) * dtype.itemsize
        if len(binary) != expected:
            found = f"{len(binary)} bytes where shape and datatype take {in_words(expected)}"
            raise invalid_at(pointer, found)
        array: NDArray[Any] = np.frombuffer(binary, np.uint8 if tensor.datatype == "BOOL" else dtype)
        if tensor.datatype == "BOOL":
            if array.size and array.max() > 1:
                raise invalid_at(f"{pointer}/data", "truth values are the bytes 0 and 1")
            array = array.astype(dtype)
    else:
        array = _from_json(tensor, dtype, pointer)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise invalid_at(f"{pointer}/data", f"not finite as {tensor.datatype}")
    try:
        return array.reshape(tensor.shape)
    except (ValueError, OverflowError):
        raise invalid_at(f"{pointer}/shape", "no array has this shape") from None


def label_array(labels: Any) -> tuple[str, list[int], NDArray[Any] | list[bytes]]:
    """Datatype, shape and elements of class labels, nested or not: `BYTES`, `INT64` or `BOOL`."""
    nested = bool(labels) and isinstance(labels[0], list)
    flat: Sequence[Label] = [each for row in labels for each in row] if nested else labels
    shape = [len(labels), len(labels[0])] if nested else [len(labels)]
    if flat and isinstance(flat[0], bool):
        return "BOOL", shape, np.array(flat, dtype=bool)
    if flat and isinstance(flat[0], int):
        return "INT64", shape, np.array(flat, dtype=np.int64)
    return "BYTES", shape, [str(each).encode() for each in flat]


def binary_of(elements: NDArray[Any] | list[bytes]) -> bytes:
    """The elements as bytes."""
    if isinstance(elements, list):
        return b"".join(LENGTH.pack(len(each)) + each for each in elements)
    return np.ascontiguousarray(elements).tobytes()


def json_of(elements: NDArray[Any] | list[bytes]) -> Any:
    """The elements as a flat value for JSON."""
    if isinstance(elements, list):
        return [each.decode() for each in elements]
    return np.ascontiguousarray(elements).ravel()


def _split(binary: bytes, pointer: str) -> list[bytes]:
    found, at = [], 0
    while at < len(binary):
        end = at + LENGTH.size
        length = LENGTH.unpack_from(binary, at)[0] if end <= len(binary) else 0
        if end + length > len(binary):
            raise invalid_at(pointer, "an element of BYTES is its length in four bytes, then its bytes")
        found.append(binary[end : end + length])
        at = end + length
    return found


def _check_count(count: int, tensor: InferInput, pointer: str) -> None:
    expected = math.prod(tensor.shape)
    if count != expected:
        raise invalid_at(f"{pointer}/data", f"{count} elements where the shape takes {in_words(expected)}")


def _from_json(tensor: InferInput, dtype: np.dtype[Any], pointer: str) -> NDArray[Any]:
    """The numbers or truth values of `data`, flat or nested as the shape says."""
    data: Any = tensor.data
    if data is None:
        raise invalid_at(
            f"{pointer}/data", "data is needed, or binary_data_size and the bytes after the JSON"
        )
    try:
        array = np.array(data)
    except ValueError:
        raise invalid_at(f"{pointer}/data", "the rows differ in length") from None
    _check_count(array.size, tensor, pointer)
    if array.ndim > 1 and list(array.shape) != tensor.shape:
        raise invalid_at(f"{pointer}/data", "nested otherwise than the shape says")
    other_kind = (array.dtype.kind == "b") != (dtype.kind == "b") or array.dtype.kind in "US"
    if array.size and other_kind:
        raise invalid_at(f"{pointer}/data", f"elements of {tensor.datatype} are wanted")
    if dtype.kind in "iu" and array.size:
        bounds = np.iinfo(dtype)
        inside = (array >= bounds.min) & (array <= bounds.max) & (np.abs(array) <= 2**53)
        if not (inside & (array == np.rint(array))).all():
            detail = f"integers of {tensor.datatype} are wanted; beyond 2^53 send them in binary"
            raise invalid_at(f"{pointer}/data", detail)
    with np.errstate(over="ignore"):
        return array.astype(dtype)
