"""Tasks whose labels are numbers, in the caller's units, and changes of their rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from benchmarks.accuracy.baselines import Array

FAMILY = "the family"
"""The tasks like those of training, to which shifts are compared."""


@dataclass(frozen=True)
class NumberTask:
    """One task.

    Attributes:
        x, y: the support rows, `[row, input]` and `[row]`.
        query, truth: rows to predict and their values, in the same form.
        groups: the group of the task by kind of group, such as its classifier.
    """

    x: Array
    y: Array
    query: Array
    truth: Array
    groups: Mapping[str, str] = field(default_factory=dict)


TaskT = TypeVar("TaskT")
Shift = Callable[[TaskT, np.random.Generator], NumberTask]
"""Makes a shifted task of a task like those of training."""
RowShift = Shift[NumberTask]


def scaled(factor: float) -> RowShift:
    """All labels and truths times a factor."""
    return lambda task, _: replace(task, y=factor * task.y, truth=factor * task.truth)


def offset(by: float) -> RowShift:
    """A constant added to all labels and truths."""
    return lambda task, _: replace(task, y=task.y + by, truth=task.truth + by)


def other_unit(factor: float) -> RowShift:
    """The first input in another unit: times a factor in support and query rows."""

    def changed(x: Array) -> Array:
        return np.column_stack([factor * x[:, :1], x[:, 1:]])

    return lambda task, _: replace(task, x=changed(task.x), query=changed(task.query))


def noisy(std: float) -> RowShift:
    """Normal noise on the support labels."""
    return lambda task, random: replace(task, y=task.y + std * random.standard_normal(len(task.y)))


def outlier(by: float) -> RowShift:
    """One support label, drawn at random, off by so much."""

    def change(task: NumberTask, random: np.random.Generator) -> NumberTask:
        y = task.y.copy()
        y[random.integers(len(y))] += by
        return replace(task, y=y)

    return change


def contradicting(by: float) -> RowShift:
    """Every support row twice, with labels this far above and below its own."""
    return lambda task, _: replace(
        task, x=np.concatenate([task.x, task.x]), y=np.concatenate([task.y + by, task.y - by])
    )


def duplicated(task: NumberTask, _: np.random.Generator) -> NumberTask:
    """Every support row twice."""
    return replace(task, x=np.concatenate([task.x, task.x]), y=np.concatenate([task.y, task.y]))
