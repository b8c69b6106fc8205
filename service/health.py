"""What probes and Prometheus ask; on a port of their own, if wanted."""

from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response

from service import metrics, problems
from service.boundary import Boundary
from service.cards import Health
from service.problems import RequestError
from service.runtime import Runtime

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
    app.add_middleware(Boundary, runtime=runtime)
    problems.install(app)
    return app
