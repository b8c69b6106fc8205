"""The rival that somebody builds by hand: gradient boosting on features of the rows given, for one question.

Inputs after the first are taken to be the same in all rows of a task.

One model for each number of support rows, trained on the tasks as every learner is dealt them (some rows
are left out) to answer just that: from so many rows in order, what comes later? It has to be trained again
for another number, and knows nothing of a family that is not a curve.
"""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from torch import Tensor

from benchmarks.accuracy.baselines import Array, Method, gaussian
from bmaml.predictive import Predictive
from bmaml.task import Examples

Tasks = Sequence[tuple[Array, Array]]
"""x `[row, input]` and y `[row]` of each, in the order of the first input."""
STARTS = 4
"""A training curve is also taken as if it began up to so many rows later."""


def gradient_boosting(training: Tasks, validation: Tasks, seed: int) -> Method:
    """Means fitted to the training tasks, variances to the squared errors on the validation tasks."""
    fitted: dict[int, tuple[HistGradientBoostingRegressor, HistGradientBoostingRegressor]] = {}

    def fit(shots: int) -> tuple[HistGradientBoostingRegressor, HistGradientBoostingRegressor]:
        features, change, weights = _asked(training, shots, STARTS)
        mean = _model("squared_error", 400, seed).fit(features, change, sample_weight=weights)
        features, change, weights = _asked(validation, shots, STARTS)
        squares = np.square(change - mean.predict(features)) + 1e-6
        return mean, _model("gamma", 60, seed).fit(features, squares, sample_weight=weights)

    def method(support: Examples, x: Tensor) -> Predictive:
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

    return method


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


def _asked(tasks: Tasks, shots: int, starts: int) -> tuple[Array, Array, Array]:
    """Features of every later row, its distance from the last one given, its share of its task's weight."""
    features, change, weights = [], [], []
    for whole, values in tasks:
        for start in range(starts):
            x, y = whole[start:], values[start:]
            if len(x) > shots:
                features.append(_features(x[:shots], y[:shots], x[shots:, 0]))
                change.append(y[shots:] - y[shots - 1])
                weights.append(np.full(len(x) - shots, 1 / (len(x) - shots)))
    return np.concatenate(features), np.concatenate(change), np.concatenate(weights)


def _features(whole: Array, y: Array, asked: Array) -> Array:
    x = whole[:, 0]
    slope, level = np.polyfit(x - x[-1], y, 1)
    known = np.array([*y, *np.diff(y), y.mean(), y.max(), slope, level, x[-1], *whole[0, 1:]])
    return np.column_stack([np.tile(known, (len(asked), 1)), asked, asked - x[-1]])
