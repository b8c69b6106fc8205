"""Real learning curves of unseen data sets, as they are and changed; truths are the later measured values."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.accuracy.baselines import Array
from benchmarks.accuracy.number_tasks import (
    FAMILY,
    NumberTask,
    RowShift,
    contradicting,
    duplicated,
    noisy,
    offset,
    other_unit,
    scaled,
)
from benchmarks.accuracy.problems import Curve
from model_store import Model

CLASSIFIER, DATASET = "classifier", "data set"
"""The groups of a curve."""
PERCENT = "accuracies in percent"
"""The shift whose labels no version of a bounded target takes."""
BINS_PER_OCTAVE = 2
"""Training sizes in one bin of the training curves' mean lie within this part of an octave."""


def curve_tasks(model: Model, curves: Sequence[Curve], points: int) -> list[NumberTask]:
    """The first anchors of each curve as support rows, and all later ones as query rows.

    Curves without a later anchor are left out. The classifier is among the inputs where the model has it.
    """
    found = []
    for curve in curves:
        if len(curve.sizes) > points:
            names = [float(each.name == f"learner={curve.classifier}") for each in model.manifest.inputs[1:]]
            x = np.column_stack([curve.sizes, np.tile(names, (len(curve.sizes), 1))])
            groups = {CLASSIFIER: curve.classifier, DATASET: curve.dataset}
            y = curve.accuracies
            found.append(NumberTask(x[:points], y[:points], x[points:], y[points:], groups))
    return found


def _plateau(task: NumberTask, random: np.random.Generator) -> NumberTask:
    """All given labels as the last one, ± 0.00001; the later values stay."""
    return replace(task, y=task.y[-1] + 1e-5 * random.uniform(-1, 1, len(task.y)))


def _outlier(task: NumberTask, random: np.random.Generator) -> NumberTask:
    """One given label, drawn at random, off by 0.3 towards the middle of [0, 1]."""
    y, index = task.y.copy(), random.integers(len(task.y))
    y[index] += 0.3 if y[index] < 0.5 else -0.3
    return replace(task, y=y)


def _error_rates(task: NumberTask, _: np.random.Generator) -> NumberTask:
    return replace(task, y=1 - task.y, truth=1 - task.truth)


def _accuracies(shift: RowShift) -> RowShift:
    """The shift, after which labels beyond 0 or 1 are at that end."""

    def changed(task: NumberTask, random: np.random.Generator) -> NumberTask:
        after = shift(task, random)
        return replace(after, y=after.y.clip(0, 1), truth=after.truth.clip(0, 1))

    return changed


def _told(names: Callable[[Array], Array]) -> RowShift:
    """Another name of the classifier, by its one-hot columns."""

    def changed(x: Array) -> Array:
        return np.column_stack([x[:, :1], names(x[:, 1:])])

    return lambda task, _: replace(task, x=changed(task.x), query=changed(task.query))


CURVE_SHIFTS: Mapping[str, RowShift] = {
    FAMILY: lambda task, _: task,
    "noise of 0.03 on the given labels": _accuracies(noisy(0.03)),
    "given labels all the last one, ± 0.00001": _plateau,
    "one given label off by 0.3": _outlier,
    "each row twice": duplicated,
    "each size twice, labels 0.05 up and down": _accuracies(contradicting(0.05)),
    PERCENT: scaled(100),
    "accuracies × 0.5": scaled(0.5),
    "accuracies 0.2 lower": _accuracies(offset(-0.2)),
    "error rates": _error_rates,
    "sizes in thousands": other_unit(0.001),
}
CLASSIFIER_SHIFTS: Mapping[str, RowShift] = {
    "told another classifier": _told(lambda names: np.roll(names, 1, axis=1)),
    "told no classifier": _told(np.zeros_like),
}
"""Shifts of models that take the classifier."""


def mean_by_size(training: Sequence[Curve], tasks: Sequence[NumberTask]) -> float:
    """RMSE of the training curves' mean at each size, in bins; means within each task first."""
    sizes = np.concatenate([curve.sizes for curve in training])
    values = np.concatenate([curve.accuracies for curve in training])
    bins = np.unique(_bin(sizes))
    means = np.array([values[_bin(sizes) == each].mean() for each in bins])
    return _rmse([np.interp(_bin(task.query[:, 0]), bins, means) for task in tasks], tasks)


def last_value(tasks: Sequence[NumberTask]) -> float:
    """RMSE of the last given label for all later ones."""
    return _rmse([np.full_like(task.truth, task.y[-1]) for task in tasks], tasks)


def _bin(sizes: Array) -> Array:
    return np.round(BINS_PER_OCTAVE * np.log2(sizes))


def _rmse(forecasts: Sequence[Array], tasks: Sequence[NumberTask]) -> float:
    squares = [
        np.square(forecast - task.truth).mean() for forecast, task in zip(forecasts, tasks, strict=True)
    ]
    return math.sqrt(float(np.mean(squares)))
