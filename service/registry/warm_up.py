"""The first run of a model: what the first callers would have to wait for otherwise."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from model_store import Model
from service.compute.acquisitions import CAPABILITIES
from service.compute.cuda_graphs import SEEN
from service.engine.queue import LOOKED_AT
from service.job import Job, PredictionSpec, SelectionSpec

TASKS, ROWS, MANY_ROWS, CLASSES = 4, 8, 64, 8
ON_A_GPU = (1, 8, 64)
POOL, BATCH = 256, 2
"""Rows of numbers to choose from, and rows chosen."""


def warm_up(model: Model, most_work: int, answer: Callable[[list[Job]], object]) -> None:
    """Run the model alone, in company and in the largest batch, and let it choose: nobody waits for code."""
    network, image = model.learner.network, model.manifest.image
    outputs = network.outputs if image is None else model.learner.max_classes or CLASSES
    x = np.zeros((ROWS, network.inputs if image is None else image.numbers), np.float32)
    y = np.eye(outputs, dtype=np.float32)[np.arange(ROWS) % outputs]
    spec = PredictionSpec(interval=0.9 if image is None else None)
    classes = tuple(range(outputs)) if image is not None else ()
    forever = float("inf")
    job = Job(model, x, y, x, model.learner.steps, 0, spec, deadline=forever, classes=classes)
    largest = min(LOOKED_AT, max(TASKS, most_work // job.cost))
    for tasks in sorted({1, TASKS, largest}):
        answer([job] * tasks)
    if image is None and model.device.type == "cuda":
        for batch in _commonest(job, most_work):
            for _ in range(SEEN):  # so often that it is recorded
                answer(batch)
    if image is None:  # before any labels, when most hypotheses are possible
        pool = np.zeros((POOL, x.shape[1]), np.float32)
        job = replace(job, support_x=x[:0], support_y=y[:0], query_x=pool)
    answer([replace(job, spec=_choice(model, len(job.query_x)))])


def _commonest(job: Job, most_work: int) -> Iterator[list[Job]]:
    """Batches of the shapes that requests will have most often, none larger than the queue makes them."""
    for rows in (ROWS, MANY_ROWS):
        each = replace(job, query_x=np.zeros((rows, job.query_x.shape[1]), np.float32))
        for tasks in ON_A_GPU:
            if tasks * each.cost <= most_work:
                yield [each] * tasks


def _choice(model: Model, rows: int) -> SelectionSpec:
    capabilities = CAPABILITIES[model.manifest.kind]
    acquisition = capabilities.without_target
    strategy = capabilities.resolved("auto", acquisition, BATCH)
    return SelectionSpec(
        acquisition=acquisition,
        strategy=strategy,
        size=BATCH,
        pool_rows=rows,
        keys=(np.arange(rows) + 0.5) / rows,
        excluded=np.zeros(rows, dtype=np.bool_),
        best=None,
        joint=capabilities.needs_joint(acquisition, strategy),
    )
