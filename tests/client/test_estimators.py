"""The estimators as users of scikit-learn meet them, in this process and over a service."""

import base64
import pickle
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from bmaml_client import AnswerWarning, Client, InvalidInput, InvalidRequest, UnknownModel, Unreachable
from bmaml_client.connections import connection
from bmaml_client.estimators import BMAMLClassifier, BMAMLRegressor
from service.settings import Settings
from tests.images import png, random_images
from tests.service.conftest import serve

X = np.array([[-2.0], [0.5], [3.0], [1.0]])
Y = np.array([8.0, 11.5, 9.0, 12.0])
POOL = np.linspace(-4, 4, 9)[:, None]


@pytest.fixture(params=["service", "in process"])
def where(request, small, small_store):
    return {"service": small.url} if request.param == "service" else {"store": small_store}


@pytest.fixture
def fitted(where):
    return BMAMLRegressor("tiny", **where).fit(X, Y)


def test_what_is_predicted_is_the_services_answer(fitted, client):
    expected = client.adapt_predict("tiny", X, Y, POOL, quantiles=[0.1, 0.9], interval=0.5)
    mean, std = fitted.predict(POOL, return_std=True)
    np.testing.assert_allclose(mean, expected.mean, rtol=1e-4)
    np.testing.assert_allclose(std, expected.std, rtol=1e-4)
    np.testing.assert_array_equal(fitted.predict(POOL), mean)
    interval = fitted.predict_interval(POOL, level=0.5)
    np.testing.assert_allclose(interval, np.c_[expected.interval.lower, expected.interval.upper], rtol=1e-4)
    quantiles = fitted.predict_quantiles(POOL, [0.1, 0.9])
    np.testing.assert_allclose(quantiles, expected.quantiles.values.T, rtol=1e-4)
    variance = fitted.predict_variance(POOL)
    np.testing.assert_allclose(variance.epistemic, expected.variance.epistemic, rtol=1e-3)
    np.testing.assert_allclose(variance.total, variance.aleatoric + variance.epistemic, rtol=1e-5)
    assert fitted.posterior_.rows == 4
    assert (fitted.model_.name, fitted.model_.version) == ("tiny", 2)


def test_targets_are_scored_by_the_service_in_parts_too(fitted, client):
    truths = 10 + np.sin(POOL[:, 0])
    expected = client.adapt_predict("tiny", X, Y, POOL, query_y=truths).log_density
    np.testing.assert_allclose(fitted.log_density(POOL, truths), expected, rtol=1e-4)
    np.testing.assert_allclose(fitted.log_density(POOL, truths[:, None]), expected, rtol=1e-4)
    many, repeated = np.tile(POOL, (700, 1)), np.tile(truths, 700)
    np.testing.assert_allclose(fitted.log_density(many, repeated), np.tile(expected, 700), rtol=1e-4)
    with pytest.raises(InvalidInput, match="8 targets for 9 rows of X"):
        fitted.log_density(POOL, truths[:-1])


@pytest.mark.parametrize("names", [["b", "a"], [7, -1], [True, False]])
def test_classes_of_any_type_are_scored(where, names):
    images = random_images(2)
    model = BMAMLClassifier("shapes", **where).fit(images[:, 0], names)
    expected = np.log(model.predict_proba(images[:, 1]))[
        range(2), [list(model.classes_).index(n) for n in names]
    ]
    np.testing.assert_allclose(model.log_density(images[:, 1], names), expected, atol=1e-5)
    with pytest.raises(InvalidInput, match="which fit has not seen"):
        model.log_density(images[:, 1], ["b", "z"])


def test_the_rows_to_label_next_are_the_services_choice(fitted, client):
    expected = client.uncertainty("tiny", X, Y, POOL, size=3)
    np.testing.assert_array_equal(fitted.query(POOL, 3), expected.indices)
    other = fitted.query(POOL, 3, exclude=expected.indices)
    assert not set(other.tolist()) & set(expected.indices.tolist())
    towards = fitted.query(POOL, 1, target=[[3.5]], acquisition="epig", strategy="top_k")
    assert towards == client.uncertainty("tiny", X, Y, POOL, target=[[3.5]]).indices


def test_more_rows_than_the_service_takes_are_asked_in_parts(fitted):
    many = np.linspace(-4, 4, 6001)[:, None]
    mean, std = fitted.predict(many, return_std=True)
    assert mean.shape == std.shape == (6001,)
    assert len(list(fitted.answers(many))) == -(-6001 // fitted.limits_.query_rows)
    np.testing.assert_allclose(mean[[0, -1]], fitted.predict(many[[0, -1]]), rtol=1e-4)
    assert fitted.predict_quantiles(many, [0.5, 0.6]).shape == (6001, 2)


def test_whole_answers_have_the_services_warnings(fitted):
    (answer,) = fitted.answers([[400.0]], particles=True)
    assert "far from what training saw" in answer.diagnostics.warnings[0]
    assert answer.particles.mean.shape == (4, 1)


def test_each_warning_of_the_service_is_one_of_pythons_at_the_callers_line(fitted, small):
    far = np.r_[np.zeros(6000), 400.0, np.zeros(10), 500.0][:, None]
    with pytest.warns(AnswerWarning) as caught:
        fitted.predict(far)
    (warning,) = caught
    assert str(warning.message).startswith("2 of 6012 query rows are far from what training saw")
    assert warning.filename == __file__
    both = np.r_[np.full(6000, 400.0), 500.0][:, None]
    with pytest.warns(AnswerWarning, match="6001 of 6001 query rows") as caught:
        fitted.predict_interval(both)
    assert len(caught) == 1
    with pytest.warns(AnswerWarning, match="1 of 1 pool rows") as caught:
        fitted.query([[400.0]])
    assert (len(caught), caught[0].filename) == (1, __file__)
    with warnings.catch_warnings(action="error"):
        fitted.predict([[0.0]])
        assert list(fitted.answers(far))[-1].diagnostics.warnings
        assert fitted.choose(far[-1:]).diagnostics.warnings


def test_labels_in_other_units_are_warned_of_when_fitted_and_when_asked(where):
    with pytest.warns(AnswerWarning, match="labels are far from what training saw") as caught:
        fitted = BMAMLRegressor("tiny", **where).fit(X, 1000 * Y)
    assert caught[0].filename == __file__
    assert set(fitted.posterior_.warnings) == {str(each.message) for each in caught}
    with pytest.warns(AnswerWarning, match="are their units right"):
        fitted.predict([[0.0]])


def test_one_class_is_warned_of(where):
    images = random_images(1, 3)[0]
    with pytest.warns(AnswerWarning) as fitting:
        fitted = BMAMLClassifier("shapes", **where).fit(images[:2], ["a", "a"])
    with pytest.warns(AnswerWarning) as predicting:
        assert fitted.predict(images).tolist() == ["a"] * 3
    for caught in (fitting, predicting):
        assert [each.filename for each in caught] == [__file__] * len(caught)
        assert sum("names one class" in str(each.message) for each in caught) == 1


@pytest.mark.parametrize("shape", [(-1, 1, 16, 16), (-1, 16, 16, 1)])
def test_images_may_have_a_channel_axis(where, shape):
    images = random_images(2, 2).reshape(4, 16, 16)
    labels = ["a", "a", "b", "b"]
    fitted = BMAMLClassifier("shapes", **where).fit(images.reshape(shape), labels)
    expected = BMAMLClassifier("shapes", **where).fit(images, labels).predict_proba(images)
    np.testing.assert_allclose(fitted.predict_proba(images.reshape(shape)), expected, atol=1e-6)


def test_columns_of_a_pyarrow_table_are_the_models_by_name(where):
    content = {"size": [64.0, 128.0, 512.0], "x": [0.0, 1.0, -1.0]}
    table, labels = pa.table(content), [9.0, 11.0, 10.0]
    fitted = BMAMLRegressor("sized", **where).fit(table, labels)
    assert list(fitted.feature_names_in_) == ["size", "x"]
    by_frame = BMAMLRegressor("sized", **where).fit(pd.DataFrame(content), labels)
    np.testing.assert_array_equal(fitted.predict(table), by_frame.predict(pd.DataFrame(content)))
    with pytest.raises(ValueError, match="same order"):
        fitted.predict(table.select(["x", "size"]))
    with pytest.raises(InvalidInput, match="X has Size where size is meant: column names must agree in case"):
        fitted.predict(table.rename_columns(["Size", "x"]))
    with pytest.raises(InvalidInput, match="X has SIZE where size is meant, X where x is meant"):
        BMAMLRegressor("sized", **where).fit(table.rename_columns(["SIZE", "X"]), labels)
    with pytest.raises(InvalidInput, match=r"names of a RecordBatch: convert it to a pyarrow\.Table"):
        BMAMLRegressor("sized", **where).fit(table.to_batches()[0], labels)


def test_columns_of_a_frame_are_the_models_by_name(where):
    frame = pd.DataFrame({"size": [64.0, 128.0, 512.0], "x": [0.0, 1.0, -1.0]}, index=[3, 4, 5])
    labels = pd.Series([9.0, 11.0, 10.0], index=[3, 4, 5])
    fitted = BMAMLRegressor("sized", **where).fit(frame, labels)
    assert list(fitted.feature_names_in_) == ["size", "x"]
    by_place = BMAMLRegressor("sized", **where).fit(frame[["x", "size"]].to_numpy(), labels)
    np.testing.assert_array_equal(fitted.predict(frame), by_place.predict(frame[["x", "size"]].to_numpy()))
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(frame[["x", "size"]])
    with pytest.raises(InvalidInput, match="X lacks the columns size"):
        BMAMLRegressor("sized", **where).fit(frame.rename(columns={"size": "length"}), labels)


def test_several_outputs_are_predicted_together(where):
    rows, labels = [[0.0, 64.0], [1.0, 128.0]], [[9.0, -1.0], [11.0, -0.5]]
    fitted = BMAMLRegressor("wide", **where).fit(rows, labels)
    assert fitted.predict(rows).shape == (2, 2)
    assert fitted.predict_interval(rows).shape == (2, 2, 2)
    assert fitted.predict_quantiles(rows, [0.1, 0.5, 0.9]).shape == (2, 2, 3)


@pytest.mark.parametrize("names", [["cat", "dog", "eel"], [7, 1, 4], [True, False]])
def test_classes_of_any_type_come_back(where, names):
    images = random_images(len(names), 3)
    shown, asked = images[:, 0], images[:, 1:].reshape(-1, 16, 16)
    fitted = BMAMLClassifier("shapes", **where).fit(shown, names)
    assert fitted.classes_.tolist() == sorted(names)
    probabilities = fitted.predict_proba(asked)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-12)
    np.testing.assert_array_equal(fitted.predict(asked), fitted.classes_[probabilities.argmax(1)])
    entropy = fitted.predict_entropy(asked)
    np.testing.assert_allclose(
        entropy.total, entropy.expected + entropy.mutual_information, rtol=1e-4, atol=1e-6
    )
    assert len(set(fitted.query(asked, 2).tolist())) == 2
    assert 0 <= fitted.score(asked, np.repeat(names, 2)) <= 1


def test_files_of_images_are_taken_as_they_are(where):
    images = random_images(2, 2)
    files = [base64.b64decode(png(each)) for each in images.reshape(4, 16, 16)]
    labels = ["a", "a", "b", "b"]
    fitted = BMAMLClassifier("shapes", **where).fit(files, labels)
    as_arrays = BMAMLClassifier("shapes", **where).fit(images.reshape(4, 16, 16), labels)
    np.testing.assert_allclose(
        fitted.predict_proba(files), as_arrays.predict_proba(images.reshape(4, 16, 16)), rtol=1e-4, atol=1e-6
    )


def test_an_estimator_survives_pickling_cloning_and_a_service_that_forgets(fitted, where):
    expected = fitted.predict(POOL)
    again = pickle.loads(pickle.dumps(fitted))
    with (
        Client(where["service"]) if "service" in where else connection(None, where["store"], None, 30.0) as c
    ):
        c.forget(fitted.posterior_)
    fitted.close()
    np.testing.assert_allclose(again.predict(POOL), expected, rtol=1e-5)
    assert not hasattr(clone(again), "posterior_")
    np.testing.assert_allclose(clone(again).fit(X, Y).predict(POOL), expected, rtol=1e-5)


def test_it_takes_part_in_pipelines_and_cross_validation(where):
    rows = np.linspace(-4, 4, 12)[:, None]
    model = make_pipeline(FunctionTransformer(), BMAMLRegressor("tiny", **where))
    scores = cross_val_score(model, rows, 10 + np.sin(rows[:, 0]), cv=3)
    assert np.isfinite(scores).all()


def test_the_right_model_is_asked_for_by_name(where):
    with pytest.raises(InvalidInput, match="name a regression model with `model`; there are"):
        BMAMLRegressor(**where).fit(X, Y)
    with pytest.raises(InvalidInput, match="for 1 columns"):
        BMAMLRegressor({2: "sized"}, **where).fit(X, Y)
    with pytest.raises(InvalidInput, match="is a classification model"):
        BMAMLRegressor("shapes", **where).fit(X, Y)
    with pytest.raises(UnknownModel, match="tiny"):
        BMAMLRegressor("tin", **where).fit(X, Y)
    with pytest.raises(InvalidRequest, match="2 numbers where the model takes 1"):
        BMAMLRegressor("tiny", **where).fit(np.c_[X, X], Y)
    with pytest.warns(AnswerWarning, match="no more probable than before"):  # it is untrained
        assert BMAMLRegressor({1: "tiny"}, version=1, **where).fit(X, Y).model_.version == 1


def test_a_service_without_a_cache_gets_the_rows_with_every_question(small_store):
    for served in serve(Settings(store=small_store, device="cpu", max_posterior_bytes=0)):
        fitted = BMAMLRegressor("tiny", service=served.url).fit(X, Y)
        assert fitted.posterior_ is None
        with Client(served.url) as client:
            expected = client.adapt_predict("tiny", X, Y, POOL)
            np.testing.assert_allclose(fitted.predict(POOL), expected.mean, rtol=1e-4)
        assert len(fitted.query(POOL, 2)) == 2
        fitted.close()


def test_no_service_is_an_error_that_names_the_address():
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
        BMAMLRegressor("tiny", service="http://127.0.0.1:9", timeout=1.0).fit(X, Y)


def test_keys_come_from_the_environment_and_are_never_printed(small, monkeypatch):
    monkeypatch.setenv("BMAML_CLIENT_KEY", "secret-key")
    fitted = BMAMLRegressor("tiny", service=small.url).fit(X, Y)
    client = connection(small.url, None, "secret-key", 30.0)
    assert client._http.headers["authorization"] == "Bearer secret-key"
    assert b"secret-key" not in pickle.dumps(fitted)
    assert "secret-key" not in repr(fitted)
    fitted.close()


def test_without_a_random_state_the_seed_is_zero(where):
    given, none = (BMAMLRegressor("tiny", random_state=seed, **where).fit(X, Y) for seed in (0, None))
    np.testing.assert_array_equal(none.query(POOL, 3), given.query(POOL, 3))
    assert none.posterior_.id == given.posterior_.id
