"""A column of texts as its distinct values and one code per row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.reading.numbers import parsed_number

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Names:
    """Texts as they are written.

    Attributes:
        values: the distinct texts.
        codes: the place of each row's text in `values`, `[row]`; −1 where it is missing.
    """

    values: tuple[str, ...]
    codes: Codes

    @property
    def missing(self) -> NDArray[np.bool_]:
        """The rows without a text, `[row]`."""
        return self.codes < 0

    def at(self, row: int) -> str:
        """The text of a row that has one."""
        return self.values[self.codes[row]]

    def counts(self) -> NDArray[np.int64]:
        """The number of rows of each value."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.values))

    def first_row(self, value: str) -> int:
        """The first row with a value that occurs."""
        return int(np.argmax(self.codes == self.values.index(value)))

    def taken(self, rows: NDArray[np.int64]) -> "Names":
        """The texts of some rows."""
        return Names(self.values, self.codes[rows])

    def ordered(self) -> "Names":
        """The same texts with codes in order: by value where all are numbers, else by text."""
        used = np.flatnonzero(self.counts()).tolist()
        values = [self.values[code] for code in used]
        numbers = [parsed_number(value) for value in values]
        places = sorted(range(len(values)), key=_keys(values, numbers).__getitem__)
        new = np.full(len(self.values) + 1, -1, dtype=np.int64)
        for place, index in enumerate(places):
            new[used[index]] = place
        return Names(tuple(values[index] for index in places), new[self.codes])

    def merged(self) -> "Names":
        """The same texts, with equal ones under one code."""
        places: dict[str, int] = {}
        new = [places.setdefault(value, len(places)) for value in self.values]
        return Names(tuple(places), np.array([*new, -1], dtype=np.int64)[self.codes])

    def without(self, missing: frozenset[str]) -> "Names":
        """The same texts; those in `missing`, spaces around them apart, are missing."""
        gone = [value.strip() in missing for value in self.values]
        if not any(gone):
            return self
        new = np.append(np.where(gone, -1, np.cumsum(~np.array(gone)) - 1), -1).astype(np.int64)
        kept = tuple(value for value, out in zip(self.values, gone, strict=True) if not out)
        return Names(kept, new[self.codes])


def _keys(values: Sequence[str], numbers: Sequence[float | None]) -> list[tuple[int | float, str]]:
    if any(number is None for number in numbers):
        return [(0, value) for value in values]
    keys: list[tuple[int | float, str]] = []
    for value, number in zip(values, numbers, strict=True):
        text = value.strip()
        keys.append((int(text) if text.lstrip("+-").isdecimal() else float(number or 0.0), value))
    return keys
