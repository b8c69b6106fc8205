"""The routes /livez, /readyz and /metrics, on the probe port where the settings name one."""

from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.compute import native_path
from service.compute.device import memory
from service.http import problems
from service.http.middleware import RequestContext
from service.ops import metrics
from service.runtime import Runtime
from service.schemas.cards import Health

router = APIRouter(tags=["health"])
PROBE_PROBLEMS: dict[int | str, dict[str, Any]] = problems.openapi_responses(431, 503)
"""Problems of the probe routes, for OpenAPI."""


@router.get("/livez", response_model=Health, responses=PROBE_PROBLEMS)
async def livez(request: Request) -> Health:
    """The process runs and its engine has not failed."""
    runtime: Runtime = request.app.state.runtime
    runtime.check_alive()
    return Health(status="ok")


@router.get("/readyz", response_model=Health, responses=PROBE_PROBLEMS)
async def readyz(request: Request) -> Health:
    """A model is loaded, warm, and the device answers."""
    runtime: Runtime = request.app.state.runtime
    runtime.check_ready()
    return Health(status="ok")


@router.get("/metrics", response_class=Response, responses=problems.openapi_responses(431))
async def prometheus(request: Request) -> Response:
    """The metrics of this process in Prometheus' text format."""
    runtime: Runtime = request.app.state.runtime
    return Response(runtime.metrics.text(), media_type=metrics.MEDIA_TYPE)


def create_probe_app(runtime: Runtime) -> FastAPI:
    """An application with these routes alone, for the probe port."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.state.runtime = runtime
    app.include_router(router)
    app.add_middleware(RequestContext, runtime=runtime)
    problems.install(app)
    return app


class Gauges(Collector):
    """Gauges of the service's state, read when Prometheus asks."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Every gauge with its present value."""
        runtime, queue = self._runtime, self._runtime.queue
        yield _gauge("ready", "Whether requests can be answered", runtime.why_not_ready is None)
        native = "Whether native functions answer for the exact learner"
        yield _gauge("native", native, native_path.state() == "ready")
        yield _gauge("queue_tasks", "Tasks that wait for the device", queue.tasks)
        yield _gauge("queue_work", "Work that waits: particles × rows × (steps + 1)", queue.work)
        yield _gauge(
            "queue_wait_seconds",
            "Seconds that the device needs for the work that waits, at its recent pace",
            queue.drain_s,
        )

        labels = ["name", "version", "learner", "sha256"]
        info = GaugeMetricFamily("bmaml_model_info", "One for each version that is loaded", labels=labels)
        for versions in runtime.catalogue.models.values():
            for model in versions.values():
                manifest = model.manifest
                version = str(manifest.version)
                info.add_metric([manifest.name, version, manifest.learner, model.sha256[:12]], 1)
        yield info

        documentation = "One for each version in the store that cannot be served"
        refused = GaugeMetricFamily("bmaml_refused_versions", documentation, labels=["name", "version"])
        for each in runtime.catalogue.refused:
            refused.add_metric([each.name, str(each.version)], 1)
        yield refused

        if (age := runtime.mirror_age_s) is not None:
            yield _gauge("mirror_age_seconds", "Seconds since the store elsewhere last answered", age)

        held = GaugeMetricFamily(
            "bmaml_device_memory_bytes", "Bytes of the GPU's memory, by what holds them", labels=["kind"]
        )
        for kind, size in memory(runtime.device).items():
            held.add_metric([kind], size)
        yield held


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"bmaml_{name}", documentation, value=float(value))
