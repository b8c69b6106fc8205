"""The service's metrics, in Prometheus' text format."""

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
"""Content type of the exposition."""
SECONDS_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds of the buckets of every duration."""
TASKS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Upper bounds of the buckets of the tasks of a batch."""
LOOP_PROBE_INTERVAL_S = 0.1
"""Seconds between two measurements of the event loop's lag."""


# The counters' `_created` series are half of the text, and no panel or alert reads them.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Counters, gauges and histograms of one service, in a registry of their own: a process may run several.

    Attributes:
        lag_s: how late the event loop woke at the last measurement, in seconds.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: Any = {"registry": self.registry, "namespace": "bmaml"}
        timed: Any = {**own, "buckets": SECONDS_BUCKETS}
        self.requests = Counter("requests", "Requests by route and status", ["route", "status"], **own)
        self.request_seconds = Histogram(
            "request_seconds", "Time from first byte of request to last of answer", ["route"], **timed
        )
        self.problems = Counter("problems", "Requests that were refused or failed, by kind", ["kind"], **own)
        self.lag_s = 0.0
        self.loop_lag = Histogram("loop_lag_seconds", "Delay with which the event loop wakes", **timed)
        self.queue_seconds = Histogram("queue_seconds", "Time that a task waited for the device", **timed)
        self.batch_seconds = Histogram("batch_seconds", "Time of a batch on the device", **timed)
        self.adapt_seconds = Histogram("adapt_seconds", "Time of a batch's adaptation", **timed)
        self.predict_seconds = Histogram("predict_seconds", "Time of a batch's prediction", **timed)
        self.batch_tasks = Histogram("batch_tasks", "Tasks of a batch", buckets=TASKS_BUCKETS, **own)
        self.rows = Counter("rows", "Rows computed on the device, real or padding", ["kind"], **own)
        self.failed = Counter("failed_tasks", "Tasks that failed on the device", ["reason"], **own)
        self.surprises = Counter(
            "surprises", "Tasks that were warned of as unlike those of training", ["model", "group"], **own
        )
        self.retried = Counter("retried_batches", "Batches that failed as a whole", ["reason"], **own)
        self.posteriors = Counter("posteriors", "Events of the posterior cache", ["event"], **own)
        self.posterior_bytes = Gauge("posterior_bytes", "Bytes of kept posteriors", **own)
        self.posterior_count = Gauge("posterior_count", "Kept posteriors", **own)
        self.graphs = Counter("graphs", "Events of computations recorded on a GPU", ["event"], **own)
        self.reloads = Counter("reloads", "Versions loaded, refused, shelved or dropped", ["outcome"], **own)
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
        """Export CPU time, memory and open files of other processes, too."""
        self.registry.register(_Workers(pids))

    async def measure_loop_lag(self) -> None:
        """Measure the event loop's lag until cancelled: callers wait for whatever delays the loop."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOP_PROBE_INTERVAL_S
            await asyncio.sleep(LOOP_PROBE_INTERVAL_S)
            self.lag_s = max(0.0, loop.time() - due)
            self.loop_lag.observe(self.lag_s)

    def text(self) -> bytes:
        """The exposition: the body of the answer to `GET /metrics`."""
        return generate_latest(self.registry)


class _Workers(Collector):
    """`ProcessCollector`'s metrics for several processes, labelled with the worker's number."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._collectors = [
            ProcessCollector("bmaml_worker", partial(int, pid), registry=None) for pid in pids
        ]

    def collect(self) -> Iterable[Metric]:
        """The current metrics of all workers."""
        families: dict[str, Metric] = {}
        for number, collector in enumerate(self._collectors):
            for own in collector.collect():
                family = families.setdefault(own.name, Metric(own.name, own.documentation, own.type))
                for sample in own.samples:
                    family.add_sample(sample.name, {"worker": str(number)}, sample.value)
        return families.values()
