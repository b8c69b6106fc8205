"""Overload: at twice its capacity the service keeps its rate and refuses the rest at once.

    python -m benchmarks.serving.overload [--seconds 60] [--factor 2] [--deadline-ms 2000]

Both models mixed: first tasks of one size, then of all sizes, where the smallest take longest. The capacity
is the rate of a closed loop of 64 clients. Requests with a deadline then arrive as a Poisson process at
`--factor` times that rate. The exit status is 1 unless, for both, the good answers reach nine tenths of the
capacity, every refusal is a 429 with a Retry-After, and the 99th percentile is within the deadline.
"""

import argparse
import sys

from benchmarks import command_line
from benchmarks.serving.load_generator import closed_loop, open_loop
from benchmarks.serving.throughput import OURS, serving
from benchmarks.serving.workload import mixed_requests

MIN_SHARE_OF_CAPACITY = 0.9


def main() -> int:
    """Print two lines for each load; the exit status."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=60)
    arguments.add_argument("--factor", type=float, default=2)
    arguments.add_argument("--deadline-ms", type=int, default=2000)
    options = arguments.parse_args()
    return 0 if all([holds(options, ragged=False), holds(options, ragged=True)]) else 1


def holds(options: argparse.Namespace, ragged: bool) -> bool:
    """Whether the service meets all three conditions; prints the figures."""
    patient = mixed_requests(200, ragged)
    limited = mixed_requests(200, ragged, options.deadline_ms)
    with serving(OURS) as server:
        closed_loop(server.port, patient, 64, 3)
        capacity = closed_loop(server.port, patient, 64, max(5.0, options.seconds / 6)).rate
        sizes = "of 1 to 20 support and 1 to 80 query rows" if ragged else "of one size for each model"
        print(f"tasks {sizes}: {capacity:.0f} answers a second to 64 clients", flush=True)
        result = open_loop(server.port, limited, options.factor * capacity, options.seconds)
    share, p99 = result.rate / capacity, result.quantile(0.99)
    print(
        f"{options.factor:g} times that for {options.seconds:g} s: {result.rate:.0f} good answers a second "
        f"({100 * share:.0f} % of the capacity), p99 {p99:.0f} ms; {dict(result.statuses)}"
    )
    return (
        share >= MIN_SHARE_OF_CAPACITY and p99 <= options.deadline_ms and set(result.statuses) <= {200, 429}
    )


if __name__ == "__main__":
    sys.exit(main())
