"""Gradient boosting on hand-made features of the support rows: the alternative that a user would build.

There is one model for each number of support rows, trained on the same tasks as every learner, with some
rows left out. It predicts the later rows of a curve from its first ones; another number of rows needs
another training. Inputs after the first are taken to be the same in all rows of a task.
"""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from torch import Tensor

from benchmarks.accuracy.baselines import Array, Forecaster, gaussian
from bmaml.predictive import Predictive
from bmaml.task import Examples

Tasks = Sequence[tuple[Array, Array]]
"""x `[row, input]` and y `[row]` of each task, in the order of the first input."""
STARTS = 4
"""A training curve counts this often, each time without one more of its first rows."""


def gradient_boosting(training: Tasks, validation: Tasks, seed: int) -> Forecaster:
    """A forecaster with means fitted to the training tasks and variances to squared validation errors."""
    fitted: dict[int, tuple[HistGradientBoostingRegressor, HistGradientBoostingRegressor]] = {}

    def fit(shots: int) -> tuple[HistGradientBoostingRegressor, HistGradientBoostingRegressor]:
        features, change, weights = _training_rows(training, shots, STARTS)
        mean = _model("squared_error", 400, seed).fit(features, change, sample_weight=weights)
        features, change, weights = _training_rows(validation, shots, STARTS)
        squares = np.square(change - mean.predict(features)) + 1e-6
        return mean, _model("gamma", 60, seed).fit(features, squares, sample_weight=weights)

    def forecast(support: Examples, x: Tensor) -> Predictive:
        (shots,) = {int(count) for count in support.counts()}
        if shots not in fitted:
            fitted[shots] = fit(shots)
        mean, variance = fitted[shots]
        given, known = support.x[:, :shots].double().numpy(), support.y[:, :shots, 0].double().numpy()
        features = np.concatenate(
            [_features(*each) for each in zip(given, known, x[..., 0].double().numpy(), strict=True)]
        )
        means = known[:, -1:] + mean.predict(features).reshape(x.shape[:2])
        deviations = np.sqrt(variance.predict(features)).reshape(x.shape[:2])
        return gaussian(torch.tensor(means).unsqueeze(-1), torch.tensor(deviations).unsqueeze(-1))

    return forecast


def _model(loss: str, rounds: int, seed: int) -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(
        loss=loss,
        max_iter=rounds,
        learning_rate=0.03,
        max_leaf_nodes=15,
        min_samples_leaf=60,
        l2_regularization=5,
        max_features=0.5,
        random_state=seed,
    )


def _training_rows(tasks: Tasks, shots: int, starts: int) -> tuple[Array, Array, Array]:
    """Features of every later row, its difference from the last support row, and its weight."""
    features, change, weights = [], [], []
    for whole, values in tasks:
        for start in range(starts):
            x, y = whole[start:], values[start:]
            if len(x) > shots:
                features.append(_features(x[:shots], y[:shots], x[shots:, 0]))
                change.append(y[shots:] - y[shots - 1])
                weights.append(np.full(len(x) - shots, 1 / (len(x) - shots)))
    return np.concatenate(features), np.concatenate(change), np.concatenate(weights)


def _features(whole: Array, y: Array, query: Array) -> Array:
    x = whole[:, 0]
    slope, level = np.polyfit(x - x[-1], y, 1)
    known = np.array([*y, *np.diff(y), y.mean(), y.max(), slope, level, x[-1], *whole[0, 1:]])
    return np.column_stack([np.tile(known, (len(query), 1)), query, query - x[-1]])
