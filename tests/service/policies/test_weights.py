"""The weights of a kept policy act as the service does, and belong to whoever kept it."""

import hashlib
import json

import numpy as np
import pytest
import safetensors.numpy

from service.settings import Settings
from tests.published import publish, publish_policy
from tests.service.conftest import serve
from tests.service.policies.world import episodes_of, kept, over_http

BINARY = {"accept": "application/vnd.safetensors"}
QUERY = [[0.1, 0.0], [-0.4, 0.3], [5.0, -3.0]]
ACTIVATIONS = {"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0)}


@pytest.fixture(scope="module", params=[(0.0, 1.0), (0.3, 0.7)], ids=["plain", "own units"])
def walking(request, tmp_path_factory):
    """A service with a policy whose columns have these units, and a posterior of two rounds."""
    root = tmp_path_factory.mktemp("weights")
    publish(root, "tiny")
    publish_policy(root, units=request.param)
    for served in serve(Settings(store=root, device="cpu")):
        client = served.client
        first = kept(client, episodes_of(over_http(client), 0, range(4)))["posterior"]["id"]
        second = episodes_of(over_http(client, posterior=first), 1, (0, 1))
        yield client, kept(client, second, first)


def described(content):
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"]["response"])


def means_of(tensors, about, x):
    """Each particle's mean action, in numpy alone."""
    values = np.array(x)
    for depth in range(len(about["sizes"]) - 1):
        values = values if depth == 0 else ACTIVATIONS[about["activation"]](values)
        values = values @ tensors[f"layers.{depth}.weight"] + tensors[f"layers.{depth}.bias"][:, None]
    return values


def test_weights_act_as_the_service_does(walking):
    client, posterior = walking
    path = f"/posteriors/{posterior['posterior']['id']}"
    reply = client.get(path, headers=BINARY)
    assert (reply.status_code, reply.headers["content-type"]) == (200, BINARY["accept"])
    tensors, about = safetensors.numpy.load(reply.content), described(reply.content)
    body = {
        "model": "walker",
        "posterior": posterior["posterior"]["id"],
        "query": {"x": QUERY},
        "particles": True,
    }
    said = client.post("/adapt-predict", json=body).json()
    particles, diagnostics = said["prediction"]["particles"], said["diagnostics"]
    np.testing.assert_allclose(means_of(tensors, about, QUERY), particles["mean"], atol=2e-6)
    expected = np.broadcast_to(tensors["std"][:, None], (4, 3, 2))
    np.testing.assert_allclose(expected, particles["std"], rtol=1e-6)
    np.testing.assert_allclose(tensors["weights"], particles["weight"], rtol=1e-6)
    for name in ("returns", "episodes"):
        np.testing.assert_array_equal(tensors[name], np.float32(diagnostics[name]))
    assert (about["rounds"], about["next_particle"]) == (2, diagnostics["next_particle"])
    assert about["best"] == said["prediction"]["particle"]
    assert (about["lower"], about["upper"]) == ([-1.0, -1.0], [1.0, 1.0])
    assert (about["observations"], about["actions"]) == (["x", "y"], ["dx", "dy"])
    assert (about["sizes"], about["particles"]) == ([2, 6, 2], 4)
    assert about["posterior"] == client.get(path).json()


def test_weights_before_any_episode_are_those_of_the_start(walking):
    client, _ = walking
    start = kept(client, [])["posterior"]["id"]
    content = client.get(f"/posteriors/{start}", headers=BINARY).content
    body = {"model": "walker", "support": {"episodes": []}, "query": {"x": QUERY}, "particles": True}
    said = client.post("/adapt-predict", json=body).json()["prediction"]["particles"]["mean"]
    np.testing.assert_allclose(
        means_of(safetensors.numpy.load(content), described(content), QUERY), said, atol=2e-6
    )


def test_json_is_the_answer_to_whoever_does_not_ask_for_weights(walking):
    client, posterior = walking
    path = f"/posteriors/{posterior['posterior']['id']}"
    for accept in ("application/json", "*/*", "application/vnd.safetensors;q=0, */*"):
        assert client.get(path, headers={"accept": accept}).json()["id"] == posterior["posterior"]["id"]


def test_weights_are_refused_as_every_use_of_a_posterior_is(walking):
    client, _ = walking
    assert client.get("/posteriors/post_0", headers=BINARY).status_code == 404
    gone = kept(client, episodes_of(over_http(client), 0, (2,)))["posterior"]["id"]
    client.delete(f"/posteriors/{gone}")
    assert client.get(f"/posteriors/{gone}", headers=BINARY).status_code == 410
    body = {"model": "tiny", "support": {"x": [[0.1]], "y": [1.0]}}
    numbers = client.post("/posteriors", json=body).json()["posterior"]["id"]
    reply = client.get(f"/posteriors/{numbers}", headers=BINARY)
    assert reply.status_code == 422
    assert "only the posterior of a policy is given as weights" in reply.text


def test_weights_belong_to_the_key_that_kept_them(tmp_path):
    publish_policy(tmp_path)
    keys = " ".join(f"{name}:{hashlib.sha256(name.encode()).hexdigest()}" for name in ("one", "two"))
    for served in serve(Settings(store=tmp_path, device="cpu", keys=keys)):
        one, two = ({"authorization": f"Bearer {name}"} for name in ("one", "two"))
        body = {"model": "walker", "support": {"episodes": []}}
        own = served.client.post("/posteriors", json=body, headers=one).json()["posterior"]["id"]
        path = f"/posteriors/{own}"
        assert served.client.get(path, headers=BINARY | one).status_code == 200
        assert served.client.get(path, headers=BINARY | two).status_code == 404
        assert served.client.get(path, headers=BINARY).status_code == 401
