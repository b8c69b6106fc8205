"""Milliseconds and memory to select rows to label, by acquisition, labelled rows and size of the pool.

    python -m benchmarks.speed.selection [--page docs/performance.md]

Without a label every hypothesis has weight, and a selection costs most; that is the first request of a
caller of `POST /uncertainty`. Every case runs in a process of its own, on one thread. Its memory is the
growth of the process's peak beyond the loaded model.
"""

import multiprocessing
import resource
import statistics
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from benchmarks import command_line, pages
from benchmarks.timing import timed
from model_store import SHIPPED, Model, Store
from service.compute.batch import answer_batch
from service.job import Job, SelectionSpec

BATCH, TARGETS, WAYS = 5, 20, 5
REGRESSION = (
    ("total_variance", "top_k"),
    ("entropy", "top_k"),
    ("epistemic_variance", "max_determinant"),
    ("epig", "max_determinant"),
)
CLASSIFICATION = (("bald", "top_k"), ("bald", "joint"), ("epig", "joint"))


def job(model: Model, acquisition: str, strategy: str, labelled: int, pool: int) -> Job:
    """A selection of five rows from a pool, with twenty target rows for `epig`."""
    rng, image = np.random.default_rng(0), model.manifest.image
    unlabelled = pool + (TARGETS if acquisition == "epig" else 0)
    if image is None:
        raw = rng.uniform(-5, 5, (labelled + unlabelled, 1))
        x, y = model.standardised_inputs(raw), model.standardised_targets(2 * np.sin(raw[:labelled]))
        classes: tuple[int, ...] = ()
    else:
        x = rng.random((labelled + unlabelled, image.inputs)).astype(np.float32)
        y = np.eye(WAYS, dtype=np.float32)[np.arange(labelled) % WAYS]
        classes = tuple(range(WAYS))
    joint = image is None and (acquisition == "epig" or strategy == "max_determinant")
    excluded = np.zeros(pool, bool)
    spec = SelectionSpec(acquisition, strategy, BATCH, pool, rng.random(pool), excluded, None, joint)
    return Job(
        model,
        x[:labelled],
        y,
        x[labelled:],
        model.learner.steps,
        0,
        spec,
        deadline=float("inf"),
        classes=classes,
    )


def cost(name: str, acquisition: str, strategy: str, labelled: int, pool: int) -> tuple[float, float]:
    """Median milliseconds of a case, and MiB by which it raised the peak of memory."""
    torch.set_num_threads(1)
    model = Store(SHIPPED).load(name)
    job_of = partial(job, model, acquisition, strategy)
    answer_batch([job_of(max(labelled, WAYS), 30)])  # libraries load and allocate at the first call
    before, measured = _peak_mib(), job_of(labelled, pool)
    times = timed(lambda: answer_batch([measured]), 3)
    return statistics.median(times), _peak_mib() - before


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cases() -> Iterator[tuple[str, str, str, int, int]]:
    """The arguments of `cost` for every row of the table."""
    for acquisition, strategy in REGRESSION:
        for labelled in (0, 5, 20):
            for pool in (300, 1000):
                yield "sinusoid", acquisition, strategy, labelled, pool
    for acquisition, strategy in CLASSIFICATION:
        for pool in (300, 1000):
            yield "omniglot", acquisition, strategy, WAYS, pool


def main() -> None:
    """Print the table; write it into a page."""
    arguments = command_line.parser(__doc__)
    command_line.add_page(arguments)
    options = arguments.parse_args()
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
