"""POST /adapt-predict: what comes back, in whose units, and that company changes nothing."""

import asyncio

import httpx
import numpy as np
import pytest
import torch

from bmaml.task import Examples
from model_store import Store

BODY = {
    "model": "tiny",
    "support": {"x": [[-2.0], [0.5], [3.0]], "y": [8.0, 11.5, 10.0]},
    "query": {"x": [[0.0], [1.0], [4.0]]},
    "quantiles": [0.05, 0.5, 0.95],
    "interval": 0.9,
}


def post(client, path="/adapt-predict", **changes):
    reply = client.post(path, json=BODY | changes)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_prediction_has_everything_the_contract_names(client):
    answer = post(client, particles=True)
    prediction = answer["prediction"]
    assert answer["model"]["name"] == "tiny"
    assert answer["model"]["version"] == 2
    assert answer["posterior"] is None
    variance = {name: np.array(values) for name, values in prediction["variance"].items()}
    np.testing.assert_allclose(variance["total"], variance["aleatoric"] + variance["epistemic"])
    np.testing.assert_allclose(np.square(prediction["std"]), variance["total"])
    assert prediction["quantiles"]["levels"] == [0.05, 0.5, 0.95]
    low, middle, high = np.array(prediction["quantiles"]["values"])
    assert (low < middle).all()
    assert (middle < high).all()
    np.testing.assert_allclose(prediction["interval"]["lower"], low)
    np.testing.assert_allclose(prediction["interval"]["upper"], high)
    particles = prediction["particles"]
    weights, means = np.array(particles["weight"]), np.array(particles["mean"])
    assert means.shape == (4, 3)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(weights @ means, prediction["mean"], rtol=1e-5)
    spread = weights @ (np.square(particles["std"]) + np.square(means - prediction["mean"]))
    np.testing.assert_allclose(spread, variance["total"], rtol=1e-4)


def test_the_answer_is_the_learner_s_in_the_caller_s_units(client, store):
    model = Store(store).load("tiny", 1)
    answer = post(client, version=1)
    x, y = np.array(BODY["support"]["x"]), np.array(BODY["support"]["y"])[:, None]
    rows = torch.from_numpy(model.standardised_inputs(x)), torch.from_numpy(model.standardised_targets(y))
    support = Examples.padded([rows])
    posterior = model.learner.adapt(model.learned, support)
    query = torch.from_numpy(model.standardised_inputs(np.array(BODY["query"]["x"]))).unsqueeze(0)
    belief = model.in_callers_units(model.predict(posterior, query, support))
    np.testing.assert_allclose(answer["prediction"]["mean"], belief.mean()[0, :, 0].detach(), rtol=1e-4)
    nll = -belief.__class__.log_density(
        model.in_callers_units(model.predict(posterior, support.x, support)), support.y * 3.0 + 10.0
    ).mean()
    assert answer["diagnostics"]["support_nll"]["after"] == pytest.approx(float(nll), rel=1e-4)


def test_several_outputs_come_as_lists_per_row(client):
    answer = post(
        client,
        model="wide",
        support={"x": [[0.0, 32], [1.0, 64]], "y": [[9.0, -1.0], [11.0, -0.5]]},
        query={"x": [[0.5, 128]]},
        particles=True,
    )
    prediction = answer["prediction"]
    assert np.array(prediction["mean"]).shape == (1, 2)
    assert np.array(prediction["quantiles"]["values"]).shape == (3, 1, 2)
    assert np.array(prediction["particles"]["mean"]).shape == (4, 1, 2)


@pytest.mark.parametrize("model", ["tiny", "bare"])
def test_an_empty_support_set_answers_from_the_prior_and_says_so(client, model):
    answer = post(client, model=model, support={"x": [], "y": []})
    assert answer["diagnostics"]["support_nll"] is None
    assert any("prior" in warning for warning in answer["diagnostics"]["warnings"])
    assert answer["diagnostics"]["effective_particles"] == pytest.approx(4)


def test_a_query_far_from_training_is_answered_with_a_warning(client):
    assert post(client)["diagnostics"]["warnings"] == []
    (warning,) = post(client, query={"x": [[0.0], [50.0]]})["diagnostics"]["warnings"]
    assert warning.startswith("1 of 2 query rows are far")


def test_steps_are_the_caller_s_to_choose(client):
    none, more = (post(client, model="bare", adapt={"steps": steps}) for steps in (0, 3))
    assert none["diagnostics"]["steps"] == 0
    assert none["diagnostics"]["support_nll"]["after"] == pytest.approx(
        none["diagnostics"]["support_nll"]["before"]
    )
    assert more["diagnostics"]["support_nll"]["after"] < more["diagnostics"]["support_nll"]["before"]
    assert post(
        client, model="wide", support={"x": [[0.0, 32]], "y": [[9.0, -1.0]]}, query={"x": [[1.0, 64]]}
    )


def test_the_order_of_support_rows_does_not_matter(client):
    turned = {name: values[::-1] for name, values in BODY["support"].items()}
    one, other = post(client)["prediction"], post(client, support=turned)["prediction"]
    np.testing.assert_allclose(one["mean"], other["mean"], rtol=1e-4)
    np.testing.assert_allclose(one["std"], other["std"], rtol=1e-4)


def ragged_bodies(count):
    draw = np.random.default_rng(0)
    bodies = []
    for index in range(count):
        shots, asked = int(draw.integers(0, 30)), int(draw.integers(1, 40))
        x = draw.uniform(-5, 5, (shots, 1))
        bodies.append(
            {
                "model": ["tiny", "bare"][index % 3 == 0],
                "support": {"x": x.tolist(), "y": (10 + 3 * np.sin(x[:, 0])).tolist()},
                "query": {"x": draw.uniform(-5, 5, (asked, 1)).tolist()},
                "quantiles": [0.1, 0.5, 0.9][: int(draw.integers(0, 4))],
                "interval": float(draw.uniform(0.5, 0.99)),
                "adapt": {"steps": int(draw.integers(0, 2))} if index % 3 == 0 else {},
                "deadline_ms": 60_000,
            }
        )
    return bodies


def test_64_concurrent_ragged_requests_equal_the_same_one_by_one(served):
    bodies = ragged_bodies(64)
    alone = [served.client.post("/adapt-predict", json=body).json() for body in bodies]

    async def together():
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=served.url, timeout=60, limits=limits) as client:
            return await asyncio.gather(*(client.post("/adapt-predict", json=body) for body in bodies))

    company = [reply.json() for reply in asyncio.run(together())]
    assert max(answer["timing_ms"]["batched_tasks"] for answer in company) > 1
    assert all(answer["timing_ms"]["batched_tasks"] == 1 for answer in alone)
    for one, other in zip(alone, company, strict=True):
        for name in ("mean", "std"):
            np.testing.assert_allclose(other["prediction"][name], one["prediction"][name], rtol=1e-4)
        for name in ("total", "aleatoric", "epistemic"):
            np.testing.assert_allclose(
                other["prediction"]["variance"][name], one["prediction"]["variance"][name], rtol=1e-4
            )
        for name in ("lower", "upper"):
            np.testing.assert_allclose(
                other["prediction"]["interval"][name],
                one["prediction"]["interval"][name],
                rtol=1e-4,
                atol=1e-4,
            )
        np.testing.assert_allclose(
            np.array(other["prediction"]["quantiles"]["values"]),
            np.array(one["prediction"]["quantiles"]["values"]),
            rtol=1e-4,
            atol=1e-4,
        )


def test_every_reply_carries_its_id_and_timing(client):
    reply = client.post("/adapt-predict", json=BODY, headers={"X-Request-ID": "mine-1"})
    assert reply.headers["x-request-id"] == reply.json()["request_id"] == "mine-1"
    assert {part.split(";")[0] for part in reply.headers["server-timing"].split(", ")} == {
        "decode",
        "queue",
        "embed",
        "adapt",
        "predict",
        "total",
    }
    forged = client.get("/livez", headers={"X-Request-ID": "a b"})
    assert forged.headers["x-request-id"] != "a b"
    assert "total;dur=" in forged.headers["server-timing"]


def test_a_base64_tensor_without_rows_is_an_empty_support_set(client):
    nothing = {"dtype": "float32", "shape": [0, 1], "base64": ""}
    reply = client.post("/adapt-predict", json=BODY | {"support": {"x": nothing, "y": []}})
    empty = client.post("/adapt-predict", json=BODY | {"support": {"x": [], "y": []}})
    assert reply.json()["prediction"] == empty.json()["prediction"]
