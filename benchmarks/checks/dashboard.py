"""A check of the dashboard: every panel's query has data in a real Prometheus.

    python -m benchmarks.checks.dashboard [--seconds 90] [--rate 20]

Starts the service, mixed traffic, and a Prometheus with the rules and the configuration of `monitoring/`
(except the target); then sends it every panel's query as Grafana would. The exit status is 1 where a query
fails, where one that should have data has none, or where an alert cannot be evaluated. Needs `prometheus`
on the path (Debian: apt-get install prometheus).
"""

import asyncio
import math
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from benchmarks import command_line
from benchmarks.checks.dashboard_queries import MONITORING, queries
from benchmarks.processes import free_port, running, service
from benchmarks.traffic import AS_EXPECTED, mixed_traffic

TARGET = "bmaml:8000"
"""The service's address in `monitoring/prometheus.yml`."""
STEP_S = 15
"""Between the points of a line, as between scrapes."""


def configuration(folder: Path, target: str) -> Path:
    """Copies of our configuration and rules that scrape this target; the path of the first."""
    text = (MONITORING / "prometheus.yml").read_text()
    assert TARGET in text, f"prometheus.yml does not scrape {TARGET}"
    path = folder / "prometheus.yml"
    path.write_text(text.replace(TARGET, target))
    shutil.copy(MONITORING / "rules.yml", folder)
    return path


async def traffic(url: str, seconds: float, rate: float) -> Counter[str]:
    """How mixed traffic went: counts of replies as expected, and of others by path and status."""
    outcomes: Counter[str] = Counter()
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await mixed_traffic(client, outcomes, seconds, rate)
    return outcomes


def query_api(prometheus: httpx.Client, path: str, **parameters: str | float) -> Any:
    """The `data` of a reply of Prometheus' HTTP API.

    Raises:
        SystemExit: Prometheus reports an error.
    """
    answer = prometheus.get(f"/api/v1/{path}", params=parameters).json()
    if answer["status"] != "success":
        raise SystemExit(f"{parameters}: {answer['error']}")
    return answer["data"]


def points(prometheus: httpx.Client, expression: str, start: float, end: float) -> int:
    """Finite values of a query between two times."""
    data = query_api(prometheus, "query_range", query=expression, start=start, end=end, step=STEP_S)
    values = [float(value) for line in data["result"] for _, value in line["values"]]
    return sum(math.isfinite(value) for value in values)


def report(prometheus: httpx.Client, start: float, end: float) -> bool:
    """Print a line for every query and a summary of the alerts; whether the check passes."""
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
    rules = [rule for group in query_api(prometheus, "rules")["groups"] for rule in group["rules"]]
    broken = [rule["name"] for rule in rules if rule["health"] != "ok"]
    states = Counter(rule["state"] for rule in rules)
    print(f"{len(rules)} alerts: {dict(states)}; not evaluated: {', '.join(broken) or 'none'}")
    return not missing and not broken


def main() -> int:
    """Start both, put traffic on the service, query Prometheus; the exit status."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=90, help="of traffic; a rate needs 60")
    arguments.add_argument("--rate", type=float, default=20, help="requests per second")
    options = arguments.parse_args()
    if shutil.which("prometheus") is None:
        raise SystemExit("no prometheus on the path: apt-get install prometheus")
    port, prometheus = free_port(), f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory() as name, service(port):
        folder = Path(name)
        command = [
            "prometheus",
            f"--config.file={configuration(folder, f'127.0.0.1:{port}')}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={prometheus}",
            "--log.level=warn",
        ]
        with (
            running(command, lambda: httpx.get(f"http://{prometheus}/-/ready")),
            httpx.Client(base_url=f"http://{prometheus}", timeout=60) as client,
        ):
            start = time.time()
            outcomes = asyncio.run(traffic(f"http://127.0.0.1:{port}", options.seconds, options.rate))
            print(f"{sum(outcomes.values())} requests: {dict(outcomes)}")
            fine = report(client, start, time.time())
    return 0 if fine and set(outcomes) == {AS_EXPECTED} else 1


if __name__ == "__main__":
    sys.exit(main())
