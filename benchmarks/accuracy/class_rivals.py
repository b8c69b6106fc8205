"""What a practitioner would fit to a table of classes: frequencies, logistic regressions, boosted trees.

Every rival sees the training tasks, and settings are chosen on the validation tasks. It answers with class
probabilities for query rows, given the support rows of a task that it has not seen.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from statsmodels.genmod.bayes_mixed_glm import BinomialBayesMixedGLM

from benchmarks.accuracy.baselines import Array

Labels = NDArray[np.int64]
Rows = tuple[Array, Labels]
"""x `[row, input]`, standardised, and the place of each row's class."""
Classifier = Callable[[Array, Rows], Array]
"""Probabilities `[row, class]` of query rows x, given the support rows."""

SHOTS = (0, 1, 2, 3, 5, 8)
"""Support rows of the examples that pooled rivals are fitted to."""
VALIDATION_SHOTS = (0, 1, 3, 8)
LEAST = 1e-6
"""The smallest probability: trees may answer zero."""
SMOOTHINGS = (1.0, 4.0)
"""Rows of the population beside those of a task, in its running frequencies."""
NODES = 41
"""Nodes of the Gauss–Hermite quadrature over a random intercept."""


def frequencies(tasks: Sequence[Rows], classes: int) -> Array:
    """The frequency of each class, never zero."""
    counts = np.bincount(np.concatenate([y for _, y in tasks]), minlength=classes) + 0.5
    return np.asarray(counts / counts.sum())


def population(train: Sequence[Rows], validation: Sequence[Rows], classes: int, seed: int) -> Classifier:
    """The frequencies of the training rows, whatever the task and the input."""
    found = frequencies(train, classes)
    return lambda x, support: np.tile(found, (len(x), 1))


def logistic(train: Sequence[Rows], validation: Sequence[Rows], classes: int, seed: int) -> Classifier:
    """Logistic regression of all tasks together on x and the running frequencies of the support set."""
    kinds = [lambda c=c: LogisticRegression(C=c, max_iter=500) for c in (0.01, 0.1, 1.0)]
    return _pooled(kinds, train, validation, classes, seed)


def boosted(train: Sequence[Rows], validation: Sequence[Rows], classes: int, seed: int) -> Classifier:
    """Boosted trees on the same."""
    kinds = [
        lambda leaves=leaves, trees=trees: HistGradientBoostingClassifier(
            learning_rate=0.05, max_iter=trees, max_leaf_nodes=leaves, min_samples_leaf=30, random_state=seed
        )
        for leaves in (4, 8)
        for trees in (60, 150)
    ]
    return _pooled(kinds, train, validation, classes, seed)


def mixed_effects(train: Sequence[Rows], validation: Sequence[Rows], classes: int, seed: int) -> Classifier:
    """Logistic regression with a random intercept by task, by variational Bayes (statsmodels).

    More than two classes are told apart one against the rest, and their probabilities divided by their sum.
    The intercept of a new task is integrated by quadrature given its support rows.
    """
    x, y = (np.concatenate(each) for each in zip(*train, strict=True))
    owner = np.repeat(np.arange(len(train)), [len(labels) for _, labels in train])
    varying = x.std(0) > 1e-9
    groups = csr_matrix((np.ones(len(owner)), (np.arange(len(owner)), owner)))
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    told = [1] if classes == 2 else list(range(classes))

    def design(rows: Array) -> Array:
        return np.hstack([np.ones((len(rows), 1)), rows[:, varying]])

    fits = []
    for each in told:
        target, kinds = (y == each).astype(float), np.zeros(len(train), dtype=int)
        model = BinomialBayesMixedGLM(target, design(x), groups, kinds, vcp_p=1, fe_p=2)
        fit = model.fit_vb()
        fits.append((np.asarray(fit.fe_mean), float(np.exp(fit.vcp_mean[0]))))

    def classify(query: Array, support: Rows) -> Array:
        shown, labels = support
        found = []
        for each, (slopes, size) in zip(told, fits, strict=True):
            latent = (design(shown) @ slopes)[:, None] + size * nodes
            signs = np.where(labels == each, 1.0, -1.0)[:, None]
            logs = -np.logaddexp(0, -signs * latent).sum(0)
            posterior = weights * np.exp(logs - logs.max())
            asked = (design(query) @ slopes)[:, None] + size * nodes
            found.append(1 / (1 + np.exp(-asked)) @ (posterior / posterior.sum()))
        if classes == 2:
            return np.stack([1 - found[0], found[0]], 1)
        together = np.stack(found, 1)
        return np.asarray(together / together.sum(1, keepdims=True))

    return classify


RIVALS = {
    "frequencies": population,
    "logistic": logistic,
    "mixed effects": mixed_effects,
    "boosted trees": boosted,
}


def _pooled(
    kinds: Sequence[Callable[[], Any]],
    train: Sequence[Rows],
    validation: Sequence[Rows],
    classes: int,
    seed: int,
) -> Classifier:
    """The kind and the smoothing with the lowest log loss on the validation tasks."""
    base, lowest = frequencies(train, classes), np.inf
    best: Classifier | None = None
    for smoothing in SMOOTHINGS:

        def features(x: Array, labels: Labels, smoothing: float = smoothing) -> Array:
            counts = np.bincount(labels, minlength=classes).astype(float)
            shares = np.log((counts + smoothing * base) / (counts.sum() + smoothing))
            own = np.r_[shares, np.log1p(counts.sum())]
            return np.hstack([x, np.tile(own, (len(x), 1))])

        examples = [(features(x, shown), y) for (x, y), (_, shown) in _examples(train, SHOTS, seed)]
        inputs, targets = (np.concatenate(each) for each in zip(*examples, strict=True))
        for kind in kinds:
            fitted = kind().fit(inputs, targets)

            def classify(x: Array, support: Rows, fitted: Any = fitted, features: Any = features) -> Array:
                found = np.full((len(x), classes), LEAST)
                found[:, fitted.classes_] = fitted.predict_proba(features(x, support[1]))
                return found

            losses = [
                -np.log(classify(x, support)[np.arange(len(y)), y].clip(LEAST)).mean()
                for (x, y), support in _examples(validation, VALIDATION_SHOTS, seed)
            ]
            if np.mean(losses) < lowest:
                lowest, best = float(np.mean(losses)), classify
    assert best is not None
    return best


def _examples(tasks: Sequence[Rows], shots: Sequence[int], seed: int) -> Iterator[tuple[Rows, Rows]]:
    """Query and support rows of each task, drawn twice for each number of support rows."""
    random = np.random.default_rng(seed)
    for x, y in tasks:
        for number in shots:
            for _ in range(2 if number < len(y) else 0):
                order = random.permutation(len(y))
                shown, asked = order[:number], order[number:]
                yield (x[asked], y[asked]), (x[shown], y[shown])
