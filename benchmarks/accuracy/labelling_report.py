"""Tables and plots of `active_learning.py`: every acquisition against random choice, with paired errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.labelling_problems import PoolProblem
from service.compute.capabilities import CAPABILITIES

mpl.use("Agg")
from matplotlib import pyplot as plt

Scores = Mapping[str, NDArray[np.float64]]
"""`[task, round + 1]` by the name of the score, the lower the better."""
Played = Sequence[tuple[PoolProblem, Mapping[str, Scores]]]
"""Problems, each with the scores of every acquisition."""


@dataclass(frozen=True)
class Difference:
    """The mean difference of two scores over tasks, and its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.error:.3f}".replace("-", "−")


def difference(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], groups: NDArray[np.int_]
) -> Difference:
    """The paired difference of two scores `[task]`.

    Args:
        groups: tasks of one group count as dependent (the cluster-robust error of a mean).
    """
    each = ours - theirs
    count, clusters = len(each), len(np.unique(groups))
    sums = np.bincount(groups, each - each.mean())
    correction = clusters / max(1, clusters - 1)
    return Difference(float(each.mean()), float(np.sqrt(correction * np.square(sums).sum()) / count))


def over_rounds(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each task over all rounds after the start."""
    return scores[:, 1:].mean(1)


def labels_needed(scores: NDArray[np.float64], goal: float) -> int | None:
    """Rounds until the mean score reaches `goal`; None if it never does."""
    reached = np.flatnonzero(scores.mean(0) <= goal)
    return int(reached[0]) if len(reached) else None


def table(problem: PoolProblem, found: Mapping[str, Scores]) -> list[str]:
    """A Markdown table: scores over all rounds and at the end, and labels to random's final score."""
    names = list(problem.scores)
    counted = names[-1]
    random = found["random"]
    default = CAPABILITIES[problem.model.manifest.kind].default_acquisition
    goal, groups = float(random[counted].mean(0)[-1]), problem.groups
    clusters = len(np.unique(groups))
    among = f" of {clusters} data sets" if clusters < len(groups) else ""
    roles = {None: "", "choose": "The default was chosen on it. ", "report": "Nothing was chosen on it. "}
    heads = [head for name in names for head in (f"{name}, start", f"{name}, all rounds", f"{name}, end")]
    lines = [
        f"### {problem.title[0].upper()}{problem.title[1:]}",
        "",
        f"{roles[problem.role]}{len(problem.rows)} tasks{among}, {problem.rounds} rounds.",
        "",
        f"| | {' | '.join(heads)} | labels to random's end | of random's |",
        "|---" * (len(heads) + 3) + "|",
    ]
    for name, scores in sorted(found.items(), key=lambda item: over_rounds(item[1][names[0]]).mean()):
        cells = []
        for score in names:
            cells.append(f"{scores[score].mean(0)[0]:.3g}")
            for values in (over_rounds, _last):
                ours, theirs = values(scores[score]), values(random[score])
                cells.append(
                    f"{ours.mean():.4g}" if name == "random" else f"{difference(ours, theirs, groups)}"
                )
        needed = labels_needed(scores[counted], goal)
        part = "" if needed is None else f"{100 * needed / problem.rounds:.0f} %"
        cells += ["never" if needed is None else str(needed), part]
        lines.append(f"| {_marked(name, default)} | {' | '.join(cells)} |")
    return [*lines, ""]


def comparison(played: Played) -> list[str]:
    """Markdown tables of all problems, one for each score: over all rounds, less that of random choice."""
    default = CAPABILITIES["regression"].default_acquisition
    names = [name for name in played[0][1] if name != "random"]
    heads = " | ".join(_marked(name, default) for name in names)
    lines = []
    for score in played[0][0].scores:
        lines += [f"### All problems, {score}", "", f"| | role | {heads} | default − best |"]
        lines.append("|---" * (len(names) + 3) + "|")
        for problem, found in played:
            values = {name: over_rounds(scores[score]) for name, scores in found.items()}
            cells = [str(difference(values[name], values["random"], problem.groups)) for name in names]
            means = {name: float(values[name].mean()) for name in names}
            best = min(means, key=means.__getitem__)
            lead = difference(values[default], values[best], problem.groups)
            cells.append("best" if best == default else f"{lead} ({best})")
            lines.append(f"| {problem.name} | {problem.role} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def _marked(name: str, default: str) -> str:
    return f"**{name}** (default)" if name == default else name


def _last(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return scores[:, -1]


def draw(played: Played, path: Path) -> None:
    """Plot the mean of the last score by round, with a band of two standard errors to random."""
    columns = min(4, len(played))
    rows = -(-len(played) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.8 * rows), squeeze=False)
    for axis in axes.flat[len(played) :]:
        axis.axis("off")
    for axis, (problem, found) in zip(axes.flat, played, strict=False):
        score = list(problem.scores)[-1]
        for number, (name, scores) in enumerate(found.items()):
            colour = "black" if name == "random" else f"C{number}"
            mean, rounds = scores[score].mean(0), np.arange(problem.rounds + 1)
            band = [
                2 * difference(scores[score][:, at], found["random"][score][:, at], problem.groups).error
                for at in rounds
            ]
            axis.plot(rounds, mean, color=colour, lw=2.2 if name == "random" else 1.3, label=name)
            axis.fill_between(
                rounds, np.maximum(mean - band, mean / 5), mean + band, color=colour, alpha=0.12, lw=0
            )
        axis.set(xlabel="labels bought", ylabel=score, yscale="log")
        axis.set_title(problem.name, fontsize=8)
        axis.legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
