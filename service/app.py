"""create_app: the FastAPI application, with everything that it is made of."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp

from bmaml import __version__
from service.engine.worker_pool import WorkerPool
from service.http import health, open_inference, pages, problems
from service.http.health import Gauges
from service.http.middleware import layers
from service.http.openapi import openapi_schema
from service.http.routes import DirectRoutes, router
from service.runtime import Runtime
from service.settings import Settings

DESCRIPTION = """Few-shot prediction with honest uncertainty: post a few labelled rows and the rows you
ask about; particles of a meta-learned network are adapted to them, and their weighted mixture answers."""
"""The description of the API in its OpenAPI."""


class Application(FastAPI):
    """The FastAPI application, within the service's own layers rather than around them.

    A request for adaptation then passes none of FastAPI's, which have nothing to add to it.
    """

    def build_middleware_stack(self) -> ASGIApp:
        """The layers, the outermost first: those that were added, ours, direct routes, FastAPI's."""
        added, self.user_middleware = self.user_middleware, []
        theirs = super().build_middleware_stack()
        self.user_middleware = added
        assert isinstance(theirs, ServerErrorMiddleware)  # replies to what nobody caught, as ours does
        app: ASGIApp = DirectRoutes(theirs.app)
        for layer in reversed([*added, *layers(self.state.runtime)]):
            app = layer.cls(app, *layer.args, **layer.kwargs)
        return app

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document of the service (`service.http.openapi`)."""
        return openapi_schema(self)


def create_app(settings: Settings | None = None, worker_pool: WorkerPool | None = None) -> FastAPI:
    """The service as an application; models are loaded when the server starts it.

    Args:
        worker_pool: processes that compute; without one a thread of this process does.

    Raises:
        BadKeys: the keys of the settings cannot be read.
        BadAddress, NotAMirror: a store elsewhere cannot be followed.
        TracingUnavailable: traces are asked for and OpenTelemetry is not installed.
    """
    settings = settings or Settings()
    runtime = Runtime(settings, worker_pool)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        measuring = asyncio.create_task(runtime.metrics.measure_loop_lag())
        loading = asyncio.create_task(asyncio.to_thread(runtime.start))
        yield
        await loading
        await asyncio.to_thread(runtime.stop)
        measuring.cancel()

    app = Application(
        title="Few-shot prediction with honest uncertainty",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # the service has its own
        docs_url=None,  # they would fetch scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.runtime = runtime
    runtime.metrics.registry.register(Gauges(runtime))
    app.include_router(router)
    app.include_router(open_inference.router)
    pages.install(app)
    if settings.probe_port is None:
        app.include_router(health.router)
    problems.install(app)
    return app
