"""Milliseconds of a request's computation by native functions beside tensor code, in one process.

    python -m benchmarks.speed.native [--repeats 9] [--page docs/performance.md]

The two paths take turns, so that a change of the machine's pace meets both. Times are CPU times of one
thread, medians over the turns. A task has five support rows and twenty query rows, or ten and fifty. It asks
for three quantiles and an interval. Labels are like those of the model's family: they decide how many
hypotheses keep weight, and so the time. The floor is that of `native_floor.py`.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import command_line, pages
from benchmarks.speed.native_floor import Rates, floor_ms
from model_store import SHIPPED, Model, Store
from service.compute import native_path
from service.compute.regression import predict_batch
from service.job import Job, PredictionSpec

MODELS = ("sinusoid", "learning-curves", "pass-rates")
ROWS = ((5, 20), (10, 50))
TASKS = (1, 16, 64)
LEVELS = (0.05, 0.5, 0.95)


def job(model: Model, support: int, query: int, seed: int) -> Job:
    """A request about rows inside the training range, with labels as in the model's family."""
    random = np.random.default_rng(seed)
    low, high = model.input_range
    sizes = model.manifest.name == "learning-curves"  # evenly in their logarithms
    x, query_x = (
        low * (high / low) ** random.random((rows, 1))
        if sizes
        else low + (high - low) * random.random((rows, len(low)))
        for rows in (support, query)
    )
    shown = model.standardised_inputs(x)
    if model.manifest.name == "sinusoid":
        labels: Any = model.standardised_targets(3 * np.sin(x + np.pi * random.random()))
    elif sizes:
        labels = model.standardised_targets(0.9 - 0.5 * (x / low) ** -0.4)
    else:  # a level and a slope of its own
        labels = random.standard_normal() + 0.3 * shown[:, :1] + 0.2 * random.standard_normal((support, 1))
    arrays = shown, labels.astype(np.float32), model.standardised_inputs(query_x)
    return Job(model, *arrays, 0, 0, PredictionSpec(LEVELS), deadline=float("inf"))


def in_turn(paths: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """The median milliseconds of CPU time of each path."""
    times: list[list[float]] = [[] for _ in paths]
    for turn in range(repeats + 1):
        for path, own in zip(paths, times, strict=True):
            started = time.thread_time()
            path()
            if turn:  # the first is a warm-up
                own.append(1e3 * (time.thread_time() - started))
    return [statistics.median(each) for each in times]


def main() -> None:
    """Print the table; write it into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=9)
    command_line.add_page(arguments)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    native_path.begin("require")
    rates = Rates.measured()
    lines = [
        f"Measured on {options.machine}: {rates.flops / 1e9:.0f} GFLOP/s in small products, "
        f"{rates.functions / 1e6:.0f} million exponentials a second.",
        "",
        "| model | support, query | tasks | tensor code, ms | native, ms | times | floor, ms "
        "| times the floor |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with torch.inference_mode():
        for name in MODELS:
            model = Store(SHIPPED).load(name, None)
            for support, query in ROWS:
                for tasks in TASKS:
                    jobs = [job(model, support, query, seed) for seed in range(tasks)]

                    def by_tensors(jobs: list[Job] = jobs) -> object:
                        return predict_batch(jobs)

                    def natively(jobs: list[Job] = jobs) -> object:
                        return native_path.predict_numbers(jobs)

                    repeats = options.repeats * (4 if tasks == 1 else 1)
                    tensors, native = (each / tasks for each in in_turn((by_tensors, natively), repeats))
                    floor = floor_ms(jobs, rates) / tasks
                    lines.append(
                        f"| `{name}` | {support}, {query} | {tasks} | {tensors:.2f} | {native:.2f} | "
                        f"{tensors / native:.1f} | {floor:.2f} | {native / floor:.1f} |"
                    )
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, "native")


if __name__ == "__main__":
    main()
