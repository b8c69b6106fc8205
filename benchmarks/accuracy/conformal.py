"""Coverage of conformal intervals over random splits of the validation tasks, and on held-out tasks.

    python -m benchmarks.accuracy.conformal [--data learning_curves.parquet] [--store models] [--page PAGE]

Each split calibrates on a part of a version's validation tasks (of their groups, where the split keeps groups
together) and counts in the rest, which the choice of the part makes exchangeable with it. Beside the coverage
stand its standard error and the bound from above, both over the splits. The held-out tasks are counted after
calibration on all validation tasks. Without `--data` only sine curves are asked.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import command_line, pages
from model_store import SHIPPED, Model, Store
from model_store.columns import Array
from model_store.conformal import LEVEL_ROUNDING, Conformal
from training.config import Shots, SinusoidConfig, TableConfig, UpTo
from training.conformal import (
    Borders,
    ScoredRows,
    calibration,
    scored_rows,
    training_borders,
    unit_shares,
)
from training.families import RegressionFamily, Sinusoid, Table

LEVELS = (0.5, 0.8, 0.9, 0.95)
SPLITS = 200
SHARE = 0.75
"""Share of the validation tasks that a split calibrates on."""


@dataclass(frozen=True)
class Coverage:
    """Coverage of each group of the first output, the last one being all rows together.

    Attributes:
        coverage, error, bound: means over the splits, the standard error of the first, and the mean bound
            from above, `[group]`.
    """

    coverage: Array
    error: Array
    bound: Array


def counted(conformal: Conformal, rows: ScoredRows, level: float, output: int = 0) -> Array:
    """Weight of the rows that their interval holds, weight of all, and the bound from above, `[group, 3]`.

    The first and the last are not a number where the group has no interval of this level.
    Rows have the weights of `training.conformal.unit_shares`.
    """
    found = []
    for ranges in dict.fromkeys(each.support_rows for each in conformal.outputs[output]):
        groups = [each for each in conformal.outputs[output] if each.support_rows == ranges]
        member = (rows.support_rows >= ranges[0]) & (rows.support_rows <= ranges[1])
        shares = unit_shares(rows.unit[member], rows.support_set[member])
        scores = rows.scores[member, output]
        ends = [each.width_below or math.inf for each in groups[:-1]]
        part = np.searchsorted(ends, rows.widths[member, output], side="right")
        for index, group in enumerate(groups):
            there, inside = part == index, scores <= conformal.threshold(group, level)
            answered = 1.0 if level <= group.max_level + LEVEL_ROUNDING else math.nan
            bound = conformal.upper_bound(group, level) * answered
            found.append((shares[there & inside].sum() * answered, shares[there].sum(), bound))
    return np.array(found)


def over_splits(
    rows: ScoredRows,
    between: Borders,
    level: float,
    splits: int = SPLITS,
    share: float = SHARE,
    seed: int = 0,
) -> Coverage:
    """The coverage of the rest after calibration on a random part of the units."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(splits):
        order: NDArray[np.int64] = draw.permutation(rows.units)
        cut = round(share * rows.units)
        part = calibration(rows.of_units(order[:cut]), between)
        found.append(counted(part, rows.of_units(order[cut:]), level))
    inside, weight, bound = np.moveaxis(np.array(found), 2, 0)  # [split, group]
    inside, weight, bound = (
        np.concatenate([each, whole[:, None]], 1)
        for each, whole in (
            (inside, inside.sum(1)),
            (weight, weight.sum(1)),
            (bound, (bound * weight).sum(1) / weight.sum(1)),
        )
    )
    coverage = inside.sum(0) / weight.sum(0)
    error = (inside - coverage * weight).std(0) / weight.mean(0) / math.sqrt(splits)
    return Coverage(coverage, error, bound.mean(0))


def family_of(model: Model, data: Path | None) -> RegressionFamily | None:
    """The family that a version was trained on; None where its table is not `data`."""
    trained = model.manifest.training["family"]
    if trained["kind"] == "sinusoid":
        return Sinusoid(SinusoidConfig(**_fields(SinusoidConfig, trained)), model.manifest.seed)
    if data is None or trained["path"] != data.name:
        return None
    return Table(TableConfig(**_fields(TableConfig, trained) | {"path": str(data)}), model.manifest.seed)


def _fields(config: type[SinusoidConfig | TableConfig], trained: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration, from the JSON of a manifest."""
    known = {each.name: trained[each.name] for each in fields(config) if each.name in trained}
    known["shots"] = Shots(**known["shots"])
    if until := known.get("support_until"):
        known["support_until"] = UpTo(**until)
    return {name: _as_tuples(value) for name, value in known.items()}


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def tables(model: Model, family: RegressionFamily, splits: int) -> Iterator[str]:
    """The lines of one version's table; of a second one, as if groups of tasks were none, where there are."""
    groups, held_out = family.validation_groups, list(family.held_out())
    others = scored_rows(model, held_out, np.arange(sum(map(len, held_out))))
    rows = scored_rows(model, family.validation(), groups)
    units = f"{rows.units} groups of " if rows.units < rows.tasks else ""
    yield f"### {model.manifest.name}: {units}{rows.tasks} validation tasks, {others.tasks} held-out tasks"
    yield ""
    yield from table(rows, others, training_borders(model, family, rows), splits)
    if rows.units < rows.tasks:
        rows = scored_rows(model, family.validation(), np.arange(rows.tasks))
        yield f"### {model.manifest.name}, as if tasks of one group were exchangeable with those of others"
        yield ""
        yield from table(rows, others, training_borders(model, family, rows), splits)


def table(rows: ScoredRows, others: ScoredRows, between: Borders, splits: int) -> Iterator[str]:
    """The lines of one table.

    Args:
        rows, others: of validation and of held-out tasks.
    """
    whole = calibration(rows, between)
    names, sizes = [], []
    for group in whole.outputs[0]:
        low, high = group.support_rows
        width = "" if group.width_below is None else f", std < {group.width_below:.3g}"
        names.append(f"{low} rows{width}" if low == high else f"{low}–{high} rows{width}")
        sizes.append(group.weight)
    yield "| level | group | n | over splits | standard error | at most | held-out tasks |"
    yield "|---|---|---|---|---|---|---|"
    for level in LEVELS:
        found, counts = over_splits(rows, between, level, splits), counted(whole, others, level)
        held = [*(counts[:, 0] / counts[:, 1]), counts[:, 0].sum() / counts[:, 1].sum()]
        lines = list(zip([*names, "all"], [*sizes, rows.units], strict=True))
        for index, (name, size) in enumerate(lines if len(names) > 1 else lines[:1]):
            cells = [
                _percent(found.coverage[index], 2),
                _percent(found.error[index], 2),
                _percent(found.bound[index], 2),
                _percent(held[index], 1),
            ]
            yield f"| {level * 100:.0f} % | {name} | {size:.4g} | {' | '.join(cells)} |"
    yield ""


def _percent(share: float, decimals: int) -> str:
    """A share in percent; `refused` where a group has too few units for the level."""
    return "refused" if math.isnan(share) else f"{100 * share:.{decimals}f} %"


def main() -> None:
    """Count; print the tables or write them into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--data", type=Path, help="learning_curves.parquet")
    command_line.add_page(arguments)
    arguments.add_argument("--store", type=Path, default=SHIPPED)
    arguments.add_argument("--splits", type=int, default=SPLITS)
    options = arguments.parse_args()
    if options.page:
        pages.check(options.page, "conformal")
    torch.set_num_threads(1)
    store, lines = Store(options.store), [f"Measured on {options.machine}, one thread.", ""]
    for name in store.names():
        model = store.load(name)
        family = family_of(model, options.data) if model.manifest.kind == "regression" else None
        if family is not None:
            lines += tables(model, family, options.splits)
    if options.page:
        pages.write(options.page, lines, "conformal")
    else:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
