"""Binary bodies: the same numbers as JSON, in and out; nothing malformed gets through."""

import json

import numpy as np
import pytest
from safetensors.numpy import load, save

KIND = "application/vnd.safetensors"
X, Y, Q = np.array([[-2.0], [0.5]]), np.array([8.0, 11.5]), np.array([[0.0], [4.0]])


def binary(tensors, request, **headers):
    return {
        "content": save(tensors, metadata={"request": json.dumps(request)}),
        "headers": {"content-type": KIND, **headers},
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tensors_beside_json_mean_what_lists_in_it_do(client, dtype):
    tensors = {"support.x": X.astype(dtype), "support.y": Y.astype(dtype), "query.x": Q.astype(dtype)}
    sent = binary(tensors, {"model": "tiny", "quantiles": [0.5]}, accept=KIND)
    reply = client.post("/adapt-predict", **sent)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == KIND
    found = load(reply.content)
    length = int.from_bytes(reply.content[:8], "little")
    rest = json.loads(json.loads(reply.content[8 : 8 + length])["__metadata__"]["response"])
    body = {"model": "tiny", "support": {"x": X.tolist(), "y": Y.tolist()}, "query": {"x": Q.tolist()}}
    said = client.post("/adapt-predict", json=body | {"quantiles": [0.5]}).json()
    assert rest["model"] == said["model"]
    assert rest["diagnostics"] == said["diagnostics"]
    for name in ("mean", "std"):
        np.testing.assert_allclose(found[f"prediction.{name}"], said["prediction"][name], rtol=1e-6)
    values = said["prediction"]["quantiles"]["values"]
    np.testing.assert_allclose(found["prediction.quantiles.values"], values, rtol=1e-6)


def test_a_pool_comes_and_scores_go_as_tensors(client):
    tensors = {"support.x": X, "support.y": Y, "pool.x": Q, "target.x": Q}
    request = {"model": "tiny", "batch": {"size": 1}, "pool": {"ids": ["a", "b"]}}
    reply = client.post("/uncertainty", **binary(tensors, request))
    assert reply.headers["content-type"] == "application/json"
    body = {
        "model": "tiny",
        "support": {"x": X.tolist(), "y": Y.tolist()},
        "pool": {"x": Q.tolist(), "ids": ["a", "b"]},
        "target": {"x": Q.tolist()},
    }
    assert reply.json()["scores"] == client.post("/uncertainty", json=body).json()["scores"]


def test_encoded_labels_are_labels(client):
    import base64

    content = base64.b64encode(Y.astype("<f8").tobytes()).decode()
    y = {"dtype": "float64", "shape": [2], "base64": content}
    body = {"model": "tiny", "support": {"x": X.tolist(), "y": y}, "query": {"x": [[0.0]]}}
    plain = body | {"support": {"x": X.tolist(), "y": Y.tolist()}}
    said = [client.post("/adapt-predict", json=each).json()["prediction"] for each in (body, plain)]
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"\xff" * 40, 400),
        (save({"support.x": X})[:-1], 400),
        (save({"query.x": Q}, metadata={"request": "{"}), 400),
        (save({"query.x": Q}, metadata={"request": "[]"}), 422),
        (save({"query.x": Q}), 422),
        (save({"else.x": Q}, metadata={"request": "{}"}), 422),
        (save({"query.x": Q.astype(np.int16)}, metadata={"request": "{}"}), 422),
    ],
)
def test_malformed_bodies_are_refused(client, content, status):
    reply = client.post("/adapt-predict", content=content, headers={"content-type": KIND})
    assert reply.status_code == reply.json()["status"] == status
    assert len(reply.content) <= 4096


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_must_be_finite_in_tensors_too(client, bad):
    sent = binary({"support.x": np.array([[0.0], [bad]]), "support.y": Y, "query.x": Q}, {"model": "tiny"})
    reply = client.post("/adapt-predict", **sent)
    assert reply.status_code == 422
    assert reply.json()["errors"][0]["pointer"] == "/support/x/1"


def test_a_reply_nobody_can_read_is_a_406(client):
    body = {"model": "tiny", "support": {"x": [], "y": []}, "query": {"x": [[0.0]]}}
    reply = client.post("/adapt-predict", json=body, headers={"accept": "text/html"})
    assert reply.status_code == reply.json()["status"] == 406
