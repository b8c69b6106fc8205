"""Heads on the features of one backbone: tasks, rivals in closed form, and choices blind to test classes."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.linear_model import LogisticRegression

from benchmarks.accuracy import picture_heads
from benchmarks.accuracy.picture_heads import HELD_APART, QUERIES, UNEVEN, episodes, rivals, score
from bmaml.plda import Discriminants

CLASSES, ROWS, FEATURES = 20, 26, 6


@pytest.fixture
def collection():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), ROWS)
    return 3 + rng.normal(size=(CLASSES, FEATURES))[labels] + rng.normal(size=(len(labels), FEATURES)), labels


@pytest.mark.parametrize("shots", [1, 5, None])
def test_a_task_asks_about_other_rows_of_its_own_classes(collection, shots):
    _, labels = collection
    for task in episodes(labels, [2, 3, 5, 7, 11, 13], 5, shots, 20, 1):
        assert not set(task.support) & set(task.query)
        assert len(set(task.query)) == 5 * QUERIES
        counts = np.bincount(task.support_y)
        fewest, most = UNEVEN if shots is None else (shots, shots)
        assert fewest <= counts.min() <= counts.max() <= most
        for rows, places in ((task.support, task.support_y), (task.query, task.query_y)):
            named = {(place, label) for place, label in zip(places, labels[rows], strict=True)}
            assert len(named) == 5
            assert {label for _, label in named} <= {2, 3, 5, 7, 11, 13}


def test_tasks_of_more_classes_than_have_enough_images_are_refused(collection):
    with pytest.raises(ValueError, match="0 classes have 35 images, and 5 are wanted"):
        list(episodes(collection[1], range(CLASSES), 5, 20, 1, 0))


def test_even_odds_score_the_logarithm_of_the_number_of_classes(collection):
    features, labels = collection
    tasks = list(episodes(labels, range(CLASSES), 4, 1, 10, 1))
    found = score(lambda x, y, query, ways: np.full((len(query), ways), -math.log(ways)), features, tasks)
    assert found.nll == pytest.approx(math.log(4))
    assert (found.accuracy, found.error) == (0.25, 0)
    assert found.ece == pytest.approx(0)


def test_logistic_regression_answers_with_the_probabilities_of_its_library(collection):
    features, labels = collection
    for ways in (2, 4):
        rows, query = labels < ways, features[labels == 0]
        fitted = LogisticRegression(C=1 / FEATURES, max_iter=1000).fit(features[rows], labels[rows])
        found = picture_heads.logistic(1.0)(features[rows], labels[rows], query, ways)
        np.testing.assert_allclose(np.exp(found), fitted.predict_proba(query), atol=1e-3)


def test_discriminant_analysis_is_bayes_rule_of_gaussian_classes():
    rng = np.random.default_rng(3)
    between, middle = np.array([2.0, 0.5, 0.1]), rng.normal(size=3)
    axes = rng.normal(size=(3, 3))
    model = Discriminants(*map(torch.from_numpy, (axes, middle, between)))
    y = np.array([0, 0, 0, 1, 2, 2])
    x, query = rng.normal(size=(6, 3)), rng.normal(size=(4, 3))
    found = picture_heads.plda(model, 1.0)(x, y, query, 3)
    z, asked = (x - middle) @ axes, (query - middle) @ axes
    wanted = np.empty((4, 3))
    for each in range(3):
        rows = z[y == each]
        for place, one in enumerate(asked):
            together = np.vstack([rows, one])
            covariance = np.kron(np.ones((len(together),) * 2), np.diag(between)) + np.eye(together.size)
            without = covariance[: rows.size, : rows.size]
            wanted[place, each] = multivariate_normal.logpdf(together.ravel(), cov=covariance)
            wanted[place, each] -= multivariate_normal.logpdf(rows.ravel(), cov=without)
    np.testing.assert_allclose(found, picture_heads.log_softmax(wanted), atol=1e-9)


def test_nothing_about_the_test_classes_changes_a_choice(collection, monkeypatch):
    features, labels = collection
    monkeypatch.setattr(picture_heads, "INVERSE_PENALTIES", (0.1, 10.0))
    monkeypatch.setattr(picture_heads, "SHARPNESS", (0.1, 1.0))
    training = range(HELD_APART + 4)
    hidden = np.where(np.isin(labels, training)[:, None], features, 1e6)
    task = next(episodes(labels, training, 5, 2, 1, 9))
    for one, other in zip(*(rivals(each, labels, training, 2) for each in (features, hidden)), strict=True):
        assert (one.name, one.chosen) == (other.name, other.chosen)
        answers = [
            head.scorer(head.features[task.support], task.support_y, head.features[task.query], 5)
            for head in (one, other)
        ]
        np.testing.assert_array_equal(*answers)
