"""From the first probe to the last answer: ready, draining, failing, and what does not fit into memory."""

import asyncio
import threading

import httpx
import numpy as np
import pytest
import torch

import service.compute.batch as batch_module
from service.app import create_app
from service.compute import device as device_module
from service.compute.device import DeviceFailed
from service.engine.engine import Engine
from service.engine.posterior_cache import PosteriorCache
from service.engine.queue import Queue
from service.errors import RequestError
from service.http.health import create_probe_app
from service.http.server import Server, uvicorn_config
from service.job import Answer, Job, PredictionSpec
from service.ops.metrics import Metrics
from service.runtime import Runtime
from service.settings import Settings
from tests.published import publish
from tests.service.conftest import listening, serve

BODY = {"model": "tiny", "support": {"x": [[-2.0], [0.5]], "y": [8.0, 11.5]}, "query": {"x": [[0.0]]}}


def job(model, rows=3):
    def zeros(count):
        return np.zeros((count, 1), np.float32)

    return Job(model, zeros(2), zeros(2), zeros(rows), 0, 0, PredictionSpec((0.05, 0.95)), float("inf"))


def answers(engine, jobs):
    async def all_of_them():
        return await asyncio.gather(*(engine.submit(each) for each in jobs), return_exceptions=True)

    return asyncio.run(all_of_them())


def engine_with(check=lambda: None):
    metrics = Metrics()
    engine = Engine(Queue(10**9, 10**9), PosteriorCache(10**9, b"s", metrics), metrics, check=check)
    return engine, metrics


def limited(most_rows, sizes):
    """The device with room for so many rows of a batch."""
    whole = batch_module.answer_batch

    def answer_batch(jobs):
        sizes.append([len(each.query_x) for each in jobs])
        if sum(sizes[-1]) > most_rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(jobs)

    return answer_batch


def test_a_batch_that_does_not_fit_is_split_and_only_what_never_fits_fails(tmp_path, monkeypatch):
    model, sizes = publish(tmp_path), []
    monkeypatch.setattr(batch_module, "answer_batch", limited(8, sizes))
    monkeypatch.setattr("service.engine.queue.MAX_PADDING_SHARE", 1.0)
    engine, metrics = engine_with()
    rows = [3, 4, 9, 2, 5]
    asked = threading.Thread(target=engine.start)
    queue = engine.queue

    async def story():
        waiting = [asyncio.create_task(engine.submit(job(model, size))) for size in rows]
        while queue.tasks < len(rows):
            await asyncio.sleep(0)
        asked.start()
        return await asyncio.gather(*waiting, return_exceptions=True)

    found = asyncio.run(story())
    engine.stop(30)
    assert [isinstance(each, Answer) for each in found] == [True, True, False, True, True]
    refused = found[2]
    assert isinstance(refused, RequestError)
    assert (refused.kind, refused.status) == ("task-too-large", 413)
    assert len(sizes[0]) == 5  # all together at first
    assert metrics.retried.labels("memory")._value.get() == sum(
        len(size) > 1 and sum(size) > 8 for size in sizes
    )


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)
def test_the_memory_of_the_machine_runs_out_like_that_of_a_gpu(error):
    assert device_module.out_of_memory(error)
    assert not device_module.out_of_memory(RuntimeError("something else"))


def test_a_device_that_does_not_answer_ends_the_engine_and_tells_everybody(tmp_path, monkeypatch):
    model, broken, queued = publish(tmp_path), threading.Event(), threading.Event()

    def check():
        if broken.is_set():
            raise DeviceFailed("an illegal memory access was encountered")

    whole = batch_module.answer_batch

    def answer_batch(jobs):
        if any(len(each.query_x) == 7 for each in jobs):
            queued.wait()  # for the others
            broken.set()
        if broken.is_set():
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return whole(jobs)

    monkeypatch.setattr(batch_module, "answer_batch", answer_batch)
    engine, _ = engine_with(check)
    engine.start()
    assert all(isinstance(each, Answer) for each in answers(engine, [job(model)] * 3))

    async def together():
        asked = [asyncio.create_task(engine.submit(job(model, size))) for size in (7, 1, 40, 400)]
        await asyncio.sleep(0)
        queued.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(together())
    assert {each.kind for each in found} == {"engine-failed"}
    engine._thread.join(30)
    assert engine.failed
    assert not engine.alive
    (late,) = answers(engine, [job(model)])
    assert late.status == 503


def test_a_fault_that_is_not_the_device_s_ends_nothing(tmp_path, monkeypatch):
    model, whole = publish(tmp_path), batch_module.answer_batch

    def answer_batch(jobs):
        if any(len(each.query_x) == 7 for each in jobs):
            raise RuntimeError("a bug")
        return whole(jobs)

    monkeypatch.setattr(batch_module, "answer_batch", answer_batch)
    engine, metrics = engine_with()

    async def story():
        waiting = [asyncio.create_task(engine.submit(job(model, size))) for size in (7, 6)]
        while engine.queue.tasks < 2:
            await asyncio.sleep(0)
        engine.start()
        return await asyncio.gather(*waiting, return_exceptions=True)

    bad, good = asyncio.run(story())
    engine.stop(30)
    assert metrics.retried.labels("error")._value.get() == 1  # both together, and then each alone
    assert isinstance(bad, RuntimeError)
    assert isinstance(good, Answer)
    assert not engine.failed


def test_the_process_ends_with_a_device_that_failed(store):
    settings = Settings(store=store, device="cpu", port=0)
    app = create_app(settings)
    server = Server(uvicorn_config(app, settings), app.state.runtime, linger_s=0)
    app.state.runtime.engine._failed = True
    app.state.runtime.start = lambda: None
    asyncio.run(server.serve())  # returns by itself
    assert app.state.runtime.failed


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_service_without_the_gpu_it_is_to_use_says_so(store):
    for served in serve(Settings(store=store, device="cuda")):
        assert served.client.get("/livez").status_code == 503
        assert "BMAML_DEVICE" in served.client.get("/readyz").json()["detail"]


def test_while_draining_probes_say_no_and_what_comes_is_still_answered(store):
    for served in serve(Settings(store=store, device="cpu")):
        runtime, client = served.app.state.runtime, served.client
        assert client.get("/readyz").status_code == 200
        runtime.draining = True
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["detail"]) == (503, "shutting down")
        assert ready.headers["retry-after"] == "1"
        assert client.get("/livez").status_code == 200
        answer = client.post("/adapt-predict", json=BODY)
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"
        runtime.draining = False


def test_probes_and_metrics_move_to_a_port_of_their_own(store):
    settings = Settings(store=store, device="cpu", probe_port=0)
    for served in serve(settings, ready=lambda client: client.get("/limits").status_code == 200):
        for path in ("/livez", "/readyz", "/metrics"):
            assert served.client.get(path).status_code == 404
        assert set(served.client.get("/openapi.json").json()["paths"]) & {"/livez", "/metrics"} == set()
        transport = httpx.ASGITransport(create_probe_app(served.app.state.runtime))

        async def probe(path, transport=transport):
            async with httpx.AsyncClient(transport=transport, base_url="http://probe") as client:
                return await client.get(path)

        while served.client.post("/adapt-predict", json=BODY).status_code == 503:
            pass
        assert asyncio.run(probe("/readyz")).json() == {"status": "ok"}
        assert "bmaml_ready 1.0" in asyncio.run(probe("/metrics")).text
        assert asyncio.run(probe("/models")).status_code == 404


def test_no_request_is_answered_before_the_service_says_that_it_is_ready(store):
    runtime, seen = Runtime(Settings(store=store, device="cpu")), []

    def start():  # the last part that starts, when the engine runs already
        with pytest.raises(RequestError, match="loading models"):
            runtime.check_serving()
        seen.append(runtime.why_not_ready)

    runtime.housekeeping.start = start
    runtime.start()
    runtime.check_serving()
    assert (seen, runtime.why_not_ready) == (["loading models"], None)
    runtime.stop()


def test_a_runtime_that_was_started_before_its_server_is_not_started_again(store, caplog):
    caplog.set_level("INFO", logger="service.runtime")
    settings = Settings(store=store, device="cpu")
    app = create_app(settings)
    app.state.runtime.start()
    for served in listening(app, settings):
        assert served.client.post("/adapt-predict", json=BODY).status_code == 200
    assert len([each for each in caplog.records if each.message.startswith("ready on")]) == 1


def test_a_version_with_more_particles_than_allowed_is_refused(tmp_path):
    publish(tmp_path, "tiny")
    publish(tmp_path, "crowded", particles=9)
    for served in serve(Settings(store=tmp_path, device="cpu", max_particles=8)):
        listed = served.client.get("/models").json()
        assert [each["name"] for each in listed["models"]] == ["tiny"]
        assert listed["refused"] == [
            {"name": "crowded", "version": 1, "reason": "it has more than 8 particles"}
        ]
        text = served.client.get("/metrics").text
        assert 'bmaml_refused_versions{name="crowded",version="1"} 1.0' in text
