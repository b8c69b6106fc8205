"""What operators watch, in Prometheus' text format."""

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
BEAT_S = 0.1
TASKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


# When each counter was made tells nobody anything, and is half of the text.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """One registry for each service, so that several may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: Any = {"registry": self.registry, "namespace": "bmaml"}
        timed: Any = {**own, "buckets": SECONDS}
        self.requests = Counter("requests", "Requests by route and status", ["route", "status"], **own)
        self.request_seconds = Histogram("request_seconds", "Of a request, whole", ["route"], **timed)
        self.problems = Counter("problems", "Requests that were refused or failed, by kind", ["kind"], **own)
        self.lag_s = 0.0  # of late
        self.loop_lag = Histogram("loop_lag_seconds", "By which the event loop wakes too late", **timed)
        self.queue_seconds = Histogram("queue_seconds", "From submission to the device", **timed)
        self.batch_seconds = Histogram("batch_seconds", "Of a fused batch on the device", **timed)
        self.adapt_seconds = Histogram("adapt_seconds", "Of it, adaptation", **timed)
        self.predict_seconds = Histogram("predict_seconds", "Of it, prediction", **timed)
        self.batch_tasks = Histogram("batch_tasks", "Tasks of a fused batch", buckets=TASKS, **own)
        self.rows = Counter("rows", "Rows the device has seen, padding included", ["kind"], **own)
        self.failed = Counter("failed_tasks", "Tasks that failed on the device", ["reason"], **own)
        self.retried = Counter("retried_batches", "Batches that failed whole", ["reason"], **own)
        self.posteriors = Counter("posteriors", "What became of kept posteriors", ["event"], **own)
        self.posterior_bytes = Gauge("posterior_bytes", "Bytes of kept posteriors", **own)
        self.posterior_count = Gauge("posterior_count", "Kept posteriors", **own)
        self.graphs = Counter("graphs", "What became of computations recorded on a GPU", ["event"], **own)
        self.reloads = Counter("reloads", "Versions by what became of them", ["outcome"], **own)
        for kind in ("real", "padding"):
            self.rows.labels(kind)
        for reason in ("diverged", "error"):
            self.failed.labels(reason)
        for reason in ("memory", "error"):
            self.retried.labels(reason)
        for outcome in ("loaded", "refused", "shelved", "dropped"):
            self.reloads.labels(outcome)
        for event in ("recorded", "launched", "dropped", "failed"):
            self.graphs.labels(event)
        for event in ("hit", "miss", "evicted", "expired", "gone"):
            self.posteriors.labels(event)
        ProcessCollector(registry=self.registry)

    def watch_workers(self, pids: Sequence[int]) -> None:
        """Tell of other processes as of this one: of their time, memory and files."""
        self.registry.register(_Workers(pids))

    async def watch_the_loop(self) -> None:
        """Until cancelled, see how late the event loop wakes: what keeps it busy keeps callers waiting."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + BEAT_S
            await asyncio.sleep(BEAT_S)
            self.lag_s = max(0.0, loop.time() - due)
            self.loop_lag.observe(self.lag_s)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)


class _Workers(Collector):
    """What `ProcessCollector` tells of one process, of several."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._each = [ProcessCollector("bmaml_worker", partial(int, pid), registry=None) for pid in pids]

    def collect(self) -> Iterable[Metric]:
        """All of them, as they are now."""
        families: dict[str, Metric] = {}
        for number, collector in enumerate(self._each):
            for own in collector.collect():
                family = families.setdefault(own.name, Metric(own.name, own.documentation, own.type))
                for sample in own.samples:
                    family.add_sample(sample.name, {"worker": str(number)}, sample.value)
        return families.values()
