"""The wanted columns of a file as names, numbers and dates, as the reader asks for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from training.errors import UnusableTable
from training.reading.cells import (
    CellsOfFile,
    Instants,
    Mask,
    NumberCells,
    OtherCells,
    TextCells,
    TruthCells,
    VectorCells,
)
from training.reading.dates import EPOCH, parsed_dates
from training.reading.files import SEPARATORS, read_cells
from training.reading.names import Names
from training.reading.numbers import MAX_EXACT, decimal_mark, is_inexact, parsed_number, was_meant

MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NaT", "null", "NULL", "None")
"""The texts that stand for a missing value in every column, apart from spaces around them."""
MAX_CELLS_SHOWN = 3
Kind = Literal["names", "truth values", "numbers", "dates", "times of day", "lists"]


@dataclass(frozen=True)
class Columns:
    """The wanted columns of a file.

    Attributes:
        file: the cells as the file holds them.
        missing: the texts that stand for a missing value.
        decimal: the decimal mark of numbers in texts.
    """

    file: CellsOfFile
    missing: frozenset[str]
    decimal: str = "."

    def __len__(self) -> int:
        return self.file.rows

    def place(self, row: int) -> str:
        """Where a row stands in the file: `line 7` of a text, `row 6` of a Parquet file."""
        return self.file.place(row)

    def refuse(self, name: str, told: str) -> NoReturn:
        """Refuse the file because of a column."""
        raise UnusableTable(f"{self.file.path}: column {name!r} {told}")

    def kind(self, name: str) -> Kind:
        """What a column holds.

        Raises:
            UnusableTable: most cells are numbers or dates and some are not, dates can be read in two ways,
                or the file's type is none of these.
        """
        cells = self.file.cells[name]
        if isinstance(cells, OtherCells):
            self.refuse(name, f"holds {cells.type}, which is nothing to learn from: leave it out")
        if isinstance(cells, VectorCells):
            return "lists"
        if isinstance(cells, NumberCells):
            return "numbers"
        if isinstance(cells, Instants):
            return "times of day" if cells.of_day else "dates"
        if isinstance(cells, TruthCells):
            return "truth values"
        names = self._texts(cells)
        if cells.declared:
            return "names"
        if self._are_truth_values(names):
            return "truth values"
        return self._kind_of_texts(name, names)

    def _kind_of_texts(self, name: str, names: Names) -> Kind:
        counts, present = names.counts(), int((names.codes >= 0).sum())
        read = np.array([self._number(value) is not None for value in names.values], dtype=bool)
        if present and read.all():
            return "numbers"
        meant = np.array([was_meant(value) for value in names.values], dtype=bool)
        dates = parsed_dates(names.values)
        if dates.refusal:
            self._refuse_dates(name, dates.refusal)
        dated = np.array([each is not None for each in dates.microseconds], dtype=bool)
        if present and dated.all():
            return "times of day" if dates.of_day else "dates"
        for good, bad, what in ((read | (meant & ~dated), ~read, "numbers"), (dated, ~dated, "dates")):
            if 2 * int(counts[good].sum()) > present:
                self._refuse_mixed(name, names, bad, what)
        return "names"

    def names(self, name: str) -> Names:
        """A column as texts, as they are written; numbers, dates and truth values of typed files in words.

        Raises:
            UnusableTable: the type has no text, or texts differ only in the spaces around them.
        """
        cells = self.file.cells[name]
        if isinstance(cells, OtherCells | VectorCells):
            held = cells.type if isinstance(cells, OtherCells) else "lists"
            self.refuse(name, f"holds {held}, not names")
        if isinstance(cells, TextCells | TruthCells):
            found = self._texts(cells)
            if self._are_truth_values(found):
                return Names(
                    tuple(value.strip().capitalize() for value in found.values), found.codes
                ).merged()
            self._check_spaces(name, found)
            return found
        if isinstance(cells, Instants):
            values, codes = np.unique(cells.microseconds, return_inverse=True)
            texts = [_written(int(value), cells.of_day) for value in values]
            return Names(tuple(texts), np.where(cells.missing, -1, codes)).without(self.missing)
        if cells.whole is not None:
            values, codes = np.unique(cells.whole, return_inverse=True)
        else:
            self._check_exact_names(name, cells)
            values, codes = np.unique(cells.values, return_inverse=True)
        codes[cells.missing] = -1
        return Names(tuple(str(value) for value in values.tolist()), codes).without(self.missing)

    @staticmethod
    def _are_truth_values(names: Names) -> bool:
        """Whether all texts are truth values."""
        return bool(names.values) and all(
            value.strip().lower() in ("true", "false") for value in names.values
        )

    def numbers(self, name: str, use: str = "") -> NDArray[np.float64]:
        """A column as numbers, `[row]`; NaN where missing.

        Args:
            use: what the column is for, for the message.

        Raises:
            UnusableTable: some cells are no numbers, or whole numbers beyond 2^53.
        """
        cells = self.file.cells[name]
        if isinstance(cells, NumberCells):
            values = cells.values
            if cells.whole is not None:
                exact = (np.abs(values) < MAX_EXACT) | (cells.whole == MAX_EXACT) | cells.missing
                if not exact.all():
                    row = int(np.argmin(exact))
                    self._refuse_inexact(name, row, str(cells.whole[row]))
            return self._without_sentinels(values)
        if not isinstance(cells, TextCells):
            self._refuse_no_numbers(name, self.kind(name), use)
        if (kind := self.kind(name)) != "numbers" and self._texts(cells).values:
            self._refuse_no_numbers(name, "string" if kind == "names" else kind, use)
        names = self._texts(cells)
        for value in names.values:
            if is_inexact(value):
                self._refuse_inexact(name, names.first_row(value), value.strip())
        values = np.array([self._number(value) for value in names.values] + [np.nan], dtype=np.float64)
        return self._without_sentinels(values[names.codes])

    def is_of_vectors(self, name: str) -> bool:
        """Whether a column holds lists of as many numbers each."""
        return isinstance(self.file.cells[name], VectorCells)

    def vectors(self, name: str) -> NDArray[np.float64]:
        """A column of lists, `[row, dimension]`; NaN where missing.

        Raises:
            UnusableTable: it holds no lists.
        """
        cells = self.file.cells[name]
        if not isinstance(cells, VectorCells):
            self.refuse(name, f"holds {self.kind(name)}, not lists of numbers")
        return cells.values

    def instants(self, name: str, use: str = "") -> Instants:
        """A column as dates or times of day.

        Raises:
            UnusableTable: some cells are neither.
        """
        cells = self.file.cells[name]
        if isinstance(cells, Instants):
            return cells
        if (kind := self.kind(name)) not in ("dates", "times of day") or not isinstance(cells, TextCells):
            self.refuse(name, f"is {use} and holds {kind}, not dates such as 2020-03-04")
        names = self._texts(cells)
        dates = parsed_dates(names.values)
        moments = np.array([each or 0 for each in dates.microseconds] + [0], dtype=np.int64)
        return Instants(moments[names.codes], names.codes < 0, dates.of_day)

    def order(self, name: str) -> tuple[NDArray[np.int64], Mask]:
        """The rank of each row in a column of numbers, dates or times, and the rows without one.

        Raises:
            UnusableTable: the column holds something else.
        """
        cells = self.file.cells[name]
        if isinstance(cells, TextCells):
            names = self._texts(cells)
            if any(is_inexact(value) for value in names.values) and all(
                value.strip().lstrip("+-").isdecimal() for value in names.values
            ):
                ordered = names.ordered()
                return ordered.codes, ordered.codes < 0
        kind = self.kind(name)
        if isinstance(cells, NumberCells) and cells.whole is not None:
            missing = cells.missing | self._is_sentinel(cells.values)
            return np.unique(cells.whole, return_inverse=True)[1].astype(np.int64), missing
        if kind in ("dates", "times of day"):
            instants = self.instants(name)
            return instants.microseconds, instants.missing
        if kind != "numbers":
            names = self.names(name)
            shown = f" ({names.values[0]!r})" if names.values else ""
            self.refuse(name, f"orders the rows and holds {kind}{shown}: give numbers or dates, 2020-03-04")
        numbers = self.numbers(name)
        missing = ~np.isfinite(numbers)
        return np.unique(np.where(missing, 0, numbers), return_inverse=True)[1].astype(np.int64), missing

    def notes(self, name: str) -> tuple[str, ...]:
        """Sentences that say how a column was read where there was a choice."""
        cells = self.file.cells[name]
        if not isinstance(cells, TextCells) or cells.declared:
            return ()
        note = parsed_dates(self._texts(cells).values).note
        return (f"read {name!r} {note}",) if note else ()

    def missing_texts(self, name: str) -> tuple[str, ...]:
        """The texts of a column that stood for missing values, other than an empty one, sorted."""
        cells = self.file.cells[name]
        if not isinstance(cells, TextCells):
            return ()
        texts = {value.strip() for value in cells.names.values}
        return tuple(sorted((texts & self.missing) - {""}))

    def _texts(self, cells: TextCells | TruthCells) -> Names:
        return cells.names.without(self.missing) if isinstance(cells, TextCells) else cells.names

    def _number(self, text: str) -> float | None:
        if self.decimal == "," and "," in text:
            text = text.replace(",", ".", 1)
        return parsed_number(text)

    def _without_sentinels(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The numbers, NaN where they stand for missing values; the same array where none does."""
        sentinel = self._is_sentinel(values)
        return np.where(sentinel, np.nan, values) if sentinel.any() else values

    def _is_sentinel(self, values: NDArray[np.float64]) -> Mask:
        """The numbers that were named as standing for missing values."""
        given = [number for text in self.missing if (number := parsed_number(text)) is not None]
        return np.isin(values, given)

    def _check_spaces(self, name: str, names: Names) -> None:
        seen: dict[str, str] = {}
        for value in names.values:
            other = seen.setdefault(value.strip(), value)
            if other != value:
                rows = [self.place(names.first_row(each)) for each in (other, value)]
                self.refuse(
                    name,
                    f"has {other!r} ({rows[0]}) and {value!r} ({rows[1]}), which differ only in the spaces "
                    "around them: write them alike",
                )

    def _check_exact_names(self, name: str, cells: NumberCells) -> None:
        beyond = np.abs(cells.values) > MAX_EXACT
        if beyond.any():
            row = int(np.argmax(beyond))
            self.refuse(
                name,
                f"holds {cells.type} beyond 2^53, {cells.values[row]:.17g} in {self.place(row)}, and such "
                "identifiers have lost their last digits: write them as texts",
            )

    def _refuse_inexact(self, name: str, row: int, text: str) -> NoReturn:
        self.refuse(
            name,
            f"has {text} in {self.place(row)}, and whole numbers beyond 2^53 are not exact as numbers: use "
            "it as a name (--categorical), or write it in another unit or as 1.5e17",
        )

    def _refuse_no_numbers(self, name: str, kind: str, use: str) -> NoReturn:
        self.refuse(name, f"holds {kind}, not numbers{f', and is {use}' if use else ''}")

    def _refuse_dates(self, name: str, told: str) -> NoReturn:
        self.refuse(name, f"{told}: write them as 2020-03-04, or take them for names with --categorical")

    def _refuse_mixed(self, name: str, names: Names, bad: NDArray[np.bool_], what: str) -> NoReturn:
        rows = np.flatnonzero(np.append(bad, False)[names.codes])
        shown = ", ".join(f"{names.at(row)!r} in {self.place(row)}" for row in rows[:MAX_CELLS_SHOWN])
        more = f" and {len(rows) - MAX_CELLS_SHOWN} more" if len(rows) > MAX_CELLS_SHOWN else ""
        hint = "put them right, or name them with --missing"
        if what == "numbers":
            hint = "write 1000.5 without separators of thousands, or give --missing or --categorical"
        self.refuse(name, f"holds {what}, and {shown}{more}, which are none: {hint}")


def read(
    path: Path, wanted: Sequence[str], missing: Sequence[str] = (), names: frozenset[str] = frozenset()
) -> tuple[Columns, tuple[str, ...]]:
    """The wanted columns of a file, and sentences that say how it was read where there was a choice.

    Args:
        missing: texts that stand for a missing value, beside `MISSING`.
        names: the columns that are read as names alone, whose texts say nothing about decimal marks.

    Raises:
        UnusableTable: as `read_cells`, or decimal marks that contradict each other.
    """
    file = read_cells(path, list(dict.fromkeys(wanted)))
    absent = frozenset(each.strip() for each in (*MISSING, *missing))
    notes, decimal = list(file.notes), "."
    if file.separator not in (None, ","):
        try:
            decimal = decimal_mark(_cells_that_may_be_numbers(file, names), file.separator or "")
        except UnusableTable as error:
            raise UnusableTable(f"{path}: {error}") from None
        marks = {".": "points", ",": "commas"}
        told = SEPARATORS.get(file.separator or "", repr(file.separator))
        notes.append(f"read with columns separated by {told} and decimal {marks[decimal]}")
    return Columns(file, absent, decimal), tuple(notes)


def _cells_that_may_be_numbers(file: CellsOfFile, names: frozenset[str]) -> list[tuple[str, str, str]]:
    found = []
    for name, cells in file.cells.items():
        if isinstance(cells, TextCells) and name not in names:
            first = np.unique(cells.names.codes, return_index=True)[1]
            found += [(cells.names.at(row), name, file.place(row)) for row in first.tolist()]
    return found


def _written(microseconds: int, of_day: bool) -> str:
    """A date or a time of day in ISO 8601."""
    moment = EPOCH + np.timedelta64(microseconds, "us").item()
    return moment.time().isoformat() if of_day else moment.isoformat(sep=" ").removesuffix(" 00:00:00")
