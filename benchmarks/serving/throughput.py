"""Answers per second and latency over HTTP: the service beside the ceiling of its stack and two alternatives.

    python -m benchmarks.serving.throughput [--seconds 5] [--page docs/performance.md]

The servers (see `servers.py`) run one after the other, alone on the loopback interface, and get the same
bodies in a closed loop of 1, 8 and 64 clients. Ours then runs in an open loop: Poisson arrivals at parts of
the capacity that the closed loop found. The load generator takes its share of the same machine. Settings of
the environment (BMAML_…) apply to all servers.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks import command_line, pages
from benchmarks.processes import ROOT, free_port, running, service
from benchmarks.serving.load_generator import LoadResult, closed_loop, open_loop
from benchmarks.serving.workload import MODELS, bodies, mixed_requests, requests

OURS = "ours"
CLIENTS = (1, 8, 64)
LOADS = (0.3, 0.7, 0.95, 1.5, 2.0)
"""Arrival rates of the open loop, as parts of the capacity."""
BATCH_COUNTERS = ("bmaml_batch_tasks_sum", "bmaml_batch_tasks_count")
DEADLINE_MS = 1000
"""Time in the queue that a request of the open loop may take."""


@dataclass(frozen=True)
class Server:
    """Where a server listens, and its process."""

    port: int
    pid: int


@dataclass(frozen=True)
class Load:
    """One closed loop: `clients` that ask `model`."""

    model: str
    clients: int


CLOSED_LOOPS = [Load(model, clients) for model in MODELS for clients in CLIENTS]


@contextmanager
def serving(kind: str, checkout: Path = ROOT) -> Iterator[Server]:
    """A server that has answered a request: `ours`, the service of `checkout`, or one of `servers.py`."""
    port = free_port()

    def ready() -> httpx.Response:
        url, headers = f"http://127.0.0.1:{port}/adapt-predict", {"content-type": "application/json"}
        return httpx.post(url, content=bodies("sinusoid", 1)[0], headers=headers, timeout=30)

    if kind == OURS:
        server = service(port, checkout, ready, LOG_LEVEL="warning")
    else:
        server = running([sys.executable, "-m", "benchmarks.serving.servers", kind, str(port)], ready)
    with server as process:
        yield Server(port, process.pid)


def counters(port: int) -> dict[str, float]:
    """The service's Prometheus samples by name and labels."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def closed_loops(kind: str, port: int, seconds: float) -> tuple[dict[Load, LoadResult], list[str]]:
    """Every closed loop, and of ours the rows of a table of mean batch sizes."""
    results, batches = {}, []
    for load in CLOSED_LOOPS:
        closed_loop(port, requests(load.model), load.clients, seconds / 5)
        before = counters(port) if kind == OURS else {}
        results[load] = closed_loop(port, requests(load.model), load.clients, seconds)
        print(row(kind, load.clients, results[load]), flush=True)
        if kind == OURS:
            after = counters(port)
            tasks, count = (after[name] - before[name] for name in BATCH_COUNTERS)
            batches.append(f"| {load.model} | {load.clients} | {tasks / count:.1f} |")
    return results, batches


def ragged_load(port: int, seconds: float) -> str:
    """A sentence on tasks of all sizes: answers per second, and the share of padding in the batches."""
    before = counters(port)
    rate = closed_loop(port, mixed_requests(200, ragged=True), 64, seconds).rate
    after = counters(port)
    real, padding = (
        after[f'bmaml_rows_total{{kind="{kind}"}}'] - before[f'bmaml_rows_total{{kind="{kind}"}}']
        for kind in ("real", "padding")
    )
    return (
        f"Both models mixed, 1 to 20 support and 1 to 80 query rows, 64 clients: {rate:.0f} answers a "
        f"second, and {100 * padding / (real + padding):.0f} % of the rows on the device were padding."
    )


def open_loops(port: int, seconds: float) -> list[str]:
    """A table of the open loop at every one of `LOADS`."""
    capacity = closed_loop(port, mixed_requests(100), 64, seconds).rate
    limited = mixed_requests(100, deadline_ms=DEADLINE_MS)
    lines = [
        f"Open loop, both models mixed, a deadline of a second in the queue; capacity {capacity:.0f} a "
        "second.",
        "",
        "| load | arrivals a second | good answers a second | p50, ms | p99, ms | other answers |",
        "|---|---|---|---|---|---|",
    ]
    for part in LOADS:
        result = open_loop(port, limited, part * capacity, 2 * seconds)
        lines.append(row(f"{100 * part:.0f} %", f"{part * capacity:.0f}", result))
        print(lines[-1], flush=True)
    return lines


def row(name: str, clients: object, result: LoadResult, more: str = "") -> str:
    """One line of a table."""
    others = {status: n for status, n in result.statuses.items() if status != 200}
    listed = ", ".join(f"{n} × {status}" for status, n in sorted(others.items())) or "none"
    times = f"{result.median:.1f} | {result.quantile(0.99):.1f}"
    return f"| {name} | {clients} | {result.rate:.0f} | {times} | {listed} |{more}"


def comparison(kinds: Sequence[str], seconds: float) -> list[str]:
    """The tables of the page."""
    results: dict[str, dict[Load, LoadResult]] = {}
    of_ours: list[str] = []
    for kind in kinds:
        with serving(kind) as server:
            results[kind], batches = closed_loops(kind, server.port, seconds)
            if kind == OURS:
                ragged = ragged_load(server.port, seconds)
                print(ragged, flush=True)
                of_ours = ["| model | clients | mean batch of ours |", "|---|---|---|", *batches, "", ragged]
                of_ours += ["", *open_loops(server.port, seconds)]
    lines = []
    for model in MODELS:
        lines += [
            f"#### {model}",
            "",
            "| server | clients | answers a second | p50, ms | p99, ms | other answers | times ours |",
            "|---|---|---|---|---|---|---|",
        ]
        for load in (load for load in CLOSED_LOOPS if load.model == model):
            for kind in kinds:
                ratio = results[kind][load].rate / results[OURS][load].rate
                lines.append(row(kind, load.clients, results[kind][load], f" {ratio:.2f} |"))
        lines.append("")
    return [*lines, *of_ours]


def main() -> None:
    """Print the tables; write them into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=5, help="of every closed loop")
    arguments.add_argument("--servers", default="echo,ours,loop,litserve", help="ours must be among them")
    command_line.add_page(arguments)
    options = arguments.parse_args()
    kinds = options.servers.split(",")
    if OURS not in kinds:
        arguments.error("--servers without ours: there is nothing to compare with")
    lines = comparison(kinds, options.seconds)
    lines = [f"Measured on {options.machine}, load generator included.", "", *lines]
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, "serving")


if __name__ == "__main__":
    main()
