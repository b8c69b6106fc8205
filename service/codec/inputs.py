"""Rows of numbers or pictures in a request, in any of their forms, as one array."""

import base64
import binascii
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store import Model, OutsideDomain
from model_store.images import ImageInput
from model_store.model import Single
from service.codec.budget import Budget
from service.codec.images import decoded
from service.errors import FieldError, invalid, invalid_at
from service.job import Array
from service.schemas.values import BinaryTensor, EncodedImages, EncodedTensor, LabelValues, Values


def rows_of(values: Values, width: int, pointer: str, most: int, least: int = 0) -> Array:
    """Numbers `[row, column]`.

    Raises:
        RequestError: 422 for pictures, other shapes, what is not finite, and too many or few rows.
    """
    if isinstance(values, EncodedImages):
        raise invalid_at(pointer, f"this model takes {width} numbers a row, not pictures")
    if isinstance(values, EncodedTensor):
        array = _from_base64(values, pointer).astype(np.float64)
        _bounded(len(array) if array.ndim else 0, pointer, most, least)
        if array.ndim != 2 or array.shape[1] != width:
            raise invalid_at(f"{pointer}/shape", f"[rows, {width}] is wanted")
        _check_finite(array, pointer)
        return array
    rows: list[Any] = list(values)
    _bounded(len(rows), pointer, most, least)
    with suppress(ValueError):  # they are not all alike: see below
        array = np.array(rows, dtype=np.float64)
        if array.shape == (len(rows), width):
            return array
    if deep := [i for i, row in enumerate(rows) if row and isinstance(row[0], list)]:
        raise invalid_at(f"{pointer}/{deep[0]}/0", "a list where a number is wanted")
    if ragged := [i for i, row in enumerate(rows) if len(row) != width]:
        raise invalid(
            "the rows do not have the model's number of columns",
            *(
                FieldError(
                    pointer=f"{pointer}/{index}",
                    detail=f"{len(rows[index])} numbers where the model takes {width}",
                )
                for index in ragged[:20]
            ),
        )
    return np.array(rows, dtype=np.float64).reshape(len(rows), width)


def image_rows(
    values: Values, image: ImageInput, pointer: str, most: int, budget: Budget, least: int = 0
) -> NDArray[np.float32]:
    """Pictures `[picture, channel × height × width]` in [0, 1].

    They come encoded, as `uint8` tensors (0 … 255), or as numbers in [0, 1]; the last two in the
    model's own size, `[picture, height, width]` grey and `[picture, height, width, 3]` RGB.

    Raises:
        RequestError: 422 for other shapes or values, 413 for too many pixels, 504 when the time is up.
    """
    if isinstance(values, EncodedImages):
        _bounded(len(values.images), pointer, most, least)
        return image.scaled(decoded(values.images, image, budget, pointer))
    array: NDArray[Any]
    if isinstance(values, EncodedTensor):
        array = _from_base64(values, pointer)
    else:
        _bounded(len(values), pointer, most, least)
        try:
            with np.errstate(over="ignore"):  # what is too large for single precision is not in [0, 1] either
                array = np.array(values, dtype=np.float32)
        except ValueError:
            raise invalid_at(pointer, "pictures must all have the model's size") from None
    _bounded(len(array) if array.ndim else 0, pointer, most, least)
    if not len(array):
        return np.zeros((0, image.numbers), np.float32)
    flat = (image.numbers,) if image.channels == 1 else None
    if array.shape[1:] not in (image.shape, flat):
        raise invalid_at(pointer, f"pictures of shape {list(image.shape)} are wanted, or encoded ones")
    if array.dtype == np.uint8:
        return image.scaled(array.reshape(len(array), *image.shape))
    _check_finite(array, pointer)
    if array.size and (array.min() < 0 or array.max() > 1):
        raise invalid_at(pointer, "pixel values lie in [0, 1]; send uint8 for 0 to 255")
    return image.turned(array.astype(np.float32))


def labels_of(values: LabelValues, pointer: str) -> Sequence[float | str | list[float]]:
    """Labels as lists, whatever form they came in.

    Raises:
        RequestError: 422 for a tensor of pictures, or one that is not finite.
    """
    if not isinstance(values, EncodedTensor):
        return values
    array = _from_base64(values, pointer)
    if array.ndim not in (1, 2):
        raise invalid_at(f"{pointer}/shape", "[rows] or [rows, outputs] is wanted")
    _check_finite(array, pointer)
    listed: list[Any] = array.tolist()
    return listed


def _from_base64(values: EncodedTensor, pointer: str) -> NDArray[Any]:
    dtype: np.dtype[Any] = np.dtype(values.dtype).newbyteorder("<")
    if isinstance(values, BinaryTensor):
        return _shaped(values.content, dtype, values.shape, pointer)
    try:
        content = base64.b64decode(values.base64, validate=True)
    except (binascii.Error, ValueError):
        raise invalid_at(f"{pointer}/base64", "not base64") from None
    wanted = dtype.itemsize
    for side in values.shape:  # Python's integers do not overflow
        wanted *= side
    if wanted != len(content):
        detail = f"{len(content)} bytes where shape and dtype take {wanted}"
        raise invalid_at(f"{pointer}/base64", detail[:200])
    return _shaped(content, dtype, values.shape, pointer)


def _shaped(content: bytes, dtype: np.dtype[Any], shape: Sequence[int], pointer: str) -> NDArray[Any]:
    try:
        return np.frombuffer(content, dtype=dtype).reshape(shape)
    except (ValueError, OverflowError):  # nothing, in a shape whose other sides nobody can count
        raise invalid_at(f"{pointer}/shape", "no array has this shape") from None


def _bounded(rows: int, pointer: str, most: int, least: int) -> None:
    if rows > most:
        raise invalid_at(pointer, f"{rows} rows; this service takes at most {most}")
    if rows < least:
        raise invalid_at(pointer, f"at least {least} row is needed")


def _check_finite(array: NDArray[Any], pointer: str) -> None:
    if not len(array):
        return
    finite = np.isfinite(array.astype(np.float64, copy=False)).reshape(len(array), -1).all(1)
    if not finite.all():
        raise invalid_at(f"{pointer}/{int(np.argmin(finite))}", "not finite")


FURTHEST = np.float32(1e6)
"""Standardised inputs are this large at most: farther away the answer is the prior, and squares overflow."""


@dataclass(frozen=True)
class Rows:
    """Rows as they came, and as the network wants them."""

    raw: NDArray[Any]
    standardised: Single


def rows(values: Values, model: Model, pointer: str, most: int, budget: Budget, least: int = 0) -> Rows:
    """Unlabelled rows.

    Raises:
        RequestError: 422 for shapes, values and too many rows; 413 for pictures of too many pixels.
    """
    return _standardised(_raw(values, model, pointer, most, budget, least), model, pointer)


def _raw(values: Values, model: Model, pointer: str, most: int, budget: Budget, least: int) -> NDArray[Any]:
    image = model.manifest.image
    if image is not None:
        return image_rows(values, image, pointer, most, budget, least)
    return rows_of(values, len(model.manifest.inputs), pointer, most, least)


def _standardised(raw: NDArray[Any], model: Model, pointer: str) -> Rows:
    if model.manifest.image is not None:
        return Rows(raw, raw)
    try:
        standardised = model.standardised_inputs(raw)
    except OutsideDomain as error:
        raise invalid_at(f"{pointer}/{error.row}", str(error)) from None
    if not (np.abs(standardised) <= FURTHEST).all():
        standardised = np.clip(_finite(standardised, pointer), -FURTHEST, FURTHEST)
    return Rows(raw, standardised)


def _finite(values: Single, pointer: str) -> Single:
    """Numbers that fit the network's precision."""
    if (bad := np.flatnonzero(~np.isfinite(values).all(-1))).size:
        raise invalid_at(f"{pointer}/{bad[0]}", "too large for this model's precision")
    return values
