"""Columns of inputs and outputs, converted between the caller's units and standardised ones."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from bmaml.errors import BmamlError

Array = NDArray[np.float64]
Transform = Literal["none", "log", "log2"]


class OutsideDomain(BmamlError, ValueError):
    """A value outside the domain of its column's transform."""

    def __init__(self, column: str, transform: str, row: int) -> None:
        super().__init__(
            f"column {column!r} is read on a {transform} scale and row {row} is not positive there"
        )
        self.row = row


class Column(BaseModel):
    """One column of x or y, standardised as (transform(value) − mean) / std.

    Attributes:
        lower, upper: the training range, in the caller's units.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1)
    transform: Transform = "none"
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    lower: float
    upper: float

    @classmethod
    def fitted(cls, name: str, transform: Transform, values: Array) -> "Column":
        """The column that gives `values` mean zero and unit variance.

        Raises:
            OutsideDomain: the logarithm of a value that is not positive.
            ValueError: the values do not vary.
        """
        scaled = transformed(name, transform, values)
        std = float(scaled.std())
        if not std > 1e-12 * float(np.abs(scaled).max()):
            raise ValueError(f"column {name!r} is constant")
        return cls(
            name=name,
            transform=transform,
            mean=float(scaled.mean()),
            std=std,
            lower=float(values.min()),
            upper=float(values.max()),
        )


def transformed(name: str, transform: Transform, values: Array) -> Array:
    """Values on the column's own scale, before they are standardised.

    Raises:
        OutsideDomain: the logarithm of a value that is not positive.
    """
    if transform == "none":
        return values
    if (bad := np.flatnonzero(values <= 0)).size:
        raise OutsideDomain(name, transform, int(bad[0]))
    return np.log(values) / (math.log(2) if transform == "log2" else 1.0)


def standardised(columns: Sequence[Column], values: Array) -> Array:
    """Values `[row, column]` in standardised units, from the caller's; infinite where they overflow.

    Raises:
        OutsideDomain: the logarithm of a value that is not positive.
    """
    result = np.empty_like(values)
    for index, column in enumerate(columns):
        scaled = transformed(column.name, column.transform, values[:, index])
        with np.errstate(over="ignore"):
            result[:, index] = (scaled - column.mean) / column.std
    return result


def restored(columns: Sequence[Column], values: Array) -> Array:
    """Values `[row, column]` in the caller's units: the inverse of `standardised`."""
    result = np.empty_like(values)
    for index, column in enumerate(columns):
        scaled = values[:, index] * column.std + column.mean
        if column.transform != "none":
            scaled = np.exp2(scaled) if column.transform == "log2" else np.exp(scaled)
        result[:, index] = scaled
    return result


def range_of(columns: Sequence[Column]) -> Array:
    """The training range: `lower` and `upper` of each column, `[2, column]`."""
    return np.array([[column.lower for column in columns], [column.upper for column in columns]])


def distance_outside(columns: Sequence[Column], values: Array) -> Array:
    """Distance of each value `[row, column]` from its column's training range, in widths of it; 0 inside.

    Widths are measured on the column's own scale, so that one doubling counts alike everywhere on a log2
    column.
    """
    distance = np.zeros_like(values)
    for index, column in enumerate(columns):
        ends = np.array([column.lower, column.upper])
        low, high = transformed(column.name, column.transform, ends)
        scaled = transformed(column.name, column.transform, values[:, index])
        with np.errstate(over="ignore"):
            distance[:, index] = np.maximum(low - scaled, scaled - high) / (high - low)
    return distance.clip(min=0)
