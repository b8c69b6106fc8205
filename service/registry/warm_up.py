"""The warm-up of a model: its first batches, which would otherwise delay the first requests."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from model_store import Model
from service.compute.capabilities import CAPABILITIES
from service.compute.cuda_graphs import MIN_USES
from service.engine.queue import MAX_CANDIDATES
from service.job import ActionSpec, Job, PredictionSpec, SelectionSpec
from service.schemas.policies import Act

TASK_ROWS, LARGE_TASK_ROWS = 8, 64
"""Support rows and query rows of a task; query rows of a larger task, on a GPU."""
BATCH_TASKS = 4
"""Tasks of a small batch."""
RECORDED_BATCH_TASKS = (1, 8, 64)
"""Tasks of the batches that are recorded as CUDA graphs."""
CLASSES = 8
"""Classes of a task of a learner that takes any number of them."""
POOL_ROWS, SELECTED_ROWS = 256, 2
"""Rows of a pool of numbers, and rows selected from it."""


def warm_up(model: Model, max_batch_work: int, answer: Callable[[list[Job]], object]) -> None:
    """Let `answer` run the model on one task, a small batch, the largest batch, and a selection."""
    network, manifest = model.learner.network, model.manifest
    if manifest.kind == "policy":
        _warm_up_policy(model, answer)
        return
    numbers = manifest.kind == "regression"
    outputs = network.outputs
    if not numbers:
        outputs = len(manifest.labels) if manifest.labels else model.learner.max_classes or CLASSES
    x = np.zeros((TASK_ROWS, network.inputs if manifest.image is None else manifest.image.inputs), np.float32)
    y = np.eye(outputs, dtype=np.float32)[np.arange(TASK_ROWS) % outputs]
    spec = PredictionSpec(interval=0.9 if numbers or (manifest.target and manifest.target.ordered) else None)
    classes = () if numbers else manifest.labels or tuple(range(outputs))
    no_deadline = float("inf")
    job = Job(model, x, y, x, model.learner.steps, 0, spec, deadline=no_deadline, classes=classes)
    largest = min(MAX_CANDIDATES, max(BATCH_TASKS, max_batch_work // job.cost))
    for tasks in sorted({1, BATCH_TASKS, largest}):
        answer([job] * tasks)
    if numbers and model.device.type == "cuda":
        for batch in _common_batches(job, max_batch_work):
            for _ in range(MIN_USES):  # until the shape is recorded
                answer(batch)
    if numbers:  # without labels most hypotheses remain, and a selection takes longest
        pool = np.zeros((POOL_ROWS, x.shape[1]), np.float32)
        job = replace(job, support_x=x[:0], support_y=y[:0], query_x=pool)
    answer([replace(job, spec=_selection_spec(model, len(job.query_x)))])


def _warm_up_policy(model: Model, answer: Callable[[list[Job]], object]) -> None:
    """Let `answer` run a policy on one task, a small batch, and a selection."""
    network = model.learner.network
    observations = np.zeros((TASK_ROWS, network.inputs), np.float32)
    episode, time = np.divmod(np.arange(TASK_ROWS, dtype=np.float32), TASK_ROWS // 2)
    places = np.stack([0 * time, 0 * time, episode, time], -1)
    x = np.concatenate([observations, places], -1).astype(np.float32)
    y = np.zeros((TASK_ROWS, network.outputs + 1), np.float32)
    spec = ActionSpec(Act())
    job = Job(model, x, y, observations, 1, 0, spec, deadline=float("inf"))
    for tasks in (1, BATCH_TASKS):
        answer([job] * tasks)
    answer([replace(job, spec=_selection_spec(model, TASK_ROWS))])


def _common_batches(job: Job, max_batch_work: int) -> Iterator[list[Job]]:
    """Batches of the most common shapes that the queue can form."""
    for rows in (TASK_ROWS, LARGE_TASK_ROWS):
        each = replace(job, query_x=np.zeros((rows, job.query_x.shape[1]), np.float32))
        for tasks in RECORDED_BATCH_TASKS:
            if tasks * each.cost <= max_batch_work:
                yield [each] * tasks


def _selection_spec(model: Model, rows: int) -> SelectionSpec:
    """A selection from `rows` rows by the model's default acquisition and strategy."""
    capabilities = CAPABILITIES[model.manifest.kind]
    acquisition = capabilities.default_acquisition
    strategy = capabilities.resolve_strategy("auto", acquisition, SELECTED_ROWS)
    return SelectionSpec(
        acquisition=acquisition,
        strategy=strategy,
        size=SELECTED_ROWS,
        pool_rows=rows,
        keys=(np.arange(rows) + 0.5) / rows,
        excluded=np.zeros(rows, dtype=np.bool_),
        best=None,
        joint=capabilities.needs_joint(acquisition, strategy),
    )
