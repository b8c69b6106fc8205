"""Tasks of new classes, drawn from a collection: of images, of their features, or of vectors."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bmaml.task import Examples, TaskBatch
from training.config import Shots
from training.errors import UnusableData
from training.families.class_index import ClassIndex, Draw

VALIDATION_TASKS = 240
TASKS_PER_BATCH = 10
"""Tasks in one batch of validation."""
FEW_WAYS, MANY_WAYS = 5, 20
"""Classes of a validation task, at most, in turn."""
FEW_WAYS_QUERIES, MANY_WAYS_QUERIES = 5, 2
"""Query rows of each of so many classes, at most."""
SHARE = 0.9
"""The share of classes with enough rows that take part in validation tasks, at least."""
UNEVEN_SHARE = 0.5
"""The share of training batches whose classes differ in their numbers of shots."""


@dataclass(frozen=True)
class TaskSize:
    """The size of a training task.

    Attributes:
        ways: its classes.
        shots: support rows of each class, drawn once for the tasks of a meta-batch.
        queries: query rows of each class at the highest number of shots; fewer shots leave more.
    """

    ways: int
    shots: Shots
    queries: int

    @property
    def rows(self) -> int:
        """Rows of each class."""
        return self.shots.highest + self.queries


def task_batch(draw: Draw, x: Tensor) -> TaskBatch:
    """The tasks of a draw with its rows `[task, way, row, input]`, class by class."""
    shots, asked = draw.shots, x.shape[2] - draw.shots
    return TaskBatch(
        Examples.full(x[:, :, :shots].flatten(1, 2), draw.labels(shots)),
        Examples.full(x[:, :, shots:].flatten(1, 2), draw.labels(asked)),
    )


def training_draw(size: TaskSize, index: ClassIndex, tasks: int, generator: torch.Generator) -> Draw:
    """Classes and rows of training tasks; the number of shots is drawn for the batch."""
    low, high = size.shots.lowest, size.shots.highest
    shots = int(torch.randint(low, high + 1, (), generator=generator))
    return index.draw(tasks, size.ways, shots, size.rows - shots, generator)


def training_tasks(draw: Draw, x: Tensor, generator: torch.Generator) -> TaskBatch:
    """The training tasks of a draw, in a share of the batches with uneven shots."""
    tasks = task_batch(draw, x)
    uneven = float(torch.rand((), generator=generator)) < UNEVEN_SHARE
    return with_uneven_shots(tasks, draw, generator) if uneven else tasks


def validation_tasks(rows: Tensor, index: ClassIndex, size: TaskSize, seed: int) -> Iterator[TaskBatch]:
    """Tasks of few and of many classes, one-shot, of uneven shots and of the most; the same every time.

    Calibration sees what a request may be: probabilities that suit five classes of equal shots alone are too
    sure about many classes, or uneven shots. Many are at most `size.ways`. The most shots are what enough
    classes have beside a query row; smaller classes are in the one-shot tasks.

    Args:
        rows: of the validation classes, `[row, input]`; bytes are pixels of images.

    Raises:
        UnusableData: fewer than two validation classes have two rows.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = ((FEW_WAYS, FEW_WAYS_QUERIES), (min(MANY_WAYS, size.ways), MANY_WAYS_QUERIES))
    usable = int((index.counts > 1).sum())
    if usable < 2:
        raise UnusableData(f"{usable} validation classes have a row to show and one to ask: two have to")
    cases = []
    for wanted, most in sizes:
        ways = min(wanted, usable)
        shots = range(1, size.shots.highest + 1)
        highest = max((each for each in shots if index.queries(ways, each, most, SHARE) > 0), default=1)
        cases += [
            (ways, shown, index.queries(ways, shown, most, SHARE), uneven)
            for shown, uneven in ((1, False), (highest, True), (highest, False))
        ]
    for number in range(VALIDATION_TASKS // TASKS_PER_BATCH):
        ways, shown, queries, uneven = cases[number % len(cases)]
        draw = index.draw(TASKS_PER_BATCH, ways, shown, queries, generator)
        x = rows[draw.images]
        tasks = task_batch(draw, x.float() / 255 if x.dtype == torch.uint8 else x)
        yield with_uneven_shots(tasks, draw, generator) if uneven else tasks


def with_uneven_shots(tasks: TaskBatch, draw: Draw, generator: torch.Generator) -> TaskBatch:
    """The tasks with one to all of the support rows of each class; the others are padding."""
    kept = torch.randint(1, draw.shots + 1, draw.classes.shape, generator=generator)
    mask = (torch.arange(draw.shots) < kept.unsqueeze(-1)).flatten(1)
    return replace(tasks, support=replace(tasks.support, mask=mask))
