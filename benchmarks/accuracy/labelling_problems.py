"""The problems of `active_learning.py`: tasks with few labelled rows and a pool to label from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.accuracy.problems import Curve, Half, validation_curves
from bmaml.categorical import Categorical
from bmaml.learners import Belief
from bmaml.predictive import Predictive
from bmaml.task import Examples
from model_store import Model, Store
from training.config import ImagesConfig
from training.families import Images
from training.families.image_features import embed
from training.families.sinusoid import curves

Array = NDArray[np.float64]
Role = Literal["choose", "report"]
"""A problem that the default was chosen on, or one that only reports."""


@dataclass(frozen=True)
class PoolProblem:
    """Tasks with a pool to label from.

    Attributes:
        title: for tables and plots; the first word or words name the problem in keys.
        rows, y: the rows of each task, `[task, row, …]`, those labelled at the start first; features or
            standardised inputs.
        real: False where a task has no such row.
        start: rows labelled at the start.
        test: rows that are predicted, with their labels.
        rounds: labels to buy.
        scores: by name, `[task]` from belief and truth, the lower the better. The last one counts labels.
        groups: a number per task, the same for tasks that are not independent.
        role: whether the default acquisition was chosen on the problem; None for classes.
    """

    title: str
    model: Model
    rows: Tensor
    y: Tensor
    real: Tensor
    start: int
    test: Examples
    rounds: int
    scores: Mapping[str, Callable[[Belief, Examples], Tensor]]
    groups: NDArray[np.int_]
    role: Role | None = None

    @property
    def name(self) -> str:
        """The title up to its first colon."""
        return self.title.partition(":")[0]


def nll(belief: Belief, test: Examples) -> Tensor:
    """The mean NLL of the labels, standardised."""
    assert isinstance(belief, Predictive)
    return _mean(-belief.double().log_density(test.y.double()).sum(-1), test)


def rmse(belief: Belief, test: Examples) -> Tensor:
    """The root of the mean squared error of the predicted mean, standardised."""
    assert isinstance(belief, Predictive)
    return _mean((belief.mean() - test.y).double().square().sum(-1), test).sqrt()


def error_rate(belief: Belief, test: Examples) -> Tensor:
    """The error rate of the most probable class."""
    assert isinstance(belief, Categorical)
    wrong = belief.log_mixture().argmax(-1) != test.y.argmax(-1)
    return _mean(wrong.double(), test)


def _mean(values: Tensor, test: Examples) -> Tensor:
    return torch.where(test.mask, values, 0.0).sum(-1) / test.counts()


NUMBERS = {"NLL": nll, "RMSE": rmse}
CLASSES = {"error rate": error_rate}


def sine_problem(tasks: int, store: Path, name: str = "sinusoid", role: Role = "report") -> PoolProblem:
    """Sine curves with two labelled points and a hundred to choose from; the truth is tested."""
    model = Store(store).load(name)
    x, y, clean = curves(tasks, 202, torch.Generator().manual_seed(6))
    real = torch.ones(tasks, 102, dtype=torch.bool)
    test = Examples.full(x[:, 102:], clean[:, 102:])
    title = f"{name}: 2 points shown, pool of 100"
    return PoolProblem(
        title, model, x[:, :102], y[:, :102], real, 2, test, 12, NUMBERS, np.arange(tasks), role
    )


def curve_problem(path: Path, tasks: int, store: Path, name: str, half: Half) -> PoolProblem:
    """Learning curves of one half of the validation data sets, with two labelled anchors.

    Any other anchor may be bought, and all are predicted.
    """
    model = Store(store).load(name)
    long = [each for each in validation_curves(path, half) if len(each.sizes) >= 12]
    chosen = [long[i] for i in np.random.default_rng(7).permutation(len(long))[:tasks]]
    classifiers = [each.name.removeprefix("learner=") for each in model.manifest.inputs[1:]]

    def inputs(curve: Curve) -> Array:
        told = [float(each == curve.classifier) for each in classifiers]
        return np.column_stack([curve.sizes, np.tile(told, (len(curve.sizes), 1))])

    title = f"{name}, data sets to {half} on: 2 anchors shown, any other for sale"
    pairs = [(inputs(curve), curve.accuracies) for curve in chosen]
    return measured_rows(title, model, pairs, 2, 8, [curve.dataset for curve in chosen], half)


def measured_rows(
    title: str,
    model: Model,
    tasks: Sequence[tuple[Array, Array]],
    start: int,
    rounds: int,
    groups: Sequence[str],
    role: Role,
) -> PoolProblem:
    """A problem whose tasks have all rows in the pool, and all of them tested, in the caller's units."""
    rows = Examples.padded([_standardised(model, x, y) for x, y in tasks])
    numbers = np.unique(np.array(groups), return_inverse=True)[1]
    return PoolProblem(title, model, rows.x, rows.y, rows.mask, start, rows, rounds, NUMBERS, numbers, role)


def split_rows(
    title: str,
    model: Model,
    tasks: Sequence[tuple[Array, Array]],
    start: int,
    pool: int,
    rounds: int,
    role: Role,
) -> PoolProblem:
    """A problem whose tasks have `pool` rows to choose from, and are tested on all others."""
    rows = Examples.padded([_standardised(model, x, y) for x, y in tasks])
    test = Examples.full(rows.x[:, pool:], rows.y[:, pool:])
    x, y, real = rows.x[:, :pool], rows.y[:, :pool], rows.mask[:, :pool]
    return PoolProblem(title, model, x, y, real, start, test, rounds, NUMBERS, np.arange(len(tasks)), role)


def _standardised(model: Model, x: Array, y: Array) -> tuple[Tensor, Tensor]:
    return (
        torch.from_numpy(model.standardised_inputs(x)),
        torch.from_numpy(model.standardised_targets(y[:, None])),
    )


def image_problem(name: str, path: Path, tasks: int, store: Path, pool: int, rounds: int) -> PoolProblem:
    """Five test classes with one labelled image each, and `pool` more of each to choose from."""
    model = Store(store).load(name)
    assert model.embedding is not None
    config = ImagesConfig.from_manifest(model.manifest.training["family"], str(path))
    family = Images(config, model.manifest.seed)
    images, index = family.of_role("test")
    features = embed(model.embedding, model.learned, images)
    tested = min(15, int(index.counts.min()) - 1 - pool)
    chosen = index.draw(tasks, 5, 1, pool + tested, torch.Generator().manual_seed(5))
    x = features[chosen.images]  # [task, class, image, feature]
    eye = torch.eye(5).expand(tasks, 5, 5).unsqueeze(2)

    def flat(some: slice) -> tuple[Tensor, Tensor]:
        part = x[:, :, some]
        y = eye.expand(-1, -1, part.shape[2], -1)
        return part.transpose(1, 2).flatten(1, 2), y.transpose(1, 2).flatten(1, 2)

    rows, y = flat(slice(pool + 1))
    test = Examples.full(*flat(slice(pool + 1, None)))
    real = torch.ones(rows.shape[:2], dtype=torch.bool)
    title = f"{name}: 5 classes, 1 shown, pool of {pool} each"
    return PoolProblem(title, model, rows, y, real, 5, test, rounds, CLASSES, np.arange(tasks))
