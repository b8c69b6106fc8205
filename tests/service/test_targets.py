"""Targets that are not plain real numbers: answers lie in their domain, labels outside it are refused."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from bmaml.transformed import Transformed
from model_store import Store
from service.settings import Settings
from tests.published import KINDS, conformal, publish
from tests.service.conftest import serve
from tests.service.test_log_density import answered_belief

BINARY = "application/vnd.safetensors"
LABELS = {
    "flow": [0.2, 30.0, 9.5],
    "share": [0.0, 0.35, 1.0],
    "units": [0, 3, 12],
    "points": [3.5, 6.0, 8.5],
}
OUTSIDE = {"flow": 0.0, "share": 1.2, "units": 2.5}
LEVELS = [0.001, 0.05, 0.5, 0.95, 0.999]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    for name, column in KINDS.items():
        publish(root, name, outputs=(column,), scales=(0.5, 1.0, 2.0), conformal=conformal())
    publish(root, "all", outputs=tuple(KINDS.values()))
    publish(root, "plain")
    return root


@pytest.fixture(scope="module")
def client(root):
    for served in serve(Settings(store=root, device="cpu")):
        yield served.client


def body_of(name, **changes):
    support = {"x": [[-2.0], [0.5], [3.0]], "y": LABELS[name]}
    return {"model": name, "support": support, "query": {"x": [[0.0], [1.0], [400.0]]}} | changes


def post(client, body, path="/adapt-predict", status=200):
    reply = client.post(path, json=body)
    assert reply.status_code == status, reply.text
    return reply.json()


def inside(name, values):
    target = KINDS[name].target
    low = -math.inf if target.low is None else target.low
    high = math.inf if target.high is None else target.high
    values = np.array(values)
    assert np.isfinite(values).all()
    assert (values >= low).all()
    assert (values <= high).all()


@pytest.mark.parametrize("method", ["mixture", "conformal"])
@pytest.mark.parametrize("shown", [0, 3])
@pytest.mark.parametrize("name", KINDS)
def test_no_number_of_an_answer_leaves_the_domain(client, name, shown, method):
    body = body_of(name, quantiles=LEVELS, interval={"level": 0.9, "method": method}, particles=True)
    body["support"] = {key: values[:shown] for key, values in body["support"].items()}
    told = post(client, body)["prediction"]
    values = [told["mean"], told["interval"]["lower"], told["interval"]["upper"], told["quantiles"]["values"]]
    for each in (*values, told["particles"]["mean"]):
        inside(name, each)
    assert (np.diff(told["quantiles"]["values"], axis=0) >= 0).all()
    if name == "units":
        for each in values[1:]:
            assert np.array_equal(each, np.round(each))


@pytest.mark.parametrize("name", KINDS)
def test_conformal_ends_are_those_of_the_own_scale_transformed(client, root, name):
    body, model = body_of(name, interval={"level": 0.9, "method": "conformal"}), Store(root).load(name, 1)
    belief = answered_belief(model, body)
    scaled = belief.latent if isinstance(belief, Transformed) else belief
    mean, std = scaled.mean()[0].detach().numpy(), scaled.variance().sqrt()[0].detach().numpy()
    reach = model.manifest.conformal.half_widths(3, std, np.array([KINDS[name].std]), 0.9)
    told = post(client, body)["prediction"]["interval"]
    for end, z in (("lower", mean - reach), ("upper", mean + reach)):
        expected = model.links[0].nearest(torch.from_numpy(z))[:, 0]
        np.testing.assert_allclose(told[end], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_the_variances_add_up_and_are_those_of_the_particles(client, name):
    told = post(client, body_of(name, particles=True))["prediction"]
    variance, particles = told["variance"], told["particles"]
    total = np.array(variance["aleatoric"]) + variance["epistemic"]
    np.testing.assert_allclose(variance["total"], total, rtol=1e-5)
    np.testing.assert_allclose(told["std"], np.sqrt(total), rtol=1e-5)
    weights, means = np.array(particles["weight"])[:, None], np.array(particles["mean"])
    np.testing.assert_allclose((weights * means).sum(0), told["mean"], rtol=1e-3)
    second = (weights * (np.square(particles["std"]) + means**2)).sum(0)
    np.testing.assert_allclose(second - np.square(told["mean"]), total, rtol=2e-2)


@pytest.mark.parametrize("name", KINDS)
def test_the_log_density_is_that_of_the_answered_belief(client, root, name):
    body = body_of(name, log_density=True)
    body["query"]["y"] = LABELS[name]
    belief = answered_belief(Store(root).load(name, 1), body)
    targets = torch.tensor(LABELS[name], dtype=torch.float64).view(1, -1, 1)
    found = post(client, body)["prediction"]["log_density"]
    np.testing.assert_allclose(found, belief.log_density(targets)[0, :, 0].detach(), rtol=1e-4)


def test_probabilities_of_whole_numbers_add_up_to_one(client):
    body = body_of("units", log_density=True)
    body["query"] = {"x": [[0.5]] * 3000, "y": list(range(3000))}
    assert np.exp(post(client, body)["prediction"]["log_density"]).sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_label_outside_the_domain_is_refused_with_its_row(client, name):
    body = body_of(name)
    body["support"]["y"] = [LABELS[name][1], OUTSIDE[name], LABELS[name][2]]
    for path in ("/adapt-predict", "/posteriors"):
        asked = body if path == "/adapt-predict" else {key: body[key] for key in ("model", "support")}
        (error,) = post(client, asked, path, status=422)["errors"]
        assert error["pointer"] == "/support/y/1"
        assert KINDS[name].target.values in error["detail"]
        assert "row 1" in error["detail"]
    scored = body_of(name, log_density=True)
    scored["query"]["y"] = [*LABELS[name][:2], OUTSIDE[name]]
    (error,) = post(client, scored, status=422)["errors"]
    assert error["pointer"] == "/query/y/2"


def test_labels_at_the_bounds_are_taken(client):
    told = post(client, body_of("share") | {"query": {"x": [[-2.0], [3.0]]}})
    assert not any("units" in each for each in told["diagnostics"]["warnings"])
    assert told["diagnostics"]["support_nll"]["after"] is not None


def test_a_model_of_several_kinds_answers_as_each(client):
    rows = np.column_stack(list(LABELS.values())).tolist()
    told = post(client, body_of("flow", model="all", support={"x": [[-2.0], [0.5], [3.0]], "y": rows}))
    for place, name in enumerate(KINDS):
        for each in (
            told["prediction"]["mean"],
            *(told["prediction"]["interval"][end] for end in ("lower", "upper")),
        ):
            inside(name, np.array(each)[:, place])


@pytest.mark.parametrize("acquisition", ["epig", "total_variance", "entropy", "expected_improvement", "ucb"])
@pytest.mark.parametrize("name", KINDS)
def test_rows_are_selected_on_the_targets_own_scale(client, name, acquisition):
    body = body_of(name) | {"pool": {"x": np.linspace(-4, 4, 9)[:, None].tolist()}}
    del body["query"]
    body |= {"acquisition": acquisition, "batch": {"size": 3}}
    told = post(client, body, "/uncertainty")
    assert np.isfinite(told["scores"]).all()
    assert ("units of the" in told["units"]) == (
        KINDS[name].transform != "none" and "nats" not in told["units"]
    )


@pytest.mark.parametrize("name", KINDS)
def test_safetensors_and_json_agree(client, name):
    body = body_of(name)
    tensors = {
        "support.x": np.array(body["support"]["x"]),
        "support.y": np.array(body["support"]["y"], dtype=np.float64),
        "query.x": np.array(body["query"]["x"]),
    }
    content = save(tensors, {"request": json.dumps({"model": name})})
    reply = client.post("/adapt-predict", content=content, headers={"content-type": BINARY, "accept": BINARY})
    assert reply.status_code == 200, reply.text
    found, expected = load(reply.content), post(client, body)["prediction"]
    np.testing.assert_allclose(found["prediction.mean"], expected["mean"], rtol=1e-6)
    np.testing.assert_allclose(found["prediction.interval.upper"], expected["interval"]["upper"], rtol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_the_card_says_what_the_target_is(client, name):
    card = client.get(f"/models/{name}/versions/1").json()
    target = KINDS[name].target
    assert card["inputs"][0]["target"] is None
    assert card["outputs"][0]["target"] == target.model_dump(exclude={"margin"})
    plain = client.get("/models/plain/versions/1").json()["outputs"][0]["target"]
    assert plain == {"kind": "real", "low": None, "high": None, "step": None}
