"""Classes of tables over the client: answers, the classifier, and the query strategy."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from bmaml_client import Client, InvalidInput, InvalidRequest
from bmaml_client.activeml import ServiceQuery
from bmaml_client.answers import ClassPrediction
from bmaml_client.estimators import BMAMLClassifier
from model_store import Column
from service.settings import Settings
from tests.class_tables import LABELS, publish_class_table
from tests.published import X as AGE
from tests.service.conftest import serve

X = np.array([[-2.0, 32.0], [0.5, 64.0], [3.0, 512.0], [1.0, 100.0]])


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    root = tmp_path_factory.mktemp("class-tables")
    publish_class_table(root)
    publish_class_table(root, "passed", (False, True))
    publish_class_table(root, "scores", (0.5, 1, 1.5), ordered=True)
    publish_class_table(root, "vectors", None, learner="conjugate")
    columns = tuple(Column(name=f"v[{place}]", lower=-1.0, upper=1.0) for place in range(3))
    publish_class_table(root, "embedded", None, learner="conjugate", inputs=(*columns, AGE))
    for served in serve(Settings(store=root, device="cpu")):
        yield root, served.url


@pytest.fixture(params=["service", "in process"])
def where(request, tables):
    root, url = tables
    return {"service": url} if request.param == "service" else {"store": root}


@pytest.fixture
def client(tables):
    with Client(tables[1]) as found:
        yield found


def test_cards_and_the_list_name_the_labels(client):
    found = {each.name: each.target for each in client.models().models}
    assert found["grades"].labels == LABELS
    assert found["passed"].labels == (False, True)
    assert (found["scores"].labels, found["scores"].ordered) == ((0.5, 1, 1.5), True)
    assert found["vectors"].labels is None
    card = client.version("grades", 1)
    assert (card.target.name, card.classes) == ("outcome", 3)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("model", "labels"),
    [("grades", ["fails", "passes"]), ("passed", [True, False]), ("scores", [1.5, 0.5])],
)
def test_labels_of_every_type_are_sent_and_come_back(tables, model, labels, binary):
    with Client(tables[1]) as client:
        x = np.repeat(X, 1200, axis=0) if binary else X  # large bodies are sent as tensors
        answer = client.adapt_predict(model, X[:2], labels, x, query_y=[labels[0]] * len(x))
        assert isinstance(answer, ClassPrediction)
        assert set(answer.label) <= set(answer.classes)
        assert {type(each) for each in answer.label} <= {type(each) for each in answer.classes}
        own = answer.classes.index(labels[0])
        np.testing.assert_allclose(np.exp(answer.log_density), answer.probabilities[:, own], atol=1e-6)


def test_ordered_answers_have_labels_in_place_of_numbers(client):
    answer = client.adapt_predict("scores", X[:2], [0.5, 1.5], X, quantiles=[0.1], interval=0.8)
    assert isinstance(answer, ClassPrediction)
    assert set(answer.median) <= {0.5, 1, 1.5}
    assert answer.quantiles.levels == (0.1,)
    assert answer.quantiles.values[0] == answer.interval.lower
    plain = client.adapt_predict("grades", X[:2], ["fails"] * 2, X)
    assert (plain.median, plain.quantiles, plain.interval) == (None, None, None)


def test_a_kept_posterior_takes_more_truth_values(client):
    kept = client.keep("passed", X[:2], [True, False])
    whole = client.adapt_predict("passed", X[:3], [True, False, True], X)
    more = client.adapt_predict("passed", X[2:3], [True], X, posterior=kept)
    np.testing.assert_allclose(more.probabilities, whole.probabilities, atol=1e-6)
    with pytest.raises(InvalidRequest, match="no label of this model"):
        client.adapt_predict("passed", X[2:3], [1], X, posterior=kept)
    with pytest.raises(InvalidInput, match="truth values among other labels"):
        client.keep("passed", X[:2], [True, 1])
    with pytest.raises(InvalidRequest, match=r"labels are \[false,true\]"):
        client.keep("passed", X[:2], [0, 1])


def test_no_row_at_all_is_answered(client):
    answer = client.adapt_predict("grades", X[:0], [], X)
    assert answer.classes == LABELS
    assert answer.diagnostics.support_nll is None


def test_the_classifier_has_the_models_classes_and_takes_some_of_them(where, client):
    y = ["passes", "passes", "fails", "passes"]
    model = BMAMLClassifier("grades", **where).fit(X, y)
    assert model.classes_.tolist() == list(LABELS)
    expected = client.adapt_predict("grades", X, y, X)
    np.testing.assert_allclose(model.predict_proba(X), expected.probabilities, atol=1e-4)
    assert model.predict(X).tolist() == list(expected.label)
    np.testing.assert_allclose(
        model.log_density(X, ["repeats"] * 4), np.log(expected.probabilities[:, 2]), atol=1e-4
    )
    total = model.predict_entropy(X).total
    np.testing.assert_allclose(total, expected.entropy.total, atol=1e-4)
    with pytest.raises(InvalidInput, match="'wins', which is no label of the model: 'fails', 'passes'"):
        clone(model).fit(X, ["passes", "wins", "fails", "passes"])
    with pytest.raises(InvalidInput, match="which is no label"):
        model.log_density(X, [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("name", "y"), [("passed", [True, True, False, True]), ("scores", [0.5, 1.5, 1.0, 0.5])]
)
def test_the_classifier_takes_truth_values_and_numbers(where, name, y):
    model = BMAMLClassifier(name, **where).fit(X, y)
    assert set(model.predict(X).tolist()) <= set(model.classes_.tolist())
    assert np.isfinite(model.log_density(X, y)).all()
    if name == "passed":
        with pytest.raises(InvalidInput, match="the class 1, which is no label"):
            clone(model).fit(X, [1, 0, 1, 0])


def test_the_classifier_of_new_classes_sorts_what_it_is_shown(where):
    frame = pd.DataFrame({"size": X[:, 1], "x": X[:, 0]})
    model = BMAMLClassifier("vectors", **where).fit(frame, ["b", "a", "b", "a"])
    assert model.classes_.tolist() == ["a", "b"]
    plain = BMAMLClassifier("vectors", **where).fit(X, ["b", "a", "b", "a"])
    np.testing.assert_allclose(model.predict_proba(frame), plain.predict_proba(X), atol=1e-6)
    pipe = make_pipeline(FunctionTransformer(), BMAMLClassifier("vectors", **where))
    assert pipe.fit(X, [3, 1, 3, 1]).predict(X).tolist() == [3, 1, 3, 1]


@pytest.mark.parametrize(("name", "some"), [("grades", ("fails", "passes")), ("vectors", ("a", "b"))])
def test_the_query_strategy_takes_tables(tables, name, some):
    rows = np.c_[np.linspace(-4, 4, 10), np.geomspace(20, 4000, 10)]
    labels = np.array([some[0], "nan", "nan", "nan", some[1], "nan", "nan", "nan", "nan", "nan"])
    strategy = ServiceQuery(
        BMAMLClassifier(name, service=tables[1]), acquisition="bald", missing_label="nan", random_state=0
    )
    picked = strategy.query(rows, labels, batch_size=3)
    assert len(set(picked.tolist())) == 3
    assert not set(picked.tolist()) & {0, 4}


@pytest.mark.parametrize("kind", ["pandas", "pyarrow"])
def test_a_column_of_lists_stands_for_an_input_per_dimension(client, kind):
    v = np.random.default_rng(0).uniform(-1, 1, (4, 3))
    age = np.array([1.0, -2.0, 3.0, 0.5])
    plain = client.adapt_predict("embedded", np.c_[v, age][:2], ["a", "b"], np.c_[v, age])
    data = {"x": age.tolist(), "v": v.tolist()}
    make = {"pandas": pd.DataFrame, "pyarrow": pa.table}[kind]
    frame, shown = make(data), make({name: values[:2] for name, values in data.items()})
    answer = client.adapt_predict("embedded", shown, ["a", "b"], frame)
    np.testing.assert_allclose(answer.probabilities, plain.probabilities, atol=1e-7)
    data["v"][1] = [0.0]
    if kind == "pandas":
        with pytest.raises(InvalidInput, match="lists of 3 numbers in v"):
            client.adapt_predict("embedded", shown, ["a", "b"], make(data))
