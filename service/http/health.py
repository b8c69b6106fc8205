"""What probes and Prometheus ask; on a port of their own, if wanted."""

from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.compute.device import memory
from service.errors import RequestError
from service.http import problems
from service.http.middleware import RequestContext
from service.ops import metrics
from service.runtime import Runtime
from service.schemas.cards import Health

router = APIRouter(tags=["health"])
FAILING: dict[int | str, dict[str, Any]] = problems.described(503)


@router.get("/livez", response_model=Health, responses=FAILING)
async def livez(request: Request) -> Health:
    """The process runs and its engine has not failed."""
    runtime: Runtime = request.app.state.runtime
    if runtime.failed:
        raise RequestError("engine-failed", "the engine does not run")
    return Health(status="ok")


@router.get("/readyz", response_model=Health, responses=FAILING)
async def readyz(request: Request) -> Health:
    """A model is loaded, warm, and the device answers."""
    runtime: Runtime = request.app.state.runtime
    runtime.check_ready()
    return Health(status="ok")


@router.get("/metrics", response_class=Response)
async def prometheus(request: Request) -> Response:
    """Prometheus' text format."""
    runtime: Runtime = request.app.state.runtime
    return Response(runtime.metrics.text(), media_type=metrics.MEDIA_TYPE)


def create_probe_app(runtime: Runtime) -> FastAPI:
    """These routes alone."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.state.runtime = runtime
    app.include_router(router)
    app.add_middleware(RequestContext, runtime=runtime)
    problems.install(app)
    return app


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
