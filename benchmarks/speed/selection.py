"""Milliseconds and memory of one choice of rows to label: by acquisition, labelled rows and size of the pool.

    python -m benchmarks.speed.selection [--page docs/performance.md]

Before there is a label every hypothesis has weight, and a choice costs most: that is the first thing a
caller of `POST /uncertainty` asks. One thread; memory is what a process needs beyond the loaded model.
"""

import argparse
import multiprocessing
import platform
import resource
import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import pages
from benchmarks.timing import timed
from model_store import SHIPPED, Model, Store
from service.compute.batch import answer_batch
from service.job import Job, SelectionSpec
from service.ops.memory import keep_freed_memory

BATCH, TARGETS, WAYS = 5, 20, 5
NUMBERS = (
    ("total_variance", "top_k"),
    ("entropy", "top_k"),
    ("epistemic_variance", "max_determinant"),
    ("epig", "max_determinant"),
)
CLASSES = (("bald", "top_k"), ("bald", "joint"), ("epig", "joint"))


def job(model: Model, acquisition: str, strategy: str, shown: int, pool: int) -> Job:
    """A choice of five rows from a pool, for twenty target rows where the score wants some."""
    rng, image = np.random.default_rng(0), model.manifest.image
    asked = pool + (TARGETS if acquisition == "epig" else 0)
    if image is None:
        raw = rng.uniform(-5, 5, (shown + asked, 1))
        x, y = model.standardised_inputs(raw), model.standardised_targets(2 * np.sin(raw[:shown]))
        classes: tuple[int, ...] = ()
    else:
        x = rng.random((shown + asked, image.numbers)).astype(np.float32)
        y = np.eye(WAYS, dtype=np.float32)[np.arange(shown) % WAYS]
        classes = tuple(range(WAYS))
    joint = image is None and (acquisition == "epig" or strategy == "max_determinant")
    excluded = np.zeros(pool, bool)
    ask = SelectionSpec(acquisition, strategy, BATCH, pool, rng.random(pool), excluded, None, joint)
    return Job(
        model, x[:shown], y, x[shown:], model.learner.steps, 0, ask, deadline=float("inf"), classes=classes
    )


def cost(name: str, acquisition: str, strategy: str, shown: int, pool: int) -> tuple[float, float]:
    """Median milliseconds, and MiB at most."""
    torch.set_num_threads(1)
    keep_freed_memory()
    model = Store(SHIPPED).load(name)
    ask = partial(job, model, acquisition, strategy)
    answer_batch([ask(max(shown, WAYS), 30)])
    before, one = _highest(), ask(shown, pool)
    times = timed(lambda: answer_batch([one]), 3)
    return statistics.median(times), _highest() - before


def _highest() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cases() -> Iterator[tuple[str, str, str, int, int]]:
    """All that is measured."""
    for acquisition, strategy in NUMBERS:
        for shown in (0, 5, 20):
            for pool in (300, 1000):
                yield "sinusoid", acquisition, strategy, shown, pool
    for acquisition, strategy in CLASSES:
        for pool in (300, 1000):
            yield "omniglot", acquisition, strategy, WAYS, pool


def main() -> None:
    """Each case in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", type=Path, help="where to write the table; else it is printed")
    parser.add_argument("--machine", default=platform.machine(), help="its name on the page")
    options = parser.parse_args()
    lines = [f"Measured on {options.machine}, one thread, {BATCH} rows chosen.", ""]
    lines += ["| | acquisition | strategy | labelled | pool | ms | MiB |", "|---|---|---|---|---|---|---|"]
    context = multiprocessing.get_context("spawn")
    for case in cases():
        with context.Pool(1) as process:
            milliseconds, memory = process.apply(cost, case)
        name, *rest = case
        cells = [f"`{name}`", *map(str, rest), f"{milliseconds:.0f}", f"{memory:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if options.page:
        pages.write(options.page, lines, "choosing")


if __name__ == "__main__":
    main()
