"""create_app: the whole wiring on one screen."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from bmaml import __version__
from service.engine.worker_pool import WorkerPool
from service.errors import RequestError
from service.http import health, pages, problems
from service.http.health import Gauges
from service.http.middleware import Authentication, LoadShedding, RequestContext
from service.http.openapi import describe
from service.http.routes import router
from service.runtime import Runtime
from service.settings import Settings

EXPOSED = ("X-Request-ID", "Server-Timing", "Retry-After")
"""Headers that pages of other hosts may read."""
DESCRIPTION = """Few-shot prediction with honest uncertainty: post a few labelled rows and the rows you
ask about; particles of a meta-learned network are adapted to them, and their weighted mixture answers."""


class Cors(CORSMiddleware):
    """Starlette's, whose refusals are problems like all others."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """What a browser is told that asks whether it may ask.

        Raises:
            RequestError: 403 for another origin, method or header than is allowed.
        """
        response = super().preflight_response(request_headers)
        if response.status_code != 200:
            raise RequestError("origin-not-allowed", "pages of this origin may not ask this")
        return response


def create_app(settings: Settings | None = None, worker_pool: WorkerPool | None = None) -> FastAPI:
    """The service, cold: models are loaded when it starts; where there is a crew, it computes.

    Raises:
        BadKeys, TracingUnavailable: the settings ask for what cannot be had.
    """
    settings = settings or Settings()
    runtime = Runtime(settings, worker_pool)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(runtime.metrics.watch_the_loop())
        loading = asyncio.create_task(asyncio.to_thread(runtime.start))
        yield
        await loading
        await asyncio.to_thread(runtime.stop)
        watching.cancel()

    app = FastAPI(
        title="Few-shot prediction with honest uncertainty",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # they would fetch scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.runtime = runtime
    runtime.metrics.registry.register(Gauges(runtime))
    app.include_router(router)
    pages.install(app)
    if settings.probe_port is None:
        app.include_router(health.router)
    # The last that is added is the first that is asked.
    app.add_middleware(LoadShedding, runtime=runtime)
    app.add_middleware(Authentication, runtime=runtime)
    if origins := [each.strip() for each in settings.cors_origins.split(",") if each.strip()]:
        app.add_middleware(
            Cors,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    app.add_middleware(RequestContext, runtime=runtime)
    problems.install(app)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    return app
