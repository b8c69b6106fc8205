"""The cost of Ray Serve: processor time per answer beside uvicorn alone, and the death of a replica.

    python -m benchmarks.serving.ray_cost [--seconds 5] [--rounds 5] [--page docs/ray.md]

Needs `bmaml-service[ray]` on Linux. The baseline is `bmaml-serve` with `BMAML_ENGINE=thread`, which computes
as a replica does. Each of Ray's modes runs one replica beside the baseline, and the same closed loop asks one
and then the other, round after round. All processes of each count. The time that they use while nobody asks
does not depend on the answers: it is taken off, and has a column of its own. Then one of two replicas is
killed under load; the clients do not retry.
"""

import os
import signal
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from benchmarks import command_line, pages
from benchmarks.processes import ROOT, cpu_seconds, free_port, service
from benchmarks.serving.load_generator import closed_loop
from benchmarks.serving.ray_cluster import HAPROXY_MODE, Cluster, cluster
from benchmarks.serving.workload import MODELS, requests

CLIENTS = 8
MODES: dict[str, Mapping[str, str]] = {
    "Python proxy": {},
    "HAProxy": {**HAPROXY_MODE, "RAY_SERVE_HAPROXY_NBTHREAD": "1"},
}
SETTINGS = {"log_level": "warning", "device": "cpu", "native": "require"}
"""Settings of both servers; compilation must not take processor time later."""
SETTLE_S = 10.0
"""Seconds of rest, and then of the measurement of idle servers."""
DEATH_S = 30.0
"""Seconds of the load under which a replica is killed, after a tenth of them."""


@dataclass(frozen=True)
class Server:
    """A server under measurement.

    Attributes:
        cpu: processor seconds of all its processes so far.
        idle: cores that it uses while nobody asks.
    """

    port: int
    cpu: Callable[[], float]
    idle: float = 0.0

    def per_answer(self, model: str, seconds: float) -> float:
        """Milliseconds of processor time for an answer of a closed loop, beyond those while idle."""
        used, began = self.cpu(), time.monotonic()
        result = closed_loop(self.port, requests(model), CLIENTS, seconds)
        used, elapsed = self.cpu() - used, time.monotonic() - began
        assert set(result.statuses) == {200}, result.statuses
        return 1000 * (used - self.idle * elapsed) / len(result.latencies)


def costs(ray: Cluster, mode: str, rounds: int, seconds: float) -> list[str]:
    """The rows of a mode: a model each, beside the baseline."""
    port = free_port()
    settings = {name.upper(): value for name, value in SETTINGS.items()}
    with service(port, ROOT, None, ENGINE="thread", **settings) as process:
        base = Server(port, lambda: cpu_seconds(process.pid))
        other = Server(ray.port, ray.cpu_seconds)
        for each in (base, other):
            for model in MODELS:
                each.per_answer(model, seconds)
        other = replace(other, idle=_idle_cores(ray))
        lines = []
        for model in MODELS:
            pairs = [
                (base.per_answer(model, seconds), other.per_answer(model, seconds)) for _ in range(rounds)
            ]
            ratios = sorted(theirs / uvicorn for uvicorn, theirs in pairs)
            times = " | ".join(f"{statistics.median(each):.1f}" for each in zip(*pairs, strict=True))
            lines.append(
                f"| {mode} | {model} | {statistics.median(ratios):.1f} | {ratios[0]:.1f} | {ratios[-1]:.1f} "
                f"| {times} | {other.idle:.2f} |"
            )
    return lines


def _idle_cores(ray: Cluster) -> float:
    time.sleep(SETTLE_S)
    before = ray.cpu_seconds()
    time.sleep(SETTLE_S)
    return (ray.cpu_seconds() - before) / SETTLE_S


def death(ray: Cluster, mode: str) -> str:
    """The row of a mode: a replica of two is killed while clients ask."""
    with ThreadPoolExecutor(1) as beside:
        load = beside.submit(closed_loop, ray.port, requests(MODELS[0]), CLIENTS, DEATH_S)
        time.sleep(DEATH_S / 10)
        victim = ray.replicas()[0]
        os.kill(victim, signal.SIGKILL)
        while victim in ray.replicas():
            time.sleep(0.01)
        healthy = ray.wait(2)
        statuses = load.result().statuses
    return f"| {mode} | {statuses.total()} | {statuses.total() - statuses[200]} | {healthy:.0f} |"


def main() -> None:
    """Print the tables; write them into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=5, help="of every closed loop")
    arguments.add_argument("--rounds", type=int, default=5, help="of the baseline and each mode")
    command_line.add_page(arguments)
    options = arguments.parse_args()
    lines = [
        f"Measured on {options.machine}, {CLIENTS} clients; medians of {options.rounds} rounds.",
        "",
        "| mode | model | CPU, times uvicorn's | least | most | CPU of uvicorn, ms | CPU of the mode, ms "
        "| cores while idle |",
        "|---|---|---|---|---|---|---|---|",
    ]
    deaths = ["| mode | answers | of them failed | healthy after, s |", "|---|---|---|---|"]
    for mode, variables in MODES.items():
        with cluster(**variables) as ray:
            ray.deploy({}, {"min_replicas": 1, "max_replicas": 1}, **SETTINGS)
            ray.wait(1)
            lines += costs(ray, mode, options.rounds, options.seconds)
            print(*lines[-len(MODELS) :], sep="\n", flush=True)
            ray.deploy({}, {"min_replicas": 2, "max_replicas": 2}, **SETTINGS)
            ray.wait(2)
            deaths.append(death(ray, mode))
            print(deaths[-1], flush=True)
    if options.page:
        pages.write(options.page, lines, "ray-cost")
        pages.write(options.page, deaths, "ray-death")


if __name__ == "__main__":
    main()
