"""Server processes for the length of a measurement, each on a free port of the loopback interface."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S, STOP_TIMEOUT_S = 180.0, 60.0
POLL_S = 0.1


def free_port() -> int:
    """A port that no process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str],
    ready: Callable[[], httpx.Response],
    settings: Mapping[str, str] | None = None,
    folder: Path = ROOT,
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process, from the first time that `ready` gets status 200 to the end of the block.

    It also ends, with all that it started, when this process gets SIGTERM.

    Args:
        command: what to run, with `folder` as its working directory.
        ready: a request to the process.
        settings: environment variables, on top of this process's own.

    Raises:
        SystemExit: the process ended while it started, or was not ready after `START_TIMEOUT_S`.
    """
    environment = {**os.environ, **(settings or {})}
    former = signal.signal(signal.SIGTERM, _exit)
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait_until_ready(process, ready, " ".join(command))
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        with suppress(ProcessLookupError):  # the group: workers that outlive the process that started them
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        signal.signal(signal.SIGTERM, former)


def service(
    port: int, checkout: Path = ROOT, ready: Callable[[], httpx.Response] | None = None, **settings: object
) -> "AbstractContextManager[subprocess.Popen[bytes]]":
    """The service of a checkout; settings by name (`STORE` is `BMAML_STORE`). By default `/readyz` asks."""
    environment = {f"BMAML_{name}": str(value) for name, value in settings.items()}
    environment |= {"BMAML_PORT": str(port), "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", "service"]
    url = f"http://127.0.0.1:{port}/readyz"
    return running(command, ready or (lambda: httpx.get(url)), environment, checkout)


def process_tree(pid: int) -> list[int]:
    """A process and those that it started, as ids."""
    started = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in started for each in process_tree(int(child)))]


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and of those that it started, user and system."""
    fields = (Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split() for each in process_tree(pid))
    return sum(int(ticks) for each in fields for ticks in each[11:13]) / os.sysconf("SC_CLK_TCK")


def _exit(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _wait_until_ready(
    process: "subprocess.Popen[bytes]", ready: Callable[[], httpx.Response], name: str
) -> None:
    give_up = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < give_up:
        with suppress(httpx.TransportError):
            if ready().status_code == 200:
                return
        if process.poll() is not None:
            raise SystemExit(f"{name} ended with {process.returncode} before it was ready")
        time.sleep(POLL_S)
    raise SystemExit(f"{name} was not ready after {START_TIMEOUT_S:.0f} s")
