"""Rows and labels as callers hold them, as the two forms that are sent: arrays, and files of pictures.

A data frame is whatever has `columns` and `to_numpy`, so that neither pandas nor polars is imported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmaml_client.errors import InvalidInput

SHOWN, SHOWN_LETTERS = 12, 60
"""Names, and letters of one, that an error tells at most."""
MISSING = {"nan", "<NA>", "NaT"}
"""How values print that are none."""
SENT_AS_IS = {("f", 4), ("f", 8), ("i", 8), ("u", 1)}
"""Kinds and bytes of numbers that the service takes; the rest is made doubles or 64-bit integers."""


@dataclass(frozen=True)
class Files:
    """Pictures as PNG or JPEG files."""

    contents: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.contents)


Rows = NDArray[Any] | Files
Labels = NDArray[Any] | list[str]


@dataclass(frozen=True, eq=False)
class Shown:
    """A support set that was sent, and how it was adapted to: enough to send it again."""

    x: Rows
    y: Labels
    version: int
    steps: int | None
    seed: int
    ttl_s: float

    def __len__(self) -> int:
        return len(self.x)


def named(value: Any) -> bool:
    """Whether its columns have names that could be a model's."""
    columns = getattr(value, "columns", None)
    return columns is not None and len(columns) > 0 and all(isinstance(each, str) for each in columns)


def order_of(columns: Sequence[str], inputs: Sequence[str], what: str = "x") -> list[int] | None:
    """Which columns are the model's inputs, in its order; None where the names say nothing to the model.

    Raises:
        InvalidInput: some inputs are among the columns and others are not, or one is there twice.
    """
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


def rows_of(value: Any, inputs: Sequence[str], what: str) -> Rows:
    """`[row, column]` numbers, or pictures: arrays `[picture, height, width(, 3)]`, or files.

    Columns of a data frame are taken by the names of `inputs` where it has them, else by their places; a
    column of texts stands for one input per value, named `material=steel`. A series is one column.

    Raises:
        InvalidInput: what is neither, or not finite; a text that is none of the inputs.
    """
    if isinstance(value, Files):
        return value
    if isinstance(value, bytes | bytearray | str):
        raise InvalidInput(f"{what} is a single value: give a list of rows or of pictures")
    if are_files(value):
        return Files(tuple(bytes(each) for each in value))
    array = _spelled_out(value, inputs, what) if named(value) else None
    if array is None:
        array = _array(value, what)
        if named(value) and (order := order_of(list(value.columns), inputs, what)) is not None:
            array = array[:, order]
    if array.ndim == 1 and hasattr(value, "to_numpy"):
        array = array[:, None]
    if array.ndim == 1 and len(array):
        raise InvalidInput(f"{what} has one dimension: make it a column with reshape(-1, 1)")
    if array.ndim not in (1, 2, 3, 4):
        raise InvalidInput(f"{what} has {array.ndim} dimensions: rows have two, pictures three or four")
    return _numbers(array, what)


def labels_of(value: Any, what: str = "y") -> Labels:
    """One number, integer or string a row; or a row of numbers for several outputs.

    Raises:
        InvalidInput: anything else, or what is not finite.
    """
    if isinstance(value, str | bytes):
        raise InvalidInput(f"{what} is a single value: give a list of labels")
    listed = value if isinstance(value, list | tuple) else _array(value, what).tolist()
    texts = sum(isinstance(each, str) for each in listed)
    if texts and texts == len(listed):
        return [str(each) for each in listed]
    if texts:
        raise InvalidInput(f"{what} mixes strings with something else")
    array = _array(value, what)
    if array.dtype.kind == "b":
        raise InvalidInput(f"{what} is of booleans: labels are numbers, strings or integers")
    if array.ndim not in (1, 2):
        raise InvalidInput(f"{what} has {array.ndim} dimensions: labels have one, or two for several outputs")
    return _numbers(array, what)


def joined(first: Rows, second: Rows) -> Rows:
    """The rows of both.

    Raises:
        InvalidInput: files of pictures and arrays cannot be sent together.
    """
    if isinstance(first, Files) and isinstance(second, Files):
        return Files(first.contents + second.contents)
    if isinstance(first, Files) or isinstance(second, Files):
        raise InvalidInput("a posterior of picture files takes more files, one of arrays more arrays")
    return np.concatenate([each for each in (first, second) if len(each)] or [first])


def joined_labels(first: Labels, second: Labels) -> Labels:
    """The labels of both; the service says where they do not go together."""
    if isinstance(first, list) and isinstance(second, list):
        return first + second
    some = [np.asarray(each) for each in (first, second) if len(each)]
    if {1, 2} == {each.ndim for each in some}:  # one number a row, as 1 and as [1.0]
        some = [each.reshape(len(each), -1) for each in some]
    try:
        return labels_of(np.concatenate(some).tolist() if some else [])
    except ValueError:
        raise InvalidInput("the posterior's labels and the new ones have different widths") from None


def are_files(value: Any) -> bool:
    """Whether these are PNG or JPEG files.

    Raises:
        InvalidInput: numpy's byte strings.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind == "S":
        raise InvalidInput(
            "numpy cuts zero bytes off the end of byte strings: give pictures as a list of bytes"
        )
    if not isinstance(value, list | tuple) and getattr(value, "dtype", None) != np.dtype(object):
        return False
    return len(value) > 0 and all(isinstance(each, bytes | bytearray) for each in value)


def _spelled_out(frame: Any, inputs: Sequence[str], what: str) -> NDArray[Any] | None:
    """The inputs of a frame some columns of which are texts that stand for several; None where there is none.

    Raises:
        InvalidInput: no text, or one that the model does not know; an input of which there is no column.
    """
    columns = list(frame.columns)
    texts = {
        column: known
        for column in columns
        if column not in inputs
        and (known := [each for each in inputs if each.startswith(f"{column}=") and each not in columns])
    }
    if not texts:
        return None
    of = {each: column for column, known in texts.items() for each in known}
    order_of([*columns, *of], inputs, what)
    if twice := [column for column in texts if columns.count(column) > 1]:
        raise InvalidInput(f"{what} has the columns {', '.join(twice)} more than once")
    told = {column: _texts(frame[column], column, known, what) for column, known in texts.items()}
    parts = [
        np.array([text == each for text in told[of[each]]], dtype=np.int64)
        if each in of
        else np.asarray(frame[each].to_numpy())
        for each in inputs
    ]
    return np.column_stack(parts)


def _texts(column: Any, name: str, known: Sequence[str], what: str) -> list[str]:
    """`name=value` of every row, as training names its inputs."""
    values = column.to_numpy().tolist()
    told = [f"{name}={value}" for value in values]
    for row, (value, text) in enumerate(zip(values, told, strict=True)):
        if value is None or (not isinstance(value, str) and str(value) in MISSING):
            raise InvalidInput(f"{what} has no {name} in row {row}")
        if text not in known:
            names = ", ".join(known[:SHOWN]) + (", …" if len(known) > SHOWN else "")
            raise InvalidInput(f"{what} has {text[:SHOWN_LETTERS]} in row {row}; the model knows {names}")
    return told


def _array(value: Any, what: str) -> NDArray[Any]:
    try:
        return np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
    except ValueError:
        raise InvalidInput(f"{what} is ragged: its rows differ in length") from None


def _numbers(array: NDArray[Any], what: str) -> NDArray[Any]:
    """In a type that can be sent, and finite."""
    if array.dtype.kind in "cSU" or array.dtype.kind in "mM":
        raise InvalidInput(f"{what} is of {array.dtype}, not of real numbers")
    try:
        sent = (
            array if (array.dtype.kind, array.dtype.itemsize) in SENT_AS_IS else array.astype(_sent_as(array))
        )
    except (TypeError, ValueError, OverflowError):
        raise InvalidInput(f"{what} holds something that is not a number") from None
    if sent.dtype.kind == "f" and sent.size:
        finite = np.isfinite(sent).reshape(len(sent), -1).all(1)
        if not finite.all():
            raise InvalidInput(f"{what} is not finite in row {int(np.argmin(finite))}")
    return sent


def _sent_as(array: NDArray[Any]) -> type[Any]:
    """Integers stay integers, because they may be classes."""
    whole = array.dtype.kind in "iu" or (
        array.dtype.kind == "O"
        and array.size > 0
        and all(isinstance(each, int | np.integer) and not isinstance(each, bool) for each in array.flat)
    )
    return np.int64 if whole else np.float64
