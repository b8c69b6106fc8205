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

from service import problems
from service.admission import PATHS
from service.problems import RequestError
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


class CallerLeft(Exception):
    """Nobody waits for the answer any more."""


@dataclass
class Boundary:
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
