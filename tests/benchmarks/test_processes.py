"""A server process runs for as long as its block, and no process is left behind."""

import signal
import subprocess
import sys

import httpx
import pytest

from benchmarks.processes import ROOT, cpu_seconds, process_tree, running
from tests.faults.conftest import free_port, gone


def test_a_process_is_ready_inside_its_block_and_gone_after_it(tmp_path):
    port = free_port()
    (tmp_path / "named").touch()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    url = f"http://127.0.0.1:{port}"
    with running(command, lambda: httpx.get(url, timeout=60), folder=tmp_path) as process:
        assert "named" in httpx.get(url, timeout=60).text
        assert process_tree(process.pid) == [process.pid]
        assert cpu_seconds(process.pid) > 0
    assert process.returncode is not None
    assert gone(process.pid)


def test_processes_that_it_started_count_and_end_with_it():
    port = free_port()
    child = f"{sys.executable} -m http.server {port} --bind 127.0.0.1"
    command = ["bash", "-c", f"trap 'exit 3' TERM; {child} & wait"]
    with running(command, lambda: httpx.get(f"http://127.0.0.1:{port}", timeout=60)) as process:
        parent, started = process_tree(process.pid)
        assert parent == process.pid
        assert cpu_seconds(parent) > 0
    assert process.returncode == 3
    while not gone(started):  # killed, and not waited for
        pass
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}", timeout=60)


def test_it_ends_with_a_benchmark_that_is_terminated():
    port = free_port()
    program = f"""
import httpx, os, signal, sys
from benchmarks.processes import running
command = [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"]
with running(command, lambda: httpx.get("http://127.0.0.1:{port}", timeout=60)) as process:
    print(process.pid, flush=True)
    signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE) as benchmark:
        assert benchmark.stdout is not None
        server = int(benchmark.stdout.readline())
        benchmark.terminate()
        assert benchmark.wait(60) == 128 + signal.SIGTERM
    assert gone(server)


def test_a_process_that_ends_before_it_is_ready_is_reported():
    command = [sys.executable, "-c", "raise SystemExit(7)"]
    url = f"http://127.0.0.1:{free_port()}"
    with (
        pytest.raises(SystemExit, match="ended with 7 before it was ready"),
        running(command, lambda: httpx.get(url, timeout=60)),
    ):
        raise AssertionError("it is not ready")
