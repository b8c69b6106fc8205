"""Services and publishers in processes of their own, to be killed."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.published import publish
from tests.service.conftest import PAUSE_S

ROOT = Path(__file__).parents[2]
PORTS = itertools.count(20_000 + 64 * os.getpid() % 10_000)
"""Below those that Linux gives to connections, and apart from those of other test processes."""
ROWS = {"x": [[-2.0], [0.5]], "y": [8.0, 11.5]}
BODY = {"model": "tiny", "support": ROWS, "query": {"x": [[0.0], [2.0]]}}


class Process:
    """`bmaml-serve` on a port, with its log.

    Attributes:
        lines: of its log, as they come.
    """

    def __init__(self, port: int, store: Path, **settings: object) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "BMAML_PORT": str(port),
            "BMAML_STORE": str(store),
            "BMAML_DEVICE": "cpu",
            **{name: os.environ[name] for name in ("BMAML_NATIVE", "BMAML_DEADLINE_MS")},
            "BMAML_RELOAD_S": "0.05",
            "BMAML_LINGER_S": "0.2",
        } | {f"BMAML_{name.upper()}": str(value) for name, value in settings.items()}
        self.port = port
        self.lines: list[dict[str, object]] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service"], env=environment, stdout=subprocess.PIPE, text=True
        )
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as log:
            self.lines.extend(json.loads(line) for line in log)
        self._ended.set()

    def ready(self, probes: int | None = None) -> "Process":
        """Once it answers, on the port of the probes if they have one."""
        with httpx.Client(base_url=f"http://127.0.0.1:{probes or self.port}", timeout=60) as client:
            while self.process.poll() is None:
                with suppress(httpx.TransportError):
                    if client.get("/readyz").status_code == 200:
                        return self
                self._ended.wait(PAUSE_S)
        raise AssertionError(f"the service ended with {self.process.returncode}: {self.lines[-3:]}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def resident(self) -> int:
        """Bytes of its own memory, and of the process that computes; what they share counts once."""
        rollups = (
            Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in (self.process.pid, *self.children)
        )
        return sum(
            1024 * int(line.split()[1])
            for text in rollups
            for line in text.splitlines()
            if line[:9] == "Pss_Anon:"
        )

    @property
    def children(self) -> list[int]:
        """Processes that it has started."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def accepted(self) -> set[str]:
        """Ids of the requests that the service says it has answered."""
        return {
            str(line["request_id"])
            for line in self.lines
            if line.get("route") == "/adapt-predict" and line["status"] == 200
        }

    def end(self, how: signal.Signals) -> int:
        """Send a signal; its exit status, once it has ended and all of its log has come."""
        self.process.send_signal(how)
        return self.ended()

    def ended(self) -> int:
        """Its exit status, once it has ended by itself and all of its log has come."""
        status = self.process.wait(60)
        self._reader.join()
        return status


@pytest.fixture
def store(tmp_path: Path) -> Path:
    publish(tmp_path, "tiny", seed=1)
    return tmp_path


def free_port() -> int:
    """A port that nobody listens on, and that no other process of tests is told of meanwhile."""
    while True:
        port = next(PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def gone(pid: int) -> bool:
    """Whether a process has ended, be it as a zombie that nobody has asked yet how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter between opening and reading
        return True


@contextmanager
def serving(
    store: Path, port: int | None = None, probe_port: int | None = None, **settings: object
) -> Iterator[Process]:
    """A service, ready; killed in the end if it still runs."""
    beside = {} if probe_port is None else {"probe_port": probe_port}
    process = Process(port or free_port(), store, **beside, **settings)
    try:
        yield process.ready(probe_port)
    finally:
        if process.process.poll() is None:
            process.end(signal.SIGKILL)
