"""Does every panel of the dashboard show something? A real Prometheus is asked.

    python -m benchmarks.checks.dashboard [--seconds 90] [--rate 20]

Starts the service, a Prometheus with `monitoring/prometheus.yml` (only the target is another) and its rules,
and mixed traffic; then puts the query of every panel to Prometheus as Grafana would. Exit status 1 where a
query fails, where one that should have data has none, or where Prometheus cannot evaluate an alert. Needs
`prometheus` on the path (Debian: apt-get install prometheus).
"""

import argparse
import asyncio
import contextlib
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.checks.dashboard_queries import queries
from benchmarks.serving.soak import Traffic

MONITORING = Path(__file__).parents[2] / "monitoring"
TARGET = "bmaml:8000"
WORKERS = 8
STEP_S = 15
"""Between the points of a line, as between scrapes."""


def free_port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: Sequence[str], ready: str, **settings: str) -> Iterator[None]:
    """A process, once its URL `ready` answers 200; ended afterwards."""
    process = subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(ready).status_code == 200:
                    break
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} ended with {process.returncode}")
            time.sleep(0.1)
        else:
            raise SystemExit(f"{ready} is not ready after a minute")
        yield
    finally:
        process.terminate()
        process.wait(60)


def configured(folder: Path, target: str) -> Path:
    """A copy of our configuration that asks this target."""
    text = (MONITORING / "prometheus.yml").read_text()
    assert TARGET in text, f"prometheus.yml does not ask {TARGET}"
    path = folder / "prometheus.yml"
    path.write_text(text.replace(TARGET, target))
    shutil.copy(MONITORING / "rules.yml", folder)
    return path


async def load(url: str, seconds: float, rate: float) -> Counter[str]:
    """Mixed traffic; how often requests went as expected, and what else became of them."""
    statuses: Counter[str] = Counter()
    ends = time.monotonic() + seconds

    async def worker(number: int, client: httpx.AsyncClient) -> None:
        traffic, rng = Traffic(client, number, statuses), np.random.default_rng(1000 + number)
        while time.monotonic() < ends:
            await asyncio.sleep(rng.exponential(WORKERS / rate))
            await traffic.one()

    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await asyncio.gather(*(worker(number, client) for number in range(WORKERS)))
    return statuses


def asked(prometheus: httpx.Client, path: str, **parameters: str | float) -> Any:
    """Prometheus' answer.

    Raises:
        SystemExit: it does not like the question.
    """
    answer = prometheus.get(f"/api/v1/{path}", params=parameters).json()
    if answer["status"] != "success":
        raise SystemExit(f"{parameters}: {answer['error']}")
    return answer["data"]


def points(prometheus: httpx.Client, expression: str, start: float, end: float) -> int:
    """How many numbers a query has in this time."""
    data = asked(prometheus, "query_range", query=expression, start=start, end=end, step=STEP_S)
    values = [float(value) for line in data["result"] for _, value in line["values"]]
    return sum(math.isfinite(value) for value in values)


def looked_at(prometheus: httpx.Client, start: float, end: float) -> bool:
    """Report on every panel and alert; whether all is well."""
    found = [(query, points(prometheus, query.expression, start, end)) for query in queries()]
    for query, count in found:
        empty = "may be empty" if query.may_be_empty else "EMPTY"
        print(f"{count if count else empty!s:>12}  {query.panel}: {query.expression}")
    titles = {query.panel for query, _ in found}
    missing = {query.panel for query, count in found if not count and not query.may_be_empty}
    shown = titles - {query.panel for query, count in found if not count}
    allowed = titles - shown - missing
    print(f"{len(shown)} of {len(titles)} panels have data in all of their queries; "
          f"{len(allowed)} that may be empty are: {', '.join(sorted(allowed)) or 'none'}")  # fmt: skip
    rules = [rule for group in asked(prometheus, "rules")["groups"] for rule in group["rules"]]
    broken = [rule["name"] for rule in rules if rule["health"] != "ok"]
    states = Counter(rule["state"] for rule in rules)
    print(f"{len(rules)} alerts: {dict(states)}; not evaluated: {', '.join(broken) or 'none'}")
    return not missing and not broken


def main() -> int:
    """Start both, ask, stop both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=90, help="of traffic; a rate needs 60")
    parser.add_argument("--rate", type=float, default=20, help="requests a second")
    options = parser.parse_args()
    if shutil.which("prometheus") is None:
        raise SystemExit("no prometheus on the path: apt-get install prometheus")
    service, prometheus = (f"127.0.0.1:{free_port()}" for _ in range(2))
    serve = [sys.executable, "-m", "service"]
    with (
        tempfile.TemporaryDirectory() as name,
        running(serve, f"http://{service}/readyz", BMAML_PORT=service.rpartition(":")[2]),
    ):
        folder = Path(name)
        command = [
            "prometheus",
            f"--config.file={configured(folder, service)}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={prometheus}",
            "--log.level=warn",
        ]
        with (
            running(command, f"http://{prometheus}/-/ready"),
            httpx.Client(base_url=f"http://{prometheus}", timeout=60) as client,
        ):
            start = time.time()
            statuses = asyncio.run(load(f"http://{service}", options.seconds, options.rate))
            print(f"{sum(statuses.values())} requests: {dict(statuses)}")
            fine = looked_at(client, start, time.time())
    return 0 if fine and set(statuses) == {"as expected"} else 1


if __name__ == "__main__":
    sys.exit(main())
