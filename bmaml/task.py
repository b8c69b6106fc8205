"""A few-shot task, and many of them side by side.

A task shows a *support* set and asks about a *query* set. Tasks are ragged, so a batch pads them to a common
number of rows and carries a mask. Padding changes no result beyond rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bmaml.errors import BmamlError
from bmaml.shapes import Inputs, Mask, PerTask, Targets


class InvalidExamples(BmamlError, ValueError):
    """Rows whose shapes or values cannot be a data set."""


@dataclass(frozen=True)
class Examples:
    """Labelled rows of many tasks: x `[task, row, input]`, y `[task, row, output]`, mask `[task, row]`.

    Raises:
        InvalidExamples: the three do not describe the same rows.
    """

    x: Inputs
    y: Targets
    mask: Mask

    def __post_init__(self) -> None:
        rows = tuple(self.mask.shape)
        if self.x.ndim != 3 or self.y.ndim != 3 or len(rows) != 2:
            raise InvalidExamples(
                f"x and y need axes (task, row, column) and the mask (task, row); found "
                f"{tuple(self.x.shape)}, {tuple(self.y.shape)} and {rows}"
            )
        if tuple(self.x.shape[:2]) != rows or tuple(self.y.shape[:2]) != rows:
            raise InvalidExamples(
                f"x has {tuple(self.x.shape[:2])} (task, row), y {tuple(self.y.shape[:2])}, "
                f"the mask {rows}; they must agree"
            )

    @classmethod
    def full(cls, x: Tensor, y: Tensor) -> "Examples":
        """Tasks of equal size, without padding."""
        return cls(x, y, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))

    @classmethod
    def empty(cls, inputs: int, outputs: int, like: Tensor) -> "Examples":
        """One task without rows, in the precision and on the device of `like`."""
        x, y = like.new_zeros(1, 0, inputs), like.new_zeros(1, 0, outputs)
        return cls.full(x, y)

    @classmethod
    def padded(cls, rows: Sequence[tuple[Tensor, Tensor]]) -> "Examples":
        """Ragged tasks, each x `[row, input]` and y `[row, output]`, padded with zeros to the longest.

        Raises:
            InvalidExamples: no task at all, or tasks that differ in their columns.
        """
        if not rows:
            raise InvalidExamples("a batch needs at least one task")
        if len({(x.shape[1:], y.shape[1:]) for x, y in rows}) > 1:
            raise InvalidExamples("all tasks of a batch need the same inputs and outputs")
        if any(len(x) != len(y) for x, y in rows):
            raise InvalidExamples("x and y of a task need the same number of rows")
        longest = max([1, *(len(x) for x, _ in rows)])
        x0, y0 = rows[0]
        x = x0.new_zeros(len(rows), longest, x0.shape[1])
        y = y0.new_zeros(len(rows), longest, y0.shape[1])
        mask = torch.zeros(len(rows), longest, dtype=torch.bool, device=x0.device)
        for task, (task_x, task_y) in enumerate(rows):
            x[task, : len(task_x)] = task_x
            y[task, : len(task_y)] = task_y
            mask[task, : len(task_x)] = True
        return cls(x, y, mask)

    def __len__(self) -> int:
        """The number of tasks."""
        return len(self.mask)

    def counts(self) -> PerTask:
        """The number of real rows of each task."""
        return self.mask.sum(-1).to(self.x.dtype)

    def tasks(self, chosen: slice) -> "Examples":
        """The chosen tasks alone."""
        return Examples(self.x[chosen], self.y[chosen], self.mask[chosen])

    def joined(self, other: "Examples") -> "Examples":
        """The rows of both, task by task."""
        return Examples(
            torch.cat([self.x, other.x], 1),
            torch.cat([self.y, other.y], 1),
            torch.cat([self.mask, other.mask], 1),
        )

    def to(self, target: torch.device | torch.dtype) -> "Examples":
        """The same rows on another device or in another precision."""
        return Examples(
            self.x.to(target),
            self.y.to(target),
            self.mask.to(target) if isinstance(target, torch.device) else self.mask,
        )


@dataclass(frozen=True)
class TaskBatch:
    """The support and query sets of many tasks.

    Raises:
        InvalidExamples: support and query describe different numbers of tasks.
    """

    support: Examples
    query: Examples

    def __post_init__(self) -> None:
        if len(self.support) != len(self.query):
            raise InvalidExamples(
                f"{len(self.support)} support sets cannot go with {len(self.query)} query sets"
            )

    def __len__(self) -> int:
        """The number of tasks."""
        return len(self.support)

    def tasks(self, chosen: slice) -> "TaskBatch":
        """The chosen tasks alone."""
        return TaskBatch(self.support.tasks(chosen), self.query.tasks(chosen))

    def to(self, target: torch.device | torch.dtype) -> "TaskBatch":
        """The same tasks on another device or in another precision."""
        return TaskBatch(self.support.to(target), self.query.to(target))

    def all_examples(self) -> Examples:
        """Support and query rows together, as the leader of the chaser loss takes them."""
        return self.support.joined(self.query)
