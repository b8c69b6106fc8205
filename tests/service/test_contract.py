"""What the service says about itself."""

import pytest
from pydantic import ValidationError

from service.settings import Settings


def test_probes_answer(client):
    assert client.get("/livez").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}


def test_models_and_their_cards(client):
    listed = {each["name"]: each for each in client.get("/models").json()["models"]}
    assert set(listed) == {"tiny", "bare", "wide"}
    assert listed["tiny"]["versions"] == [1, 2]
    assert client.get("/models/wide").json() == listed["wide"]
    card = client.get("/models/wide/versions/1").json()
    assert [column["name"] for column in card["inputs"]] == ["x", "size"]
    assert card["inputs"][1]["transform"] == "log2"
    assert (card["learner"], card["particles"], card["metrics"]) == ("collapsed", 4, {"nll": 1.5})


def test_limits_are_those_enforced(client):
    limits = client.get("/limits").json()
    assert (limits["body_bytes"], limits["support_rows"], limits["query_rows"]) == (100_000, 50, 200)
    rows = limits["support_rows"] + 1
    body = {
        "model": "tiny",
        "support": {"x": [[0.0]] * rows, "y": [0.0] * rows},
        "query": {"x": [[0.0]]},
    }
    assert client.post("/adapt-predict", json=body).status_code == 422


def references(node):
    if isinstance(node, dict):
        yield from ([node["$ref"]] if "$ref" in node else [])
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_openapi_is_complete_and_its_examples_work(client):
    schema = client.get("/openapi.json").json()
    for reference in references(schema):
        assert reference.removeprefix("#/components/schemas/") in schema["components"]["schemas"]
    assert set(schema["paths"]) == {
        "/adapt-predict",
        "/uncertainty",
        "/posteriors",
        "/posteriors/{id}",
        "/metrics",
        "/models",
        "/models/{name}",
        "/models/{name}/versions/{version}",
        "/limits",
        "/livez",
        "/readyz",
    }
    for path in ("/adapt-predict", "/uncertainty"):
        operation = schema["paths"][path]["post"]
        example = operation["requestBody"]["content"]["application/json"]["example"]
        assert client.post(path, json=example | {"model": "tiny"}).status_code == 200
        for status in ("400", "404", "413", "415", "422", "429", "503", "504"):
            assert "application/problem+json" in operation["responses"][status]["content"]
        name = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].split("/")[-1]
        assert schema["components"]["schemas"][name]["examples"]


def test_settings_come_from_the_environment_once_and_are_checked(monkeypatch):
    monkeypatch.setenv("BMAML_PORT", "9001")
    settings = Settings()
    assert settings.port == 9001
    with pytest.raises(ValidationError):
        settings.port = 1
    monkeypatch.setenv("BMAML_DEVICE", "abacus")
    with pytest.raises(ValidationError, match="device"):
        Settings()
