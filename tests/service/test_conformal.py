"""Conformal intervals through HTTP: mean ± threshold · std, or a sentence that says why not."""

import numpy as np
import pytest
from pydantic import TypeAdapter

from model_store import Store
from service.schemas.responses import AdaptPredictResponse
from service.settings import Settings
from tests.published import SIZE, X, Y, Z, conformal, publish
from tests.service.conftest import serve
from tests.service.test_contract import names

BODY = {
    "model": "sure",
    "support": {"x": [[-2.0], [0.5], [3.0]], "y": [8.0, 11.5, 10.0]},
    "query": {"x": [[0.0], [1.0], [4.0]]},
}
CONFORMAL = {"level": 0.9, "method": "conformal"}
WIDE = {
    "model": "sure-wide",
    "support": {"x": [[0.0, 32], [1.0, 64]], "y": [[9.0, -1.0], [11.0, -0.5]]},
    "query": {"x": [[0.5, 128], [3.0, 1024]]},
}


@pytest.fixture(scope="module")
def conformal_store(tmp_path_factory):
    root = tmp_path_factory.mktemp("conformal")
    publish(root, "sure", conformal=conformal())
    publish(root, "sure-wide", inputs=(X, SIZE), outputs=(Y, Z), conformal=conformal(2), particles=3)
    publish(root, "steps", learner="bmaml", step_size=1e-3, conformal=conformal())
    publish(root, "unsure")
    return root


@pytest.fixture(scope="module")
def running(conformal_store):
    yield from serve(Settings(store=conformal_store, device="cpu"))


def post(running, **changes):
    reply = running.client.post("/adapt-predict", json=BODY | changes)
    assert reply.status_code == 200, reply.text
    return reply.json()


def refused(running, **changes):
    reply = running.client.post("/adapt-predict", json=BODY | changes)
    assert reply.status_code == 422, reply.text
    (error,) = reply.json()["errors"]
    return error["pointer"], error["detail"]


@pytest.mark.parametrize(("level", "factor"), [(0.3, 1), (0.5, 1), (0.7, 2), (0.9, 2), (0.975, 3)])
def test_the_interval_is_the_mean_and_so_many_stds(running, level, factor):
    prediction = post(running, interval={"level": level, "method": "conformal"})["prediction"]
    mean, std = np.array(prediction["mean"]), np.array(prediction["std"])
    factors = factor * np.where(std < 0.5 * Y.std, 1, 3)
    assert prediction["interval"]["method"] == "conformal"
    assert prediction["interval"]["level"] == level
    np.testing.assert_allclose(prediction["interval"]["lower"], mean - factors * std, rtol=1e-5)
    np.testing.assert_allclose(prediction["interval"]["upper"], mean + factors * std, rtol=1e-5)


def test_each_output_has_its_thresholds_and_units(running):
    prediction = post(running, **WIDE, interval=CONFORMAL)["prediction"]
    mean, std = np.array(prediction["mean"]), np.array(prediction["std"])
    factors = 2 * np.where(std < 0.5 * np.array([Y.std, Z.std]), 1, 3)
    assert mean.shape == (2, 2)
    np.testing.assert_allclose(prediction["interval"]["upper"], mean + factors * std, rtol=1e-5)


@pytest.mark.parametrize("quantiles", [[], [0.05, 0.5, 0.95]])
def test_only_the_interval_depends_on_the_method(running, quantiles):
    number = post(running, interval=0.8, quantiles=quantiles)["prediction"]
    mixture = post(running, interval={"level": 0.8}, quantiles=quantiles)["prediction"]
    other = post(running, interval={"level": 0.8, "method": "conformal"}, quantiles=quantiles)["prediction"]
    assert "method" not in number["interval"]
    assert mixture.pop("interval") == number["interval"] | {"method": "mixture"}
    assert other.pop("interval") != number.pop("interval")
    assert number == mixture == other


def test_what_was_asked_beside_it_changes_nothing(running):
    whole = post(running, interval=CONFORMAL)["prediction"]["interval"]
    for row, x in enumerate(BODY["query"]["x"]):
        alone = post(running, interval=CONFORMAL, query={"x": [x]})["prediction"]["interval"]
        for end in ("lower", "upper"):
            assert alone[end][0] == pytest.approx(whole[end][row], rel=1e-5)


def test_a_kept_posterior_has_the_support_rows_of_its_own(running):
    kept = post(running, keep={"ttl_s": 60}, interval=CONFORMAL)
    again = {**BODY, "posterior": kept["posterior"]["id"], "interval": CONFORMAL}
    del again["support"]
    reply = running.client.post("/adapt-predict", json=again).json()
    assert reply["posterior"]["cache"] == "hit"
    assert reply["prediction"]["interval"] == kept["prediction"]["interval"]
    assert reply["diagnostics"]["warnings"] == kept["diagnostics"]["warnings"] == []


@pytest.mark.parametrize("rows", [0, 11])
def test_numbers_of_rows_that_no_validation_task_had_are_answered_with_a_warning(running, rows):
    support = {"x": [[0.1 * row] for row in range(rows)], "y": [10.0] * rows}
    for interval, expected in ((CONFORMAL, 1), (0.9, 0)):
        warnings = post(running, support=support, interval=interval)["diagnostics"]["warnings"]
        assert sum(f"guarantees nothing for {rows}" in each for each in warnings) == expected


def test_a_version_without_calibration_says_what_to_do(running):
    pointer, detail = refused(running, model="unsure", interval=CONFORMAL)
    assert pointer == "/interval/method"
    assert "no conformal calibration" in detail
    assert "train the model again" in detail
    assert post(running, model="unsure", interval={"level": 0.9})["prediction"]["interval"]["level"] == 0.9


def test_a_level_beyond_the_validation_tasks_is_refused_with_the_highest(running):
    pointer, detail = refused(running, interval={"level": 0.98, "method": "conformal"})
    assert pointer == "/interval/level"
    assert detail.startswith("39 validation tasks")
    assert "up to 0.975" in detail
    assert "more validation tasks" in detail


def test_other_numbers_of_steps_are_not_calibrated(running):
    assert post(running, model="steps", interval=CONFORMAL)
    assert post(running, model="steps", interval=CONFORMAL, adapt={"steps": 1})
    pointer, detail = refused(running, model="steps", interval=CONFORMAL, adapt={"steps": 3})
    assert pointer == "/interval/method"
    assert "calibrated after 1 steps" in detail
    kept = post(running, model="steps", adapt={"steps": 3}, keep={"ttl_s": 60})["posterior"]["id"]
    assert refused(running, model="steps", support=None, posterior=kept, interval=CONFORMAL)[1] == detail


@pytest.mark.parametrize(
    ("interval", "pointer"),
    [
        ({"level": 1.0, "method": "conformal"}, "/interval/level"),
        ({"level": "0.9"}, "/interval/level"),
        ({"level": 0.9, "method": "exact"}, "/interval/method"),
        ({"level": 0.9, "way": "conformal"}, "/interval/way"),
        ("conformal", "/interval"),
        ([0.9], "/interval"),
        (None, "/interval"),
    ],
)
def test_intervals_that_are_neither_are_refused_where_they_are_wrong(running, interval, pointer):
    assert refused(running, interval=interval)[0] == pointer


def test_replies_with_a_method_are_what_their_schema_says(running):
    reply = post(running, interval=CONFORMAL)
    described = TypeAdapter(AdaptPredictResponse)
    again = described.dump_python(described.validate_python(reply), mode="json")
    assert set(names(reply)) == set(names(again))
    assert again["prediction"]["interval"]["method"] == "conformal"


def test_openapi_has_both_forms_and_their_examples_work(running):
    schemas = running.client.get("/openapi.json").json()["components"]["schemas"]
    interval = schemas["AdaptPredictRequest"]["properties"]["interval"]
    number, choice = interval["anyOf"]
    assert number["type"] == "number"
    assert choice == {"$ref": "#/components/schemas/IntervalChoice"}
    for example in [*interval["examples"], *schemas["IntervalChoice"]["examples"]]:
        assert post(running, interval=example)


def test_cards_say_up_to_which_level(running):
    listed = {each["name"]: each for each in running.client.get("/models").json()["models"]}
    assert listed["unsure"]["conformal"] is None
    assert listed["sure"]["conformal"] == {"tasks": 39, "units": 39, "max_level": 0.975}
    assert running.client.get("/models/unsure/versions/1").json()["conformal"] is None
    card = running.client.get("/models/sure-wide/versions/1").json()["conformal"]
    assert (card["tasks"], card["max_level"]) == (39, 0.975)
    assert [(each["output"], each["width_from"], each["width_below"]) for each in card["groups"]] == [
        ("y", 0.0, 0.5),
        ("y", 0.5, None),
        ("z", 0.0, 0.5),
        ("z", 0.5, None),
    ]
    assert card["groups"][0]["support_rows"] == [1, 10]


def test_the_model_s_own_moments_give_the_same_interval(running, conformal_store):
    """The service's interval is the one that training counts with."""
    model = Store(conformal_store).load("sure")
    assert model.manifest.conformal is not None
    prediction = post(running, interval=CONFORMAL)["prediction"]
    std = np.array(prediction["std"])[:, None]
    half = model.manifest.conformal.half_widths(3, std, np.array([Y.std]), 0.9)[:, 0]
    width = np.subtract(prediction["interval"]["upper"], prediction["interval"]["lower"])
    np.testing.assert_allclose(width, 2 * half, rtol=1e-5)
