"""Processor time and memory of training as the data grow: the same meta-steps on more tasks.

    python -m benchmarks.speed.training_growth [--tasks 2000 100000] [--page docs/performance.md]

Every task is a noisy sine of 50 rows, in a Parquet file with a column that no run uses. A process of one
thread reads it, trains by the recipe of tables, fits widths, evaluates and publishes, as `bmaml-train table`
does. Processor time, unlike time by the clock, hardly depends on what else the machine does. *Grown* is the
peak memory beyond that of the smallest table, over the bytes of the columns used in that process, eight for
each number.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from benchmarks import command_line, pages
from bmaml.learners import learner_from
from model_store import Store
from training.calibrate import calibrated
from training.config import TableConfig
from training.families import Table
from training.families.resolved import resolved
from training.loop import TrainingResult, train
from training.options import RunOptions, configuration
from training.publish import publish

T = TypeVar("T")
ROWS = 50
COLUMNS_USED = 3
BLOCK = "training-growth"


def write_tasks(path: Path, tasks: int) -> None:
    """Write a file of sine tasks."""
    generator = np.random.default_rng(0)
    amplitude, phase = generator.uniform(0.5, 2, (2, tasks, 1)) * [[[1.0]], [[3.0]]]
    x = generator.uniform(-3, 3, (tasks, ROWS))
    y = amplitude * np.sin(x + phase) + 0.1 * generator.normal(size=x.shape)
    columns = {"task": np.repeat(np.arange(tasks), ROWS), "x": x.ravel(), "y": y.ravel()}
    parquet.write_table(pa.table({**columns, "unused": generator.normal(size=x.size)}), path)


def measured(path: Path, meta_steps: int) -> dict[str, float]:
    """Seconds of every part of a run on a file, and the peak memory of this process in bytes."""
    seconds: dict[str, float] = {}

    def clocked(name: str, part: Callable[[], T]) -> T:
        start = time.process_time()
        found = part()
        seconds[name] = time.process_time() - start
        return found

    config = resolved(TableConfig(str(path), (("x", "none"),), ("y",), task="task"))
    tasks = clocked("reading", lambda: Table(config, 0))
    settings: dict[str, dict[str, Any]] = {"learner": {}, "outer_loop": {"meta_steps": meta_steps}}
    run = configuration(
        RunOptions(name="growth"),
        tasks.config,
        settings,
        (1, 1),
        resolution=tasks.resolution,
        training_tasks=tasks.training_tasks,
    )
    learner = learner_from(run.learner, run.settings)
    with tempfile.TemporaryDirectory() as folder:
        trained = clocked("training", lambda: train(run, tasks, learner, Path(folder, "run")))
        learned = clocked("widths", lambda: calibrated(learner, trained.learned, tasks))
        result = TrainingResult(learned, trained.history, trained.kept, trained.ending)
        clocked("figures", lambda: publish(Store(Path(folder, "models")), run, tasks, learner, result))
    return seconds | {"peak": 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def in_a_process(path: Path, meta_steps: int) -> dict[str, float]:
    """`measured` in a new process of one thread."""
    command = [sys.executable, "-m", "benchmarks.speed.training_growth", "--measure", str(path)]
    command += ["--meta-steps", str(meta_steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the table and write it into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--tasks", type=int, nargs="+", default=[2000, 100_000])
    arguments.add_argument("--meta-steps", type=int, default=100)
    arguments.add_argument("--measure", type=Path, help="measure one file in this process, for the command")
    command_line.add_page(arguments)
    options = arguments.parse_args()
    if options.measure:
        torch.set_num_threads(1)
        print(json.dumps(measured(options.measure, options.meta_steps)))
        return
    if options.page:
        pages.check(options.page, BLOCK)
    lines = [
        f"{options.machine}, one thread, processor seconds, {options.meta_steps} meta-steps, "
        f"{ROWS} rows a task:",
        "",
        "| tasks | reading | training | widths | figures | without reading | peak, MB | grown |",
        "|---|---|---|---|---|---|---|---|",
    ]
    first: dict[str, float] = {}
    for tasks in sorted(options.tasks):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "tasks.parquet")
            write_tasks(path, tasks)
            found = in_a_process(path, options.meta_steps)
        first = first or found
        total, base = (each["training"] + each["widths"] + each["figures"] for each in (found, first))
        grown = (found["peak"] - first["peak"]) / (8 * COLUMNS_USED * ROWS * tasks)
        parts = " | ".join(f"{found[name]:.1f}" for name in ("reading", "training", "widths", "figures"))
        lines.append(
            f"| {tasks} | {parts} | {total / base:.2f} × | {found['peak'] / 1e6:.0f} | {grown:.1f} × |"
        )
        print(lines[-1], file=sys.stderr)
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, BLOCK)


if __name__ == "__main__":
    main()
