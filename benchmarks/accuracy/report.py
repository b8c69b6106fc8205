"""Tables and reliability plots of the accuracy benchmark."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from benchmarks import pages
from benchmarks.accuracy.scoring import LEVELS
from benchmarks.accuracy.training_run import MIN_STEPS, TrainingRun

mpl.use("Agg")
from matplotlib import pyplot as plt

COLUMNS = (
    ("MSE", "mse", "{:.3g}"),
    ("median task", "median_mse", "{:.2g}"),
    ("per particle", "particle_mse", "{:.3g}"),
    ("NLL", "nll", "{:.2f}"),
    ("CRPS", "crps", "{:.3g}"),
    ("in 50 %", "coverage_50", "{:.0%}"),
    ("in 80 %", "coverage_80", "{:.0%}"),
    ("in 90 %", "coverage_90", "{:.0%}"),
    ("in 95 %", "coverage_95", "{:.0%}"),
    ("ms", "ms", "{:.1f}"),
)

PLOTTED = {"sine": ("sine, 1000 tasks", 10), "curves": ("curves", 5)}
"""The table and the number of shots that a problem's reliability plot shows."""


@dataclass(frozen=True)
class Row:
    """The scores of one training at one number of shots."""

    problem: str
    name: str
    shots: int
    seed: int
    metrics: Mapping[str, Any]


def write(
    page: Path | None,
    problem: str,
    rows: list[Row],
    trained: list[TrainingRun],
    machine: str,
) -> None:
    """Write the tables into the page's block and the plot beside it; without a page, print the tables."""
    lines = [f"Measured on {machine}.", "", *tables(rows), *_trainings(trained)]
    if page is None:
        print("\n".join(lines))
        return
    pages.write(page, lines, problem)
    _plot(problem, rows, page.parent / f"reliability-{problem}.png")


def tables(rows: list[Row]) -> list[str]:
    """Markdown tables, one for each problem, ordered by shots and NLL."""
    lines = []
    for problem in dict.fromkeys(row.problem for row in rows):
        squared = "RMSE" if problem.startswith("curves") else "MSE"
        lines += [f"### {problem[0].upper()}{problem[1:]}", ""]
        heads = [squared if head == "MSE" else head for head, _, _ in COLUMNS]
        lines += [f"| given | | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
        own = [row for row in rows if row.problem == problem]
        for shots in sorted({row.shots for row in own}):
            named: dict[str, list[Mapping[str, Any]]] = {}
            for row in own:
                if row.shots == shots:
                    named.setdefault(row.name, []).append(row.metrics)
            ordered = sorted(named.items(), key=lambda item: _mean(item[1], "nll"))
            lines += [_line(shots, name, metrics, squared) for name, metrics in ordered]
        lines.append("")
    return lines


def _line(shots: int, name: str, metrics: list[Mapping[str, Any]], squared: str) -> str:
    cells = []
    for _, key, form in COLUMNS:
        key = "rmse" if key == "mse" and squared == "RMSE" else key
        cell = form.format(_mean(metrics, key))
        if key in ("mse", "rmse", "nll") and len(metrics) > 1:
            cell += " ± " + form.format(np.std([each[key] for each in metrics], ddof=1))
        cells.append(cell.replace("%", " %"))
    return f"| {shots} | {name} | {' | '.join(cells)} |"


def _mean(metrics: list[Mapping[str, Any]], key: str) -> float:
    return float(np.mean([each[key] for each in metrics]))


def _trainings(trained: list[TrainingRun]) -> list[str]:
    lines = ["| trained | problem | meta-steps | inner rate found |", "|---|---|---|---|"]
    found = {(run.method.name, run.problem_name): run for run in trained}
    for (name, problem), run in sorted(found.items()):
        if run.meta_steps > MIN_STEPS:
            rate = "" if run.step_size is None else f"{run.step_size:g}"
            lines.append(f"| {name} | {problem} | {run.meta_steps} | {rate} |")
    return [*lines, ""]


def _plot(problem: str, rows: list[Row], path: Path) -> None:
    group, shots = PLOTTED[problem]
    named: dict[str, list[list[float]]] = {}
    for row in rows:
        if (row.problem, row.shots) == (group, shots) and "fitted afterwards" not in row.name:
            named.setdefault(row.name, []).append(row.metrics["reliability"])
    figure, axis = plt.subplots(figsize=(6.5, 6))
    axis.plot([0, 1], [0, 1], color="0.6", lw=1, ls="--")
    for number, (name, curves) in enumerate(sorted(named.items())):
        mean = [statistics.fmean(values) for values in zip(*curves, strict=True)]
        bold = "shipped recipe" in name
        style: dict[str, Any] = (
            {"color": "black", "lw": 3, "zorder": 5} if bold else {"lw": 1.4, "color": f"C{number % 10}"}
        )
        axis.plot(LEVELS, mean, label=name, marker="o" if number >= 10 and not bold else None, ms=3, **style)
    axis.set(xlabel="central interval", ylabel="truths inside", xlim=(0, 1), ylim=(0, 1))
    axis.set_title(f"{group}, {shots} rows given")
    axis.legend(fontsize=7, frameon=False, loc="upper left")
    axis.set_aspect("equal")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
