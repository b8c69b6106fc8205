"""Requests a second and latency through HTTP: the service beside the ceiling of its stack and two other ways.

    python -m benchmarks.serving.throughput [--seconds 5] [--page docs/performance.md]

Four servers, one after the other, each alone on loopback with the same bodies (see `servers.py`): echo,
ours, a loop in a FastAPI handler, LitServe. Closed loop with 1, 8 and 64 clients; then ours in an open loop
with Poisson arrivals at parts of the capacity that the closed loop found. The load generator runs on the
same machine and takes its share of it. Settings of the environment (BMAML_…) are ours.
"""

import argparse
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np

from benchmarks import pages
from benchmarks.serving.load_generator import Measured, closed_loop, open_loop, post

MODELS = ("sinusoid", "learning-curves")
CLIENTS = (1, 8, 64)
LOADS = (0.3, 0.7, 0.95, 1.5, 2.0)
ROOT = Path(__file__).parents[2]


def bodies(model: str, count: int, ragged: bool = False) -> list[bytes]:
    """Ten points of a sine curve and fifty questions; five anchors of a learning curve and ten.

    Ragged ones have 1 to 20 points and 1 to 80 questions.
    """
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        shown, asked = (10, 50) if model == "sinusoid" else (5, 10)
        if ragged:
            shown, asked = int(rng.integers(1, 21)), int(rng.integers(1, 81))
        if model == "sinusoid":
            x, query = rng.uniform(-5, 5, (shown, 1)), rng.uniform(-5, 5, (asked, 1))
            y = rng.uniform(0.1, 5) * np.sin(rng.uniform(0.5, 2) * x[:, 0] - rng.uniform(0, 2 * np.pi))
        else:
            x, query = 2.0 ** (4 + np.arange(shown)[:, None] / 2), 2.0 ** rng.uniform(6.5, 12, (asked, 1))
            y = 0.9 - 0.5 * rng.uniform(0.5, 1.5) * x[:, 0] ** -0.4
        body = {"model": model, "support": {"x": x.tolist(), "y": y.tolist()}, "query": {"x": query.tolist()}}
        found.append(post("/adapt-predict", json.dumps(body).encode()))
    return found


def shuffled(requests: list[bytes]) -> list[bytes]:
    """In an order that mixes the models."""
    return [requests[place] for place in np.random.default_rng(1).permutation(len(requests))]


@contextmanager
def running(kind: str) -> Iterator[int]:
    """A server of this kind in a process of its own, ready; its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.serving.servers", kind, str(port)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    if kind == "ours":
        command = [sys.executable, "-m", "service"]
        environment |= {name: value for name, value in os.environ.items() if name.startswith("BMAML_")}
        environment |= {"BMAML_PORT": str(port), "BMAML_LOG_LEVEL": "warning"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    server = subprocess.Popen(command, env=environment, start_new_session=True, **quiet)
    try:
        body = bodies("sinusoid", 1)[0].split(b"\r\n\r\n", 1)[1]
        for _ in range(600):
            try:
                headers = {"content-type": "application/json"}
                url = f"http://127.0.0.1:{port}/adapt-predict"
                if httpx.post(url, content=body, headers=headers, timeout=30).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if server.poll() is not None:
                assert server.stderr is not None
                raise SystemExit(f"{kind} did not start: {server.stderr.read().decode()[-500:]}")
            time.sleep(0.1)
        else:
            raise SystemExit(f"{kind} was not ready within a minute")
        yield port
    finally:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(20)
        with suppress(ProcessLookupError):  # workers of workers, too
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def counters(port: int) -> dict[str, float]:
    """Prometheus' numbers of the service."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def on_ragged_rows(port: int, seconds: float) -> str:
    """What tasks of all sizes do to the batches, in a sentence."""
    requests = shuffled([each for model in MODELS for each in bodies(model, 200, ragged=True)])
    before = counters(port)
    rate = closed_loop(port, requests, 64, seconds).rate
    after = counters(port)
    real, padding = (
        after[f'bmaml_rows_total{{kind="{each}"}}'] - before[f'bmaml_rows_total{{kind="{each}"}}']
        for each in ("real", "padding")
    )
    return (
        f"Both models mixed, 1 to 20 support and 1 to 80 query rows, 64 clients: {rate:.0f} answers a "
        f"second, and {100 * padding / (real + padding):.0f} % of the rows on the device were padding."
    )


def row(name: str, clients: object, measured: Measured, more: str = "") -> str:
    """One line of a table."""
    others = {status: n for status, n in measured.statuses.items() if status != 200}
    said = ", ".join(f"{n} × {status}" for status, n in sorted(others.items())) or "none"
    times = f"{measured.median:.1f} | {measured.quantile(0.99):.1f}"
    return f"| {name} | {clients} | {measured.rate:.0f} | {times} | {said} |{more}"


def main() -> None:
    """Print the tables; write them into a page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--servers", default="echo,ours,loop,litserve")
    parser.add_argument("--page", type=Path, help="docs/performance.md; else nothing is written")
    parser.add_argument("--machine", default=platform.machine())
    options = parser.parse_args()
    lines = [f"Measured on {options.machine}, load generator included.", ""]
    closed: dict[tuple[str, str, int], Measured] = {}
    opened: list[str] = []
    waste: list[str] = []
    for kind in options.servers.split(","):
        with running(kind) as port:
            for model in MODELS:
                requests = bodies(model, 200)
                for clients in CLIENTS:
                    closed_loop(port, requests, clients, options.seconds / 5)
                    before = counters(port) if kind == "ours" else {}
                    closed[kind, model, clients] = closed_loop(port, requests, clients, options.seconds)
                    print(row(kind, clients, closed[kind, model, clients]), flush=True)
                    if kind == "ours":
                        after = counters(port)
                        grown = {name: after[name] - before[name] for name in before}
                        tasks = grown["bmaml_batch_tasks_sum"] / grown["bmaml_batch_tasks_count"]
                        waste.append(f"| {model} | {clients} | {tasks:.1f} |")
            if kind == "ours":
                padded = on_ragged_rows(port, options.seconds)
                print(padded, flush=True)
                mixed = shuffled([each for model in MODELS for each in bodies(model, 100)])
                capacity = closed_loop(port, mixed, 64, options.seconds).rate
                limited = [each.replace(b'"model"', b'"deadline_ms": 1000, "model"') for each in mixed]
                limited = [post("/adapt-predict", each.split(b"\r\n\r\n", 1)[1]) for each in limited]
                for part in LOADS:
                    measured = open_loop(port, limited, part * capacity, 2 * options.seconds)
                    opened.append(row(f"{100 * part:.0f} %", f"{part * capacity:.0f}", measured))
                    print(opened[-1], flush=True)
    for model in MODELS:
        lines += [
            f"#### {model}",
            "",
            "| server | clients | answers a second | p50, ms | p99, ms | other answers | times ours |",
            "|---|---|---|---|---|---|---|",
        ]
        for clients in CLIENTS:
            for kind in options.servers.split(","):
                measured = closed[kind, model, clients]
                ratio = measured.rate / closed["ours", model, clients].rate
                lines.append(row(kind, clients, measured, f" {ratio:.2f} |"))
        lines.append("")
    lines += ["| model | clients | mean batch of ours |", "|---|---|---|", *waste, ""]
    lines += [
        padded,
        "",
        f"Open loop, both models mixed, a deadline of a second in the queue; capacity {capacity:.0f} a "
        "second.",
        "",
        "| load | arrivals a second | good answers a second | p50, ms | p99, ms | other answers |",
        "|---|---|---|---|---|---|",
        *opened,
    ]
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, "serving")


if __name__ == "__main__":
    main()
