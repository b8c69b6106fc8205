"""The cells of a table's columns, with the rows in which each has no value."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model_store.columns import Array
from training.reading import Columns, Names
from training.reading.dates import MICROSECONDS_PER_DAY

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Cells:
    """Columns of a file, and what each of those that were used lacks.

    Attributes:
        missing: for each column that was used, the rows without a value, `[row]`.
    """

    columns: Columns
    missing: dict[str, Mask] = field(default_factory=dict)

    def without(self, name: str, rows: Mask) -> None:
        """Note rows in which the column has no value, beside those noted before."""
        self.missing[name] = self.missing.get(name, np.zeros(len(self.columns), dtype=bool)) | rows

    def names(self, name: str) -> Names:
        """The column as names."""
        names = self.columns.names(name)
        self.without(name, names.missing)
        return names

    def numbers(self, name: str, use: str = "") -> Array:
        """The column as numbers, `[row]`.

        Raises:
            UnusableTable: it holds something else; the sentence says what it was used for.
        """
        numbers = self.columns.numbers(name, use)
        self.without(name, ~np.isfinite(numbers))
        return numbers


def days_since_first(microseconds: Array, task: Names, missing: Mask) -> Array:
    """The days since the first moment of the same task, `[row]`, whatever other cells of that row lack."""

    first = np.full(len(task.values) + 1, np.inf)
    np.minimum.at(first, task.codes[~missing], microseconds[~missing])
    return np.asarray(np.where(missing, 0.0, microseconds - first[task.codes]) / MICROSECONDS_PER_DAY)
