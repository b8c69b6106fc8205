"""Gradient boosting on features of the support rows: what a practitioner would build for a panel.

One model answers from any number of support rows. It corrects a ridge regression of all training rows, moved
by the mean residual of the support rows, from features of the support set and of the query row. The variance
is a second model, fitted to squared errors on tasks that the first did not see.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge

from benchmarks.accuracy.baselines import Array

Tasks = Sequence[tuple[Array, Array]]
"""x `[row, input]` and y `[row]` of each task, standardised."""
SUPPORTS = 600
"""Random support sets of all training tasks together, in equal numbers of each of `SHOTS` rows."""
FEWEST, MOST = 5, 20
"""Support sets of one task."""
SHOTS = (1, 2, 3, 4, 6)
FOLDS = 3
MIN_VARIANCE = 1e-4


@dataclass(frozen=True)
class Boosting:
    """Settings of the trees.

    Attributes:
        rounds: trees of the mean.
        leaf: the smallest number of rows of a leaf.
    """

    rounds: int
    leaf: int


class BoostedFamily:
    """Boosted mean and variance of a family.

    Args:
        settings: of the mean; the variance has half as many trees.
    """

    def __init__(self, settings: Boosting, tasks: Tasks, seed: int) -> None:
        self._settings, self._seed = settings, seed
        random = np.random.default_rng(seed)
        folds = random.permutation(np.arange(len(tasks)) % min(FOLDS, len(tasks)))
        features, squares = [], []
        for fold in range(int(folds.max()) + 1):
            rest = [task for task, place in zip(tasks, folds, strict=True) if place != fold]
            own = [task for task, place in zip(tasks, folds, strict=True) if place == fold]
            line, mean = self._mean(rest)
            for rows, base, y in _examples(own, line, random):
                features.append(rows)
                squares.append(np.square(y - base - mean.predict(rows)))
        variance = _trees("gamma", Boosting(max(20, settings.rounds // 2), 2 * settings.leaf), seed)
        self._variance = variance.fit(np.concatenate(features), np.concatenate(squares) + MIN_VARIANCE)
        self._line, self._boosted = self._mean(tasks)

    def _mean(self, tasks: Tasks) -> tuple["MovedLine", HistGradientBoostingRegressor]:
        line = MovedLine.fitted(tasks)
        random = np.random.default_rng(self._seed)
        rows, bases, labels = zip(*_examples(tasks, line, random), strict=True)
        boosted = _trees("squared_error", self._settings, self._seed)
        change = np.concatenate(labels) - np.concatenate(bases)
        return line, boosted.fit(np.concatenate(rows), change)

    def predict(self, x: Array, y: Array, query: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the labels of the query rows, given support rows."""
        rows, base = _features(self._line, x, y, query)
        mean: Array = base + self._boosted.predict(rows)
        return mean, np.sqrt(self._variance.predict(rows))


@dataclass(frozen=True)
class MovedLine:
    """A ridge regression of all rows, moved by the shrunk mean residual of the support rows.

    Attributes:
        slopes, level: of the regression.
        shrinkage: rows that residuals of zero count for: the ratio of their variances within and between
            tasks.
    """

    slopes: Array
    level: float
    shrinkage: float

    @classmethod
    def fitted(cls, tasks: Tasks) -> "MovedLine":
        """The regression, and the shrinkage by its residuals."""
        ridge = Ridge(1.0).fit(np.concatenate([x for x, _ in tasks]), np.concatenate([y for _, y in tasks]))
        residuals = [y - ridge.predict(x) for x, y in tasks]
        within = float(np.mean([each.var() for each in residuals]))
        between = float(np.var([each.mean() for each in residuals]))
        return cls(ridge.coef_, float(ridge.intercept_), within / max(between, MIN_VARIANCE))

    def residuals(self, x: Array, y: Array) -> Array:
        """The labels less the regression."""
        return np.asarray(y - x @ self.slopes - self.level)

    def predict(self, x: Array, y: Array, query: Array) -> Array:
        """The means of the query rows."""
        offset = self.residuals(x, y).sum() / (len(y) + self.shrinkage)
        return np.asarray(query @ self.slopes + self.level + offset)


def _examples(
    tasks: Tasks, line: MovedLine, random: np.random.Generator
) -> Iterator[tuple[Array, Array, Array]]:
    """Features, base and label of the other rows of each task, for random support sets."""
    supports = min(MOST, max(FEWEST, SUPPORTS // len(tasks)))
    for x, y in tasks:
        for number in range(supports):
            shots = min(SHOTS[number % len(SHOTS)], len(y) - 1)
            if shots < 1:
                continue
            order = random.permutation(len(y))
            shown, asked = order[:shots], order[shots:]
            rows, base = _features(line, x[shown], y[shown], x[asked])
            yield rows, base, y[asked]


def _features(line: MovedLine, x: Array, y: Array, query: Array) -> tuple[Array, Array]:
    """Features of each query row, and the prediction that trees correct."""
    base = line.predict(x, y, query)
    residual = line.residuals(x, y)
    distance = np.square(query[:, None] - x[None]).sum(-1)
    near = distance.argmin(1)
    weights = np.exp(-2 * distance / query.shape[1])
    local = (weights * residual).sum(1) / (weights.sum(1) + 0.1)
    first = x[:, 0]
    slope = ((first - first.mean()) * (residual - residual.mean())).sum() / (
        np.square(first - first.mean()).sum() + 0.3
    )
    of_task = [len(y), y.mean(), y.std(), residual.mean(), residual.std(), slope, first.min(), first.max()]
    change = query - x[near]
    rows = np.column_stack(
        [
            query,
            np.tile(of_task, (len(query), 1)),
            *(base, local, residual[near], y[near], np.sqrt(distance.min(1))),
            slope * (query[:, 0] - first.mean()),
            change,
        ]
    )
    return rows, base


def _trees(loss: str, settings: Boosting, seed: int) -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(
        loss=loss,
        max_iter=settings.rounds,
        learning_rate=0.05,
        max_leaf_nodes=8,
        min_samples_leaf=settings.leaf,
        l2_regularization=5,
        max_features=0.5,
        random_state=seed,
    )
