"""`log_density` of posted targets: that of the very mixture that is answered, in the caller's units."""

import base64
import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from bmaml.task import Examples
from model_store import Store
from model_store.model import NEGLIGIBLE_WEIGHT
from service.settings import Settings
from tests.images import png, publish_classifier, random_images
from tests.published import SIZE, X, Y, Z, publish
from tests.service.conftest import serve

TINY = {
    "model": "tiny",
    "support": {"x": [[-2.0], [0.5], [3.0]], "y": [8.0, 11.5, 10.0]},
    "query": {"x": [[0.0], [1.0], [400.0]], "y": [9.5, 12.0, 3.0]},  # the last one is far from training
    "log_density": True,
}
WIDE = {
    "model": "wide",
    "support": {"x": [[0.0, 32], [1.0, 64]], "y": [[9.0, -1.0], [11.0, -0.5]]},
    "query": {"x": [[0.5, 128], [2.0, 32]], "y": [[10.0, -0.8], [9.0, -1.2]]},
    "log_density": True,
}
BODIES = {"tiny": TINY, "bare": TINY | {"model": "bare"}, "wide": WIDE}
THOUSAND = Y.model_copy(update={name: 1000 * getattr(Y, name) for name in ("mean", "std", "lower", "upper")})
BINARY = "application/vnd.safetensors"
SHOWN, ASKED = random_images(3)[:, 0], random_images(3)[:, 1]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("scored")
    publish(root, "tiny", scales=(0.5, 1.0, 2.0))
    publish(root, "thousand", scales=(0.5, 1.0, 2.0), outputs=(THOUSAND,))
    publish(root, "bare", learner="bmaml", step_size=1e-3)
    publish(root, "wide", inputs=(X, SIZE), outputs=(Y, Z))
    publish_classifier(root, "shapes")
    return root


@pytest.fixture(scope="module")
def client(root):
    for served in serve(Settings(store=root, device="cpu", max_body_bytes=100_000)):
        yield served.client


def post(client, body, status=200, path="/adapt-predict"):
    reply = client.post(path, json=body)
    assert reply.status_code == status, reply.text
    return reply.json()


def scored(client, body):
    return np.array(post(client, body)["prediction"]["log_density"])


def shapes(y, labels=("a", "b", "c")):
    images = [{"images": [png(each) for each in rows]} for rows in (SHOWN, ASKED)]
    support, query = {"x": images[0], "y": list(labels)}, {"x": images[1], "y": y}
    return {"model": "shapes", "support": support, "query": query, "log_density": True}


def answered_belief(model, body):
    """The belief about the query rows, in the caller's units and in double precision."""
    outputs = len(model.manifest.outputs)
    x, y, query = (
        np.array(values, np.float64).reshape(-1, columns)
        for values, columns in (
            (body["support"]["x"], len(model.manifest.inputs)),
            (body["support"]["y"], outputs),
            (body["query"]["x"], len(model.manifest.inputs)),
        )
    )
    rows = torch.from_numpy(model.standardised_inputs(x)), torch.from_numpy(model.standardised_targets(y))
    support = Examples.padded([rows])
    posterior = model.learner.adapt_pruned(model.learned, support, NEGLIGIBLE_WEIGHT)
    asked = torch.from_numpy(model.standardised_inputs(query)).unsqueeze(0)
    return model.in_callers_units(model.predict(posterior, asked, support).double())


@pytest.mark.parametrize("name", BODIES)
def test_it_is_that_of_the_predictive_mixture(client, root, name):
    body = BODIES[name]
    belief = answered_belief(Store(root).load(name, 1), body)
    targets = torch.tensor(body["query"]["y"], dtype=torch.float64).reshape(belief.mean().shape)
    expected = belief.log_density(targets)[0].detach().numpy()
    found = scored(client, body)
    assert found.shape == np.array(body["query"]["y"]).shape
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-4)


@pytest.mark.parametrize(("name", "row"), [("tiny", [1.0]), ("tiny", [400.0]), ("bare", [1.0])])
def test_the_density_of_a_row_integrates_to_one(client, name, row):
    body = BODIES[name]
    told = post(client, body | {"query": {"x": [row]}, "log_density": False})["prediction"]
    grid = told["mean"][0] + told["std"][0] * np.linspace(-15, 15, 1000)
    density = np.exp(scored(client, body | {"query": {"x": [row] * 1000, "y": grid.tolist()}}))
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-3)
    assert np.trapezoid(density * grid, grid) == pytest.approx(told["mean"][0], rel=1e-3)


def test_targets_in_a_unit_a_thousand_times_as_small_have_a_density_a_thousand_times_as_small(client):
    in_thousandths = {"model": "thousand"}
    for part in ("support", "query"):
        in_thousandths[part] = {"x": TINY[part]["x"], "y": [1000 * each for each in TINY[part]["y"]]}
    found = scored(client, TINY | in_thousandths)
    np.testing.assert_allclose(found, scored(client, TINY) - math.log(1000), rtol=1e-5)


@pytest.mark.parametrize("name", BODIES)
def test_a_kept_posterior_scores_alike(client, name):
    first = post(client, BODIES[name] | {"keep": {}})
    again = BODIES[name] | {"support": None, "posterior": first["posterior"]["id"]}
    found = post(client, again)
    assert found["posterior"]["cache"] == "hit"
    np.testing.assert_allclose(
        found["prediction"]["log_density"], first["prediction"]["log_density"], rtol=1e-4
    )
    np.testing.assert_allclose(first["prediction"]["log_density"], scored(client, BODIES[name]), rtol=1e-4)


def test_of_rows_that_others_ask_about_at_once_each_has_its_own(client):
    """Some of them without targets, and with other numbers of rows."""
    bodies = []
    for index in range(32):
        rows = 1 + index % 5
        query = {"x": [[0.3 * row] for row in range(rows)], "y": [8.0 + 0.1 * index] * rows}
        plain = {"query": {"x": query["x"]}, "log_density": False}
        bodies.append(TINY | {"deadline_ms": 60_000} | (plain if index % 3 == 0 else {"query": query}))
    alone = [post(client, body) for body in bodies]
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda body: post(client, body), bodies))
    assert max(answer["timing_ms"]["batched_tasks"] for answer in together) > 1
    for index, (one, other) in enumerate(zip(alone, together, strict=True)):
        expected, found = (each["prediction"].get("log_density") for each in (one, other))
        assert (found is None) == (index % 3 == 0)
        if found is not None:
            np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_targets_change_nothing_else_of_the_answer(client):
    plain = {"query": {"x": TINY["query"]["x"]}, "particles": True}
    without = post(client, TINY | plain | {"log_density": False})["prediction"]
    beside = post(client, TINY | {"particles": True})["prediction"]
    assert "log_density" not in without
    assert {name: value for name, value in beside.items() if name != "log_density"} == without


@pytest.mark.parametrize("name", ["tiny", "bare"])
def test_the_farthest_targets_have_finite_log_densities(client, name):
    body = BODIES[name] | {"query": {"x": [[1.0]]}, "log_density": False}
    told = post(client, body)["prediction"]
    distances = [1.0, 1e3, 1e6, 1e20, 1e38 / told["std"][0]]
    targets = [told["mean"][0] + sign * each * told["std"][0] for each in distances for sign in (1, -1)]
    query = {"x": [[1.0]] * len(targets), "y": targets}
    found = scored(client, body | {"query": query, "log_density": True})
    assert np.isfinite(found).all()
    assert (np.diff(found[::2]) < 0).all()
    assert found[4] < -1e10
    # Far out the widest component alone counts, and its mean does not: both sides are alike.
    np.testing.assert_allclose(found[6::2], found[7::2], rtol=1e-6)
    assert found[-1] / found[-3] == pytest.approx((distances[-1] / distances[-2]) ** 2, rel=1e-6)


@pytest.mark.parametrize(
    ("labels", "y"),
    [(("a", "b", "c"), ["c", "a", "a"]), ((3, 1, 2), [2, 3, 3]), (("a", "a", "a"), ["a"] * 3)],
)
def test_of_classes_it_is_the_log_of_the_answered_probability(client, labels, y):
    answer = post(client, shapes(y, labels) | {"keep": {}})
    prediction = answer["prediction"]
    columns = [prediction["classes"].index(label) for label in y]
    expected = np.log(np.array(prediction["probabilities"])[np.arange(3), columns])
    np.testing.assert_allclose(prediction["log_density"], expected, atol=1e-5)
    assert max(prediction["log_density"]) <= 0
    kept = shapes(y, labels) | {"support": None, "posterior": answer["posterior"]["id"]}
    np.testing.assert_allclose(scored(client, kept), expected, atol=1e-5)


def tensor(values, dtype):
    array = np.asarray(values, dtype)
    content = base64.b64encode(array.tobytes()).decode()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "base64": content}


def test_targets_in_any_form_are_the_same(client):
    integers = TINY | {"query": {"x": TINY["query"]["x"], "y": [9, 12, 3]}}
    expected = scored(client, integers)
    forms = [
        [[9.0], [12.0], [3.0]],
        *(tensor([9, 12, 3], dtype) for dtype in ("float32", "float64", "int64", "uint8")),
    ]
    for form in forms:
        query = {"x": TINY["query"]["x"], "y": form}
        np.testing.assert_array_equal(scored(client, TINY | {"query": query}), expected)


@pytest.mark.parametrize("name", ["tiny", "wide"])
def test_a_binary_body_has_the_targets_as_a_tensor_and_its_reply_their_log_density(client, name):
    body = BODIES[name]
    parts = ("support", "query")
    tensors = {f"{part}.{axis}": np.array(body[part][axis], np.float64) for part in parts for axis in "xy"}
    content = save(tensors, metadata={"request": f'{{"model": "{name}", "log_density": true}}'})
    reply = client.post("/adapt-predict", content=content, headers={"content-type": BINARY, "accept": BINARY})
    assert reply.status_code == 200, reply.text
    found = load(reply.content)["prediction.log_density"]
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, scored(client, body))


X_ROWS = TINY["query"]["x"]
WRONG = [
    (
        {"log_density": False},
        "/query/y",
        "targets are there to be scored: send log_density true, or leave them out",
    ),
    (
        {"query": {"x": X_ROWS}},
        "/log_density",
        "there is nothing to score: send query.y, a target for each row of x",
    ),
    ({"query": {"x": X_ROWS, "y": [1.0, 2.0]}}, "/query/y", "2 targets for 3 rows of x"),
    ({"query": {"x": X_ROWS, "y": []}}, "/query/y", "0 targets for 3 rows of x"),
    (
        {"query": {"x": X_ROWS, "y": ["a", "b", "c"]}},
        "/query/y/0",
        "this model predicts numbers, not classes",
    ),
    (
        {"query": {"x": X_ROWS, "y": ["a", 1.0, 2.0]}},
        "/query/y/0",
        "a string beside numbers: labels are all of one type",
    ),
    (
        {"query": {"x": X_ROWS, "y": [[1.0, 2.0], [1.0], [2.0]]}},
        "/query/y/0",
        "2 numbers where the model takes 1",
    ),
    ({"query": {"x": X_ROWS, "y": [1.0, None, 2.0]}}, "/query/y/1", "Input should be a valid number"),
    ({"query": {"x": X_ROWS, "y": [1.0, 2.0, 1e300]}}, "/query/y/2", "too large for this model's precision"),
    ({"query": {"x": X_ROWS, "y": tensor([1.0, np.nan, 2.0], "float64")}}, "/query/y/1", "not finite"),
    (
        {"query": {"x": X_ROWS, "y": tensor([[[1.0]]], "float64")}},
        "/query/y/shape",
        "[rows] or [rows, outputs] is wanted",
    ),
    ({"log_density": 1}, "/log_density", "Input should be a valid boolean"),
]


@pytest.mark.parametrize(("changes", "pointer", "detail"), WRONG)
def test_what_cannot_be_scored_is_refused_in_a_sentence(client, changes, pointer, detail):
    problem = post(client, TINY | changes, 422)
    assert [(each["pointer"], each["detail"]) for each in problem["errors"]] == [(pointer, detail)]


def test_a_target_that_is_no_number_in_json_is_refused_where_it_stands(client):
    text = json.dumps(TINY | {"query": {"x": [[0.0]], "y": [math.nan]}})
    reply = client.post("/adapt-predict", content=text)
    assert (reply.status_code, reply.json()["errors"][0]["pointer"]) == (422, "/query/y/0")


@pytest.mark.parametrize(
    ("labels", "y", "pointer", "detail"),
    [
        (
            "abc",
            ["a", "d", "b"],
            "/query/y/1",
            "the class of row 1 is not in the support set: label a row of it first",
        ),
        ("abc", [1, 2, 1], "/query/y", "the classes of the support set are strings"),
        ((1, 2, 3), ["a", "b", "a"], "/query/y", "the classes of the support set are integers"),
        (
            (1, 2, 3),
            [1, 2.5, 1],
            "/query/y/1",
            "not an integer within ±(2^53 − 1); larger ones can be sent as strings",
        ),
        (
            "abc",
            [[1.0], [1.0], [1.0]],
            "/query/y",
            "class labels are strings, integers or truth values, one for each row",
        ),
    ],
)
def test_classes_that_the_support_set_does_not_have_are_refused(client, labels, y, pointer, detail):
    problem = post(client, shapes(y, labels), 422)
    assert [(each["pointer"], each["detail"]) for each in problem["errors"]] == [(pointer, detail)]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [({"log_density": True}, "/log_density"), ({"target": {"x": [[0.0]], "y": [1.0]}}, "/target/y")],
)
def test_a_choice_of_rows_takes_no_targets(client, changes, pointer):
    body = {"model": "tiny", "support": TINY["support"], "pool": {"x": [[0.1], [3.0]]}}
    assert post(client, body | changes, 422, "/uncertainty")["errors"][0]["pointer"] == pointer


def test_targets_count_as_part_of_the_body(client):
    query = {"x": [[0.0]], "y": [0.1] * 30_000}
    problem = post(client, TINY | {"query": query}, 413)
    assert problem["type"] == "urn:bmaml:problem:body-too-large"
