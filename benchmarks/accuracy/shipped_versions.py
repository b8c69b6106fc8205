"""The shipped versions on the held-out tasks of `comparison.py`, from no support row on, as served.

    python -m benchmarks.accuracy.shipped_versions [--data learning_curves.parquet] [--page docs/accuracy.md]

Without `--data` the learning curves are left out.
"""

from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import command_line, pages
from benchmarks.accuracy.problems import Problem, learning_curves, sine_curves
from benchmarks.accuracy.report import Row, tables
from benchmarks.accuracy.scoring import score, served_forecaster
from model_store import SHIPPED, Store
from training.config import Shots, SinusoidConfig
from training.families import Sinusoid

SINE_SHOTS = (0, 1, 2, 5, 10, 20)


def sine_from_nothing(held_out: int = 500) -> Problem:
    """The benchmark's sine curves at all of `SINE_SHOTS`."""
    given = {
        shots: next(iter(Sinusoid(SinusoidConfig(), 0).held_out(shots))).tasks(slice(held_out))
        for shots in SINE_SHOTS
    }
    return replace(sine_curves(None, Shots(10, 10), 10, 0), held_out=given)


def main() -> None:
    """Score; print the tables or write them into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--data", type=Path, help="learning_curves.parquet")
    command_line.add_page(arguments)
    arguments.add_argument("--store", type=Path, default=SHIPPED)
    arguments.add_argument("--held-out", type=int, default=500, help="sine curves")
    options = arguments.parse_args()
    if options.page:
        pages.check(options.page, "shipped")
    torch.set_num_threads(1)
    problems: dict[str, tuple[Problem, tuple[str, ...]]] = {
        "sine": (sine_from_nothing(options.held_out), ("sinusoid", "sinusoid-bmaml"))
    }
    if options.data:
        problems["curves"] = learning_curves(options.data, 0), ("learning-curves",)
    rows = [
        Row(name, f"`{version}`", int(shots), 0, metrics)
        for name, (problem, versions) in problems.items()
        for version in versions
        for shots, metrics in score(
            problem, served_forecaster(Store(options.store).load(version), problem.output)
        ).items()
    ]
    lines = [f"Measured on {options.machine}, one thread.", "", *tables(rows)]
    if options.page:
        pages.write(options.page, lines, "shipped")
    else:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
