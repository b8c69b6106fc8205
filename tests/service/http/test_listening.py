"""The addresses on which the service listens, and the warning where others reach it without a key."""

import signal
import subprocess
import sys

import httpx
import pytest

from service.http.server import is_loopback
from tests.faults.conftest import Process, free_port, serving
from tests.published import publish

KEY = "lab:" + 64 * "0"


def warnings(process: Process) -> list[object]:
    """Warnings in the log of a service that is ready, which then ends."""
    assert process.end(signal.SIGTERM) == 0
    return [each["message"] for each in process.lines if each["level"] == "warning"]


def test_the_host_of_two_colons_listens_on_both_families_and_warns_without_keys(tmp_path):
    publish(tmp_path)
    beside = free_port()
    with serving(tmp_path, probe_port=beside, host="::", engine="thread") as service:
        for host in ("127.0.0.1", "[::1]"):
            assert httpx.get(f"http://{host}:{service.port}/limits", timeout=60).status_code == 200
            assert httpx.get(f"http://{host}:{beside}/readyz", timeout=60).json() == {"status": "ok"}
        (warning,) = warnings(service)
    assert "BMAML_HOST=:: listens beyond the loopback interface" in str(warning)
    assert "Set BMAML_KEYS or BMAML_KEYS_FILE, or BMAML_HOST=127.0.0.1" in str(warning)


@pytest.mark.parametrize("settings", [{"host": "0.0.0.0", "keys": KEY}, {"host": "127.0.0.1"}])
def test_with_keys_or_on_the_loopback_there_is_no_warning(tmp_path, settings):
    publish(tmp_path)
    with serving(tmp_path, engine="thread", **settings) as service:
        assert warnings(service) == []


def test_a_port_that_is_taken_ends_a_service_of_both_families_with_a_reason(tmp_path):
    publish(tmp_path)
    with serving(tmp_path, engine="thread") as service:
        second = Process(service.port, tmp_path, host="::", engine="thread")
        assert second.ended() == 1
    assert "cannot listen: " in str(second.lines[-1]["message"])


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.0.2.1", False),
        ("no-such-host.invalid", False),
    ],
)
def test_which_hosts_are_the_loopback(host, loopback):
    assert is_loopback(host) is loopback


ENDING = """
import atexit, threading, time
import service.__main__ as command

def main():
    print("served")
    threading.Thread(target=time.sleep, args=(600,), daemon=DAEMON).start()
    return 3

command.main = main
atexit.register(print, "unwound")
command.command()
"""


@pytest.mark.parametrize(("thread", "said"), [("True", "served\n"), ("None", "served\nunwound\n")])
def test_a_thread_that_still_compiles_is_not_unwound_when_the_process_ends(thread, said):
    code = ENDING.replace("DAEMON", thread).replace("600", "600" if thread == "True" else "0")
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, said)
