"""Rows and labels of a request, as arrays: numbers or images, in any form that the schema accepts."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store import Model, OutsideDomain
from model_store.images import ImageInput
from model_store.model import Single
from service.codec.base64_text import decoded_base64
from service.codec.budget import Budget
from service.codec.images import decoded_images
from service.errors import MAX_ERRORS, FieldError, invalid, invalid_at
from service.job import Array
from service.schemas.values import BinaryTensor, EncodedImages, EncodedTensor, InputValues, LabelValues

MAX_STANDARDISED = np.float32(1e6)
"""Bound on the magnitude of standardised inputs: beyond it the answer is the prior, and squares overflow."""
MAX_WRITTEN = 10**18
"""Larger counts are not written out in messages."""


@dataclass(frozen=True)
class InputRows:
    """Rows of one part of a request.

    Attributes:
        raw: as they were sent, in the caller's units.
        standardised: as the network takes them.
        animated: the number of animated images among them, of which the first frame is taken.
    """

    raw: NDArray[Any]
    standardised: Single
    animated: int = 0


def input_rows(
    values: InputValues, model: Model, pointer: str, max_rows: int, budget: Budget, min_rows: int = 0
) -> InputRows:
    """The rows at `pointer`, in the form that the model takes, and standardised.

    Raises:
        RequestError: as `image_rows` or `number_rows`; 422 for numbers outside a column's domain.
    """
    image = model.manifest.image
    if image is not None:
        return image_rows(values, image, pointer, max_rows, budget, min_rows)
    raw = number_rows(values, len(model.manifest.inputs), pointer, max_rows, min_rows)
    try:
        standardised = model.standardised_inputs(raw)
    except OutsideDomain as error:
        raise invalid_at(f"{pointer}/{error.row}", str(error)) from None
    if not (np.abs(standardised) <= MAX_STANDARDISED).all():
        check_precision(standardised, pointer)
        standardised = np.clip(standardised, -MAX_STANDARDISED, MAX_STANDARDISED)
    return InputRows(raw, standardised)


def number_rows(values: InputValues, columns: int, pointer: str, max_rows: int, min_rows: int = 0) -> Array:
    """Numbers `[row, column]`.

    Raises:
        RequestError: 422 for images, other shapes, numbers that are not finite, and too many or few rows.
    """
    if isinstance(values, EncodedImages):
        raise invalid_at(pointer, f"this model takes {columns} numbers a row, not images")
    if isinstance(values, EncodedTensor):
        array = _decoded_tensor(values, pointer).astype(np.float64)
        _check_row_count(len(array) if array.ndim else 0, pointer, max_rows, min_rows)
        if array.ndim != 2 or array.shape[1] != columns:
            raise invalid_at(f"{pointer}/shape", f"[rows, {columns}] is wanted")
        _check_finite(array, pointer)
        return array
    rows: Sequence[Any] | Array = values
    _check_row_count(len(rows), pointer, max_rows, min_rows)
    with suppress(ValueError):  # the rows differ in length or depth: below, the first such row is named
        array = np.asarray(rows, dtype=np.float64)
        if array.shape == (len(rows), columns):
            return array
    if nested := [i for i, row in enumerate(rows) if len(row) and isinstance(row[0], list)]:
        raise invalid_at(f"{pointer}/{nested[0]}/0", "a list where a number is wanted")
    if ragged := [i for i, row in enumerate(rows) if len(row) != columns]:
        raise invalid(
            "the rows do not have the model's number of columns",
            *(
                FieldError(
                    pointer=f"{pointer}/{index}",
                    detail=f"{len(rows[index])} numbers where the model takes {columns}",
                )
                for index in ragged[:MAX_ERRORS]
            ),
        )
    return np.array(rows, dtype=np.float64).reshape(len(rows), columns)


def image_rows(
    values: InputValues, image: ImageInput, pointer: str, max_rows: int, budget: Budget, min_rows: int = 0
) -> InputRows:
    """Images `[image, channel × height × width]` in [0, 1].

    They are sent as files of any size, as `uint8` tensors (0 … 255), or as numbers in [0, 1]. Tensors and
    numbers have the model's own size: `[image, height, width]` grey, `[image, height, width, 3]` RGB. The
    channel axis of other libraries is taken too: `[image, 1, height, width]`, `[image, height, width, 1]`,
    `[image, 3, height, width]`. A 3 × 3 RGB model reads `[image, 3, 3, 3]` with channels last.

    Raises:
        RequestError: 422 for other shapes or values, 413 for too many pixels, 504 where the deadline passes.
    """
    if isinstance(values, EncodedImages):
        _check_row_count(len(values.images), pointer, max_rows, min_rows)
        decoded = decoded_images(values.images, image, budget, pointer)
        rows = image.from_pixels(decoded.pixels)
        return InputRows(rows, rows, decoded.animated)
    array: NDArray[Any]
    if isinstance(values, EncodedTensor):
        array = _decoded_tensor(values, pointer)
    else:
        _check_row_count(len(values), pointer, max_rows, min_rows)
        try:
            with np.errstate(over="ignore"):  # numbers too large for single precision are refused below
                array = np.array(values, dtype=np.float32)
        except ValueError:
            raise invalid_at(pointer, "images must all have the model's size") from None
    _check_row_count(len(array) if array.ndim else 0, pointer, max_rows, min_rows)
    if not len(array):
        nothing = np.zeros((0, image.inputs), np.float32)
        return InputRows(nothing, nothing)
    array = _channels_last(array, image, pointer)
    if array.dtype == np.uint8:
        rows = image.from_pixels(array)
        return InputRows(rows, rows)
    _check_finite(array, pointer)
    if array.size and (array.min() < 0 or array.max() > 1):
        raise invalid_at(pointer, "pixel values lie in [0, 1]; send uint8 for 0 to 255")
    rows = image.from_values(array.astype(np.float32))
    return InputRows(rows, rows)


def _channels_last(array: NDArray[Any], image: ImageInput, pointer: str) -> NDArray[Any]:
    """Images `[image, *image.shape]`, of any layout that `image_rows` takes.

    Raises:
        RequestError: 422 for other shapes.
    """
    shape, sides = array.shape[1:], (image.size, image.size)
    alike = [image.shape]
    if image.channels == 1:
        alike += [(image.inputs,), (1, *sides), (*sides, 1)]
    if shape in alike:
        return array.reshape(len(array), *image.shape)
    if shape == (image.channels, *sides):
        return array.transpose(0, 2, 3, 1)
    wanted = f"{list(image.shape)} or {[image.channels, *sides]}"
    raise invalid_at(pointer, f"images of shape {wanted} are wanted, or encoded ones")


def label_values(values: LabelValues, pointer: str) -> Sequence[float | str | list[float]]:
    """Labels, one entry per row; the numbers of a tensor as lists.

    Raises:
        RequestError: 422 for a tensor that is not `[row]` or `[row, output]`, or not finite.
    """
    if not isinstance(values, EncodedTensor):
        return values
    array = _decoded_tensor(values, pointer)
    if array.ndim not in (1, 2):
        raise invalid_at(f"{pointer}/shape", "[rows] or [rows, outputs] is wanted")
    _check_finite(array, pointer)
    labels: list[Any] = array.tolist()
    return labels


def check_precision(values: Single, pointer: str) -> None:
    """Refuse standardised rows that overflowed single precision.

    Raises:
        RequestError: 422 that points at the first such row.
    """
    if not (finite := np.isfinite(values)).all():
        raise invalid_at(f"{pointer}/{finite.all(-1).argmin()}", "too large for this model's precision")


def _decoded_tensor(values: EncodedTensor, pointer: str) -> NDArray[Any]:
    dtype: np.dtype[Any] = np.dtype(values.dtype).newbyteorder("<")
    if isinstance(values, BinaryTensor):
        return _shaped(values.content, dtype, values.shape, pointer)
    content = decoded_base64(values.base64, f"{pointer}/base64")
    expected_bytes = dtype.itemsize
    for length in values.shape:  # Python's integers do not overflow
        expected_bytes *= length
    if expected_bytes != len(content):
        detail = f"{len(content)} bytes where shape and dtype take {in_words(expected_bytes)}"
        raise invalid_at(f"{pointer}/base64", detail)
    return _shaped(content, dtype, values.shape, pointer)


def in_words(count: int) -> str:
    """A count for a message; Python refuses to write integers of thousands of digits."""
    return str(count) if count < MAX_WRITTEN else "far more"


def _shaped(content: bytes, dtype: np.dtype[Any], shape: Sequence[int], pointer: str) -> NDArray[Any]:
    try:
        return np.frombuffer(content, dtype=dtype).reshape(shape)
    except (ValueError, OverflowError):  # an empty tensor, one of whose other lengths overflows
        raise invalid_at(f"{pointer}/shape", "no array has this shape") from None


def _check_row_count(rows: int, pointer: str, max_rows: int, min_rows: int) -> None:
    if rows > max_rows:
        raise invalid_at(pointer, f"{rows} rows; this service takes at most {max_rows}")
    if rows < min_rows:
        raise invalid_at(pointer, f"at least {min_rows} row is needed")


def _check_finite(array: NDArray[Any], pointer: str) -> None:
    if not len(array):
        return
    finite = np.isfinite(array.astype(np.float64, copy=False)).reshape(len(array), -1).all(1)
    if not finite.all():
        raise invalid_at(f"{pointer}/{int(np.argmin(finite))}", "not finite")
