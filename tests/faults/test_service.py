"""The service killed, drained, reloaded: nobody who was let in goes without an answer."""

import asyncio
import functools
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from pydantic import ValidationError

import model_store.store as store_module
from service.settings import Settings
from tests.faults.conftest import BODY, ROWS, free_port, gone, serving
from tests.published import publish
from tests.scale import SCALE
from tests.service.conftest import PAUSE_S
from tests.service.conftest import serve as serve_here

CLIENTS = 64


class Load:
    """Clients that ask again and again, in a thread, until told to stop.

    Attributes:
        answers: by the id of the request.
        lost: ids of requests without an answer.
    """

    def __init__(self, url: str, clients: int = CLIENTS) -> None:
        self.url, self.clients = url, clients
        self.answers: dict[str, httpx.Response] = {}
        self.lost: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> "Load":
        self._thread.start()
        while len(self.answers) < self.clients and self._thread.is_alive():
            self._thread.join(PAUSE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.url, timeout=60, limits=limits) as client:
            await asyncio.gather(*(self._client(client) for _ in range(self.clients)))

    async def _client(self, client: httpx.AsyncClient) -> None:
        while not self._stop.is_set():
            name = uuid.uuid4().hex
            try:
                reply = await client.post("/adapt-predict", json=BODY, headers={"X-Request-ID": name})
                self.answers[name] = reply
            except httpx.TransportError:
                self.lost.append(name)
                await asyncio.sleep(0)

    def statuses(self) -> set[int]:
        return {reply.status_code for reply in self.answers.values()}


@pytest.mark.timeout(3600)
def test_sigterm_under_load_leaves_no_accepted_request_without_an_answer(store):
    for turn in range(2 * SCALE):
        with serving(store) as service, Load(service.url) as load:
            before = len(load.answers)
            assert service.end(signal.SIGTERM) == 0
            assert load.statuses() == {200}
            assert len(load.answers) >= before
        lost = service.accepted() & set(load.lost)
        assert not lost, f"turn {turn}: {len(lost)} of {len(load.answers)}"
        assert service.accepted() == set(load.answers)


@pytest.mark.timeout(3600)
def test_killed_under_load_it_comes_back_with_the_same_answers(store):
    """As a supervisor restarts it: the same port, the same store, the same secret."""
    chance, port = random.Random(0), free_port()
    expected = kept = None
    for _ in range(2 * SCALE):
        with serving(store, port, secret="s" * 32) as service, Load(service.url, clients=8) as load:
            answer = httpx.post(
                f"{service.url}/posteriors", json={"model": "tiny", "support": ROWS}, timeout=60
            ).json()
            if kept is not None:
                assert answer["posterior"]["id"] == kept  # the same rows, the same id
                assert answer["posterior"]["cache"] == "miss"
            kept = answer["posterior"]["id"]
            with suppress(subprocess.TimeoutExpired):
                service.process.wait(chance.uniform(0.0, 0.2))
            assert service.end(signal.SIGKILL) == -signal.SIGKILL
        assert load.statuses() == {200}
        for reply in load.answers.values():
            mean = reply.json()["prediction"]["mean"]
            expected = expected or mean
            np.testing.assert_allclose(mean, expected, rtol=1e-5)
    with serving(store, port, secret="s" * 32) as service:
        body = {"model": "tiny", "posterior": kept, "query": BODY["query"]}
        assert httpx.post(f"{service.url}/adapt-predict", json=body, timeout=60).status_code == 410


@pytest.mark.timeout(3600)
def test_many_versions_published_under_load_fail_nobody_and_mix_in_no_answer(store):
    count = 10 * SCALE
    # Native functions take their memory once, whatever is published, while they compile.
    with serving(store, idle_s=0.2, log_level="warning", native="off") as service:
        started = service.resident
        publish(store, "tiny", seed=1)
        with Load(service.url, clients=8) as load:
            said = {}
            for seed in range(count):
                model = publish(store, "tiny", seed=seed + 2)
                said[model.manifest.version] = model.sha256
            with httpx.Client(base_url=service.url, timeout=60) as client:
                while max(client.get("/models/tiny").json()["versions"]) < count + 2:
                    pass
                while "bmaml_model_info{" in (text := client.get("/metrics").text) and (
                    text.count("bmaml_model_info{") > 1
                ):
                    pass  # the old ones are let go
            ended = service.resident
        assert load.statuses() == {200}
        assert load.lost == []
    means: dict[int, list[float]] = {}
    for reply in load.answers.values():
        body = reply.json()
        version = body["model"]["version"]
        if version in said:
            assert body["model"]["sha256"] == said[version]
        mean = means.setdefault(version, body["prediction"]["mean"])
        np.testing.assert_allclose(body["prediction"]["mean"], mean, rtol=1e-4)
    assert len(means) > 1
    distinct = {tuple(np.round(mean, 4)) for mean in means.values()}
    assert len(distinct) >= len(means) - 1  # versions 1 and 2 are the same
    print(f"{count} versions, {len(load.answers)} answers from {len(means)} of them, none lost; ",
          f"resident {started / 2**20:.1f} to {ended / 2**20:.1f} MiB")  # fmt: skip
    assert ended < 1.04 * started


def test_a_version_deleted_while_it_is_loaded_is_refused_and_the_others_answer(store, monkeypatch):
    publish(store, "other", seed=3)
    whole = store_module.Store._checked

    def vanishing(self, folder, file, digest):
        if folder.parent.name == "other":
            for each in folder.iterdir():
                each.unlink()
        return whole(self, folder, file, digest)

    monkeypatch.setattr(store_module.Store, "_checked", vanishing)
    for served in serve_here(Settings(store=store, device="cpu", reload_s=0.02)):
        listed = served.client.get("/models").json()
        assert [each["name"] for each in listed["models"]] == ["tiny"]
        assert [each["name"] for each in listed["refused"]] == ["other"]
        assert "missing" in listed["refused"][0]["reason"]
        assert served.client.post("/adapt-predict", json=BODY).status_code == 200


def _later(clock, seconds):
    return clock() + seconds


@pytest.mark.parametrize("days", [-400, 400])
def test_a_clock_that_jumps_moves_no_deadline_and_hides_no_version(store, monkeypatch, days):
    for served in serve_here(Settings(store=store, device="cpu", reload_s=0.02)):
        client = served.client
        body = {"model": "tiny", "support": ROWS, "keep": {"ttl_s": 300.0}}
        kept = client.post("/posteriors", json=body).json()["posterior"]["id"]
        jumped = functools.partial(_later, time.time, 86400 * days)
        monkeypatch.setattr(time, "time", jumped)
        asked = {"model": "tiny", "posterior": kept, "query": BODY["query"], "deadline_ms": 30_000}
        assert client.post("/adapt-predict", json=asked).status_code == 200
        model = publish(store, "tiny", seed=9)
        manifest = store / "tiny" / "2" / "manifest.json"
        os.utime(manifest, (jumped(), jumped()))
        while client.get("/models/tiny").json()["versions"] != [1, 2]:
            pass
        assert client.post("/adapt-predict", json=BODY).json()["model"]["sha256"] == model.sha256
        monkeypatch.undo()


def test_a_service_that_cannot_listen_or_read_its_settings_ends_with_a_reason(store):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "BMAML_STORE": str(store)}
    with serving(store) as service:
        taken = environment | {"BMAML_PORT": str(service.port)}
        second = subprocess.run([sys.executable, "-m", "service"], env=taken, capture_output=True, timeout=60)
        assert second.returncode != 0
        assert b"address already in use" in second.stdout.lower()
        assert httpx.post(f"{service.url}/adapt-predict", json=BODY, timeout=60).status_code == 200
    wrong = subprocess.run(
        [sys.executable, "-m", "service"],
        env=environment | {"BMAML_MAX_QUEUE_WORK": "many"},
        capture_output=True,
        timeout=60,
    )
    assert wrong.returncode == 2
    assert b"BMAML_MAX_QUEUE_WORK" in wrong.stderr
    with pytest.raises(ValidationError, match="set BMAML_DEVICE=cpu"):
        Settings(engine="process", device="auto")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_process_that_computes_ends_with_the_service(store, how):
    with serving(store) as service, Load(service.url, clients=4):
        (child,) = service.children
        assert not gone(child)
        assert service.end(how) in (0, -how)
        while not gone(child):
            pass


def test_a_service_whose_process_that_computes_is_killed_tells_all_who_wait_and_ends(store):
    with serving(store) as service, Load(service.url, clients=8) as load:
        os.kill(service.children[0], signal.SIGKILL)
        assert service.process.wait(60) == 1
    assert load.statuses() <= {200, 503}
    failed = [reply.json()["type"] for reply in load.answers.values() if reply.status_code == 503]
    assert set(failed) <= {"urn:bmaml:problem:engine-failed", "urn:bmaml:problem:not-ready"}


def test_it_ends_with_status_one_as_well_when_nobody_asks(store):
    with serving(store) as service:
        os.kill(service.children[0], signal.SIGKILL)
        assert service.process.wait(60) == 1


def test_a_thread_computes_where_that_is_asked_for(store):
    with serving(store, engine="thread") as service:
        assert service.children == []
        assert httpx.post(f"{service.url}/adapt-predict", json=BODY, timeout=60).status_code == 200
        assert "bmaml_worker_process" not in httpx.get(f"{service.url}/metrics", timeout=60).text
    with serving(store) as service:
        text = httpx.get(f"{service.url}/metrics", timeout=60).text
        assert "bmaml_worker_process_resident_memory_bytes" in text


def test_probes_and_metrics_on_their_own_port_say_no_while_the_service_drains(store):
    probes = free_port()
    with serving(store, probe_port=probes, linger_s=300) as service:
        assert httpx.get(f"http://127.0.0.1:{probes}/readyz", timeout=60).status_code == 200
        assert httpx.get(f"{service.url}/readyz", timeout=60).status_code == 404
        service.process.send_signal(signal.SIGTERM)
        while httpx.get(f"http://127.0.0.1:{probes}/readyz", timeout=60).status_code == 200:
            pass
        assert httpx.post(f"{service.url}/adapt-predict", json=BODY, timeout=60).status_code == 200
        assert httpx.get(f"http://127.0.0.1:{probes}/livez", timeout=60).status_code == 200
        service.process.send_signal(signal.SIGTERM)  # a second one ends the lingering
        assert service.process.wait(60) == 0
