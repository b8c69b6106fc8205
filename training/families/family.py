"""The interface of a family of tasks, as the training loop and the evaluation use it."""

from collections.abc import Iterator
from typing import Protocol

import torch

from bmaml.task import TaskBatch
from model_store.columns import Column
from training.families.splits import Indices

VALIDATION_SEED_OFFSET = 1_000_003
"""Difference of the seed of the validation tasks from the run's."""
HELD_OUT_SEED = 77
"""Seed of generated held-out tasks; it does not depend on the run's."""


class Family(Protocol):
    """A source of related tasks, in standardised units."""

    def batch(self, tasks: int, generator: torch.Generator) -> TaskBatch:
        """Training tasks, drawn at random."""

    def validation(self) -> Iterator[TaskBatch]:
        """The tasks that decide when to stop; the same every time."""

    @property
    def validation_tasks(self) -> int:
        """The number of different validation tasks; `validation` may repeat all of them, in turn."""


class RegressionFamily(Family, Protocol):
    """A family of regressions."""

    @property
    def inputs(self) -> tuple[Column, ...]:
        """The columns of x and their units."""

    @property
    def outputs(self) -> tuple[Column, ...]:
        """The columns of y and their units."""

    @property
    def validation_groups(self) -> Indices:
        """The group of each validation task, `[task]`. Only tasks of different groups are exchangeable."""

    def validation(self, spread: bool = True) -> Iterator[TaskBatch]:
        """As above; where labels have a step, they are spread over their cells, or are not."""

    def held_out(self) -> Iterator[TaskBatch]:
        """The tasks of the published metrics; no part of training sees them."""
