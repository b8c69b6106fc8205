"""The service in Ray Serve: two replicas behind its proxy, in a Ray of this machine."""

import collections
import importlib.util
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from benchmarks.checks.replicas import ASKS, TASKS, answered, tasks
from benchmarks.serving.ray_cluster import HAPROXY_MODE, PATIENT, Cluster, cluster
from bmaml_client import Client
from service.settings import Settings
from tests.faults.conftest import ROOT
from tests.published import publish

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray[serve]"),
    pytest.mark.filterwarnings("ignore"),  # of Ray's own modules
]
PAGE = ROOT / "docs" / "ray.md"
CLIENTS = 24
ASKS_AFTER_DEATH = 400
HEALTHY_S = 30
BODY = {"model": "tiny", "support": {"x": [[-2.0], [0.5]], "y": [8.0, 11.5]}, "query": {"x": [[0.0], [2.0]]}}
SOON = {
    "min_replicas": 1,
    "max_replicas": 2,
    "target_ongoing_requests": 8,
    "upscale_delay_s": 1,
    "downscale_delay_s": 2,
    "look_back_period_s": 11,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("ray-store")
    publish(store, "tiny", seed=1)
    return store


@pytest.fixture(scope="module")
def two(store: Path) -> Iterator[Cluster]:
    """Two replicas of the application."""
    with cluster() as ray:
        ray.deploy({"min_replicas": 2, "max_replicas": 2}, store=store)
        ray.wait(2)
        yield ray


class Load:
    """Clients in a closed loop, without retries.

    Attributes:
        statuses: how many replies had each status; 0 stands for a broken connection.
    """

    def __init__(self, url: str, clients: int) -> None:
        self.statuses: collections.Counter[int] = collections.Counter()
        self._url, self._stop, self._counted = url, threading.Event(), threading.Condition()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=120) as client:
            while not self._stop.is_set():
                try:
                    status = client.post("/adapt-predict", json=BODY).status_code
                except httpx.TransportError:
                    status = 0
                with self._counted:
                    self.statuses[status] += 1
                    self._counted.notify_all()

    def answer(self, more: int) -> None:
        """Wait for so many more replies."""
        with self._counted:
            goal = self.statuses.total() + more
            self._counted.wait_for(lambda: self.statuses.total() >= goal)

    @contextmanager
    def running(self) -> Iterator["Load"]:
        for each in self._threads:
            each.start()
        try:
            yield self
        finally:
            self._stop.set()
            for each in self._threads:
                each.join()


def metric(port: int, name: str) -> float:
    """A sample of the replica whose probe port this is."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def reach_all(ray: Cluster) -> None:
    """Ask until every replica has answered: a proxy hears of one a moment after it is ready."""
    deadline = time.monotonic() + HEALTHY_S
    while min(metric(port, 'bmaml_requests_total{route="/models"') for port in ray.ready()) == 0:
        assert time.monotonic() < deadline, "a replica is ready, and the proxy does not ask it"
        httpx.get(f"{ray.url}/models", headers={"X-Session-ID": uuid.uuid4().hex}, timeout=60)


def asks_found(ray: Cluster) -> int:
    """Asks by id that found their posterior, of `ASKS` for each task; both replicas hold some."""
    reach_all(ray)
    with Client(ray.url) as client:
        kept = [client.keep("tiny", *each) for each in tasks(TASKS, 0)]
        found = answered(client, "tiny", [each.id for each in kept])
    assert len(httpx.get(f"{ray.url}/models", timeout=60).headers.get_list("x-request-id")) == 1
    held = [metric(port, "bmaml_posterior_count ") for port in ray.ready()]
    assert sum(held) == TASKS
    assert min(held) > 0
    return found


def test_with_haproxy_every_ask_by_id_finds_its_posterior(store):
    with cluster(**HAPROXY_MODE) as ray:
        ray.deploy({"min_replicas": 2, "max_replicas": 2}, store=store)
        ray.wait(2)
        assert asks_found(ray) == ASKS * TASKS


def test_every_ask_by_id_finds_its_posterior_and_each_replica_has_its_own_metrics(two):
    assert asks_found(two) == ASKS * TASKS


def test_a_killed_replica_costs_less_than_a_hundredth_of_the_answers_and_is_replaced(two):
    with Load(two.url, 4).running() as load:
        load.answer(100)
        before = load.statuses.copy()
        victim = two.replicas()[0]
        os.kill(victim, signal.SIGKILL)
        while victim in two.replicas():
            load.answer(1)
        two.wait(2, HEALTHY_S)
        load.answer(ASKS_AFTER_DEATH)
    found = load.statuses - before
    print(f"after the death of a replica: {dict(found)}")
    assert found.total() - found[200] < 0.01 * found.total()


def test_another_deployment_under_load_loses_no_answer(two, store):
    former = set(two.replicas())
    with Load(two.url, 4).running() as load:
        load.answer(100)
        two.deploy({"min_replicas": 2, "max_replicas": 2}, store=store, log_level="warning")
        while former & set(two.replicas()):
            load.answer(10)
        two.wait(2)
        load.answer(100)
    assert set(load.statuses) == {200}


def test_replicas_come_and_go_with_the_load(two, store):
    two.deploy({}, SOON, store=store)
    two.wait(1)
    with Load(two.url, CLIENTS).running() as load:
        two.wait(2)
        load.answer(CLIENTS)
    two.wait(1)
    assert set(load.statuses) == {200}


def settings_of(application):
    (settings,) = application._bound_deployment.init_args
    return settings


def test_the_application_has_the_settings_of_its_environment_and_one_secret_for_all_replicas(
    monkeypatch, tmp_path
):
    from service.ray import Options, app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BMAML_STORE", "models")
    monkeypatch.setenv("BMAML_DRAIN_S", "7")
    bound = app(Options(min_replicas=2))
    settings = settings_of(bound)
    assert settings.store == tmp_path / "models"
    assert len(settings.secret.get_secret_value()) > 30
    assert bound._bound_deployment._deployment_config.graceful_shutdown_timeout_s > settings.drain_s == 7
    monkeypatch.setenv("BMAML_SECRET", "ours")
    assert settings_of(app(Options())).secret.get_secret_value() == "ours"


def test_worker_processes_are_refused_and_settings_without_effect_are_said(monkeypatch, caplog):
    from service.ray import NotForRay, Options, app

    monkeypatch.setenv("BMAML_PORT", "9000")
    app(Options())
    assert "BMAML_PORT has no effect" in caplog.text
    monkeypatch.setenv("BMAML_WORKERS", "2")
    with pytest.raises(NotForRay, match="a replica computes in a thread"):
        app(Options())


def test_the_config_file_of_the_manual_is_one_for_ray():
    from ray.serve.schema import ServeDeploySchema

    from service.ray import Options

    (text,) = re.findall(r"```yaml\n(http_options.*?)```", PAGE.read_text(), re.DOTALL)
    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(text)).applications
    Options.model_validate(application.args)
    assert {each[6:].lower() for each in application.runtime_env["env_vars"]} < set(Settings.model_fields)
    assert [each.name for each in application.deployments] == ["Replica"]


def test_the_manual_tells_the_variables_by_which_the_proxy_waits_for_a_busy_replica():
    said = " ".join(f"{name}={value}" for name, value in PATIENT.items())
    assert f"export {said}\n" in PAGE.read_text()


def test_the_manual_tells_the_options_and_their_defaults():
    from service.ray import Options

    found = re.findall(r"^\| (`.*?`) \| ([\d, ]+) \|", PAGE.read_text(), re.MULTILINE)
    told = [
        pair for names, values in found for pair in zip(names.split(", "), values.split(", "), strict=True)
    ]
    assert dict(told) == {f"`{name}`": f"{field.default}" for name, field in Options.model_fields.items()}
