"""The cells of a column as its file holds them, before anything is decided about them."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from training.reading.names import Names

Mask = NDArray[np.bool_]
WholeNumbers = NDArray[np.int64] | NDArray[np.uint64]


@dataclass(frozen=True)
class TextCells:
    """Texts; `declared` where the file says that they name categories."""

    names: Names
    declared: bool = False


@dataclass(frozen=True)
class TruthCells:
    """Truth values, as the names `False` and `True`."""

    names: Names


@dataclass(frozen=True)
class NumberCells:
    """Numbers of a typed file.

    Attributes:
        held: `[row]`, as the file has them: whole numbers, exact, or others; 0 or NaN where missing.
        missing: the rows without one, `[row]`; a NaN is missing, too.
        type: the file's own name for them.
    """

    held: WholeNumbers | NDArray[np.float64]
    missing: Mask
    type: str

    @property
    def whole(self) -> WholeNumbers | None:
        """Whole numbers; None where the file holds others."""
        return None if self.held.dtype == np.float64 else cast(WholeNumbers, self.held)

    @property
    def values(self) -> NDArray[np.float64]:
        """The numbers, `[row]`, NaN where missing; those that are not whole are not copied."""
        if self.whole is None:
            return self.held.astype(np.float64, copy=False)
        return np.where(self.missing, np.nan, self.whole)


@dataclass(frozen=True)
class Instants:
    """Dates, or times of day.

    Attributes:
        microseconds: since 1970-01-01, or since midnight, `[row]`; 0 where missing.
        missing: the rows without one, `[row]`.
        of_day: whether these are times of day.
    """

    microseconds: NDArray[np.int64]
    missing: Mask
    of_day: bool = False


@dataclass(frozen=True)
class VectorCells:
    """Lists of as many numbers each, `[row, dimension]`; NaN where missing."""

    values: NDArray[np.float64]


@dataclass(frozen=True)
class OtherCells:
    """Cells of a type that is nothing of the above, such as structures."""

    type: str


Cells = TextCells | TruthCells | NumberCells | Instants | VectorCells | OtherCells


@dataclass(frozen=True)
class CellsOfFile:
    """The wanted columns of a file.

    Attributes:
        header: the names of all columns.
        cells: the wanted columns.
        rows: the number of rows.
        lines: the line of the file in which each row begins, `[row]`; None for files without lines.
        separator: the character between the columns; None for files without one.
        notes: sentences that say how the file was read where there was a choice.
    """

    path: Path
    header: tuple[str, ...]
    cells: dict[str, Cells]
    rows: int
    lines: NDArray[np.int64] | None = None
    separator: str | None = None
    notes: tuple[str, ...] = ()

    def place(self, row: int) -> str:
        """Where a row of the columns stands in the file."""
        return f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"
