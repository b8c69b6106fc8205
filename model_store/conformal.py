"""The conformal calibration of a published version: thresholds of |y − mean| / std, by groups of rows.

A threshold is a weighted quantile over n validation units, in which every unit counts once and a last one is
infinitely bad (Lee, Barber & Willett 2023). A unit is a task; or all tasks of a group that the split keeps
together, such as the curves of one data set. mean ± threshold · std then holds a row of a new unit with at
least the probability that was asked for, if the new unit and the n are exchangeable.
`training/conformal.py` computes it.

Groups of thresholds part tasks by their number of support rows, and the rows of those tasks by the width of
predictions. A unit with a third of its rows in a group of widths counts a third there, and the new one counts
1, which is the most that it may. So the probability is that of a random row of a new unit, given that it
falls into the group; and over all widths together it is at least the same.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from model_store.columns import Array

LEVEL_ROUNDING = 1e-9
"""Difference below which two levels are one: a sum of weights is rounded."""

Probability = Annotated[float, Field(ge=0, lt=1)]


class ConformalGroup(BaseModel):
    """The thresholds of one output, for rows with similar support sets and widths.

    Attributes:
        support_rows: the fewest and the most support rows of the group.
        width_below: widths of the group end here, and those of the next begin. A width is a row's std over
            the output's in training. None: no end.
        units: validation units with rows in the group.
        weight: n, the sum over these units of their share of rows in the group.
        max_level: the highest level that has a threshold: n / (n + 1), less where scores are not finite.
        atom: the largest share of n on one score, of those from the median up.
        scores: thresholds at the calibration's levels below `max_level`, then at `max_level`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    support_rows: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
    width_below: Annotated[float, Field(gt=0)] | None = None
    units: int = Field(ge=0)
    weight: float = Field(ge=0)
    max_level: Probability
    atom: float = Field(ge=0, le=1)
    scores: tuple[Annotated[float, Field(ge=0)], ...]


class Conformal(BaseModel):
    """The conformal calibration of a regression.

    Attributes:
        tasks: different validation tasks.
        units: exchangeable units: all of these tasks, or the groups of them that the split keeps together.
        levels: levels at which groups have thresholds, ascending. A level in between takes the next one.
        outputs: groups of each output: by support rows, those of equal support rows by width.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tasks: int = Field(ge=1)
    units: int = Field(ge=1)
    levels: tuple[Probability, ...]
    outputs: tuple[tuple[ConformalGroup, ...], ...]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if any(low >= high for low, high in pairwise(self.levels)):
            raise ValueError("conformal levels do not ascend")
        for groups in self.outputs:
            if not groups:
                raise ValueError("an output has no conformal group")
            ranges = [bin_ for bin_, _ in _bins(groups)]
            edges = [edge for each in ranges for edge in each]
            if edges != sorted(edges) or any(one[1] >= other[0] for one, other in pairwise(ranges)):
                raise ValueError("conformal groups are not in the order of their support rows")
            for _, of_bin in _bins(groups):
                ends = [math.inf if each.width_below is None else each.width_below for each in of_bin]
                if ends[-1] != math.inf or any(low >= high for low, high in pairwise(ends)):
                    raise ValueError("conformal groups are not in the order of their widths")
            for each in groups:
                if len(each.scores) != len(self._levels_of(each)):
                    raise ValueError("a conformal group has not one score for each level")
                if any(low > high for low, high in pairwise(each.scores)):
                    raise ValueError("conformal scores fall")
        return self

    @property
    def max_level(self) -> float:
        """The highest level that every group has a threshold for."""
        return min(each.max_level for groups in self.outputs for each in groups)

    @property
    def unit_name(self) -> str:
        """The name of several units."""
        return "tasks" if self.units == self.tasks else "groups of tasks"

    @property
    def support_rows(self) -> tuple[int, int]:
        """The fewest and the most support rows of all groups."""
        groups = self.outputs[0]
        return groups[0].support_rows[0], groups[-1].support_rows[1]

    def groups(self, support_rows: int) -> tuple[tuple[ConformalGroup, ...], ...]:
        """The groups of requests with so many support rows, by width, for each output.

        Numbers of rows outside all groups belong to the nearest one.
        """
        return tuple(_groups_of(groups, support_rows) for groups in self.outputs)

    def half_widths(self, support_rows: int, std: Array, scale: Array, level: float) -> Array:
        """Half the width of each row's interval, `[row, output]`; ∞ where there is none for this level.

        Args:
            std: of each row, `[row, output]`, in any unit.
            scale: the std of each output in training, `[output]`, in the same unit.
        """
        return std * self.thresholds(support_rows, std / scale, level)

    def thresholds(self, support_rows: int, widths: Array, level: float) -> Array:
        """The threshold of each row and output; infinite where its group has none for this level.

        Args:
            widths: std of rows, `[row, output]`, in standard deviations of each output in training.
        """
        result = np.empty_like(widths)
        for output, groups in enumerate(self.groups(support_rows)):
            ends = [each.width_below or math.inf for each in groups[:-1]]
            found = np.array([self.threshold(each, level) for each in groups])
            result[:, output] = found[np.searchsorted(ends, widths[:, output], side="right")]
        return result

    def threshold(self, group: ConformalGroup, level: float) -> float:
        """A group's threshold at a level; ∞ above its `max_level`."""
        index = bisect_left(self._levels_of(group), level - LEVEL_ROUNDING)
        return group.scores[index] if index < len(group.scores) else math.inf

    def upper_bound(self, group: ConformalGroup, level: float) -> float:
        """The bound on the coverage of a group's interval from above, for levels from a half up.

        It is level + (1 + a) / n, with the stored level that is taken for this one, and the largest weight a
        on one score.
        """
        levels = self._levels_of(group)
        index = bisect_left(levels, level - LEVEL_ROUNDING)
        return min(1.0, levels[index] + 1 / group.weight + group.atom) if index < len(levels) else 1.0

    def _levels_of(self, group: ConformalGroup) -> tuple[float, ...]:
        """The levels at which a group has thresholds."""
        if group.max_level == 0:
            return ()
        below = bisect_left(self.levels, group.max_level - LEVEL_ROUNDING)
        return (*self.levels[:below], group.max_level)


def _bins(groups: tuple[ConformalGroup, ...]) -> Iterator[tuple[tuple[int, int], list[ConformalGroup]]]:
    """The groups by their range of support rows."""
    for rows, of_bin in groupby(groups, key=attrgetter("support_rows")):
        yield rows, list(of_bin)


def _groups_of(groups: tuple[ConformalGroup, ...], support_rows: int) -> tuple[ConformalGroup, ...]:
    for rows, of_bin in _bins(groups):
        if support_rows <= rows[1]:
            return tuple(of_bin)
    return tuple(of_bin)
