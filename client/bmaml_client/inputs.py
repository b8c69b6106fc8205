"""Rows and labels of callers, converted to the forms that are sent: arrays, and image files.

A data frame is any object whose columns have names: of pandas, polars or pyarrow, none of which is imported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmaml_client.errors import InvalidInput

MAX_NAMES_SHOWN, MAX_NAME_LENGTH = 12, 60
"""Names in an error message, and characters of one."""
MISSING_VALUES = {"nan", "<NA>", "NaT"}
"""Printed forms of missing values."""
WIRE_TYPES = {("f", 4), ("f", 8), ("i", 8), ("u", 1)}
"""Kinds and bytes of numbers that the service takes; others become doubles or 64-bit integers."""
MAX_INTEGER = 2**63 - 1


@dataclass(frozen=True)
class ImageFiles:
    """Images as PNG or JPEG files."""

    contents: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.contents)


Rows = NDArray[Any] | ImageFiles
Labels = NDArray[Any] | list[str] | list[bool]


@dataclass(frozen=True, eq=False)
class Support:
    """A support set that was sent, with the settings of its adaptation: enough to send it again."""

    x: Rows
    y: Labels
    version: int
    steps: int | None
    seed: int
    ttl_s: float

    def __len__(self) -> int:
        return len(self.x)


def column_names(value: Any) -> list[str]:
    """The names of a data frame's columns; empty for other values, and where a name is not a string."""
    for attribute in ("columns", "column_names"):  # of pandas and polars; of pyarrow
        names = getattr(value, attribute, None)
        if names is not None and len(names) > 0 and all(isinstance(each, str) for each in names):
            return list(names)
    return []


def check_case(columns: Sequence[str], known: Sequence[str], what: str = "x") -> None:
    """Refuse columns that have a known name in another case, which would otherwise be matched by position.

    Raises:
        InvalidInput: it names such columns.
    """
    lacking = {each.strip().casefold(): each for each in known if each not in columns}
    pairs = [
        f"{each} where {lacking[key]} is meant"
        for each in columns
        if each not in known and (key := each.strip().casefold()) in lacking
    ]
    if pairs:
        shown = ", ".join(pairs[:MAX_NAMES_SHOWN])
        raise InvalidInput(f"{what} has {shown}: column names must agree in case and spaces, too")


def column_order(columns: Sequence[str], inputs: Sequence[str], what: str = "x") -> list[int] | None:
    """Indices of the model's inputs among the columns; None where no column has an input's name.

    Raises:
        InvalidInput: the columns have some of the inputs and lack others, have one twice, or have one in
            another case.
    """
    bases = {name.partition("=")[0] for name in inputs}
    check_case(columns, [*inputs, *sorted(bases - set(inputs))], what)
    places = {name: [index for index, each in enumerate(columns) if each == name] for name in inputs}
    if not any(places.values()):
        return None
    if missing := [name for name, found in places.items() if not found]:
        raise InvalidInput(
            f"{what} lacks the columns {', '.join(missing)}; the model takes {', '.join(inputs)}"
        )
    if twice := [name for name, found in places.items() if len(found) > 1]:
        raise InvalidInput(f"{what} has the columns {', '.join(twice)} more than once")
    return [found[0] for found in places.values()]


def to_rows(value: Any, inputs: Sequence[str], what: str) -> Rows:
    """Numbers `[row, column]`, images `[image, height, width(, 3)]`, or image files.

    Columns of a data frame are matched to `inputs` by name, or by position where no name matches. A
    column of texts stands for one input per value, named `material=steel`. A series is one column.

    Args:
        what: the argument's name, for messages.

    Raises:
        InvalidInput: the value is none of these, is not finite, or has a text that no input stands for.
    """
    if isinstance(value, ImageFiles):
        return value
    if isinstance(value, bytes | bytearray | str):
        raise InvalidInput(f"{what} is a single value: give a list of rows or of images")
    if is_image_files(value):
        return ImageFiles(tuple(bytes(each) for each in value))
    names = column_names(value)
    array = _named_columns(value, names, inputs, what) if names else None
    if array is None:
        array = _to_array(value, what)
    if array.ndim == 1 and hasattr(value, "to_numpy"):
        array = array[:, None]
    if array.ndim == 1 and len(array):
        raise InvalidInput(f"{what} has one dimension: make it a column with reshape(-1, 1)")
    if array.ndim not in (1, 2, 3, 4):
        raise InvalidInput(f"{what} has {array.ndim} dimensions: rows have two, images three or four")
    return _to_wire_type(array, what)


def to_labels(value: Any, what: str = "y") -> Labels:
    """One number, integer, string or truth value per row; a row of numbers for a model with several outputs.

    Raises:
        InvalidInput: the value is none of these, or is not finite.
    """
    if isinstance(value, str | bytes):
        raise InvalidInput(f"{what} is a single value: give a list of labels")
    listed = value if isinstance(value, list | tuple) else _to_array(value, what).tolist()
    texts = sum(isinstance(each, str) for each in listed)
    if texts and texts == len(listed):
        return [str(each) for each in listed]
    if texts:
        rows = [row for row, each in enumerate(listed) if isinstance(each, str) == (2 * texts <= len(listed))]
        found = "strings" if 2 * texts <= len(listed) else "something else"
        shown = ", ".join(map(str, rows[:MAX_NAMES_SHOWN])) + (", …" if len(rows) > MAX_NAMES_SHOWN else "")
        raise InvalidInput(f"{what} mixes strings with something else: {found} in row {shown}")
    truths = [isinstance(each, bool | np.bool_) for each in listed]
    if truths and all(truths):
        return [bool(each) for each in listed]
    array = _to_array(value, what)
    if any(truths) or array.dtype.kind == "b":
        raise InvalidInput(f"{what} has truth values among other labels, or in several columns")
    if _beyond_integers(array):
        raise InvalidInput(f"{what} has integers beyond 64 bits with a sign: give them as strings")
    if array.ndim not in (1, 2):
        raise InvalidInput(f"{what} has {array.ndim} dimensions: labels have one, or two for several outputs")
    return _to_wire_type(array, what)


def concatenate_rows(first: Rows, second: Rows) -> Rows:
    """The rows of both.

    Raises:
        InvalidInput: one has image files and the other arrays.
    """
    if isinstance(first, ImageFiles) and isinstance(second, ImageFiles):
        return ImageFiles(first.contents + second.contents)
    if isinstance(first, ImageFiles) or isinstance(second, ImageFiles):
        raise InvalidInput("a posterior of image files takes more files, one of arrays more arrays")
    parts = [each for each in (first, second) if len(each)] or [first]
    if len({each.dtype == np.uint8 for each in parts}) > 1 and all(each.ndim > 2 for each in parts):
        parts = [each / 255 if each.dtype == np.uint8 else each for each in parts]  # pixels in [0, 1]
    return np.concatenate(parts)


def concatenate_labels(first: Labels, second: Labels) -> Labels:
    """The labels of both; strings become one list, numbers one array.

    Raises:
        InvalidInput: their widths differ, or strings and numbers meet.
    """
    if isinstance(first, list) and isinstance(second, list):
        return to_labels([*first, *second])
    for kind, name in ((bool, "truth values"), (str, "strings")):
        if len({isinstance(each[0], kind) for each in (first, second) if len(each)}) > 1:
            raise InvalidInput(f"the posterior's labels and the new ones mix {name} with others")
    arrays = [np.asarray(each) for each in (first, second) if len(each)]
    if {1, 2} == {each.ndim for each in arrays}:  # one number per row, as 1 and as [1.0]
        arrays = [each.reshape(len(each), -1) for each in arrays]
    try:
        return to_labels(np.concatenate(arrays).tolist() if arrays else [])
    except ValueError:
        raise InvalidInput("the posterior's labels and the new ones have different widths") from None


def is_image_files(value: Any) -> bool:
    """Whether the value is a sequence of bytes, such as PNG or JPEG files.

    Raises:
        InvalidInput: the value is an array of numpy's byte strings.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind == "S":
        raise InvalidInput(
            "numpy cuts zero bytes off the end of byte strings: give images as a list of bytes"
        )
    if not isinstance(value, list | tuple) and getattr(value, "dtype", None) != np.dtype(object):
        return False
    return len(value) > 0 and all(isinstance(each, bytes | bytearray) for each in value)


def _named_columns(
    frame: Any, columns: Sequence[str], inputs: Sequence[str], what: str
) -> NDArray[Any] | None:
    """The inputs of a frame, columns of texts one-hot encoded; None where no column has an input's name.

    A column `v` of lists stands for the inputs `v[0]`, `v[1]`, ….

    Raises:
        InvalidInput: a text is missing or unknown to the model, lists have another length, or as
            `column_order`.
    """
    dimensions = {
        column: known
        for column in columns
        if column not in inputs
        and (known := [each for each in inputs if each.startswith(f"{column}[") and each not in columns])
    }
    encoded = {
        column: known
        for column in columns
        if column not in inputs
        and (known := [each for each in inputs if each.startswith(f"{column}=") and each not in columns])
    }
    column_of = {each: column for column, known in {**encoded, **dimensions}.items() for each in known}
    if column_order([*columns, *column_of], inputs, what) is None:
        return None
    if twice := [column for column in {**encoded, **dimensions} if columns.count(column) > 1]:
        raise InvalidInput(f"{what} has the columns {', '.join(twice)} more than once")
    texts = {column: _input_names(frame[column], column, known, what) for column, known in encoded.items()}
    vectors = {column: _vectors(frame[column], column, known, what) for column, known in dimensions.items()}

    def part(name: str) -> NDArray[Any]:
        column = column_of.get(name)
        if column is None:
            return np.asarray(frame[name])
        if column in vectors:
            return vectors[column][:, dimensions[column].index(name)]
        return np.array([text == name for text in texts[column]], dtype=np.int64)

    parts = [part(each) for each in inputs]
    try:
        return np.column_stack(parts)
    except (TypeError, ValueError):  # such as dates beside numbers
        raise InvalidInput(f"{what} holds something that is not a number") from None


def _vectors(column: Any, name: str, known: Sequence[str], what: str) -> NDArray[np.float64]:
    """The numbers of a column of lists, `[row, dimension]`, one for each input that it stands for."""
    rows = np.asarray(column).tolist()
    try:
        found = np.array([np.asarray(each, dtype=np.float64) for each in rows], dtype=np.float64)
    except (TypeError, ValueError):
        found = np.zeros((0, 0))
    if found.shape != (len(rows), len(known)):
        raise InvalidInput(f"{what} needs lists of {len(known)} numbers in {name}, in every row")
    return found


def _input_names(column: Any, name: str, known: Sequence[str], what: str) -> list[str]:
    """The input that each row's text stands for, `name=value`."""
    values = np.asarray(column).tolist()
    texts = [f"{name}={value}" for value in values]
    for row, (value, text) in enumerate(zip(values, texts, strict=True)):
        if value is None or (not isinstance(value, str) and str(value) in MISSING_VALUES):
            raise InvalidInput(f"{what} has no {name} in row {row}")
        if text not in known:
            names = ", ".join(known[:MAX_NAMES_SHOWN]) + (", …" if len(known) > MAX_NAMES_SHOWN else "")
            raise InvalidInput(f"{what} has {text[:MAX_NAME_LENGTH]} in row {row}; the model knows {names}")
    return texts


def _to_array(value: Any, what: str) -> NDArray[Any]:
    try:
        return np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
    except ValueError:
        raise InvalidInput(f"{what} is ragged: its rows differ in length") from None


def _to_wire_type(array: NDArray[Any], what: str) -> NDArray[Any]:
    """The array in a type that can be sent.

    Raises:
        InvalidInput: it holds something that is not a finite real number.
    """
    if array.dtype.kind in "cSU" or array.dtype.kind in "mM":
        raise InvalidInput(f"{what} is of {array.dtype}, not of real numbers")
    as_is = (array.dtype.kind, array.dtype.itemsize) in WIRE_TYPES
    try:
        sent = array if as_is else array.astype(_wire_type(array))
    except (TypeError, ValueError, OverflowError):
        raise InvalidInput(f"{what} holds something that is not a number") from None
    if sent.dtype.kind == "f" and sent.size:
        finite = np.isfinite(sent).reshape(len(sent), -1).all(1)
        if not finite.all():
            raise InvalidInput(f"{what} is not finite in row {int(np.argmin(finite))}")
    return sent


def _wire_type(array: NDArray[Any]) -> type[Any]:
    """Integers for integers, because they may be classes; else doubles."""
    whole = array.dtype.kind in "iu" or (
        array.dtype.kind == "O"
        and array.size > 0
        and all(isinstance(each, int | np.integer) and not isinstance(each, bool) for each in array.flat)
    )
    return np.int64 if whole and not _beyond_integers(array) else np.float64


def _beyond_integers(array: NDArray[Any]) -> bool:
    """Whether an unsigned integer is too large for 64 bits with a sign."""
    return array.dtype.kind == "u" and array.size > 0 and bool(array.max() > MAX_INTEGER)
