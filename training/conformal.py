"""Conformal calibration, the last step before publication: thresholds of |y − mean| / std by count.

Every validation task is one of n exchangeable units (Fisch et al. 2021). Its query rows share its weight,
however often it was drawn (hierarchical conformal prediction: Lee, Barber & Willett 2023). Where the split
keeps groups of tasks together, a group is one unit, because a new task comes from a new group. Rows by
support set and width have thresholds of their own (Vovk 2012). The borders come from training tasks, so that
no validation task decides on its own place.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from bmaml.blocks import blocks
from bmaml.task import TaskBatch
from model_store import Model
from model_store.columns import Array
from model_store.conformal import LEVEL_ROUNDING, Conformal, ConformalGroup
from model_store.model import NEGLIGIBLE_WEIGHT
from training.families.family import VALIDATION_SEED_OFFSET, RegressionFamily
from training.families.splits import Indices

LEVELS = tuple(
    round(level, 3)
    for start, stop, step in ((0.02, 0.5, 0.02), (0.5, 0.9, 0.01), (0.9, 0.98, 0.005), (0.98, 0.9995, 0.002))
    for level in np.arange(start, stop - step / 2, step).tolist()
)
"""Levels at which thresholds are stored."""
MIN_GROUP_UNITS = 50
"""Validation units that a group is expected to have, unless it is the only one."""
MAX_SHOT_GROUPS, MAX_WIDTH_GROUPS = 4, 3
"""Groups by support rows; groups of each of them by width."""
BORDER_TASKS = 200
"""Training tasks that the borders come from."""
TASKS_PER_BLOCK = 10
"""Tasks predicted at once: a bound on the memory of a belief."""
DECIMALS = 9
"""Decimals of sums of weights, whose last digits are rounding."""
SIGNIFICANT_DIGITS = 5
"""Digits of a score, which is rounded up."""


@dataclass(frozen=True)
class ScoredRows:
    """Query rows of some support sets, with the widths and scores of their predictions.

    Attributes:
        tasks, units: different tasks and exchangeable units, each of one task or more. A task may have
            several support sets.
        unit, support_set: the unit and the support set of each row, `[row]`.
        support_rows: number of rows of the support set, `[row]`.
        widths: std, standardised, `[row, output]`.
        scores: |y − mean| / std, rounded up; ∞ where it is not a number, `[row, output]`.
    """

    tasks: int
    units: int
    unit: Indices
    support_set: Indices
    support_rows: Indices
    widths: Array
    scores: Array

    def of_units(self, chosen: Indices) -> Self:
        """The rows of some units alone, in which tasks are not counted."""
        kept = np.isin(self.unit, chosen)
        return type(self)(
            tasks=len(chosen),
            units=len(chosen),
            unit=self.unit[kept],
            support_set=self.support_set[kept],
            support_rows=self.support_rows[kept],
            widths=self.widths[kept],
            scores=self.scores[kept],
        )


@dataclass(frozen=True)
class Borders:
    """Borders between groups.

    Attributes:
        support_rows: the fewest and the most support rows of each group.
        widths: for each output and each of these groups, ascending widths between its parts.
    """

    support_rows: tuple[tuple[int, int], ...]
    widths: tuple[tuple[tuple[float, ...], ...], ...]


def conformal_calibration(model: Model, family: RegressionFamily) -> Conformal:
    """The calibration of a regression on its validation tasks, for the belief that the service answers.

    Labels with a step are taken as they are, not spread over their cells: of these the guarantee speaks.
    """
    validation = scored_rows(model, family.validation(spread=False), family.validation_groups)
    return calibration(validation, training_borders(model, family, validation))


def training_borders(model: Model, family: RegressionFamily, validation: ScoredRows) -> Borders:
    """Borders from training tasks, for so many validation units with so many support sets each."""
    generator = torch.Generator().manual_seed(model.manifest.seed + VALIDATION_SEED_OFFSET)
    rows = scored_rows(model, [family.batch(BORDER_TASKS, generator)], np.arange(BORDER_TASKS))
    sets = len(np.unique(validation.support_set))
    return borders(rows, validation.units, max(1, sets // validation.units))


def scored_rows(model: Model, batches: Iterable[TaskBatch], groups: Indices) -> ScoredRows:
    """The query rows of batches of tasks, scored by the belief that the service answers.

    Args:
        groups: the group of each task, `[task]`. The batches may repeat all tasks, in turn.
    """
    names, units = np.unique(groups, return_inverse=True)
    tasks = len(groups)
    parts: list[ScoredRows] = []
    sets = 0
    with torch.no_grad():
        for whole in batches:
            for block in blocks(len(whole), TASKS_PER_BLOCK):
                batch = whole.tasks(block)
                posterior = model.learner.adapt_pruned(model.learned, batch.support, NEGLIGIBLE_WEIGHT)
                belief, mask = model.predict(posterior, batch.query.x, batch.support), batch.query.mask
                error, std = (batch.query.y - belief.mean()).abs(), belief.variance().sqrt()
                errors, widths = (values[mask].double().cpu().numpy() for values in (error, std))
                counts = mask.sum(1).cpu().numpy()
                support_set = np.repeat(np.arange(sets, sets + len(batch)), counts)
                support_rows = np.repeat(batch.support.mask.sum(1).cpu().numpy(), counts)
                unit, scored = units[support_set % tasks], scores(errors, widths)
                parts.append(ScoredRows(tasks, len(names), unit, support_set, support_rows, widths, scored))
                sets += len(batch)
    return ScoredRows(
        tasks,
        len(names),
        unit=np.concatenate([part.unit for part in parts]),
        support_set=np.concatenate([part.support_set for part in parts]),
        support_rows=np.concatenate([part.support_rows for part in parts]),
        widths=np.concatenate([part.widths for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
    )


def scores(errors: Array, widths: Array) -> Array:
    """|error| / width, rounded up to `SIGNIFICANT_DIGITS`; ∞ where it is not a number."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.nan_to_num(errors / widths, nan=np.inf, posinf=np.inf)
    positive = np.isfinite(found) & (found > 0)
    place = 10.0 ** (SIGNIFICANT_DIGITS - 1 - np.floor(np.log10(np.where(positive, found, 1.0))))
    return np.where(positive, np.ceil(found * place) / place, found)


def borders(rows: ScoredRows, units: int, draws: int) -> Borders:
    """Borders that leave about `MIN_GROUP_UNITS` units in every group: as many groups as that allows.

    Rows are first parted by their number of support rows, and each part then by the width of predictions,
    at quantiles of both.

    Args:
        rows: rows of other tasks, of the same kind.
        units: units that will be calibrated on.
        draws: support sets of each of them.
    """
    first = np.unique(rows.support_set, return_index=True)[1]
    shots = np.sort(rows.support_rows[first])

    def expected(member: NDArray[np.bool_]) -> float:
        """Units that have one of their support sets in a group."""
        share = len(np.unique(rows.support_set[member])) / len(shots)
        return float(units * (1 - (1 - share) ** draws))

    for parts in range(MAX_SHOT_GROUPS, 0, -1):
        starts = sorted({int(shots[len(shots) * part // parts]) for part in range(parts)})
        ends = [*(start - 1 for start in starts[1:]), int(shots[-1])]
        ranges = tuple(zip(starts, ends, strict=True))
        members = [_within(rows.support_rows, each) for each in ranges]
        if min(map(expected, members)) >= MIN_GROUP_UNITS:
            break
    by_output = tuple(
        tuple(_width_borders(rows, widths, member, expected(member)) for member in members)
        for widths in rows.widths.T
    )
    return Borders(ranges, by_output)


def _within(values: Indices, bounds: tuple[int, int]) -> NDArray[np.bool_]:
    return (values >= bounds[0]) & (values <= bounds[1])


def _width_borders(
    rows: ScoredRows, widths: Array, member: NDArray[np.bool_], units: float
) -> tuple[float, ...]:
    """The most borders, at quantiles of the members' widths, that leave units enough between them."""
    shares = unit_shares(rows.support_set[member], rows.support_set[member])
    for parts in range(MAX_WIDTH_GROUPS, 1, -1):
        found = np.quantile(widths[member], np.arange(1, parts) / parts)
        inner = sorted({float(f"{each:.{SIGNIFICANT_DIGITS}g}") for each in found})
        part = np.searchsorted(inner, widths[member], side="right")
        weights = np.bincount(part, shares, parts) / shares.sum()
        if inner[0] > 0 and units * weights.min() >= MIN_GROUP_UNITS:
            return tuple(inner)
    return ()


def calibration(rows: ScoredRows, between: Borders) -> Conformal:
    """The thresholds of every group: a function of the rows alone, whatever their order.

    The support sets of a unit with so many rows share its weight, and the query rows of each share that.
    """
    lowest, highest = int(rows.support_rows.min()), int(rows.support_rows.max())
    return Conformal(
        tasks=rows.tasks,
        units=rows.units,
        levels=LEVELS,
        outputs=tuple(
            tuple(_output_groups(rows, output, between, (lowest, highest)))
            for output in range(rows.scores.shape[1])
        ),
    )


def _output_groups(
    rows: ScoredRows, output: int, between: Borders, reach: tuple[int, int]
) -> Iterator[ConformalGroup]:
    """The groups of one output; the first and the last range of support rows end where the rows do."""
    last = len(between.support_rows) - 1
    for index, (low, high) in enumerate(between.support_rows):
        low = min(low, reach[0]) if index == 0 else low
        high = max(high, reach[1]) if index == last else high
        member = _within(rows.support_rows, (low, high))
        unit, scored, inner = rows.unit[member], rows.scores[member, output], between.widths[output][index]
        shares = unit_shares(unit, rows.support_set[member])
        part = np.searchsorted(inner, rows.widths[member, output], side="right")
        for place, end in enumerate((*inner, None)):
            there = part == place
            yield _group(unit[there], shares[there], scored[there], (low, high), end)


def unit_shares(unit: Indices, support_set: Indices) -> Array:
    """The weight of each row: the support sets of a unit share 1, and the rows of each share that."""
    owners, place, rows = np.unique(support_set, return_inverse=True, return_counts=True)
    of_set = np.empty(len(owners), dtype=np.int64)
    of_set[place] = unit
    _, unit_place, sets = np.unique(of_set, return_inverse=True, return_counts=True)
    return np.asarray(1 / (rows * sets[unit_place])[place])


def _group(
    unit: Indices,
    shares: Array,
    found: Array,
    support_rows: tuple[int, int],
    width_below: float | None,
) -> ConformalGroup:
    """The group of rows with these units, weights and scores."""
    values, place = np.unique(found, return_inverse=True)
    weights, total = np.bincount(place, shares, len(values)), float(shares.sum())
    finite = np.isfinite(values)
    levels = weights[finite].cumsum() / (total + 1)
    max_level = round(float(levels[-1]), DECIMALS) if len(levels) else 0.0
    asked = [level for level in LEVELS if level < max_level - LEVEL_ROUNDING]
    asked += [max_level] if max_level else []
    upper = finite & (weights.cumsum() >= total / 2)
    index = np.searchsorted(levels, np.array(asked) - LEVEL_ROUNDING)
    return ConformalGroup(
        support_rows=support_rows,
        width_below=width_below,
        units=len(np.unique(unit)),
        weight=round(total, DECIMALS),
        max_level=max_level,
        atom=round(float(weights[upper].max() / total), DECIMALS) if upper.any() else 0.0,
        scores=tuple(values[finite][index].tolist()),
    )
