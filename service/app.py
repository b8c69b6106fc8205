"""create_app: the whole wiring on one screen."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bmaml import __version__
from service import page, problems
from service.problems import Problem
from service.routes import router
from service.runtime import Runtime
from service.schemas import AdaptPredictRequest, PosteriorRequest, UncertaintyRequest
from service.settings import Settings

error_log = logging.getLogger("service.app")
access_log = logging.getLogger("service.access")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
DESCRIPTION = """Few-shot prediction with honest uncertainty: post a few labelled rows and the rows you
ask about; particles of a meta-learned network are adapted to them, and their weighted mixture answers."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service, cold: models are loaded when it starts."""
    runtime = Runtime(settings or Settings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(asyncio.to_thread(runtime.start))
        yield
        await loading
        await asyncio.to_thread(runtime.stop)

    app = FastAPI(
        title="Few-shot prediction with honest uncertainty",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
    )
    app.state.runtime = runtime
    app.include_router(router)
    app.add_middleware(RequestIdentity)
    problems.install(app)
    page.install(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


class RequestIdentity:
    """Gives every request an id, every reply `X-Request-ID` and `Server-Timing`, and one log line."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, state = time.perf_counter(), scope.setdefault("state", {})
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        state["request_id"] = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        status = 0

        async def identified(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = state["request_id"]
                elapsed = 1000 * (time.perf_counter() - started)
                headers["Server-Timing"] = state.get("server_timing", f"total;dur={elapsed:.3f}")
            await send(message)

        try:
            await self.app(scope, receive, identified)
        except Exception:
            # Nothing of it may reach the caller; the log has it whole.
            error_log.exception("request %s failed", state["request_id"])
            if status:
                raise
            await problems.internal(Request(scope))(scope, receive, identified)
        finally:
            fields = {
                "request_id": state["request_id"],
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status,
                "ms": round(1000 * (time.perf_counter() - started), 3),
            }
            access_log.info("request", extra={"fields": fields})


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's schema, with the models it cannot see: bodies parsed from bytes, and problems."""
    if not app.openapi_schema:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        unseen = [
            (model, "validation")
            for model in (AdaptPredictRequest, UncertaintyRequest, PosteriorRequest, Problem)
        ]
        _, found = models_json_schema(unseen, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
        schema["components"]["schemas"] |= found["$defs"]
        app.openapi_schema = schema
    return app.openapi_schema
