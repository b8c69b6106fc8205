"""The outermost layer: every request gets an id, what leaves carries it, and is told of once."""

import asyncio
import logging
import re
import time
import uuid
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import CallerLeft, RequestError
from service.http import problems
from service.runtime import Runtime

access_log = logging.getLogger("service.access")
error_log = logging.getLogger("service.boundary")

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
"""Of every reply."""
PRIVATE = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Of every reply that does not say otherwise: it is data, for this caller alone."""
GONE = 499
"""In the log and the metrics, the status of a request whose caller left before the answer."""


@dataclass
class RequestContext:
    """Gives every request an id, and every reply the headers that all of them carry."""

    app: ASGIApp
    runtime: Runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, began_ns, headers = time.perf_counter(), time.time_ns(), dict(scope["headers"])
        state: dict[str, Any] = scope.setdefault("state", {})
        given = headers.get(b"x-request-id", b"")
        state["request_id"] = given.decode() if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        state["caller"] = ""
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._dress(message, state, started)
            await send(message)

        try:
            await self.app(scope, receive, sent)
        except (CallerLeft, ClientDisconnect):
            status = GONE
        except asyncio.CancelledError:
            if status or not self.runtime.draining:
                raise
            late = RequestError("not-ready", "the service shuts down and ran out of time", retry_after_s=1)
            await problems.response(late, state)(scope, receive, sent)
        except RequestError as error:
            await problems.response(error, state)(scope, receive, sent)
        except Exception:
            # Nothing of it may reach the caller; the log has it whole.
            error_log.exception("request %s failed", state["request_id"])
            if status:
                raise
            await problems.response(problems.internal(), state)(scope, receive, sent)
        finally:
            elapsed = time.perf_counter() - started
            fields = self._account(scope, state, status or GONE, elapsed)
            if self.runtime.tracing is not None:
                fields["trace_id"] = self._traced(headers, fields, began_ns, elapsed, state.get("timing", {}))
            access_log.info("request", extra={"fields": fields})

    def _dress(self, message: Message, state: dict[str, Any], started: float) -> None:
        """Add what all replies carry."""
        headers = list(message["headers"])
        said = {name for name, _ in headers}
        elapsed = 1000 * (time.perf_counter() - started)
        timing = state.get("server_timing", f"total;dur={elapsed:.3f}")
        headers += [each for each in (*HEADERS, *PRIVATE) if each[0] not in said]
        headers.append((b"x-request-id", state["request_id"].encode()))
        headers.append((b"server-timing", timing.encode()))
        if self.runtime.draining:
            headers.append((b"connection", b"close"))
        message["headers"] = headers

    def _account(self, scope: Scope, state: dict[str, Any], status: int, elapsed: float) -> dict[str, Any]:
        """The metrics; and the fields of the request's one line in the log."""
        found = scope.get("route")
        route = getattr(found, "path", None) or (scope["path"] if scope["path"] in PATHS else "unmatched")
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

    def _traced(
        self,
        headers: dict[bytes, bytes],
        fields: dict[str, Any],
        began_ns: int,
        elapsed: float,
        parts: dict[str, float],
    ) -> str:
        assert self.runtime.tracing is not None
        attributes = {
            "http.request.method": fields["method"],
            "http.route": fields["route"],
            "http.response.status_code": fields["status"],
            "bmaml.request_id": fields["request_id"],
        }
        return self.runtime.tracing.record(
            headers, attributes, began_ns, began_ns + round(1e9 * elapsed), parts
        )


PATHS = frozenset({"/adapt-predict", "/uncertainty", "/posteriors"})
PRESSURE_S = 0.1
"""Seconds of work that wait before anybody is refused unread."""
LOOKED_AT = 2048
"""Bytes at each end of a body that are searched."""
MODEL = re.compile(rb'"model\\?"\s*:\s*\\?"([a-z0-9._-]{1,200})\\?"')
NAMED = re.compile(rb'"(?:version|posterior)\\?"\s*:\s*(?!null)')
DEADLINE = re.compile(rb'"deadline_ms\\?"\s*:\s*([0-9]{1,6})')


@dataclass
class LoadShedding:
    """Refuses early, or passes on."""

    app: ASGIApp
    runtime: Runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request.

        Raises:
            RequestError: 429 where it could not be started before its deadline.
        """
        asks = scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in PATHS
        if not asks or self.runtime.queue.seconds < PRESSURE_S:
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.runtime.settings.read_s):
                first: Message | None = await receive()
        except TimeoutError:
            raise RequestError("too-slow", "the body did not arrive in time") from None
        assert first is not None
        self._check(first.get("body", b""))

        async def rest() -> Message:
            nonlocal first
            message, first = first, None
            return await receive() if message is None else message

        await self.app(scope, rest, send)

    def _check(self, body: bytes) -> None:
        ends = body if len(body) <= 2 * LOOKED_AT else body[:LOOKED_AT] + b"\n" + body[-LOOKED_AT:]
        if NAMED.search(ends):
            return  # it may be of a version that has a lane of its own
        named, wanted = MODEL.search(ends), DEADLINE.search(ends)
        versions = self.runtime.catalogue.models.get(named[1].decode()) if named else None
        if versions:
            within_ms = int(wanted[1]) if wanted else self.runtime.settings.deadline_ms
            # What the event loop is behind, the request has waited already, unseen.
            within_s = within_ms / 1000 - self.runtime.metrics.lag_s
            self.runtime.queue.check(versions[max(versions)].sha256, within_s)


OPEN = frozenset({"/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/"})
"""Paths that ask for no key: they tell nothing that belongs to a caller."""
OPEN_BELOW = ("/playground/",)


@dataclass
class Authentication:
    """Asks for keys and counts requests; what is refused on the way in is answered here."""

    app: ASGIApp
    runtime: Runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state: dict[str, Any] = scope["state"]
        try:
            if scope["path"] not in OPEN and not scope["path"].startswith(OPEN_BELOW):
                given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
                state["caller"] = self.runtime.keys.caller(given)
                if state["caller"]:
                    self.runtime.rate_limit.take(state["caller"])
            await self.app(scope, receive, send)
        except RequestError as error:
            await problems.response(error, state)(scope, receive, send)
