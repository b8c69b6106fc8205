"""What is let in: bounded bodies in any packing, a bounded queue, and nothing that nobody waits for."""

import asyncio
import gzip
import json
import threading
import time
import zlib
from types import SimpleNamespace

import httpx
import pytest

import service.compute.batch as batch_module
import service.engine.queue as queue_module
from service.engine.cost_model import _BatchTime, _Rate
from service.settings import Settings
from tests.service.conftest import serve

BODY = {"model": "tiny", "support": {"x": [[-2.0], [0.5]], "y": [8.0, 11.5]}, "query": {"x": [[0.0]]}}
TEXT = json.dumps(BODY).encode()


def post(client, content, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(
        "/adapt-predict", content=content, headers={"content-type": "application/json", **named}
    )


def kind(reply):
    return reply.json()["type"].removeprefix("urn:bmaml:problem:")


def test_a_packed_body_is_answered_like_a_plain_one(client):
    plain, packed = post(client, TEXT), post(client, gzip.compress(TEXT), content_encoding="gzip")
    assert packed.json()["prediction"] == plain.json()["prediction"]
    deflated = post(client, zlib.compress(TEXT), content_encoding="deflate")
    assert deflated.json()["prediction"] == plain.json()["prediction"]


@pytest.mark.parametrize(
    ("content", "status", "named"),
    [
        (zlib.compress(b" " * 50_000_000), 413, "body-too-large"),
        (zlib.compress(TEXT)[:-9], 400, "bad-encoding"),
        (gzip.compress(TEXT), 400, "bad-encoding"),
    ],
    ids=["bomb", "cut short", "gzip"],
)
def test_a_deflated_body_has_the_same_limit(client, content, status, named):
    reply = post(client, content, content_encoding="deflate")
    assert (reply.status_code, kind(reply)) == (status, named)


@pytest.mark.parametrize(
    ("content", "status", "named"),
    [
        (gzip.compress(b" " * 50_000_000), 413, "body-too-large"),
        (gzip.compress(TEXT)[:-9], 400, "bad-encoding"),
        (gzip.compress(TEXT) + b"more", 400, "bad-encoding"),
        (TEXT, 400, "bad-encoding"),
        (b"", 400, "bad-encoding"),
    ],
    ids=["bomb", "cut short", "goes on", "plain", "empty"],
)
def test_a_packed_body_is_unpacked_within_the_limit_and_no_further(client, content, status, named):
    reply = post(client, content, content_encoding="gzip")
    assert (reply.status_code, kind(reply)) == (status, named)


def slow(queue, model, seconds=10.0):
    """From now on such work is believed to take these seconds for a row."""
    _, use = queue._cost_model._models[model]
    queue._cost_model._models[model] = _BatchTime(_Rate(seconds, 1.0)), use


@pytest.fixture
def gate(monkeypatch):
    """Holds the device until it is opened."""
    reached, opened = threading.Event(), threading.Event()
    whole, seen = batch_module.answer_batch, []

    def gated(jobs):
        reached.set()
        opened.wait(60)
        seen.extend(jobs)
        return whole(jobs)

    monkeypatch.setattr(batch_module, "answer_batch", gated)
    return reached, opened, seen


@pytest.fixture
def small(store, gate, monkeypatch):
    """A service whose queue holds one task beside the one on the device.

    The queue's clock stands still: how long the machine takes for a test's own steps plays no part.
    """
    now = time.monotonic()
    monkeypatch.setattr(queue_module, "time", SimpleNamespace(monotonic=lambda: now))
    for served in serve(Settings(store=store, device="cpu", max_queue_work=40, deadline_ms=10_000)):
        yield served
        gate[1].set()


def test_a_full_queue_refuses_and_probes_and_metrics_go_on(small, gate):
    reached, opened, _ = gate

    async def story():
        async with httpx.AsyncClient(base_url=small.url, timeout=60) as client:
            first = asyncio.create_task(client.post("/adapt-predict", json=BODY))
            await asyncio.to_thread(reached.wait)
            others = [asyncio.create_task(client.post("/adapt-predict", json=BODY)) for _ in range(20)]
            await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
            probes = [(await client.get(path)).status_code for path in ("/livez", "/readyz", "/models")]
            text = (await client.get("/metrics")).text
            opened.set()
            return await asyncio.gather(first, *others), probes, text

    replies, probes, text = asyncio.run(story())
    assert probes == [200, 200, 200]
    assert "bmaml_queue_work 36.0" in text  # three tasks of four particles and three rows
    refused = [reply for reply in replies if reply.status_code == 429]
    assert [reply.status_code for reply in replies].count(200) == 4
    assert len(refused) == 17
    assert {kind(reply) for reply in refused} == {"queue-full"}
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)


def test_what_could_not_be_started_in_time_is_refused_at_once(small, gate):
    _, opened, _ = gate
    opened.set()
    post(small.client, TEXT)
    queue = small.app.state.runtime.queue
    while not queue._cost_model._models:  # it learns from a batch after the reply
        pass
    (model,) = queue._cost_model._models
    slow(queue, model, 0.001)  # whatever the first one took
    opened.clear()
    gate[0].clear()

    async def story():
        async with httpx.AsyncClient(base_url=small.url, timeout=60) as client:
            first = asyncio.create_task(client.post("/adapt-predict", json=BODY))
            await asyncio.to_thread(gate[0].wait)
            slow(queue, model)
            second = asyncio.create_task(client.post("/adapt-predict", json=BODY))
            while not queue.tasks:
                await asyncio.sleep(0)
            refused = await client.post("/adapt-predict", json=BODY)
            opened.set()
            return refused, await first, await second

    refused, first, second = asyncio.run(story())
    assert (first.status_code, second.status_code) == (200, 200)
    assert (refused.status_code, kind(refused)) == (429, "queue-full")
    # Half of what waits, which is 12 units of work at 10 s, after some milliseconds of what is under way.
    assert int(refused.headers["retry-after"]) == 61


def test_a_deadline_that_passes_while_the_device_is_busy_is_told_at_once(small, gate):
    reached, opened, seen = gate

    async def story():
        async with httpx.AsyncClient(base_url=small.url, timeout=60) as client:
            first = asyncio.create_task(client.post("/adapt-predict", json=BODY))
            await asyncio.to_thread(reached.wait)
            late = await client.post("/adapt-predict", json=BODY | {"deadline_ms": 300})
            assert not first.done()
            opened.set()
            return late, await first

    late, first = asyncio.run(story())
    assert (late.status_code, kind(late), first.status_code) == (504, "expired", 200)
    assert post(small.client, TEXT).status_code == 200
    assert len(seen) == 2


def test_the_work_of_a_caller_who_hung_up_is_not_done(small, gate):
    reached, opened, seen = gate

    async def story():
        async with httpx.AsyncClient(base_url=small.url, timeout=60) as client:
            first = asyncio.create_task(client.post("/adapt-predict", json=BODY))
            await asyncio.to_thread(reached.wait)
            async with httpx.AsyncClient(base_url=small.url, timeout=60) as other:
                gone = asyncio.create_task(other.post("/adapt-predict", json=BODY))
                while not small.app.state.runtime.queue.tasks:
                    await asyncio.sleep(0)
                gone.cancel()
            while 'status="499"' not in (await client.get("/metrics")).text:
                pass
            opened.set()
            return await first

    assert asyncio.run(story()).status_code == 200
    assert post(small.client, TEXT).status_code == 200
    assert len(seen) == 2


def test_a_version_that_is_named_is_judged_by_its_own_lane(small, gate):
    _, opened, _ = gate
    opened.set()
    post(small.client, TEXT)
    queue = small.app.state.runtime.queue
    while not queue._cost_model._models:  # it learns from a batch after the reply
        pass
    (newest,) = queue._cost_model._models
    opened.clear()
    gate[0].clear()

    async def story():
        async with httpx.AsyncClient(base_url=small.url, timeout=60) as client:
            first = asyncio.create_task(client.post("/adapt-predict", json=BODY))
            await asyncio.to_thread(gate[0].wait)
            slow(queue, newest)
            waiting = asyncio.create_task(client.post("/adapt-predict", json=BODY))
            while not queue.tasks:
                await asyncio.sleep(0)
            refused = await client.post("/adapt-predict", json=BODY)
            other = asyncio.create_task(client.post("/adapt-predict", json=BODY | {"version": 1}))
            while queue.tasks < 2:
                await asyncio.sleep(0)
            opened.set()
            return refused, await asyncio.gather(first, waiting, other)

    queue._max_work = 1000
    refused, answered = asyncio.run(story())
    assert refused.status_code == 429
    assert [reply.status_code for reply in answered] == [200, 200, 200]


def test_bodies_on_their_way_share_a_bound(store):
    for served in serve(Settings(store=store, device="cpu", max_bytes_in_flight=2000)):
        reply = post(served.client, b" " * 3000)
        assert (reply.status_code, kind(reply)) == (429, "queue-full")
        assert reply.headers["retry-after"] == "1"
        assert post(served.client, TEXT).status_code == 200


def test_an_accepted_request_that_cannot_be_finished_in_the_time_to_drain_is_told(store, gate):
    for served in serve(Settings(store=store, device="cpu", drain_s=1)):

        async def story(served=served):
            async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
                asked = asyncio.create_task(client.post("/adapt-predict", json=BODY))
                await asyncio.to_thread(gate[0].wait)
                served.app.state.runtime.draining = True
                served.server.should_exit = True
                return await asked

        reply = asyncio.run(story())
        gate[1].set()
        assert (reply.status_code, kind(reply)) == (503, "not-ready")
