"""Episodes that cannot be adapted to are refused with a reason; doubtful ones are answered with a warning."""

import json

import pytest
import safetensors.numpy

from tests.service.policies.conftest import MAX_STEPS
from tests.service.policies.world import kept

EPISODE = {
    "round": 0,
    "particle": 3,
    "observations": [[0.0, 0.0], [0.1, -0.04]],
    "actions": [[1.3, -0.4], [0.7, 0.2]],
    "rewards": [0.0, 0.84],
    "ended": False,
}
QUERY = {"x": [[0.1, 0.0]]}
TENSOR = {"dtype": "float32", "shape": [2], "base64": "AADAfwAAgD8="}  # NaN and 1


def answer(client, *episodes, model="walker", **body):
    body = {"model": model, "support": {"episodes": list(episodes)}, "query": QUERY, **body}
    return client.post(
        "/adapt-predict", content=json.dumps(body), headers={"content-type": "application/json"}
    )


def changed(**fields):
    return EPISODE | fields


WRONG = {
    "more observations than actions": ([changed(actions=[[1.3, -0.4]])], "", "a step has one of each"),
    "more rewards than actions": ([changed(rewards=[0.0, 0.84, 0.1])], "", "a step has one of each"),
    "no steps": ([changed(observations=[], actions=[], rewards=[])], "/observations", "at least 1 row"),
    "a NaN reward": ([changed(rewards=[0.0, float("nan")])], "/rewards/1", "finite"),
    "an infinite reward": ([changed(rewards=[0.0, float("inf")])], "/rewards/1", "finite"),
    "a NaN reward in a tensor": ([changed(rewards=TENSOR)], "/rewards/0", "not finite"),
    "a reward beyond single precision": ([changed(rewards=[0.0, 1e300])], None, "too large"),
    "a particle too many": ([changed(particle=4)], "/particle", "they are 0 to 3"),
    "a negative particle": ([changed(particle=-1)], "/particle", "greater than or equal to 0"),
    "no particle": ([changed(particle=None)], "/particle", "a demonstration has no particle that acted it"),
    "log probabilities": ([changed(log_probs=[-1.0, -2.0])], "", "log probabilities are not posted"),
    "a behaviour policy": ([changed(behaviour="uniform")], "", "episodes of other behaviour policies"),
    "a demonstration": ([changed(demonstration=True)], "", "a demonstration has no particle that acted it"),
    "a missing round": ([changed(round=1)], "/round", "round 0 is missing"),
    "observations of another width": ([changed(observations=[[0.0], [0.1]])], "/observations/0", "1 numbers"),
    "an action that is no row": ([changed(actions=[0.1, 0.2])], "/actions", "a row of 2 numbers"),
    "rewards in rows of two": ([changed(rewards=[[0.0, 1.0], [0.0, 1.0]])], "/rewards/0", "2 numbers"),
    "an unknown field": ([changed(reward=1.0)], "/reward", "Extra inputs"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_episodes_are_refused_with_a_pointer_and_a_reason(client, wrong):
    episodes, pointer, reason = WRONG[wrong]
    reply = answer(client, *episodes)
    assert reply.status_code == 422, reply.text
    error = reply.json()["errors"][0]
    assert reason in error["detail"]
    if pointer is not None:
        assert error["pointer"] == f"/support/episodes/0{pointer}"


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("demonstrations", "a demonstration has no particle that acted it"),
        ("behaviour", "episodes of other behaviour policies"),
        ("log_probs", "log probabilities are not posted"),
    ],
)
def test_other_policies_are_refused_beside_the_episodes_as_well(client, field, reason):
    reply = answer(client, support={"episodes": [EPISODE], field: []})
    assert reply.status_code == 422, reply.text
    (error,) = reply.json()["errors"]
    assert error["pointer"] == "/support"
    assert reason in error["detail"]


def test_rounds_are_in_order_and_none_is_missing(client):
    order = answer(client, EPISODE, changed(round=1), EPISODE).json()["errors"]
    assert order == [
        {
            "pointer": "/support/episodes/2/round",
            "detail": "rounds are out of order: an episode before it is of round 1",
        }
    ]
    gap = answer(client, EPISODE, changed(round=2)).json()["errors"][0]
    assert gap["pointer"] == "/support/episodes/1/round"
    assert gap["detail"].startswith("round 1 is missing")


def test_a_posterior_takes_the_next_round_alone(client):
    posterior = kept(client, [EPISODE])["posterior"]["id"]
    assert answer(client, changed(round=1), posterior=posterior).status_code == 200
    again = answer(client, EPISODE, posterior=posterior).json()["errors"][0]["detail"]
    assert again == "the posterior has adapted to the rounds up to 0 already; 1 is next"
    assert answer(client, changed(round=2), posterior=posterior).status_code == 422


def test_steps_are_bounded_with_those_of_the_posterior(client):
    half = MAX_STEPS // 2 + 1
    long = changed(observations=[[0.0, 0.0]] * half, actions=[[0.1, 0.2]] * half, rewards=[0.5] * half)
    assert answer(client, long).status_code == 200
    assert answer(client, long, long).status_code == 422
    posterior = kept(client, [long])["posterior"]["id"]
    assert answer(client, long | {"round": 1}, posterior=posterior).status_code == 422


def test_padding_is_bounded(client):
    long = changed(observations=[[0.0, 0.0]] * 100, actions=[[0.1, 0.2]] * 100, rewards=[0.5] * 100)
    short = changed(observations=[[0.0, 0.0]], actions=[[0.1, 0.2]], rewards=[0.5])
    detail = answer(client, long, *[short] * 50).json()["errors"][0]["detail"]
    assert "of more equal lengths" in detail


def test_clipped_actions_are_warned_of(client):
    reply = answer(client, changed(actions=[[1.0, -0.4], [0.7, 0.2]])).json()
    (warning,) = reply["diagnostics"]["warnings"]
    assert warning.startswith("1 of 2 actions lie exactly at an end of their range")
    assert answer(client, EPISODE).json()["diagnostics"]["warnings"] == []


def test_observations_far_from_training_are_warned_of(client):
    reply = answer(client, EPISODE, query={"x": [[50.0, 0.0]]}).json()
    assert "there the policy is untested" in reply["diagnostics"]["warnings"][0]


@pytest.mark.parametrize(
    ("pointer", "fields"),
    [
        ("/quantiles", {"quantiles": [0.5]}),
        ("/interval", {"interval": 0.9}),
        ("/log_density", {"log_density": True, "query": {"x": [[0.1, 0.0]], "y": [[0.1, 0.0]]}}),
        ("/act/particle", {"act": {"particle": 4}}),
        ("/act/how", {"act": {"how": "worst"}}),
        ("/adapt/steps", {"adapt": {"steps": 3}}),
        ("/support", {"support": {"x": [[0.1, 0.0]], "y": [[0.1, 0.0]]}}),
    ],
)
def test_questions_that_no_policy_answers_are_refused(client, pointer, fields):
    reply = answer(client, **fields)
    assert reply.status_code == 422, reply.text
    assert reply.json()["errors"][0]["pointer"] == pointer


def test_other_models_take_no_episodes_and_do_not_act(client):
    reply = answer(client, EPISODE, model="tiny", query={"x": [[0.1]]}).json()
    assert reply["errors"] == [
        {"pointer": "/support", "detail": "this model adapts to labelled rows, x and y, not to episodes"}
    ]
    rows = {"x": [[0.1]], "y": [1.0]}
    reply = answer(client, model="tiny", support=rows, query={"x": [[0.1]]}, act={"how": "best"}).json()
    assert reply["errors"][0]["pointer"] == "/act"


def test_acquisitions_about_labels_do_not_fit_a_policy(client):
    body = {"model": "walker", "support": {"episodes": [EPISODE]}, "pool": QUERY, "acquisition": "ucb"}
    reply = client.post("/uncertainty", json=body).json()
    assert "epistemic_variance" in reply["errors"][0]["detail"]


def test_a_target_without_an_acquisition_is_chosen_for_as_by_name(client):
    body = {"model": "walker", "support": {"episodes": [EPISODE]}, "pool": QUERY, "target": QUERY}
    found = [client.post("/uncertainty", json=body | each).json() for each in NAMED]
    assert found[0]["selected"] == found[1]["selected"]
    assert found[0]["acquisition"] == "epistemic_variance"


NAMED = ({}, {"acquisition": "epistemic_variance"})


def test_replies_and_tensors_in_safetensors_say_the_same(client):
    import base64

    import numpy as np

    plain = answer(client, EPISODE).json()
    tensors = {
        name: {
            "dtype": "float64",
            "shape": list(np.shape(EPISODE[name])),
            "base64": base64.b64encode(np.array(EPISODE[name]).tobytes()).decode(),
        }
        for name in ("observations", "actions", "rewards")
    }
    body = {"model": "walker", "support": {"episodes": [EPISODE | tensors]}}
    content = safetensors.numpy.save(
        {"query.x": np.array(QUERY["x"])}, metadata={"request": json.dumps(body)}
    )
    binary = "application/vnd.safetensors"
    reply = client.post("/adapt-predict", content=content, headers={"content-type": binary, "accept": binary})
    assert reply.status_code == 200, reply.text
    found = safetensors.numpy.load(reply.content)
    for name in ("action", "command", "mean", "std"):
        np.testing.assert_array_equal(found[f"prediction.{name}"], np.float32(plain["prediction"][name]))
    np.testing.assert_array_equal(found["diagnostics.returns"], np.float32(plain["diagnostics"]["returns"]))


def test_episodes_and_rounds_are_bounded(client):
    short = changed(observations=[[0.0, 0.0]], actions=[[0.1, 0.2]], rewards=[0.5])
    limits = client.get("/limits").json()
    many = answer(client, *[short] * (limits["episodes"] + 1)).json()["errors"][0]["detail"]
    assert many == "2001 episodes; this service takes at most 2000"
    rounds = [short | {"round": number} for number in range(limits["rounds"] + 1)]
    assert answer(client, *rounds).json()["errors"][0]["detail"] == "a task has at most 200 rounds"
