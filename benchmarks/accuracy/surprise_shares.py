"""The prior share of the surprising hypotheses: coverage under shifts against the cost to the family.

    python -m benchmarks.accuracy.surprise_shares [--tasks 200] [--plot docs/surprise-shares.png] \\
        [--page docs/accuracy.md]

The shipped `sinusoid` answers the same tasks with the prior shares of its wide, noisy and broad hypotheses
multiplied by one factor. Nothing else changes. Factor 0 leaves the hypotheses of training alone, and factor 1
is the version as shipped. The cost is the normal NLL of the family above that of factor 0. The plot needs the
`train` extra.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import torch

from benchmarks import command_line, pages
from benchmarks.accuracy.number_scores import score_shifts
from benchmarks.accuracy.number_tasks import FAMILY
from benchmarks.accuracy.sine_shifts import SINE_SHIFTS, sine_tasks
from bmaml.learners.surprise import LOG_NOTHING
from model_store import SHIPPED, Model, Store

mpl.use("Agg")
from matplotlib import pyplot as plt

FACTORS = {"0": 0.0, "1/10": 1 / 10, "1/3": 1 / 3, "1, as shipped": 1.0, "3": 3.0, "10": 10.0}
"""Factors of the shipped prior shares, by their name in the table."""
SHIFTS = (
    "noise × 10",
    "amplitudes of 7.5 to 15",
    "frequencies of 3 to 5",
    "a square wave",
    "a straight line",
)
POINTS = (5, 10)
LABEL_GAP = 4.5
"""The least distance between the names of two lines of the plot, in percent of coverage."""


@dataclass(frozen=True)
class ShareScores:
    """The scores with one prior share.

    Attributes:
        name: of the factor.
        factor: of the shipped shares.
        share: prior weight of all surprising hypotheses together.
        metrics: those of `Panel.metrics` by number of points and shift.
    """

    name: str
    factor: float
    share: float
    metrics: Mapping[tuple[int, str], Mapping[str, float]]


def with_share(model: Model, factor: float) -> Model:
    """The model with the prior share of every surprising group multiplied by the factor.

    Raises:
        ValueError: nothing would be left for the known hypotheses.
    """
    shares = model.learned["log_shares"].double().softmax(-1)
    shares[1:] *= factor
    shares[0] = 1 - shares[1:].sum()
    if shares[0] <= 0:
        raise ValueError(f"surprising shares of {shares[1:].tolist()} leave nothing for the known hypotheses")
    logs = shares.log().clamp_min(LOG_NOTHING).to(model.learned["log_shares"])
    return replace(model, learned={**model.learned, "log_shares": logs})


def score(model: Model, tasks: int) -> list[ShareScores]:
    """The scores with every factor, of the same tasks."""
    shifts = {name: SINE_SHIFTS[name] for name in (FAMILY, *SHIFTS)}
    found = []
    for name, factor in FACTORS.items():
        scaled = with_share(model, factor)
        panels = [
            panel
            for points in POINTS
            for panel in score_shifts(scaled, shifts, sine_tasks(tasks, points), points)
        ]
        share = 1 - float(scaled.learned["log_shares"].double().softmax(-1)[0])
        metrics = {(panel.points, panel.shift): panel.metrics(math.nan) for panel in panels}
        found.append(ShareScores(name, factor, share, metrics))
    return found


def tables(found: Sequence[ShareScores]) -> Iterator[str]:
    """Markdown tables of coverage and normal NLL, one of each for every number of points."""
    for points in POINTS:
        yield f"Coverage from {points} points:"
        yield ""
        yield from _head("the family", "warned of it", *SHIFTS)
        for each in found:
            metrics = [each.metrics[points, name] for name in (FAMILY, *SHIFTS)]
            family, *shifted = (f"{one['coverage']:.0%}" for one in metrics)
            yield _line(each, family, f"{metrics[0]['warned']:.1%}", *shifted)
        yield ""
        yield f"Normal NLL from {points} points:"
        yield ""
        yield from _head("cost", "the family", "mixture NLL of it", *SHIFTS)
        for each in found:
            metrics = [each.metrics[points, name] for name in (FAMILY, *SHIFTS)]
            family, *shifted = (f"{one['normal_nll']:.2f}" for one in metrics)
            cost, mixture = _cost(each, found, points), metrics[0]["mixture_nll"]
            yield _line(each, f"{cost:.2f}", family, f"{mixture:.2f}", *shifted)
        yield ""


def _head(*columns: str) -> list[str]:
    heads = ["factor", "prior share", *columns]
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]


def _line(each: ShareScores, *cells: str) -> str:
    cells = each.name, f"{each.share:.1%}", *cells
    return f"| {' | '.join(cells)} |".replace("%", " %")


def _cost(each: ShareScores, found: Sequence[ShareScores], points: int) -> float:
    """Normal NLL of the family above that of the first factor, nats per value."""
    return each.metrics[points, FAMILY]["normal_nll"] - found[0].metrics[points, FAMILY]["normal_nll"]


def plot(found: Sequence[ShareScores], path: Path) -> None:
    """Draw coverage from the fewest points against the cost, a line for each shift, named at its end."""
    points = POINTS[0]
    costs = [_cost(each, found, points) for each in found]
    shipped = [each.factor for each in found].index(1.0)
    figure, axis = plt.subplots(figsize=(8, 4.8), layout="constrained")
    axis.spines[["top", "right"]].set_visible(False)
    axis.axhline(90, color="0.6", lw=1, ls="--")
    for cost in costs:
        axis.axvline(cost, color="0.9", lw=0.8, zorder=0)
    axis.axvline(costs[shipped], color="0.55", lw=1.2, zorder=0)
    lines = {name: [100 * each.metrics[points, name]["coverage"] for each in found] for name in SHIFTS}
    label = -math.inf
    for number, (name, coverage) in enumerate(sorted(lines.items(), key=lambda line: line[1][-1])):
        colour = f"C{number}"
        axis.plot(costs, coverage, "o-", color=colour, ms=4, lw=1.6)
        axis.plot(costs[shipped], coverage[shipped], "o", color=colour, ms=10, mec="black", mew=1.2)
        label = max(coverage[-1], label + LABEL_GAP)
        axis.annotate(
            name,
            (costs[-1], coverage[-1]),
            xytext=(1.02, label),
            textcoords=axis.get_yaxis_transform(),
            color=colour,
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.7, "shrinkA": 0, "shrinkB": 3},
        )
    axis.set(
        xlim=(-0.03 * costs[-1], 1.02 * costs[-1]),
        ylim=(0, 103),
        xlabel="cost to the family: normal NLL above that of factor 0, nats",
        ylabel=f"truths in the 90 % interval from {points} points, %",
    )
    above = axis.secondary_xaxis("top")
    above.spines["top"].set_visible(False)
    above.set_xticks(costs, [each.name for each in found])
    above.tick_params(length=0)
    above.set_xlabel("factor of the prior share of the surprising hypotheses")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Score; print the tables or write them into a page, and draw them."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--tasks", type=int, default=200, help="sine curves at each number of points")
    arguments.add_argument("--plot", type=Path, help="file of the plot; by default none")
    arguments.add_argument("--store", type=Path, default=SHIPPED)
    command_line.add_page(arguments)
    options = arguments.parse_args()
    if options.page:
        pages.check(options.page, "surprise-shares")
    torch.set_num_threads(1)
    found = score(Store(options.store).load("sinusoid"), options.tasks)
    lines = [f"Measured on {options.machine}, one thread; {options.tasks} tasks a cell.", "", *tables(found)]
    print("\n".join(lines), flush=True)
    if options.page:
        pages.write(options.page, lines, "surprise-shares")
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
