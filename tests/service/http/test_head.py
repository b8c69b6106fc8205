"""HEAD is answered as GET is, without the body."""

import httpx
import pytest

from service.http.health import create_probe_app
from tests.service.conftest import access_fields, listening

PROBES = ["/livez", "/readyz", "/metrics"]
OTHERS = [
    "/",
    "/docs",
    "/openapi.json",
    "/playground/main.js",
    "/limits",
    "/models",
    "/models/tiny",
    "/models/tiny/versions/1",
    "/models/nobody",
    "/posteriors/post_nothing",
    "/nowhere",
]
PREFIXED = [f"/v1{path}" for path in OTHERS if path.startswith(("/limits", "/models", "/posteriors"))]
CHANGING = {"x-request-id", "server-timing", "date"}


def check(client: httpx.Client, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    changing = CHANGING | ({"content-length"} if path == "/metrics" or got.status_code >= 400 else set())
    assert set(head.headers) == set(got.headers)
    assert [v for n, v in sorted(head.headers.items()) if n not in changing] == [
        v for n, v in sorted(got.headers.items()) if n not in changing
    ]


@pytest.mark.parametrize("path", [*PROBES, *OTHERS, *PREFIXED])
def test_head_has_the_status_and_headers_of_get(client, path):
    check(client, path)


def test_every_route_that_answers_get_answers_head(client):
    paths = client.get("/openapi.json").json()["paths"]
    values = {"name": "tiny", "version": "1", "id": "post_nothing"}
    asked = [path.format(**values) for path, methods in paths.items() if "get" in methods]
    assert set(asked) <= {*PROBES, *PREFIXED}
    assert not [path for path, methods in paths.items() if "head" in methods]


def test_the_probe_port_answers_head(served):
    for beside in listening(create_probe_app(served.app.state.runtime)):
        for path in PROBES:
            check(beside.client, path)


def test_head_is_refused_where_there_is_no_get_and_offered_where_there_is(client):
    reply = client.head("/adapt-predict")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert client.delete("/models").headers["allow"] == "GET, HEAD"


def test_the_log_and_the_metrics_name_the_route_of_head(client, caplog):
    caplog.set_level("INFO", "service.access")
    request_id = client.head("/models/tiny").headers["x-request-id"]
    fields = access_fields(caplog, request_id)
    assert (fields["method"], fields["route"], fields["status"]) == ("HEAD", "/models/{name}", 200)
