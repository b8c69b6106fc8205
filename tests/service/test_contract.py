"""What the service says about itself."""

import pytest
from pydantic import TypeAdapter, ValidationError

from service.schemas.responses import AdaptPredictResponse, PosteriorResponse, UncertaintyResponse
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
        "/v1/adapt-predict",
        "/v1/uncertainty",
        "/v1/posteriors",
        "/v1/posteriors/{id}",
        "/v1/models",
        "/v1/models/{name}",
        "/v1/models/{name}/versions/{version}",
        "/v1/limits",
        "/metrics",
        "/livez",
        "/readyz",
    }
    for path in ("/v1/adapt-predict", "/v1/uncertainty"):
        operation = schema["paths"][path]["post"]
        example = operation["requestBody"]["content"]["application/json"]["example"]
        body = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].split("/")[-1]
        for each in (example, *schema["components"]["schemas"][body]["examples"]):
            assert client.post(path, json=each | {"model": "tiny"}).status_code == 200
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


def names(node, path=""):
    """Every name in a reply, with the way to it."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{path}/{key}"
            yield from names(value, f"{path}/{key}")
    elif isinstance(node, list) and node:
        yield from names(node[0], path)


@pytest.mark.parametrize(
    ("path", "schema", "asked"),
    [
        ("/adapt-predict", AdaptPredictResponse, {"query": {"x": [[0.0]]}, "particles": True, "keep": {}}),
        (
            "/adapt-predict",
            AdaptPredictResponse,
            {"query": {"x": [[0.0]], "y": [9.0]}, "log_density": True},
        ),
        ("/uncertainty", UncertaintyResponse, {"pool": {"x": [[0.0], [1.0]]}, "keep": {"ttl_s": 5.0}}),
        ("/posteriors", PosteriorResponse, {}),
    ],
)
def test_replies_are_what_their_schemas_say(client, path, schema, asked):
    body = {"model": "tiny", "support": {"x": [[-2.0], [0.5]], "y": [8.0, 11.5]}}
    reply = client.post(path, json=body | asked).json()
    described = TypeAdapter(schema)
    assert set(names(reply)) == set(
        names(described.dump_python(described.validate_python(reply), mode="json"))
    )


def test_metrics_count_what_was_asked(client):
    def value(name):
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    body = {"model": "tiny", "support": {"x": [[-2.0]], "y": [8.0]}, "query": {"x": [[0.0], [1.0]]}}
    tasks, rows = value("bmaml_batch_tasks_sum"), value('bmaml_rows_total{kind="real"}')
    assert client.post("/adapt-predict", json=body).status_code == 200
    assert value("bmaml_batch_tasks_sum") == tasks + 1
    assert value('bmaml_rows_total{kind="real"}') == rows + 3
    assert client.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")
