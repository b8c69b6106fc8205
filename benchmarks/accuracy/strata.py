"""Coverage by stratum: effective particles, distance from the support rows, and the worst groups."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.number_scores import NumberScore, Panel
from benchmarks.accuracy.number_tasks import FAMILY

EFFECTIVE_PARTICLES = (0.0, 1.5, 3.0, math.inf)
DISTANCES = (0.0, 0.3, 1.0, math.inf)
"""Edges of the strata; distances in standard deviations of the training inputs."""
MIN_GROUP = 5
"""Tasks of a group that may be named as one of the worst."""
WORST = ("worst", "second worst", "third worst")
Rows = Callable[[NumberScore], NDArray[np.bool_]]
"""The query rows of a task that belong to a stratum, `[row]`."""


def strata_table(panels: Sequence[Panel]) -> list[str]:
    """A Markdown table of coverage by stratum: the family, then all shifts together, by support rows."""
    columns: dict[str, list[NumberScore]] = {}
    for family in (True, False):
        for panel in panels:
            if (panel.shift == FAMILY) is family:
                head = f"{panel.points}" if family else f"{panel.points}, shifted"
                columns.setdefault(head, []).extend(panel.answered)
    lines = [f"| in 90 % (tasks) | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for title, rows in _strata().items():
        lines.append(_line(title, [_coverage(scores, rows) for scores in columns.values()]))
    groups = dict.fromkeys(kind for scores in columns.values() for score in scores for kind in score.groups)
    for kind in groups:
        found = [worst_groups(scores, kind) for scores in columns.values()]
        for place, name in enumerate(WORST):
            lines.append(
                _line(f"{name} {kind}", [each[place] if place < len(each) else "" for each in found])
            )
    half = [
        _percent(float(np.mean([score.inside.mean() < 0.5 for score in s])), len(s)) for s in columns.values()
    ]
    return [*lines, _line("tasks with under half inside", half)]


def worst_groups(scores: Sequence[NumberScore], kind: str) -> list[str]:
    """Coverage, name and tasks of the groups that are covered least, of at least `MIN_GROUP` tasks."""
    by_group: dict[str, list[float]] = {}
    for score in scores:
        by_group.setdefault(score.groups[kind], []).append(float(score.inside.mean()))
    large = [(float(np.mean(each)), name) for name, each in by_group.items() if len(each) >= MIN_GROUP]
    return [_percent(mean, len(by_group[name]), name) for mean, name in sorted(large)[: len(WORST)]]


def _strata() -> Mapping[str, Rows]:
    def of_particles(low: float, high: float) -> Rows:
        return lambda score: np.full_like(score.inside, low <= score.effective_particles < high)

    def of_distance(low: float, high: float) -> Rows:
        return lambda score: (low <= score.distance) & (score.distance < high)

    found: dict[str, Rows] = {}
    for low, high in pairwise(EFFECTIVE_PARTICLES):
        found[f"effective particles {_between(low, high)}"] = of_particles(low, high)
    for low, high in pairwise(DISTANCES):
        found[f"distance {_between(low, high)}"] = of_distance(low, high)
    return found


def _between(low: float, high: float) -> str:
    if low == 0:
        return f"below {high:g}"
    return f"{low:g} and more" if high == math.inf else f"{low:g} to {high:g}"


def _coverage(scores: Sequence[NumberScore], rows: Rows) -> str:
    """The mean over tasks of the part of their rows in the stratum that lies inside."""
    inside = [score.inside[chosen].mean() for score in scores if (chosen := rows(score)).any()]
    return _percent(float(np.mean(inside)), len(inside)) if inside else ""


def _percent(part: float, tasks: int, name: str = "") -> str:
    return f"{part:.0%}".replace("%", " %") + f" ({name + ', ' if name else ''}{tasks})"


def _line(title: str, cells: Sequence[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |"
