"""Every learner of the literature answers through both endpoints."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.settings import Settings
from tests.closed_form import LEARNERS
from tests.published import publish
from tests.service.conftest import serve

NAMES = [kind.name for kind in LEARNERS]
SUPPORT = {"x": [[-2.0], [0.5], [3.0]], "y": [8.0, 11.5, 10.0]}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    root = tmp_path_factory.mktemp("learners")
    for name in NAMES:
        settings = {"particles": 1} if name == "maml" else {}
        publish(root, name, learner=name, steps=2, step_size=1e-4, **settings)
    weighted = {"step_size": 1e-4, "evidence_weights": True}
    publish(root, "weighted", learner="bfa", **weighted)
    for served in serve(Settings(store=root, device="cpu")):
        yield served.client


def post(client, path, **body):
    reply = client.post(path, json={"support": SUPPORT, **body})
    assert reply.status_code == 200, reply.text
    return reply.json()


def predict(client, model, **changes):
    return post(client, "/adapt-predict", model=model, query={"x": [[0.0], [1.0], [4.0]]}, **changes)


@pytest.mark.parametrize("model", [*NAMES, "weighted"])
def test_every_learner_answers_both_questions(client, model):
    answer = predict(client, model)
    variance = answer["prediction"]["variance"]
    np.testing.assert_allclose(
        variance["total"], np.add(variance["aleatoric"], variance["epistemic"]), rtol=1e-6
    )
    assert (np.array(variance["epistemic"]) > 0).all() == (model != "maml")
    chosen = post(client, "/uncertainty", model=model, pool={"x": [[-4.0], [0.1], [4.5]]}, batch={"size": 2})
    assert len(chosen["selected"]) == 2
    assert len({each["index"] for each in chosen["selected"]}) == 2


def test_a_single_point_has_no_epistemic_variance_and_says_so(client):
    answer = predict(client, "maml")
    assert answer["prediction"]["variance"]["epistemic"] == [0, 0, 0]
    (warning,) = answer["diagnostics"]["warnings"]
    assert warning.startswith("this model is a single point")
    assert predict(client, "emaml")["diagnostics"]["warnings"] == []


@pytest.mark.parametrize("model", ["maml", "emaml", "llama", "bfa", "bmaml", "collapsed"])
def test_steps_beyond_the_trained_ones_are_the_caller_s_to_ask_for(client, model):
    few, many = (predict(client, model, adapt={"steps": steps}) for steps in (0, 20))
    assert few["diagnostics"]["steps"] == 0
    assert many["diagnostics"]["steps"] == 20
    assert few["prediction"]["mean"] != many["prediction"]["mean"]


def test_the_draws_of_llama_follow_the_caller_s_seed_in_any_company(client):
    alone = {seed: predict(client, "llama", adapt={"seed": seed})["prediction"]["mean"] for seed in range(4)}
    assert len({tuple(mean) for mean in alone.values()}) == 4
    with ThreadPoolExecutor(16) as pool:
        seeds = [seed for seed in range(4) for _ in range(4)]
        together = pool.map(lambda seed: predict(client, "llama", adapt={"seed": seed}), seeds)
        for seed, answer in zip(seeds, together, strict=True):
            np.testing.assert_allclose(answer["prediction"]["mean"], alone[seed], rtol=1e-4)
    one, other = (predict(client, "emaml", adapt={"seed": seed})["prediction"] for seed in (0, 1))
    assert one == other


@pytest.mark.parametrize("model", ["bfa", "collapsed"])
def test_a_pool_that_reaches_far_outside_can_still_be_chosen_from_jointly(client, model):
    batch = {"size": 3, "strategy": "max_determinant"}
    answer = post(
        client, "/uncertainty", model=model, pool={"x": [[0.0], [12.0], [30.0], [3.0]]}, batch=batch
    )
    assert len(answer["selected"]) == 3
    assert "prior" in answer["diagnostics"]["warnings"][0]
