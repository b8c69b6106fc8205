"""The tables of the benchmark on small families, from the answers of every method."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.accuracy.baselines import Array

NEAR = 0.03
"""Nats behind the best rival that count as level with it."""
HELD = (0.85, 0.95)
"""The coverage that a 90 % interval should have."""
SURE = 1.5
"""Effective particles below which one hypothesis decides alone."""
Run = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """The answers of one method to the tasks of a family from so many rows.

    Attributes:
        tasks: split and number of the task of each answer, `[answer, 2]`.
        nll, squared_error, held, effective: as in `Answer`, `[answer]`.
    """

    tasks: Array
    nll: Array
    squared_error: Array
    held: Array
    effective: Array

    @classmethod
    def of(cls, runs: Sequence[Run], shots: int) -> "Cell":
        """The answers of all splits from so many rows."""
        taken = [
            (split, each)
            for split, run in enumerate(runs)
            for each in run["answers"]
            if each["shots"] == shots
        ]

        def column(name: str) -> Array:
            return np.array([each[name] for _, each in taken], dtype=np.float64)

        tasks = np.array([(split, each["task"]) for split, each in taken], dtype=np.float64)
        return cls(tasks, *map(column, ("nll", "squared_error", "held", "effective")))

    def by_task(self, values: Array) -> Array:
        """The mean over the draws of each task of each split."""
        _, place = np.unique(self.tasks, axis=0, return_inverse=True)
        return np.asarray(np.bincount(place, values) / np.bincount(place), dtype=np.float64)

    def mean(self, values: Array) -> float:
        """The mean over the tasks of each split, then over splits."""
        splits = np.unique(self.tasks, axis=0)[:, 0]
        means = self.by_task(values)
        return float(np.mean([means[splits == split].mean() for split in np.unique(splits)]))

    def error(self, values: Array) -> float:
        """The standard error of the mean over tasks."""
        means = self.by_task(values)
        return float(means.std(ddof=1) / np.sqrt(len(means)))

    @property
    def rmse(self) -> float:
        """The root of the mean squared error."""
        return float(np.sqrt(self.mean(self.squared_error)))

    @property
    def sure(self) -> str:
        """Coverage and number of answers with fewer than `SURE` effective particles."""
        chosen = self.effective < SURE
        return f"{_percent(self.held[chosen].mean())} ({int(chosen.sum())})" if chosen.any() else ""


Cells = Mapping[tuple[str, int], Mapping[str, Cell]]
"""By data set and support rows, the cells by method; ours is the first."""


def tables(cells: Cells, seconds: Mapping[str, float]) -> list[str]:
    """NLL, errors and coverage of every cell, and a summary of our own.

    Args:
        seconds: mean CPU time of our trainings, by data set.
    """
    methods = list(next(iter(cells.values())))
    parts = [
        ("NLL ± its standard error over tasks, standardised", _nll, ()),
        ("RMSE", lambda cell: f"{cell.rmse:.3f}", ()),
        ("Coverage of the 90 % interval", lambda cell: _percent(cell.mean(cell.held)), (f"below {SURE:g}",)),
    ]
    lines = [*summary(cells), ""]
    for title, form, more in parts:
        lines += [f"{title}:", ""]
        lines += [
            f"| data | given | {' | '.join([*methods, *more])} |",
            "|---" * (2 + len(methods) + len(more)) + "|",
        ]
        for (name, shots), row in cells.items():
            values = [form(cell) for cell in row.values()] + [row[methods[0]].sure for _ in more]
            lines.append(f"| {name} | {shots} | {' | '.join(values)} |")
        lines.append("")
    lines += ["| data | CPU seconds to train |", "|---|---|"]
    return [*lines, *(f"| {name} | {value:.0f} |" for name, value in seconds.items())]


def summary(cells: Cells) -> list[str]:
    """Our cells against the best rival of each, counted."""
    lead = [_lead(row) for row in cells.values()]
    held = [row[next(iter(row))] for row in cells.values()]
    inside = [HELD[0] <= cell.mean(cell.held) <= HELD[1] for cell in held]
    within, ahead = sum(each <= NEAR for each in lead), sum(each < 0 for each in lead)
    return [
        "| | cells |",
        "|---|---|",
        f"| all | {len(lead)} |",
        f"| NLL at most {NEAR:g} behind the best rival | {within} |",
        f"| NLL better than every rival | {ahead} |",
        f"| 90 % interval holds 85 to 95 % | {sum(inside)} |",
    ]


def differences(cells: Cells) -> list[str]:
    """Our NLL less that of the best rival, worst first, with its standard error over tasks."""
    lines = []
    for (name, shots), row in sorted(cells.items(), key=lambda item: -_lead(item[1])):
        own, *others = row
        best = min(others, key=lambda other: row[other].mean(row[other].nll))
        difference = row[own].nll - row[best].nll
        error = row[own].error(difference)
        lines.append(
            f"{name} {shots}: {_lead(row):+.3f} ± {error:.3f} against {best}, RMSE {row[own].rmse:.3f} "
            f"against {row[best].rmse:.3f}, held {row[own].mean(row[own].held):.0%}"
        )
    return lines


def _lead(row: Mapping[str, Cell]) -> float:
    """Our NLL less the best of the rivals'; not a number where there is none."""
    own, *others = (cell.mean(cell.nll) for cell in row.values())
    return own - min(others, default=math.nan)


def _nll(cell: Cell) -> str:
    return f"{cell.mean(cell.nll):.3f} ± {cell.error(cell.nll):.2f}"


def _percent(part: float) -> str:
    return f"{part:.0%}".replace("%", " %")
