"""The OpenAPI document: whole, valid, the same service under `/v1` and without, examples that fit."""

import hashlib
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from service.app import create_app
from service.settings import Settings
from tests.service.conftest import serve

BODY = {"model": "tiny", "support": {"x": [[-2.0], [0.5]], "y": [8.0, 11.5]}, "query": {"x": [[0.0]]}}
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings()).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert method in METHODS
            yield f"{method.upper()} {path}", operation


def schemas_in(node: Any, pointer: str = "#") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the document that has an example, with its JSON pointer."""
    if isinstance(node, dict):
        if "example" in node or isinstance(node.get("examples"), list):
            yield pointer, node
        for key, each in node.items():
            if key not in ("example", "examples", "default"):
                yield from schemas_in(each, f"{pointer}/{key}")
    elif isinstance(node, list):
        for index, each in enumerate(node):
            yield from schemas_in(each, f"{pointer}/{index}")


def test_every_operation_has_a_name_of_its_own_a_known_tag_a_summary_keys_and_a_4xx(document):
    tags = {each["name"] for each in document["tags"] if each["description"]}
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(names)) == len(names)
    for label, operation in operations(document):
        assert set(operation["tags"]) <= tags, label
        assert operation["tags"], label
        assert operation["summary"], label
        assert operation["description"], label
        assert "security" in operation, label
        assert any(status.startswith("4") for status in operation["responses"]), label
        assert any(status.startswith("2") for status in operation["responses"]), label


def test_every_parameter_of_a_path_is_described(document):
    for label, operation in operations(document):
        braced = {part[1:-1] for part in label.split("/") if part.startswith("{")}
        described = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
        assert described == braced, label


def test_the_document_names_its_license_and_its_servers(document):
    assert document["openapi"].startswith("3.1")
    assert document["info"]["license"] == {"name": "MIT", "identifier": "MIT"}
    assert document["servers"] == [{"url": "/"}]


def test_every_object_is_used_and_every_reference_leads_to_one(document):
    text = str(document)
    for name, schema in document["components"]["schemas"].items():
        jsonschema_rs.validator_for(schema | {"components": document["components"]})
        assert f"'#/components/schemas/{name}'" in text, name


def test_every_example_fits_its_schema(document):
    found = list(schemas_in(document))
    assert len(found) > 8
    for pointer, node in found:
        schema = node.get("schema", node) | {"components": document["components"]}
        check = jsonschema_rs.validator_for(schema)
        for example in [*node.get("examples", ()), *([node["example"]] if "example" in node else [])]:
            assert [error.message for error in check.iter_errors(example)] == [], pointer


def test_empty_lists_fit_the_schema_as_the_service_takes_them(document, client):
    body = BODY | {"support": {"x": [], "y": []}}
    request = {"$ref": "#/components/schemas/AdaptPredictRequest", "components": document["components"]}
    assert jsonschema_rs.validator_for(request).is_valid(body)
    assert client.post("/v1/adapt-predict", json=body).status_code == 200


@pytest.mark.parametrize("path", ["/models", "/models/tiny", "/models/tiny/versions/1", "/limits", "/livez"])
def test_paths_with_and_without_the_prefix_are_one(client, path):
    assert client.get(f"/v1{path}").content == client.get(path).content
    assert client.head(f"/v1{path}").status_code == 200


@pytest.mark.parametrize("path", ["/adapt-predict", "/posteriors"])
def test_posts_with_and_without_the_prefix_answer_the_same(client, path):
    body = BODY | {"keep": {"ttl_s": 60.0}}
    if path == "/posteriors":
        del body["query"]
    with_prefix, without = (client.post(f"{each}{path}", json=body).json() for each in ("/v1", ""))
    for of_this_request in ("request_id", "timing_ms", "posterior"):
        del with_prefix[of_this_request], without[of_this_request]
    assert with_prefix == without


def test_a_posterior_kept_under_the_prefix_is_found_without_it(client):
    kept = client.post("/v1/posteriors", json={"model": "tiny", "support": BODY["support"]}).json()
    name = kept["posterior"]["id"]
    assert client.get(f"/posteriors/{name}").status_code == 200
    assert client.delete(f"/v1/posteriors/{name}").status_code == 204
    assert client.get(f"/posteriors/{name}").status_code == 410


@pytest.mark.parametrize("path", ["/v1", "/v1/v1/models", "/v1x/models", "/v3/models", "/v1/nothing"])
def test_other_prefixes_are_no_route(client, path):
    reply = client.get(path)
    assert (reply.status_code, reply.json()["type"]) == (404, "urn:bmaml:problem:no-such-route")


def test_metrics_and_log_have_one_name_for_both(served, caplog):
    caplog.set_level("INFO", "service.access")
    counter = served.app.state.runtime.metrics.requests.labels("/adapt-predict", "200")
    before, asked = counter._value.get(), []
    for prefix in ("", "/v1"):
        reply = served.client.post(f"{prefix}/adapt-predict", json=BODY)
        asked.append(reply.headers["x-request-id"])

    def routes():
        lines = [each.fields for each in list(caplog.records) if each.name == "service.access"]
        return [fields["route"] for fields in lines if fields["request_id"] in asked]

    while len(routes()) < 2:
        pass  # a request is counted, then logged, once its reply is on its way
    assert routes() == ["/adapt-predict", "/adapt-predict"]
    assert counter._value.get() >= before + 2


def test_keys_are_asked_for_under_the_prefix_too(store):
    digest = hashlib.sha256(b"key-of-the-lab").hexdigest()
    for served in serve(Settings(store=store, device="cpu", keys=f"lab:{digest}")):
        assert served.client.post("/v1/adapt-predict", json=BODY).status_code == 401
        assert served.client.get("/v1/models").status_code == 401
        header = {"authorization": "Bearer key-of-the-lab"}
        assert served.client.post("/v1/adapt-predict", json=BODY, headers=header).status_code == 200
        assert served.client.get("/v1/readyz").status_code == 200
