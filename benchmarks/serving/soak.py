"""A soak test: an hour of mixed traffic in which memory must not grow and no request may fail.

    python -m benchmarks.serving.soak [--minutes 60] [--rate 40] [--publish-every 1]

The service runs on a copy of the shipped store; a new version of one model is published every minute
(`--publish-every 0`: never). Memory is sampled every five seconds, without the posteriors that callers keep;
it varies within a minute, since freed memory goes back to the system in turns. The exit status is 1 unless

* after the first five minutes, every minute's highest sample is within 2 % of the median of those;
* the last minute's median is at most 2 % above that of the second thousand requests;
* every reply has the status that its request should get, and no batch failed as a whole.
"""

import asyncio
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import numpy as np

from benchmarks import command_line
from benchmarks.processes import free_port, process_tree, service
from benchmarks.traffic import AS_EXPECTED, mixed_traffic
from model_store import SHIPPED, Store

WARM_UP_MINUTES = 5
TOLERANCE = 0.02
SAMPLE_S = 5
EARLY_REQUESTS = range(1000, 2000)
"""Requests during which the samples are taken that the last minute is compared with."""
MIB = 2**20


@dataclass(frozen=True)
class Sample:
    """Memory at one time.

    Attributes:
        elapsed_s: since the start.
        service_mib: of the service's processes, without the posteriors that callers keep.
        posteriors_mib: of those posteriors.
        requests: answered so far.
    """

    elapsed_s: float
    service_mib: float
    posteriors_mib: float
    requests: int


def private_bytes(pid: int) -> int:
    """Anonymous memory of a process and of those that it started; shared pages count once.

    Pages of library files are left out: their share depends on which other processes map them.
    """
    rollups = (Path(f"/proc/{each}/smaps_rollup").read_text() for each in process_tree(pid))
    return sum(
        1024 * int(line.split()[1])
        for text in rollups
        for line in text.splitlines()
        if line.startswith("Pss_Anon:")
    )


def metric(name: str, metrics: str) -> float:
    """One sample of a Prometheus page, by name and labels."""
    line = next(line for line in metrics.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


def republish(store: Path, name: str) -> None:
    """Publish another version of the same model."""
    model = Store(store).load(name)
    written = {"name", "version", "format", "tensors", "files"}
    fields = {
        key: getattr(model.manifest, key) for key in type(model.manifest).model_fields if key not in written
    }
    Store(store).publish(name, "# Again\n", model.learned, **fields)


async def soak(url: str, pid: int, store: Path, minutes: int, rate: float, every: float) -> bool:
    """Put traffic on the service for so many minutes; whether all conditions hold."""
    outcomes: Counter[str] = Counter()
    samples: list[Sample] = []
    start = time.monotonic()

    async def watch(client: httpx.AsyncClient) -> None:
        published = 0
        while time.monotonic() < start + 60 * minutes:
            await asyncio.sleep(SAMPLE_S)
            elapsed = time.monotonic() - start
            kept = metric("bmaml_posterior_bytes", (await client.get("/metrics")).text)
            own = private_bytes(pid) - kept
            samples.append(Sample(elapsed, own / MIB, kept / MIB, sum(outcomes.values())))
            if every and elapsed > 60 * every * (published + 1):
                published += 1
                await asyncio.to_thread(republish, store, "learning-curves")
            if len(samples) % 12 == 0:
                sizes = [sample.service_mib for sample in samples[-12:]]
                posteriors = max(sample.posteriors_mib for sample in samples[-12:])
                print(
                    f"{elapsed / 60:.0f} min: {min(sizes):.1f} to {max(sizes):.1f} MiB, and up to "
                    f"{posteriors:.1f} MiB of kept posteriors, {dict(outcomes)}",
                    flush=True,
                )

    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await asyncio.gather(watch(client), mixed_traffic(client, outcomes, 60 * minutes, rate))
        failed = metric('bmaml_retried_batches_total{reason="error"}', (await client.get("/metrics")).text)
    print(f"{minutes} minutes, {sum(outcomes.values())} requests: {dict(outcomes)}")
    print(f"{failed:.0f} batches failed as a whole")
    return steady(samples, minutes) and set(outcomes) == {AS_EXPECTED} and not failed


def steady(samples: list[Sample], minutes: int) -> bool:
    """Whether memory stayed within `TOLERANCE`; prints the figures."""
    by_minute = [
        [sample.service_mib for sample in samples if int(sample.elapsed_s / 60) == minute]
        for minute in range(minutes)
    ]
    early = [sample.service_mib for sample in samples if sample.requests in EARLY_REQUESTS]
    late = by_minute[-1]
    highest = np.array([max(sizes) for sizes in by_minute[min(WARM_UP_MINUTES, minutes // 2) :]])
    middle = float(np.median(highest))
    down, up = highest.min() / middle - 1, highest.max() / middle - 1
    growth = median(late) / median(early) - 1
    print(
        f"the highest of a minute is {middle:.1f} MiB, {100 * down:+.2f} % to {100 * up:+.2f} %\n"
        f"after the first thousand requests: {min(early):.1f} to {max(early):.1f} MiB; in the last "
        f"minute: {min(late):.1f} to {max(late):.1f} MiB; medians {100 * growth:+.2f} %"
    )
    return bool(max(up, -down, growth) <= TOLERANCE)


def main() -> int:
    """Start a service, soak it, stop it; the exit status."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--minutes", type=int, default=60)
    arguments.add_argument("--rate", type=float, default=40, help="requests per second")
    arguments.add_argument("--publish-every", type=float, default=1, help="minutes; 0 never")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store, port = Path(folder) / "store", free_port()
        shutil.copytree(SHIPPED, store)
        with service(port, STORE=store, LOG_LEVEL="info", IDLE_S=60) as process:
            url = f"http://127.0.0.1:{port}"
            fine = asyncio.run(
                soak(url, process.pid, store, options.minutes, options.rate, options.publish_every)
            )
    return 0 if fine and process.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
