"""Every learner and what a user would pick instead, on the same held-out tasks; writes docs/accuracy.md.

    python -m benchmarks.accuracy.comparison --data learning_curves.parquet [--jobs 2] [--seeds 3]
    python -m benchmarks.accuracy.comparison --problems curves --data learning_curves.parquet  # one problem
    python -m benchmarks.accuracy.comparison --quick  # a minute: does everything work?

Sine curves with 100, 1000 and unlimited training tasks, at 5, 10 and 20 support rows, 500 held-out
curves × 200 noiseless points; learning curves from 3, 5 and 8 anchors. The inner rate of every
gradient learner is found by the same search, on the validation CRPS after a short training. Results
are kept in `--results`, so that an interrupted benchmark goes on where it was.
"""

import argparse
import hashlib
import json
import multiprocessing
import platform
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.methods import CONTENDERS, Contender
from benchmarks.accuracy.report import Row, write
from benchmarks.accuracy.training_run import RATES, Entry, result

TASKS = (100, 1000, None)
TUNING_TASKS = 1000
PROBLEMS = ("sine", "curves")


class Results:
    """Results by entry, each in a file of its own."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self._folder, self._jobs = folder, jobs
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, entries: list[Entry]) -> dict[Entry, dict[str, Any]]:
        """The results of all entries; those that are not there yet are computed, side by side."""
        by_text = {self._path(entry): entry for entry in entries}
        missing = {path: entry for path, entry in by_text.items() if not path.exists()}
        with ProcessPoolExecutor(self._jobs, multiprocessing.get_context("spawn")) as pool:
            running = {pool.submit(result, entry): path for path, entry in missing.items()}
            for number, done in enumerate(as_completed(running), 1):
                path = running[done]
                path.write_text(json.dumps(done.result()))
                entry = by_text[path]
                print(f"{number}/{len(running)} {entry.contender.name}, {entry.problem_name}", flush=True)
        return {entry: json.loads(path.read_text()) for path, entry in by_text.items()}

    def _path(self, entry: Entry) -> Path:
        told = f"{entry!r} {entry.meta_steps}"
        return self._folder / f"{hashlib.sha256(told.encode()).hexdigest()[:24]}.json"


def tuned_rates(results: Results, options: argparse.Namespace, problem: str) -> dict[str, float]:
    """The inner rate of every tuned contender."""
    tuned = [contender for contender in chosen(options) if contender.tuned]
    where = {"data": options.data} if problem == "curves" else {"tasks": TUNING_TASKS}
    looks = {"seed": 100, "tuning": True, "share": options.share, "held_out": options.held_out}
    candidates = {
        (contender.name, rate): Entry(contender, step_size=rate, **where, **looks)
        for contender in tuned
        for rate in options.rates
    }
    found = results.of(list(candidates.values()))
    best = {}
    for name in (contender.name for contender in tuned):
        best[name] = min(options.rates, key=lambda rate: found[candidates[name, rate]]["crps"])
        print(f"inner rate of {name} on {problem}: {best[name]:g}")
    return best


def chosen(options: argparse.Namespace) -> list[Contender]:
    """All contenders, or those whose name contains `--only`."""
    return [each for each in CONTENDERS if not options.only or any(o in each.name for o in options.only)]


def entries(options: argparse.Namespace, rates: dict[str, float], problem: str) -> Iterator[Entry]:
    """All trainings on a problem, the longest first."""
    number = PROBLEMS.index(problem)
    for contender in sorted(
        chosen(options), key=lambda each: -each.steps[number] * (each.learner is not None)
    ):
        if not contender.steps[number]:
            continue
        for seed in range(options.seeds if contender.seeded else 1):
            shared: dict[str, Any] = {
                "seed": seed,
                "share": options.share,
                "held_out": options.held_out,
                "step_size": rates.get(contender.name),
            }
            if problem == "curves":
                yield Entry(contender, data=options.data, **shared)
                continue
            for tasks in options.tasks:
                if contender.everywhere or tasks == TUNING_TASKS:
                    yield Entry(contender, tasks=tasks, **shared)


def measured(results: Results, options: argparse.Namespace, name: str) -> tuple[list[Row], list[Entry]]:
    """The scores on a problem, and what was trained."""
    found = results.of(list(entries(options, tuned_rates(results, options, name), name)))
    rows = [
        Row(entry.problem_name, contender, int(shots), entry.seed, metrics)
        for entry, each in found.items()
        for contender, by_shots in each.get("variants", {}).items()
        for shots, metrics in by_shots.items()
    ]
    return rows, list(found)


def main() -> None:
    """Train, score, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="learning_curves.parquet; without it that problem is left out")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, help="all if left out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, one thread each")
    parser.add_argument("--results", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--page", type=Path, default=Path("docs/accuracy.md"))
    parser.add_argument("--machine", default=platform.machine(), help="its name on the page")
    parser.add_argument("--only", nargs="+", help="contenders whose name contains one of these")
    parser.add_argument("--quick", action="store_true", help="few steps and tasks; prints, writes no page")
    options = parser.parse_args()
    if not options.data and "curves" in (options.problems or ()):
        parser.error("the learning curves need --data")
    options.share, options.held_out, options.tasks, options.rates = 1.0, None, TASKS, RATES
    if options.quick:
        options.share, options.held_out, options.tasks, options.seeds = 0.003, 10, (TUNING_TASKS,), 1
        options.rates = RATES[1:2]
        options.results = options.results / "quick"
    results = Results(options.results, options.jobs)
    machine = f"{options.machine}, one thread a training, torch {torch.__version__}"
    for problem in options.problems or [name for name in PROBLEMS if name == "sine" or options.data]:
        rows, trained = measured(results, options, problem)
        write(None if options.quick else options.page, problem, rows, trained, machine)


if __name__ == "__main__":
    sys.exit(main())
