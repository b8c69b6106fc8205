"""Overload: at twice its capacity the service goes on answering in time, and refuses the rest at once.

    python -m benchmarks.serving.overload [--seconds 60] [--factor 2] [--deadline-ms 2000] [--page PAGE]

Both models mixed: first tasks of one size, then of all sizes, where the smallest take longest. The capacity
is the rate of a closed loop of 64 clients. Requests with a deadline then arrive as a Poisson process at
`--factor` times that rate. The exit status is 1 unless, for both, the good answers reach seven tenths of the
capacity, every refusal is a 429 with a Retry-After, and the 99th percentile is within the deadline. On few
cores the rest of the capacity is what refusals cost, and the load generator, which shares them.
"""

import argparse
import sys
import time
from dataclasses import dataclass

from benchmarks import command_line, pages
from benchmarks.processes import cpu_seconds
from benchmarks.serving.load_generator import LoadResult, closed_loop, open_loop
from benchmarks.serving.throughput import OURS, serving
from benchmarks.serving.workload import mixed_requests

MIN_SHARE_OF_CAPACITY = 0.7
BLOCK = "overload"


@dataclass(frozen=True)
class Overload:
    """A load above the capacity.

    Attributes:
        capacity: answers per second of the closed loop.
        server_cores, generator_cores: processor seconds per second.
    """

    tasks: str
    capacity: float
    result: LoadResult
    server_cores: float
    generator_cores: float

    def holds(self, deadline_ms: int) -> bool:
        """Whether the service met all three conditions."""
        result = self.result
        enough = result.rate >= MIN_SHARE_OF_CAPACITY * self.capacity
        return enough and result.quantile(0.99) <= deadline_ms and set(result.statuses) <= {200, 429}

    def row(self) -> str:
        """The row of the table."""
        refused = {status for status in self.result.statuses if status != 200}
        others = "only 429" if refused <= {429} else f"{dict(self.result.statuses)}"
        return (
            f"| {self.tasks} | {self.capacity:.0f} | {self.result.rate:.0f} | "
            f"{self.result.quantile(0.5) / 1000:.2f} | {self.result.quantile(0.99) / 1000:.2f} | {others} | "
            f"{self.server_cores:.2f} | {self.generator_cores:.2f} |"
        )


def main() -> int:
    """Print or write the table; the exit status."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=60)
    arguments.add_argument("--factor", type=float, default=2)
    arguments.add_argument("--deadline-ms", type=int, default=2000)
    command_line.add_page(arguments)
    options = arguments.parse_args()
    if options.page:
        pages.check(options.page, BLOCK)
    found = [measured(options, ragged) for ragged in (False, True)]
    lines = [
        f"Measured on {options.machine}: {options.factor:g} times the capacity for {options.seconds:g} s, a "
        f"deadline of {options.deadline_ms / 1000:g} s.",
        "",
        "| tasks | capacity: answers a second of 64 clients | good answers a second | p50, s | p99, s "
        "| other answers | cores: service | cores: load generator |",
        "|---|---|---|---|---|---|---|---|",
        *(each.row() for each in found),
    ]
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, BLOCK)
    return 0 if all(each.holds(options.deadline_ms) for each in found) else 1


def measured(options: argparse.Namespace, ragged: bool) -> Overload:
    """The service at its capacity, then above it."""
    patient = mixed_requests(200, ragged)
    limited = mixed_requests(200, ragged, options.deadline_ms)
    with serving(OURS) as server:
        closed_loop(server.port, patient, 64, 3)
        capacity = closed_loop(server.port, patient, 64, max(5.0, options.seconds / 6)).rate
        before, own = cpu_seconds(server.pid), time.process_time()
        result = open_loop(server.port, limited, options.factor * capacity, options.seconds)
        spent, own = cpu_seconds(server.pid) - before, time.process_time() - own
    tasks = "of all sizes" if ragged else "of one size"
    return Overload(tasks, capacity, result, spent / result.seconds, own / result.seconds)


if __name__ == "__main__":
    sys.exit(main())
