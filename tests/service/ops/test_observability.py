"""What is told about a request: one line of log, metrics, headers, and a trace where one is wanted."""

import json
import logging

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.ops import tracing
from service.ops.logs import JsonLines
from service.settings import Settings
from tests.service.conftest import serve

BODY = {"model": "tiny", "support": {"x": [[-2.0], [0.5]], "y": [8.0, 11.5]}, "query": {"x": [[0.0]]}}


def lines(caplog, *ids):
    """The lines of these requests, once they have come: a line is written after its reply.

    A request of the test before may write its own here.
    """
    while True:
        written = [record for record in caplog.records if record.name == "service.access"]
        found = [json.loads(JsonLines().format(each)) for each in written]
        by_id = {line["request_id"]: line for line in found}
        if by_id.keys() >= set(ids):
            return [by_id[each] for each in ids]


def values(client):
    """Every sample of the metrics, by its name and labels."""
    text = client.get("/metrics").text.splitlines()
    samples = (line.rpartition(" ") for line in text if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def test_one_line_of_log_says_what_became_of_a_request(client, caplog):
    with caplog.at_level(logging.INFO, "service.access"):
        client.post("/adapt-predict", json=BODY, headers={"X-Request-ID": "mine-1"})
        client.get("/posteriors/post_abc", headers={"X-Request-ID": "mine-2"})
        client.get("/nowhere/at/all", headers={"X-Request-ID": "mine-3"})
        predicted, looked, lost = lines(caplog, "mine-1", "mine-2", "mine-3")
    assert predicted["request_id"] == "mine-1"
    assert (predicted["route"], predicted["status"], predicted["problem"]) == ("/adapt-predict", 200, None)
    assert (predicted["model"], predicted["version"], predicted["rows"]) == ("tiny", 2, [2, 1])
    assert predicted["batched_tasks"] == 1
    assert predicted["bytes_out"] > 100
    parts = ("decode", "queue", "embed", "adapt", "predict")
    assert 0 < sum(predicted[f"{part}_ms"] for part in parts) <= predicted["ms"]
    assert (looked["route"], looked["status"]) == ("/posteriors/{id}", 404)
    assert looked["problem"] == "unknown-posterior"
    assert "post_abc" not in json.dumps(looked)
    assert (lost["route"], lost["status"], lost["problem"]) == ("unmatched", 404, "no-such-route")


@pytest.mark.parametrize("unwanted", ["", "a b", "x" * 65, "ü", "a;b"])
def test_an_id_of_another_form_is_replaced(client, unwanted):
    reply = client.get("/livez", headers={"X-Request-ID": unwanted.encode("latin-1")})
    assert len(reply.headers["x-request-id"]) == 32


def test_every_reply_says_who_it_is_how_long_it_took_and_what_a_browser_may_do_with_it(client):
    for reply in (client.get("/livez"), client.get("/nowhere"), client.post("/adapt-predict", json=BODY)):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert "total;dur=" in reply.headers["server-timing"]
        assert "server" not in reply.headers
        assert "access-control-allow-origin" not in reply.headers
    timed = client.post("/adapt-predict", json=BODY).headers["server-timing"]
    assert [part.split(";")[0] for part in timed.split(", ")] == [
        "decode", "queue", "embed", "adapt", "predict", "total",
    ]  # fmt: skip


@pytest.fixture
def fresh(store):
    """A service that no other test has asked for any version."""
    yield from serve(Settings(store=store, device="cpu"))


def test_metrics_count_requests_problems_posteriors_and_versions(fresh):
    client, before = fresh.client, values(fresh.client)
    client.post("/adapt-predict", json=BODY)
    client.post("/adapt-predict", json=BODY | {"model": "nobody"})
    kept = {"model": "tiny", "support": {"x": [[0.123]], "y": [9.0]}, "keep": {}}
    for _ in range(2):
        client.post("/posteriors", json=kept)
    diverging = {"model": "bare", "support": {"x": [[1.0]], "y": [1e30]}, "adapt": {"steps": 50}}
    client.post("/adapt-predict", json=BODY | diverging)
    after = values(client)

    def more(name):
        return after[name] - before.get(name, 0.0)

    assert more('bmaml_requests_total{route="/adapt-predict",status="200"}') == 1
    assert more('bmaml_requests_total{route="/adapt-predict",status="404"}') == 1
    assert more('bmaml_request_seconds_count{route="/adapt-predict"}') == 3
    assert more('bmaml_problems_total{kind="unknown-model"}') == 1
    assert more('bmaml_problems_total{kind="diverged"}') == 1
    assert more('bmaml_failed_tasks_total{reason="diverged"}') == 1
    assert more('bmaml_posteriors_total{event="miss"}') == 1
    assert more('bmaml_posteriors_total{event="hit"}') == 1
    assert more("bmaml_posterior_bytes") > 0
    for part in ("queue", "batch", "adapt", "predict"):
        assert more(f"bmaml_{part}_seconds_count") >= 3
    versions = [name for name in after if name.startswith("bmaml_model_info")]
    assert len(versions) == 3  # of every name the newest
    assert all("sha256=" in name and "learner=" in name for name in versions)
    assert after["bmaml_ready"] == 1
    assert after["bmaml_queue_tasks"] == after["bmaml_queue_work"] == 0
    assert after["process_resident_memory_bytes"] > 1e7


def test_a_page_of_another_host_may_ask_only_where_that_is_allowed(store):
    asked = {"Origin": "https://lab.example", "Access-Control-Request-Method": "POST"}
    settings = Settings(store=store, device="cpu", cors_origins="https://lab.example, https://b.example")
    for served in serve(settings):
        preflight = served.client.options("/adapt-predict", headers=asked)
        assert preflight.headers["access-control-allow-origin"] == "https://lab.example"
        reply = served.client.post("/adapt-predict", json=BODY, headers={"Origin": "https://lab.example"})
        assert reply.headers["access-control-allow-origin"] == "https://lab.example"
        assert "X-Request-ID" in reply.headers["access-control-expose-headers"]
        other = served.client.get("/limits", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        refused = served.client.options("/adapt-predict", headers=asked | {"Origin": "https://evil.example"})
        assert (refused.status_code, refused.json()["type"]) == (403, "urn:bmaml:problem:origin-not-allowed")
        assert refused.json()["request_id"] == refused.headers["x-request-id"]


def test_nothing_is_traced_unless_an_endpoint_is_named(monkeypatch):
    for name in tracing.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert tracing.tracing_from_environment() is None
    monkeypatch.setenv(tracing.ENDPOINTS[0], "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert tracing.tracing_from_environment() is None


def test_without_its_library_tracing_is_refused_with_a_sentence(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(tracing.importlib, "import_module", missing)
    with pytest.raises(tracing.TracingUnavailable, match="pip install"):
        tracing.Tracing()


def test_a_request_is_a_span_of_the_caller_s_trace_with_its_parts_below(store, monkeypatch, caplog):
    for name in tracing.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    spans = InMemorySpanExporter()
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for served in serve(Settings(store=store, device="cpu")):
        recorder = tracing.Tracing(spans)
        recorder._provider._active_span_processor._span_processors = (SimpleSpanProcessor(spans),)
        served.app.state.runtime.tracing = recorder
        with caplog.at_level(logging.INFO, "service.access"):
            named = {"traceparent": parent, "X-Request-ID": "traced"}
            served.client.post("/adapt-predict", json=BODY, headers=named)
            named = {"X-Request-ID": "refused"}
            served.client.post("/adapt-predict", json=BODY | {"model": "nobody"}, headers=named)
            (line, _) = lines(caplog, "traced", "refused")
    found = {span.name: span for span in spans.get_finished_spans()}
    request = found["POST /adapt-predict"]
    assert line["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    roots = [span for span in spans.get_finished_spans() if span.name == "POST /adapt-predict"]
    assert [span.attributes["http.response.status_code"] for span in roots] == [200, 404]
    request = roots[0]
    assert format(request.parent.span_id, "016x") == "b7ad6b7169203331"
    for part in ("decode", "adapt", "predict"):
        span = found[part]
        assert span.parent.span_id == request.context.span_id
        assert request.start_time <= span.start_time < span.end_time <= request.end_time
