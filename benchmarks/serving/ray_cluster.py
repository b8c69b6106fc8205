"""A Ray of one machine on the loopback interface, and the service in its Ray Serve."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.processes import ROOT

BIN = Path(sys.executable).parent
REPLICA = b"ray::ServeReplica:"
"""Ray gives this name to the process of a replica."""
MAX_REPLICAS = 6
"""Probe ports that are looked at: twice as many as a deployment of two replicas has while it is replaced."""
PORTS = itertools.count(31_100 + 16 * (os.getpid() % 100), 16)
"""The first port of each cluster: between those that Ray takes for itself and those of Linux."""
START_TIMEOUT_S = 240.0
HAPROXY_MODE = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": "hdr(x-session-id)\n    hash-type consistent",
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",
}
"""Variables of a Ray with HAProxy in the place of its Python proxy."""
PATIENT = {
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "2",
    "RAY_SERVE_MAX_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "2",
}
"""Variables by which the Python proxy waits for a busy replica before it takes another one."""


@dataclass(frozen=True)
class Cluster:
    """A running Ray.

    Attributes:
        address: of Ray.
        port: of Ray Serve's proxy.
        probes: the first of the replicas' probe ports.
        environment: of its processes.
        folder: of its files; its name tells its processes from others.
    """

    address: str
    port: int
    probes: int
    environment: Mapping[str, str]
    folder: Path

    @property
    def url(self) -> str:
        """The address of the service."""
        return f"http://127.0.0.1:{self.port}"

    def deploy(
        self,
        args: Mapping[str, object],
        autoscaling: Mapping[str, object] | None = None,
        /,
        **settings: object,
    ) -> None:
        """Deploy the service, or replace it; return before it runs.

        Args:
            args: options of the application.
            autoscaling: Ray's options, in the place of the application's.
            settings: by name (`store` is `BMAML_STORE`).
        """
        settings |= {"probe_port": self.probes}
        environment = {f"BMAML_{name.upper()}": str(value) for name, value in settings.items()}
        application: dict[str, Any] = {
            "name": "bmaml",
            "import_path": "service.ray:app",
            "args": {"cpus": 0.5, **args},
            "runtime_env": {"env_vars": environment},
        }
        if autoscaling is not None:
            application["deployments"] = [{"name": "Replica", "autoscaling_config": {**autoscaling}}]
        config = {"http_options": {"host": "127.0.0.1", "port": self.port}, "applications": [application]}
        file = self.folder / "serve.yaml"
        file.write_text(json.dumps(config))  # JSON is YAML
        command = [str(BIN / "serve"), "run", f"--address={self.address}", "--non-blocking", str(file)]
        done = subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]

    def ready(self) -> list[int]:
        """Probe ports of the replicas that are ready."""
        found = []
        for port in range(self.probes, self.probes + MAX_REPLICAS):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200:
                    found.append(port)
        return found

    def wait(self, replicas: int, seconds: float = START_TIMEOUT_S) -> float:
        """Seconds until there are so many replicas, all of them ready, and the proxy answers.

        Raises:
            AssertionError: it took longer than `seconds`.
        """
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < seconds:
            found = self.ready()
            if len(found) == replicas == len(self.replicas()) and self._answers():
                return elapsed
            time.sleep(0.2)
        raise AssertionError(f"{len(found)} replicas are ready after {seconds:.0f} s, not {replicas}")

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/models", timeout=60).status_code == 200
        return False

    def replicas(self) -> list[int]:
        """Processes of the replicas."""
        return [pid for pid in self._processes() if _read(pid, "cmdline").startswith(REPLICA)]

    def cpu_seconds(self) -> float:
        """Processor time of all its processes, user and system."""
        found = (_read(pid, "stat").rpartition(b")")[2].split()[11:13] for pid in self._processes())
        return sum(int(ticks) for each in found for ticks in each) / os.sysconf("SC_CLK_TCK")

    def _processes(self) -> list[int]:
        ours = os.fsencode(f"TMPDIR={self.folder}")
        pids = (int(each.name) for each in Path("/proc").glob("[0-9]*"))
        return [pid for pid in pids if ours in _read(pid, "environ").split(b"\0")]


@contextlib.contextmanager
def cluster(**more: str) -> Iterator[Cluster]:
    """A Ray with two CPUs and no dashboard, for as long as the block runs.

    Args:
        more: environment variables of its processes.

    Raises:
        SystemExit: it did not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: the paths of Ray's sockets are in it
    first = next(PORTS)
    port, agent, client, http, probes = range(first, first + 5)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'client'}",
        "TMPDIR": str(folder),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray then takes 127.0.0.1 for its own address
        "RAY_raylet_start_wait_time_s": f"{START_TIMEOUT_S:.0f}",
        **PATIENT,
        **more,
    }
    command = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}"),
        *(f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"),
        *("--num-cpus=2", "--object-store-memory=100000000", "--include-dashboard=false"),
        *("--include-log-monitor=false", "--disable-usage-stats", f"--temp-dir={folder / 'r'}"),
    ]
    log = folder / "head.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        while b"Ray runtime started" not in log.read_bytes():
            if process.poll() is not None:
                raise SystemExit(f"Ray ended with {process.returncode}: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield Cluster(f"127.0.0.1:{port}", http, probes, environment, folder)
    finally:
        process.terminate()  # it ends what it has started
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _read(pid: int, name: str) -> bytes:
    """A file of a process; empty where the process has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""
