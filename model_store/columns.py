"""Columns of inputs and outputs, converted between the caller's units and standardised ones."""

import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from bmaml.errors import BmamlError
from bmaml.links import Link

Array = NDArray[np.float64]
Transform = Literal["none", "log", "log2"]
"""The scales of inputs."""
OutputTransform = Literal["none", "log", "log2", "logit", "log1p"]
TargetKind = Literal["real", "positive", "bounded", "integer"]
WHOLE_TOLERANCE = 1e-9
"""Relative distance from a whole number that is rounding."""


class OutsideDomain(BmamlError, ValueError):
    """A value outside the domain of its column."""

    def __init__(self, column: str, values: str, row: int) -> None:
        super().__init__(f"column {column!r} takes {values}; row {row} has another value")
        self.row, self.values = row, values


class Target(BaseModel):
    """What the values of an output may be.

    Attributes:
        kind: real numbers, positive numbers, numbers between two bounds, or whole numbers.
        low, high: 0 for positive numbers, which exclude it; the bounds of bounded numbers, which include
            them; the lowest whole number. None where there is no bound.
        margin: distance from a bound at which bounded numbers nearer to it are taken: a logit is infinite
            at the bound itself.
        step: distance of neighbouring labels, where they have one; the density of a label is then that of
            its cell.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: TargetKind
    low: float | None = None
    high: float | None = None
    margin: float = Field(default=0.0, ge=0)
    step: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        bounded = self.low is not None and self.high is not None
        right = {
            "real": self.low is None and self.high is None and self.step is not None,
            "positive": self.low == 0 and self.high is None,
            "bounded": bounded and 0 < self.margin < 0.5 * ((self.high or 0) - (self.low or 0)),
            "integer": self.high is None and self.step == 1,
        }
        if not right[self.kind]:
            raise ValueError(f"bounds, margin or step are not those of a target of {self.kind} numbers")
        return self

    @property
    def values(self) -> str:
        """The values in words."""
        if self.kind == "positive":
            return "positive numbers"
        if self.kind == "bounded":
            return f"numbers from {self.low:g} to {self.high:g}"
        if self.kind == "integer":
            return "whole numbers" if self.low is None else f"whole numbers from {self.low:g} up"
        return "numbers"

    def outside(self, values: Array) -> NDArray[np.bool_]:
        """True for values that the target cannot have."""
        outside = np.zeros(values.shape, dtype=bool)
        if self.low is not None:
            outside |= values <= self.low if self.kind == "positive" else values < self.low
        if self.high is not None:
            outside |= values > self.high
        if self.kind == "integer":
            outside |= np.abs(values - np.round(values)) > WHOLE_TOLERANCE * np.abs(values).clip(min=1)
        return outside


class Column(BaseModel):
    """One column of x or y, standardised as (transform(value) − mean) / std.

    Attributes:
        lower, upper: the training range, in the caller's units.
        target: what an output may be; None for inputs, and for outputs that are real numbers without a step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1)
    transform: OutputTransform = "none"
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    lower: float
    upper: float
    target: Target | None = None

    @model_validator(mode="after")
    def _scale_of_target(self) -> Self:
        if self.target is None:
            right = self.transform in ("none", "log", "log2")
        else:
            scales = {"real": "none", "positive": "log", "bounded": "logit"}
            wanted = scales.get(self.target.kind, "none" if self.target.low is None else "log1p")
            right = self.transform in (wanted, "none")
        if not right:
            raise ValueError(
                f"column {self.name!r} has a {self.transform} scale, which its values do not fit"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_absent_target(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The fields; a column without a target is written as in earlier revisions, with the same digest."""
        fields: dict[str, Any] = serialise(self)
        if self.target is None:
            del fields["target"]
        return fields

    @classmethod
    def fitted(
        cls, name: str, transform: OutputTransform, values: Array, target: Target | None = None
    ) -> "Column":
        """The column that gives `values` mean zero and unit variance.

        Raises:
            OutsideDomain: a value outside the domain.
            ValueError: the values do not vary.
        """
        unscaled = cls(
            name=name,
            transform=transform,
            lower=float(values.min()),
            upper=float(values.max()),
            target=target,
        )
        scaled = transformed(unscaled, values)
        std = float(scaled.std())
        if not std > 1e-12 * float(np.abs(scaled).max()):
            raise ValueError(f"column {name!r} is constant")
        return unscaled.model_copy(update={"mean": float(scaled.mean()), "std": std})

    @property
    def link(self) -> Link:
        """The map from an output's own scale, before it is standardised, to its values."""
        target = self.target
        if target is None:
            return Link()
        logarithmic = self.transform in ("log", "log1p")
        return Link(
            scale="log" if self.transform == "log2" else self.transform,
            low=-math.inf if target.low is None else target.low,
            high=math.inf if target.high is None else target.high,
            margin=target.margin,
            step=target.step,
            whole=target.kind == "integer",
            max_location=self._highest if logarithmic else math.inf,
            max_variance=self.std**2 if logarithmic else math.inf,
        )

    @property
    def _highest(self) -> float:
        """The largest label of training on a logarithmic scale."""
        return math.log(self.upper) if self.transform == "log" else math.log1p(self.upper)


def transformed(column: Column, values: Array) -> Array:
    """Values on the column's own scale, before they are standardised.

    Raises:
        OutsideDomain: a value outside the domain.
    """
    if column.target is not None:
        if (bad := np.flatnonzero(column.target.outside(values))).size:
            raise OutsideDomain(column.name, column.target.values, int(bad[0]))
        return column.link.array_to_scale(values)
    if column.transform == "none":
        return values
    if (bad := np.flatnonzero(values <= 0)).size:
        raise OutsideDomain(column.name, f"positive numbers on its {column.transform} scale", int(bad[0]))
    return np.log(values) / (math.log(2) if column.transform == "log2" else 1.0)


def standardised(columns: Sequence[Column], values: Array) -> Array:
    """Values `[row, column]` in standardised units, from the caller's; infinite where they overflow.

    Raises:
        OutsideDomain: a value outside its column's domain.
    """
    result = np.empty_like(values)
    with np.errstate(over="ignore"):
        for index, column in enumerate(columns):
            result[:, index] = (transformed(column, values[:, index]) - column.mean) / column.std
    return result


def restored(columns: Sequence[Column], values: Array) -> Array:
    """Values `[row, column]` in the caller's units: the inverse of `standardised`."""
    result = np.empty_like(values)
    for index, column in enumerate(columns):
        scaled = values[:, index] * column.std + column.mean
        if column.target is not None:
            scaled = column.link.nearest(torch.from_numpy(scaled)).numpy()
        elif column.transform != "none":
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
        low, high = transformed(column, ends)
        scaled = transformed(column, values[:, index])
        with np.errstate(over="ignore"):
            distance[:, index] = np.maximum(low - scaled, scaled - high) / (high - low)
    return distance.clip(min=0)
