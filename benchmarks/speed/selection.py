"""Milliseconds and memory to select rows to label, by acquisition, labelled rows and size of the pool.

    python -m benchmarks.speed.selection [--page docs/performance.md] [--only default]

Without a label every hypothesis has weight, and a selection costs most; that is the first request of a
caller of `POST /uncertainty`. Every case runs in a process of its own, on one thread. Times are those of the
processor. The memory is the growth of the process's peak beyond the loaded model.

Two tables: five rows of a pool by several acquisitions, with target rows for `epig`; and one row by the
default, `epig` about the pool itself, beside `epistemic_variance`, up to the largest pool of the service.
"""

import multiprocessing
import resource
import statistics
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from benchmarks import command_line, pages
from bmaml.acquisition import COVARIANCE_STRATEGIES, DEFAULT_ACQUISITION
from model_store import SHIPPED, Model, Store
from service.compute.batch import answer_batch
from service.job import Job, SelectionSpec

BATCH, TARGETS, WAYS, REPEATS = 5, 20, 5, 3
REGRESSION = (
    ("total_variance", "top_k"),
    ("entropy", "top_k"),
    ("epistemic_variance", "max_determinant"),
    ("entropy", "joint_entropy"),
    ("epig", "joint_epig"),
)
CLASSIFICATION = (("bald", "top_k"), ("bald", "joint"), ("epig", "joint"))
DEFAULT, FORMER = DEFAULT_ACQUISITION, "epistemic_variance"
DEFAULT_POOLS = (100, 1000, 10_000)


def job(
    model: Model,
    acquisition: str,
    strategy: str,
    labelled: int,
    pool: int,
    size: int = BATCH,
    targets: int = TARGETS,
) -> Job:
    """A selection of rows from a pool.

    Args:
        targets: target rows of `epig`.
    """
    rng, image = np.random.default_rng(0), model.manifest.image
    unlabelled = pool + (targets if acquisition == "epig" else 0)
    if image is None:
        raw = rng.uniform(-5, 5, (labelled + unlabelled, 1))
        x, y = model.standardised_inputs(raw), model.standardised_targets(2 * np.sin(raw[:labelled]))
        classes: tuple[int, ...] = ()
    else:
        x = rng.random((labelled + unlabelled, image.inputs)).astype(np.float32)
        y = np.eye(WAYS, dtype=np.float32)[np.arange(labelled) % WAYS]
        classes = tuple(range(WAYS))
    joint = image is None and (acquisition == "epig" or strategy in COVARIANCE_STRATEGIES)
    excluded = np.zeros(pool, bool)
    spec = SelectionSpec(acquisition, strategy, size, pool, rng.random(pool), excluded, None, joint)
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


def cost(
    name: str,
    acquisition: str,
    strategy: str,
    labelled: int,
    pool: int,
    size: int = BATCH,
    targets: int = TARGETS,
) -> tuple[float, float]:
    """Median milliseconds of a case, and MiB by which it raised the peak of memory."""
    torch.set_num_threads(1)
    model = Store(SHIPPED).load(name)
    job_of = partial(job, model, acquisition, strategy, size=size, targets=targets)
    answer_batch([job_of(max(labelled, WAYS), 30)])  # libraries load and allocate at the first call
    before, measured = _peak_mib(), job_of(labelled, pool)
    times = []
    for _ in range(1 + REPEATS):
        started = time.process_time()
        answer_batch([measured])
        times.append(1000 * (time.process_time() - started))
    return statistics.median(times[1:]), _peak_mib() - before


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


def default_table() -> Iterator[str]:
    """A Markdown table: one row chosen by the default, without a target, and by `epistemic_variance`."""
    heads = [f"{name}, {unit}" for unit in ("ms", "MiB") for name in (DEFAULT, FORMER)]
    yield f"| | labelled | pool | {' | '.join(heads)} |"
    yield "|---" * (len(heads) + 3) + "|"
    for pool in DEFAULT_POOLS:
        for labelled in (0, 5):
            case = "top_k", labelled, pool, 1, 0
            found = [_in_a_process("sinusoid", name, *case) for name in (DEFAULT, FORMER)]
            cells = [f"{values[unit]:.0f}" for unit in range(2) for values in found]
            yield f"| `sinusoid` | {labelled} | {pool} | {' | '.join(cells)} |"


def acquisition_table() -> Iterator[str]:
    """A Markdown table of all `cases`."""
    yield "| | acquisition | strategy | labelled | pool | ms | MiB |"
    yield "|---|---|---|---|---|---|---|"
    for name, *rest in cases():
        milliseconds, memory = _in_a_process(name, *rest)
        cells = [f"`{name}`", *map(str, rest), f"{milliseconds:.0f}", f"{memory:.0f}"]
        yield f"| {' | '.join(cells)} |"


def _in_a_process(*case: object) -> tuple[float, float]:
    """The `cost` of a case, measured in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(cost, case)


def main() -> None:
    """Print the tables; write them into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--only", choices=("all", "default"), help="one of the two tables")
    command_line.add_page(arguments)
    options = arguments.parse_args()
    for which, block, rows, make in (
        ("default", "choosing-default", 1, default_table),
        ("all", "choosing", BATCH, acquisition_table),
    ):
        if options.only in (None, which):
            lines = [f"Measured on {options.machine}, one thread; rows chosen: {rows}.", ""]
            for line in make():
                lines.append(line)
                print(line, flush=True)
            if options.page:
                pages.write(options.page, lines, block)


if __name__ == "__main__":
    main()
