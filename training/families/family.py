"""What the training loop and the evaluation need of a family of tasks."""

from collections.abc import Iterator
from typing import Protocol

import torch

from bmaml.task import TaskBatch
from model_store.columns import Column


class Family(Protocol):
    """A source of related tasks, in standardised units."""

    def batch(self, tasks: int, generator: torch.Generator) -> TaskBatch:
        """Training tasks, drawn at random."""

    def validation(self) -> Iterator[TaskBatch]:
        """The tasks that decide when to stop; the same every time."""

    @property
    def validation_tasks(self) -> int:
        """How many different ones there are; `validation` may deal all of them again and again, in turn."""


class Numbers(Family, Protocol):
    """A family of regressions."""

    @property
    def inputs(self) -> tuple[Column, ...]:
        """The columns of x and their units."""

    @property
    def outputs(self) -> tuple[Column, ...]:
        """The columns of y and their units."""

    def held_out(self) -> Iterator[TaskBatch]:
        """The tasks that the published figures are measured on; never seen before."""
