"""Twice what the service can do, for a minute: it goes on as fast as it can, and refuses the rest at once.

    python -m benchmarks.serving.overload [--seconds 60] [--factor 2] [--deadline-ms 2000]

Both models mixed: first tasks of one size, then of all sizes, of which the smallest take the longest. The
capacity is what 64 patient clients get in a closed loop; then requests with a deadline come as a Poisson
process at so many times that rate, whether or not earlier ones were answered. Exit status 1 unless both
times good answers come at nine tenths of the capacity at least, every refusal is a 429 with a Retry-After,
and the 99th percentile of the answers is within the deadline.
"""

import argparse
import sys

from benchmarks.serving.load_generator import closed_loop, open_loop, post
from benchmarks.serving.throughput import MODELS, bodies, running, shuffled

GOOD = 0.9


def main() -> int:
    """Print two lines for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--factor", type=float, default=2)
    parser.add_argument("--deadline-ms", type=int, default=2000)
    options = parser.parse_args()
    return 0 if all([holds(options, ragged=False), holds(options, ragged=True)]) else 1


def holds(options: argparse.Namespace, ragged: bool) -> bool:
    """Whether the service stands it; prints what it did."""
    mixed = shuffled([each for model in MODELS for each in bodies(model, 200, ragged)])
    said = f'"deadline_ms": {options.deadline_ms}, "model"'.encode()
    hurried = [
        post("/adapt-predict", each.split(b"\r\n\r\n", 1)[1].replace(b'"model"', said)) for each in mixed
    ]
    with running("ours") as port:
        closed_loop(port, mixed, 64, 3)
        capacity = closed_loop(port, mixed, 64, max(5.0, options.seconds / 6)).rate
        sizes = "of 1 to 20 support and 1 to 80 query rows" if ragged else "of one size for each model"
        print(f"tasks {sizes}: {capacity:.0f} answers a second to 64 clients", flush=True)
        measured = open_loop(port, hurried, options.factor * capacity, options.seconds)
    share, late = measured.rate / capacity, measured.quantile(0.99)
    print(
        f"{options.factor:g} times that for {options.seconds:g} s: {measured.rate:.0f} good answers a second "
        f"({100 * share:.0f} % of the capacity), p99 {late:.0f} ms; {dict(measured.statuses)}"
    )
    return share >= GOOD and late <= options.deadline_ms and set(measured.statuses) <= {200, 429}


if __name__ == "__main__":
    sys.exit(main())
