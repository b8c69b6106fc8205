"""The query strategy, in the hands of the real scikit-activeml."""

import numpy as np
import pytest
from skactiveml.base import SingleAnnotatorPoolQueryStrategy
from skactiveml.pool import SubSamplingWrapper

from bmaml_client import AnswerWarning
from bmaml_client.activeml import ServiceQuery
from bmaml_client.estimators import BMAMLClassifier, BMAMLRegressor
from tests.images import random_images

X = np.linspace(-4, 4, 12)[:, None]
Y = np.full(12, np.nan)
Y[[2, 7]] = [8.0, 11.0]


@pytest.fixture
def strategy(small):
    return ServiceQuery(BMAMLRegressor("tiny", service=small.url), random_state=0)


def test_it_is_a_strategy_like_any_other(strategy):
    assert isinstance(strategy, SingleAnnotatorPoolQueryStrategy)
    assert set(strategy.get_params(deep=False)) >= {"estimator", "missing_label", "random_state"}


def test_the_pool_is_what_has_no_label(strategy, client):
    known = np.isfinite(Y)
    places = np.flatnonzero(~known)
    expected = client.uncertainty("tiny", X[known], Y[known], X[~known], size=3)
    picked, utilities = strategy.query(X, Y, batch_size=3, return_utilities=True)
    np.testing.assert_array_equal(picked, places[expected.indices])
    assert utilities.shape == (3, 12)
    np.testing.assert_allclose(utilities[0, places], expected.scores, rtol=1e-4)
    assert np.isnan(utilities[:, known]).all()
    assert np.isnan(utilities[2, picked[:2]]).all()
    assert np.isfinite(utilities[np.arange(3), picked]).all()


def test_rows_far_from_training_are_warned_of(strategy):
    rows = X.copy()
    rows[0] = 400.0
    with pytest.warns(AnswerWarning, match="1 of 10 pool rows are far from what training saw") as caught:
        strategy.query(rows, Y)
    assert [each.filename for each in caught] == [__file__]


def test_candidates_are_places_or_rows(strategy):
    some = [0, 5, 11]
    by_place, utilities = strategy.query(X, Y, candidates=some, return_utilities=True)
    assert by_place[0] in some
    assert np.isfinite(utilities[0]).sum() == 3
    by_row, utilities = strategy.query(X, Y, candidates=X[some], return_utilities=True)
    assert some[by_row[0]] == by_place[0]
    assert utilities.shape == (1, 3)


def test_it_learns_from_round_to_round(strategy):
    labels = Y.copy()
    for _ in range(3):
        (place,) = strategy.query(X, labels)
        assert np.isnan(labels[place])
        labels[place] = 10 + np.sin(X[place, 0])
    assert np.isfinite(labels).sum() == 5


def test_wrappers_of_the_library_take_it(strategy):
    wrapped = SubSamplingWrapper(strategy, max_candidates=4, random_state=0)
    picked, utilities = wrapped.query(X, Y, return_utilities=True)
    assert np.isnan(Y[picked[0]])
    assert np.isfinite(utilities[0]).sum() == 4


def test_a_batch_is_not_larger_than_the_pool(strategy):
    with pytest.warns(UserWarning, match="batch_size"):
        assert len(strategy.query(X, Y, batch_size=20)) == 10


def test_classes_and_images_have_it_too(small):
    images = random_images(2, 4).reshape(8, 16, 16)
    labels = np.array(["a", "nan", "nan", "nan", "b", "nan", "nan", "nan"])
    classifier = BMAMLClassifier("shapes", service=small.url)
    strategy = ServiceQuery(classifier, acquisition="entropy", missing_label="nan", random_state=0)
    picked = strategy.query(images, labels, batch_size=2)
    assert len(set(picked.tolist())) == 2
    assert set(picked.tolist()) <= {1, 2, 3, 5, 6, 7}
