"""Answers per second and latency over HTTP: the service beside the ceiling of its stack and its peers.

    python -m benchmarks.serving.throughput [--seconds 5] [--page docs/performance.md]

The servers (see `servers.py`) get the same bodies in a closed loop of 1, 8 and 64 clients, in short slices
that alternate, so that a drift of the machine meets all. Ours then runs in an open loop: Poisson arrivals at
parts of the capacity that the closed loop found. The load generator takes its share of the same machine.
Native functions are required, so that none of our answers is from before they are compiled. Other settings of
the environment (BMAML_…) apply to all servers.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from benchmarks import command_line, pages
from benchmarks.processes import ROOT, free_port, running, service
from benchmarks.serving.load_generator import LoadResult, closed_loop, open_loop
from benchmarks.serving.measurement import Load, Measurement, Server, in_turns
from benchmarks.serving.workload import MODELS, bodies, mixed_requests, requests

OURS = "ours"
KINDS = "echo,replay,ours,litserve,transformer,loop,gp"
"""The servers that are compared by default."""
MAX_CLIENTS = {"loop": 8, "gp": 8}
"""Clients of servers that are so slow that more would only wait."""
CLIENTS = (1, 8, 64)
LOADS = (0.3, 0.7, 0.95, 1.5, 2.0)
"""Arrival rates of the open loop, as parts of the capacity."""
BATCH_COUNTERS = ("bmaml_batch_tasks_sum", "bmaml_batch_tasks_count")
DEADLINE_MS = 1000
"""Time in the queue that a request of the open loop may take."""


CLOSED_LOOPS = [Load(model, clients) for model in MODELS for clients in CLIENTS]


@contextmanager
def serving(kind: str, checkout: Path = ROOT) -> Iterator[Server]:
    """A server that has answered a request: `ours`, the service of `checkout`, or one of `servers.py`."""
    port = free_port()

    def ready() -> httpx.Response:
        url, headers = f"http://127.0.0.1:{port}/adapt-predict", {"content-type": "application/json"}
        return httpx.post(url, content=bodies("sinusoid", 1)[0], headers=headers, timeout=30)

    if kind == OURS:
        server = service(port, checkout, ready, LOG_LEVEL="warning", NATIVE="require")
    else:
        server = running([sys.executable, "-m", "benchmarks.serving.servers", kind, str(port)], ready)
    with server as process:
        yield Server(port, process.pid)


def counters(port: int) -> dict[str, float]:
    """The service's Prometheus samples by name and labels."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def mean_batches(port: int, seconds: float) -> Iterator[str]:
    """A table of the mean batch of each closed loop at the service."""
    yield from ("| model | clients | mean batch of ours |", "|---|---|---|")
    for load in CLOSED_LOOPS:
        before = counters(port)
        closed_loop(port, requests(load.model), load.clients, seconds)
        after = counters(port)
        tasks, count = (after[name] - before[name] for name in BATCH_COUNTERS)
        yield f"| {load.model} | {load.clients} | {tasks / count:.1f} |"


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
    results: dict[Load, dict[str, Measurement]] = {}
    with ExitStack() as stack:
        servers = {kind: stack.enter_context(serving(kind)) for kind in kinds}
        for load in CLOSED_LOOPS:
            able = {kind: each for kind, each in servers.items() if load.clients <= MAX_CLIENTS.get(kind, 64)}
            results[load] = in_turns(able, load, seconds)
            for kind, measured in results[load].items():
                print(row(f"{load.model}, {kind}", load.clients, measured.result), flush=True)
    with serving(OURS) as server:
        of_ours = [*mean_batches(server.port, seconds), "", ragged_load(server.port, seconds), ""]
        of_ours += open_loops(server.port, seconds)
    lines = []
    for model in MODELS:
        lines += [
            f"#### {model}",
            "",
            "| server | clients | answers a second | p50, ms | p99, ms | other answers "
            "| processor ms an answer | times ours |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for load in (load for load in CLOSED_LOOPS if load.model == model):
            for kind, measured in results[load].items():
                ratio = measured.result.rate / results[load][OURS].result.rate
                more = f" {measured.cpu_ms:.2f} | {ratio:.3g} |"
                lines.append(row(kind, load.clients, measured.result, more))
        lines.append("")
    return [*lines, *of_ours]


def main() -> None:
    """Print the tables; write them into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=5, help="of every closed loop")
    arguments.add_argument("--servers", default=KINDS, help="ours must be among them")
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
