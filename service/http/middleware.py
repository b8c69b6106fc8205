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

from service.engine.queue import Queue
from service.errors import CallerLeft, RequestError
from service.http import problems
from service.keys import KeyRing, RateLimit
from service.ops.metrics import Metrics
from service.registry.registry import Registry
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
            queue=runtime.queue,
            registry=runtime.registry,
            metrics=runtime.metrics,
            deadline_ms=settings.deadline_ms,
            read_s=settings.read_s,
        ),
    ]


STABLE_PREFIX = "/v1"
"""The prefix under which every path is promised; the same path without it is an alias."""
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


def new_request_id() -> str:
    """An id that no other request has; it is no secret."""
    return f"{random.getrandbits(128):032x}"


@dataclass
class RequestContext:
    """The outermost layer: request id, common headers, metrics, log line, a problem for every failure.

    HEAD is routed as GET, and its reply loses the body. A path that begins with the settings' root path is
    routed without it, so that a proxy may strip the root path or pass it on. Nor do the routes see
    `STABLE_PREFIX`: both forms of a path have the same handler, the same metrics and the same log.
    """

    app: ASGIApp
    runtime: Runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, began_ns, headers = time.perf_counter(), time.time_ns(), dict(scope["headers"])
        state: dict[str, Any] = scope.setdefault("state", {})
        sent_id = headers.get(b"x-request-id", b"")
        state["request_id"] = sent_id.decode() if REQUEST_ID.fullmatch(sent_id) else new_request_id()
        state["caller"] = ""
        head, routed, app = scope["method"] == "HEAD", self._routed(scope), self.app
        if routed["path"] == "":  # the pages' relative links need the slash
            app, routed["path"] = RedirectResponse(f"{self.runtime.settings.root_path}/", 308), "/"
        state["open_inference"] = problems.open_inference(routed["path"])
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
        path, root_path = scope["path"], self.runtime.settings.root_path
        if root_path and (path == root_path or path.startswith(f"{root_path}/")):
            path = path.removeprefix(root_path)
        if path.startswith(f"{STABLE_PREFIX}/") and not problems.open_inference(path[len(STABLE_PREFIX) :]):
            path = path.removeprefix(STABLE_PREFIX)
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
        if route is None:  # refused before it was routed
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


PRESSURE_S = 0.1
"""Seconds of queued work from which requests may be refused before they are parsed."""
SEARCHED_BYTES = 2048
"""Bytes at each end of a body that are searched."""
MODEL = re.compile(rb'"model\\?"\s*:\s*\\?"([a-z0-9._-]{1,200})\\?"')
"""The model's name in a body, as JSON or as JSON within safetensors' metadata."""
NAMED = re.compile(rb'"(?:version|posterior)\\?"\s*:\s*(?!null)')
"""A version or posterior that a body names, other than null."""
DEADLINE = re.compile(rb'"deadline_ms\\?"\s*:\s*([0-9]{1,6})')
"""The deadline that a body names, in milliseconds."""
INFER = re.compile(r"/v2/models/([a-z0-9._-]{1,200})/infer")
"""The path of an inference by the newest version, with the model's name."""
TIMEOUT = re.compile(rb'"timeout"\s*:\s*([1-9][0-9]{0,8})')
"""The deadline of an inference, in microseconds."""


@dataclass
class LoadShedding:
    """Refuses requests that cannot start before their deadline while the queue is long, without parsing them.

    Parsing and checking take a good part of a request's time. A service that did both before refusing
    would answer fewer requests the more it received. So the bytes are searched for the model's name and
    the deadline alone. A request in which they are not found goes on, and the queue decides.
    The overload benchmark fails without this layer: at twice its capacity the service keeps three
    quarters of its rate and misses deadlines, where it keeps all of it with the layer.
    """

    app: ASGIApp
    queue: Queue
    registry: Registry
    metrics: Metrics
    deadline_ms: int
    read_s: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; 429 where it could not start before its deadline."""
        posts = scope["type"] == "http" and scope["method"] == "POST"
        infers = INFER.fullmatch(scope["path"]) if posts else None
        adapts = posts and scope["path"] in REQUESTS
        if not (adapts or infers) or self.queue.drain_s < PRESSURE_S:
            await self.app(scope, receive, send)
            return
        try:
            first: Message | None = await self._first(receive, infers and infers[1])
        except RequestError as error:
            await problems.response(error, scope["state"])(scope, receive, send)
            return

        async def replayed() -> Message:
            nonlocal first
            message, first = first, None
            return await receive() if message is None else message

        await self.app(scope, replayed, send)

    async def _first(self, receive: Receive, model: str | None) -> Message:
        """The message with the beginning of the body, unless the request cannot start in time.

        Args:
            model: of an inference, whose path names it.

        Raises:
            RequestError: 408 where it does not arrive, 429 where the request has to be refused.
        """
        try:
            async with asyncio.timeout(self.read_s):
                message = await receive()
        except TimeoutError:
            raise RequestError("too-slow", "the body did not arrive in time") from None
        self._check(message.get("body", b""), model)
        return message

    def _check(self, body: bytes, model: str | None) -> None:
        short = len(body) <= 2 * SEARCHED_BYTES
        searched = body if short else body[:SEARCHED_BYTES] + b"\n" + body[-SEARCHED_BYTES:]
        if NAMED.search(searched):
            return  # perhaps of a version with a lane of its own
        within_ms: float = self.deadline_ms
        if model is None:
            named, wanted = MODEL.search(searched), DEADLINE.search(searched)
            model = named[1].decode() if named else ""
            within_ms = int(wanted[1]) if wanted else within_ms
        elif wanted := TIMEOUT.search(searched):
            within_ms = int(wanted[1]) / 1000
        if versions := self.registry.catalogue.models.get(model):
            # The request has already waited, unseen, for as long as the event loop is late.
            within_s = within_ms / 1000 - self.metrics.lag_s
            self.queue.check_admission(versions[max(versions)].sha256, within_s)
