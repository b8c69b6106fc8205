"""Metrics that are asked when somebody looks: of the queue, the versions and the device."""

from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.device import memory
from service.runtime import Runtime


class Gauges(Collector):
    """The state of a service as Prometheus' gauges."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """All of them, as they are now."""
        runtime, queue = self._runtime, self._runtime.queue
        yield _single("ready", "Whether requests can be answered", runtime.why_not_ready is None)
        yield _single("queue_tasks", "Tasks that wait for the device", queue.tasks)
        yield _single("queue_work", "Work that waits: particles × rows × (steps + 1)", queue.work)
        yield _single("queue_wait_seconds", "What waits, at the pace of late", queue.seconds)

        labels = ["name", "version", "learner", "sha256"]
        info = GaugeMetricFamily("bmaml_model_info", "One for each version that is loaded", labels=labels)
        for versions in runtime.catalogue.models.values():
            for model in versions.values():
                manifest = model.manifest
                version = str(manifest.version)
                info.add_metric([manifest.name, version, manifest.learner, model.sha256[:12]], 1)
        yield info

        explained = "One for each version in the store that cannot be served"
        refused = GaugeMetricFamily("bmaml_refused_versions", explained, labels=["name", "version"])
        for each in runtime.catalogue.refused:
            refused.add_metric([each.name, str(each.version)], 1)
        yield refused

        held = GaugeMetricFamily("bmaml_device_memory_bytes", "Of the GPU, by what holds it", labels=["kind"])
        for kind, size in memory(runtime.device).items():
            held.add_metric([kind], size)
        yield held


def _single(name: str, explained: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"bmaml_{name}", explained, value=float(value))
