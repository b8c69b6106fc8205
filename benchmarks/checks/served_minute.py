"""The service on a device under mixed traffic for a while: every reply has the status that it should.

    python -m benchmarks.checks.served_minute [--device cuda] [--seconds 60] [--rate 40]

The exit status is 1 where a reply has another status, or none came.
"""

import asyncio
import sys
from collections import Counter

import httpx

from benchmarks import command_line
from benchmarks.processes import free_port, service
from benchmarks.traffic import AS_EXPECTED, mixed_traffic
from model_store import SHIPPED


async def served(port: int, seconds: float, rate: float) -> Counter[str]:
    """The outcomes of mixed traffic."""
    outcomes: Counter[str] = Counter()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        await mixed_traffic(client, outcomes, seconds, rate)
    return outcomes


def main() -> int:
    """Print the outcomes; the exit status."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments.add_argument("--seconds", type=float, default=60)
    arguments.add_argument("--rate", type=float, default=40, help="requests per second")
    options = arguments.parse_args()
    port = free_port()
    with service(port, STORE=SHIPPED, DEVICE=options.device):
        outcomes = asyncio.run(served(port, options.seconds, options.rate))
    print("| outcome | requests |\n|---|---|")
    for name, count in outcomes.most_common():
        print(f"| {name} | {count} |")
    print(f"\n{outcomes.total() / options.seconds:.1f} requests per second on {options.device}.")
    return int(outcomes.keys() != {AS_EXPECTED})


if __name__ == "__main__":
    sys.exit(main())
