"""Every learner beside its alternatives, on the same held-out tasks; writes docs/accuracy.md.

    python -m benchmarks.accuracy.comparison --data learning_curves.parquet [--jobs 2] [--seeds 3]
    python -m benchmarks.accuracy.comparison --problems curves --data learning_curves.parquet  # one problem
    python -m benchmarks.accuracy.comparison --quick  # a minute: does everything work?

Sine curves: 100, 1000 and unlimited training tasks, 5, 10 and 20 support rows, 500 held-out curves of 200
noiseless points. Learning curves: 3, 5 and 8 anchors. The same search finds the inner rate of every gradient
learner, by validation CRPS after a short training. Results are kept in `--results`, so that an interrupted
benchmark continues.
"""

import argparse
import hashlib
import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from benchmarks import command_line
from benchmarks.accuracy.methods import METHODS, Method
from benchmarks.accuracy.report import Row, write
from benchmarks.accuracy.training_run import INNER_RATES, TrainingRun, result

TASKS = (100, 1000, None)
TUNING_TASKS = 1000
"""Training tasks in the search for inner rates."""
PROBLEMS = ("sine", "curves")


class Results:
    """Results by training run, each in a file of its own, named by a digest of the run."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self._folder, self._jobs = folder, jobs
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, runs: list[TrainingRun]) -> dict[TrainingRun, dict[str, Any]]:
        """The results of all runs; missing ones are computed, some at a time."""
        by_path = {self._path(run): run for run in runs}
        missing = {path: run for path, run in by_path.items() if not path.exists()}
        with ProcessPoolExecutor(self._jobs, multiprocessing.get_context("spawn")) as pool:
            running = {pool.submit(result, run): path for path, run in missing.items()}
            for number, done in enumerate(as_completed(running), 1):
                path = running[done]
                path.write_text(json.dumps(done.result()))
                run = by_path[path]
                print(f"{number}/{len(running)} {run.method.name}, {run.problem_name}", flush=True)
        return {run: json.loads(path.read_text()) for path, run in by_path.items()}

    def _path(self, run: TrainingRun) -> Path:
        text = f"{run!r} {run.meta_steps}"
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


def tuned_rates(results: Results, options: argparse.Namespace, problem: str) -> dict[str, float]:
    """The inner rate with the lowest validation CRPS, of every method whose rate is searched."""
    tuned = [method for method in chosen(options) if method.tuned]
    where = {"data": options.data} if problem == "curves" else {"tasks": TUNING_TASKS}
    search = {"seed": 100, "tuning": True, "share": options.share, "held_out": options.held_out}
    candidates = {
        (method.name, rate): TrainingRun(method, step_size=rate, **where, **search)
        for method in tuned
        for rate in options.rates
    }
    found = results.of(list(candidates.values()))
    best = {}
    for name in (method.name for method in tuned):
        best[name] = min(options.rates, key=lambda rate: found[candidates[name, rate]]["crps"])
        print(f"inner rate of {name} on {problem}: {best[name]:g}")
    return best


def chosen(options: argparse.Namespace) -> list[Method]:
    """All methods, or those whose name contains one of `--only`."""
    return [each for each in METHODS if not options.only or any(o in each.name for o in options.only)]


def training_runs(
    options: argparse.Namespace, rates: dict[str, float], problem: str
) -> Iterator[TrainingRun]:
    """All training runs on a problem, the longest first."""
    number = PROBLEMS.index(problem)
    for method in sorted(chosen(options), key=lambda each: -each.steps[number] * (each.learner is not None)):
        if not method.steps[number]:
            continue
        for seed in range(options.seeds if method.seeded else 1):
            shared: dict[str, Any] = {
                "seed": seed,
                "share": options.share,
                "held_out": options.held_out,
                "step_size": rates.get(method.name),
            }
            if problem == "curves":
                yield TrainingRun(method, data=options.data, **shared)
                continue
            for tasks in options.tasks:
                if method.everywhere or tasks == TUNING_TASKS:
                    yield TrainingRun(method, tasks=tasks, **shared)


def measured(results: Results, options: argparse.Namespace, name: str) -> tuple[list[Row], list[TrainingRun]]:
    """The scores on a problem, and the training runs behind them."""
    found = results.of(list(training_runs(options, tuned_rates(results, options, name), name)))
    rows = [
        Row(run.problem_name, variant, int(shots), run.seed, metrics)
        for run, each in found.items()
        for variant, by_shots in each.get("variants", {}).items()
        for shots, metrics in by_shots.items()
    ]
    return rows, list(found)


def main() -> None:
    """Train, score, and write the page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--data", help="learning_curves.parquet; without it that problem is left out")
    arguments.add_argument("--problems", nargs="+", choices=PROBLEMS, help="all if left out")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--jobs", type=int, default=2, help="trainings at a time, one thread each")
    arguments.add_argument("--results", type=Path, default=Path("runs/accuracy"))
    command_line.add_page(arguments, Path("docs/accuracy.md"))
    arguments.add_argument("--only", nargs="+", help="methods whose name contains one of these")
    arguments.add_argument("--quick", action="store_true", help="few steps and tasks; prints, writes no page")
    options = arguments.parse_args()
    if not options.data and "curves" in (options.problems or ()):
        arguments.error("the learning curves need --data")
    options.share, options.held_out, options.tasks, options.rates = 1.0, None, TASKS, INNER_RATES
    if options.quick:
        options.share, options.held_out, options.tasks, options.seeds = 0.003, 10, (TUNING_TASKS,), 1
        options.rates = INNER_RATES[1:2]
        options.results = options.results / "quick"
    results = Results(options.results, options.jobs)
    machine = f"{options.machine}, one thread a training, torch {torch.__version__}"
    for problem in options.problems or [name for name in PROBLEMS if name == "sine" or options.data]:
        rows, trained = measured(results, options, problem)
        write(None if options.quick else options.page, problem, rows, trained, machine)


if __name__ == "__main__":
    main()
