"""Every failure is problem+json with the right status, never a 500, and never echoes the input."""

import asyncio
import json

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from tests.published import publish
from tests.service.conftest import listening, serve

BODY = {"model": "tiny", "support": {"x": [[-2.0], [0.5]], "y": [8.0, 11.5]}, "query": {"x": [[0.0]]}}
TEXT = json.dumps(BODY)


def send(client, text, headers=None, path="/adapt-predict"):
    reply = client.post(path, content=text, headers={"content-type": "application/json", **(headers or {})})
    problem = reply.json()
    assert reply.headers["content-type"] == "application/problem+json"
    assert set(problem) == {"type", "title", "status", "detail", "request_id", "errors"}
    assert problem["status"] == reply.status_code
    assert problem["request_id"] == reply.headers["x-request-id"]
    assert len(reply.content) <= 4096
    return problem


@pytest.mark.parametrize(
    ("text", "status", "pointer"),
    [
        (TEXT.replace("8.0", "NaN"), 422, "/support/y/0"),
        (TEXT.replace("8.0", "-Infinity"), 422, "/support/y/0"),
        (TEXT.replace("8.0", "1e999"), 422, "/support/y/0"),
        (TEXT.replace("8.0", '"3"'), 422, "/support/y/1"),  # a name, and what follows is none
        (TEXT.replace("[8.0, 11.5]", '["3", "4"]'), 422, "/support/y/0"),
        (TEXT.replace("8.0", "true"), 422, "/support/y/0"),
        (TEXT.replace("8.0", "null"), 422, "/support/y/0"),
        (TEXT.replace("8.0", "1" + "0" * 400), 422, "/support/y/0"),
        (TEXT.replace("[-2.0]", "[-2.0, 1.0]"), 422, "/support/x/0"),
        (TEXT.replace("[-2.0]", "[]"), 422, "/support/x/0"),
        (TEXT.replace("[-2.0]", "-2.0"), 422, "/support/x/0"),
        (TEXT.replace("[-2.0]", '["3"]'), 422, "/support/x/0/0"),
        (TEXT.replace("[8.0, 11.5]", "[8.0]"), 422, "/support/y"),
        (TEXT.replace("[8.0, 11.5]", "[[8.0, 1.0], [11.5, 1.0]]"), 422, "/support/y/0"),
        (TEXT.replace("[8.0, 11.5]", "[[8.0], 11.5]"), 422, "/support/y/1"),
        (TEXT.replace("[8.0, 11.5]", "3"), 422, "/support/y"),
        (TEXT.replace("[8.0, 11.5]", "[1e40, 1.0]"), 422, "/support/y/0"),
        (TEXT.replace("[8.0, 11.5]", "[1.7e308, -1.7e308]"), 422, "/support/y/0"),
        (TEXT.replace("[[0.0]]", "[[1.7e308]]"), 422, "/query/x/0"),
        (TEXT.replace("[[0.0]]", "[]"), 422, "/query/x"),
        (TEXT.replace("[[0.0]]", str([[0.0]] * 201)), 422, "/query/x"),
        (json.dumps(BODY | {"unknown": 1}), 422, "/unknown"),
        (json.dumps(BODY | {"support": None}), 422, "/support"),
        (json.dumps({"model": "tiny", "query": BODY["query"]}), 422, "/support"),
        (json.dumps(BODY | {"posterior": 1}), 422, "/posterior"),
        (json.dumps(BODY | {"keep": {"ttl_s": 0.0}}), 422, "/keep/ttl_s"),
        (json.dumps(BODY | {"interval": 1.0}), 422, "/interval"),
        (json.dumps(BODY | {"quantiles": [0.5, 0.0]}), 422, "/quantiles/1"),
        (json.dumps(BODY | {"adapt": {"steps": 101}}), 422, "/adapt/steps"),
        (json.dumps(BODY | {"adapt": {"steps": 1.5}}), 422, "/adapt/steps"),
        (json.dumps(BODY | {"version": "1"}), 422, "/version"),
        (json.dumps(BODY | {"particles": "yes"}), 422, "/particles"),
        (json.dumps(BODY | {"a/b~c": 1}), 422, "/a~1b~0c"),
        ("[]", 422, ""),
    ],
)
def test_bad_values_are_a_422_that_points_at_them(client, text, status, pointer):
    problem = send(client, text)
    assert problem["status"] == status
    assert problem["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize("text", ["", "{", "nonsense", "[" * 100_000, '{"model": "tiny"', "\x00"])
def test_what_is_not_json_is_a_400(client, text):
    problem = send(client, text)
    assert (problem["status"], problem["type"]) == (400, "urn:bmaml:problem:not-json")


def test_bytes_that_are_not_text_are_a_400(client):
    assert send(client, b'{"model": "\xff\xfe"}')["status"] == 400


def test_a_byte_order_mark_before_json_is_skipped(client):
    answer = client.post("/adapt-predict", content=b"\xef\xbb\xbf" + json.dumps(BODY).encode())
    assert answer.status_code == 200
    assert send(client, b"\xef\xbb\xbf\xef\xbb\xbf{}")["type"] == "urn:bmaml:problem:not-json"


def test_logarithmic_columns_refuse_what_is_not_positive(client):
    body = {"model": "wide", "support": {"x": [], "y": []}, "query": {"x": [[0.0, 16], [0.0, -1]]}}
    (error,) = send(client, json.dumps(body))["errors"]
    assert error["pointer"] == "/query/x/1"
    assert "log2" in error["detail"]


def test_an_adaptation_that_leaves_the_finite_numbers_is_a_422_that_says_so(client):
    body = BODY | {"model": "bare", "support": {"x": [[1.0]], "y": [1e30]}, "adapt": {"steps": 50}}
    problem = send(client, json.dumps(body))
    assert (problem["status"], problem["type"]) == (422, "urn:bmaml:problem:diverged")


def test_a_diverging_neighbour_fails_alone(served):
    good = BODY | {"model": "bare", "adapt": {"steps": 50}, "deadline_ms": 600_000}
    bad = good | {"support": {"x": [[1.0]], "y": [1e30]}}
    alone = served.client.post("/adapt-predict", json=good).json()["prediction"]["mean"]

    async def together():
        async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
            return await asyncio.gather(
                *(client.post("/adapt-predict", json=body) for body in [good, bad] * 8)
            )

    replies = asyncio.run(together())
    assert [reply.status_code for reply in replies] == [200, 422] * 8
    for reply in replies[::2]:
        assert reply.json()["prediction"]["mean"] == pytest.approx(alone, rel=1e-4)


def test_unknown_models_and_versions_are_a_404_that_lists_what_there_is(client):
    problem = send(client, json.dumps(BODY | {"model": "secret-name"}))
    assert problem["status"] == 404
    assert "tiny" in problem["detail"]
    assert send(client, json.dumps(BODY | {"version": 99}))["status"] == 404


def test_the_input_is_never_echoed(client):
    marker = "MARKER123"
    for body in (
        BODY | {"model": marker},
        BODY | {"support": {"x": [[marker]], "y": [marker]}},
        {"model": {marker: 1}},
    ):
        assert marker not in client.post("/adapt-predict", json=body).text


def test_at_most_twenty_errors_are_listed(client):
    assert len(send(client, json.dumps(BODY | {f"field{i}": 1 for i in range(50)}))["errors"]) == 20


def test_large_bodies_are_a_413_plain_and_chunked(client):
    large = json.dumps(BODY | {"model": "x" * 200_000})
    assert send(client, large)["status"] == 413
    chunks = (large[start : start + 1000].encode() for start in range(0, len(large), 1000))
    assert send(client, chunks)["status"] == 413


def test_other_media_types_and_encodings_are_a_415(client):
    assert send(client, TEXT, {"content-type": "text/plain"})["status"] == 415
    assert send(client, TEXT, {"content-encoding": "br"})["status"] == 415


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/adapt-predict", 405),
        ("DELETE", "/models", 405),
        ("GET", "/models/nobody", 404),
        ("GET", "/models/NO%2F..", 404),
        ("GET", "/models/tiny/versions/99", 404),
        ("GET", "/models/tiny/versions/one", 422),
    ],
)
def test_routing_failures_are_problems_too(client, method, path, status):
    reply = client.request(method, path)
    assert reply.status_code == reply.json()["status"] == status
    assert reply.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/posteriors/x", "GET, DELETE, HEAD"),
        ("PUT", "/limits", "GET, HEAD"),
        ("GET", "/posteriors", "POST"),
    ],
)
def test_a_refused_method_is_told_all_that_the_path_takes(client, method, path, allowed):
    reply = client.request(method, path)
    assert (reply.status_code, reply.headers["allow"]) == (405, allowed)


def test_a_fault_of_ours_is_a_500_without_a_trace(served, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("service.codec.decode.Decoder.prediction_job", broken)
    problem = send(served.client, TEXT)
    assert problem["status"] == 500
    assert "secret" not in json.dumps(problem)
    monkeypatch.undo()
    assert served.client.post("/adapt-predict", json=BODY).status_code == 200


def test_a_fault_of_a_route_that_fastapi_serves_is_such_a_500_too(store, monkeypatch, caplog):
    async def fault(_):
        raise ZeroDivisionError("a secret")

    app = create_app(Settings(store=store, device="cpu"))
    app.router.add_route("/fault", fault)
    for served in listening(app, Settings(store=store, device="cpu")):
        reply = served.client.get("/fault")
        assert (reply.status_code, reply.json()["type"]) == (500, "urn:bmaml:problem:internal")
        assert "secret" not in reply.text
        assert len([each for each in caplog.records if "failed" in each.getMessage()]) == 1


def test_a_layer_that_is_added_stands_around_all_others(store):
    class Marked:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            async def marked(message):
                if message["type"] == "http.response.start":
                    named = b"x-request-id" in dict(message["headers"])
                    message["headers"] = [*message["headers"], (b"x-saw-the-id", b"yes" if named else b"no")]
                await send(message)

            await self.app(scope, receive, marked)

    app = create_app(Settings(store=store, device="cpu"))
    app.add_middleware(Marked)
    for served in listening(app, Settings(store=store, device="cpu")):
        for reply in (served.client.post("/adapt-predict", json=BODY), served.client.get("/models")):
            assert reply.headers["x-saw-the-id"] == "yes"


def test_a_task_that_fails_on_the_device_fails_alone(store, monkeypatch):
    import service.compute.batch as batch_module

    whole = batch_module.answer_batch

    def fragile(jobs):
        if any(len(job.query_x) == 7 for job in jobs):
            raise RuntimeError("no memory")
        return whole(jobs)

    monkeypatch.setattr(batch_module, "answer_batch", fragile)

    async def together(url):
        bad = BODY | {"query": {"x": [[0.0]] * 7}}
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            return await asyncio.gather(
                *(client.post("/adapt-predict", json=body) for body in [BODY, bad] * 8)
            )

    settings = Settings(store=store, device="cpu")
    for served in listening(create_app(settings), settings):
        assert [reply.status_code for reply in asyncio.run(together(served.url))] == [200, 500] * 8
        assert 'bmaml_failed_tasks_total{reason="error"} 8.0' in served.client.get("/metrics").text


def test_a_store_without_a_good_version_is_alive_and_not_ready_until_there_is_one(tmp_path):
    publish(tmp_path)
    (tmp_path / "tiny" / "1" / "particles.safetensors").write_bytes(b"")
    for broken in serve(Settings(store=tmp_path, device="cpu", reload_s=0.02)):
        ready = broken.client.get("/readyz")
        assert ready.status_code == 503
        assert "no version that can be served" in ready.json()["detail"]
        assert broken.client.get("/livez").status_code == 200
        assert broken.client.post("/adapt-predict", json=BODY).status_code == 503
        (refused,) = broken.client.get("/models").json()["refused"]
        assert (refused["name"], refused["version"]) == ("tiny", 1)
        assert "particles.safetensors" in refused["reason"]
        publish(tmp_path)
        while broken.client.get("/readyz").status_code != 200:
            pass
        assert broken.client.post("/adapt-predict", json=BODY).json()["model"]["version"] == 2


def test_a_bad_version_is_refused_and_the_good_ones_answer(tmp_path):
    publish(tmp_path, seed=1)
    publish(tmp_path, seed=2)
    (tmp_path / "tiny" / "2" / "particles.safetensors").write_bytes(b"")
    for running in serve(Settings(store=tmp_path, device="cpu")):
        listed = running.client.get("/models").json()
        assert [each["versions"] for each in listed["models"]] == [[1]]
        assert (listed["refused"][0]["name"], listed["refused"][0]["version"]) == ("tiny", 2)
        assert running.client.post("/adapt-predict", json=BODY).json()["model"]["version"] == 1
