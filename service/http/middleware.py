"""The middleware around the routes, in the order in which it acts on a request."""

import asyncio
import logging
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import CallerLeft, RequestError
from service.http import paths, problems
from service.http.shedding import Admission, LoadShedding
from service.keys import KeyRing, RateLimit
from service.runtime import Runtime
from service.schemas.requests import REQUESTS

access_log = logging.getLogger("service.access")
error_log = logging.getLogger("service.errors")


def layers(runtime: Runtime) -> list[Middleware]:
    """Every layer, the outermost first."""
    settings = runtime.settings
    origins = [each.strip() for each in settings.cors_origins.split(",") if each.strip()]
    cors = [Middleware(Cors, origins=origins)] if origins else []
    keys = [Middleware(Authentication, keys=runtime.keys, rate_limit=runtime.rate_limit)]
    return [
        Middleware(RequestContext, runtime=runtime),
        *cors,
        *(keys if runtime.keys.configured else []),
        Middleware(
            LoadShedding,
            admission=Admission(runtime.queue, runtime.registry, settings.deadline_ms),
            read_s=settings.read_s,
        ),
    ]


REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
"""A request id that is taken over from the caller; any other is replaced."""
COMMON_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
"""Headers of every reply, where the route sets none of that name."""
DATA_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Further such headers, because replies hold data for this caller alone; pages set their own."""
CALLER_LEFT = 499
"""Status, in the log and the metrics, of a request whose caller left before the reply."""


def request_id(sent: bytes = b"") -> str:
    """The id that the caller sent; else one that no other request has, which is no secret."""
    return sent.decode() if REQUEST_ID.fullmatch(sent) else f"{random.getrandbits(128):032x}"


@dataclass
class RequestContext:
    """The outermost layer: request id, common headers, metrics, log line, a problem for every failure.

    HEAD is routed as GET, and its reply loses the body. A request's time counts from its arrival: it may have
    waited for the event loop.
    """

    app: ASGIApp
    runtime: Runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state, headers = scope.setdefault("state", {}), dict(scope["headers"])
        now = time.monotonic()
        waited_s = state["waited_s"] = now - state.get("arrived", now)
        started, began_ns = time.perf_counter() - waited_s, time.time_ns() - round(1e9 * waited_s)
        state["request_id"] = request_id(headers.get(b"x-request-id", b""))
        state["caller"] = ""
        head, routed, app = scope["method"] == "HEAD", self._routed(scope), self.app
        if routed["path"] == "":  # the pages' relative links need the slash
            app, routed["path"] = RedirectResponse(f"{self.runtime.settings.root_path}/", 308), "/"
        state["open_inference"] = paths.open_inference(routed["path"])
        status = 0

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(message, state, started)
            elif head:
                message = {**message, "body": b""}
            await send(message)

        try:
            await app(routed, receive, with_headers)
        except (CallerLeft, ClientDisconnect):
            status = CALLER_LEFT
        except asyncio.CancelledError:
            if status or not self.runtime.draining:
                raise
            late = RequestError("not-ready", "the service shuts down and ran out of time", retry_after_s=1)
            await problems.response(late, state)(scope, receive, with_headers)
        except RequestError as error:
            await problems.response(error, state)(scope, receive, with_headers)
        except Exception:
            # The caller learns nothing of the cause; the log has it whole.
            error_log.exception("request %s failed", state["request_id"])
            if status:
                raise
            await problems.response(problems.internal(), state)(scope, receive, with_headers)
        finally:
            elapsed = time.perf_counter() - started
            fields = self._account(routed, state, status or CALLER_LEFT, elapsed)
            fields["method"] = scope["method"]
            if self.runtime.tracing is not None:
                fields["trace_id"] = self._trace(headers, fields, began_ns, elapsed, state.get("timing", {}))
            access_log.info("request", extra={"fields": fields})

    def _routed(self, scope: Scope) -> Scope:
        """A copy of the scope for the routes; the server reads the method from its own scope."""
        path = paths.routed(scope["path"], self.runtime.settings.root_path)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        return {**scope, "method": method, "path": path}

    def _add_headers(self, message: Message, state: dict[str, Any], started: float) -> None:
        """Add the headers that all replies have."""
        headers = list(message["headers"])
        present = {name for name, _ in headers}
        elapsed = 1000 * (time.perf_counter() - started)
        timing = state.get("server_timing", f"total;dur={elapsed:.3f}")
        headers += [each for each in (*COMMON_HEADERS, *DATA_HEADERS) if each[0] not in present]
        headers.append((b"x-request-id", state["request_id"].encode()))
        headers.append((b"server-timing", timing.encode()))
        if self.runtime.draining:
            headers.append((b"connection", b"close"))
        message["headers"] = headers

    def _account(self, scope: Scope, state: dict[str, Any], status: int, elapsed: float) -> dict[str, Any]:
        """Update the metrics; return the fields of the request's line in the log."""
        route = getattr(scope.get("route"), "path", None)
        if route is None:  # served by `DirectRoutes`, or refused before it was routed
            route = scope["path"] if scope["path"] in REQUESTS else "unmatched"
        metrics = self.runtime.metrics
        metrics.requests.labels(route, str(status)).inc()
        metrics.request_seconds.labels(route).observe(elapsed)
        if "problem" in state:
            metrics.problems.labels(state["problem"]).inc()
        return {
            "request_id": state["request_id"],
            "caller": state["caller"] or None,
            "method": scope["method"],
            "route": route,
            "status": status,
            "problem": state.get("problem"),
            "ms": round(1000 * elapsed, 3),
            **state.get("log", {}),
        }

    def _trace(
        self,
        headers: dict[bytes, bytes],
        fields: dict[str, Any],
        began_ns: int,
        elapsed: float,
        phases: dict[str, float],
    ) -> str:
        """Record the request as a span; return the id of its trace."""
        assert self.runtime.tracing is not None
        attributes = {
            "http.request.method": fields["method"],
            "http.route": fields["route"],
            "http.response.status_code": fields["status"],
            "bmaml.request_id": fields["request_id"],
        }
        return self.runtime.tracing.record(
            headers, attributes, began_ns, began_ns + round(1e9 * elapsed), phases
        )


class Cors(CORSMiddleware):
    """Starlette's CORS layer, whose refusals are problems like all others."""

    EXPOSED = ("X-Request-ID", "Server-Timing", "Retry-After", "Inference-Header-Content-Length")
    """Headers that pages of other hosts may read."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=self.EXPOSED,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """The reply to a browser's preflight request.

        Raises:
            RequestError: 403 for another origin, method or header than is allowed.
        """
        response = super().preflight_response(request_headers)
        if response.status_code != 200:
            raise RequestError("origin-not-allowed", "pages of this origin may not ask this")
        return response


KEYLESS_PATHS = frozenset(
    {
        *("/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/"),
        *("/v2/health/live", "/v2/health/ready"),
    }
)
"""Paths that need no key: their replies hold nothing that belongs to a caller."""
KEYLESS_PREFIXES = ("/playground/",)
"""Beginnings of further such paths."""


@dataclass
class Authentication:
    """Checks bearer keys and rate limits."""

    app: ASGIApp
    keys: KeyRing
    rate_limit: RateLimit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; 401 without a key of ours, 429 above its rate."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"] not in KEYLESS_PATHS and not scope["path"].startswith(KEYLESS_PREFIXES):
            authorization = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
            try:
                caller = scope["state"]["caller"] = self.keys.caller(authorization)
                self.rate_limit.take(caller)
            except RequestError as error:  # replied to here, within the layer that adds CORS headers
                await problems.response(error, scope["state"])(scope, receive, send)
                return
        await self.app(scope, receive, send)
