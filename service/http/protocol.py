"""uvicorn's HTTP/1.1 protocol, with bounds on heads, connections, and the time that a caller may take."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.codec.open_inference.decode import error_body
from service.errors import RequestError
from service.http import paths, problems, shedding
from service.http.middleware import request_id
from service.http.reply_transport import ReplyTransport
from service.ops.metrics import Metrics
from service.runtime import Runtime
from service.schemas.requests import REQUESTS
from service.settings import Settings

access_log = logging.getLogger("service.access")
error_log = logging.getLogger("service.errors")

BYTES_AT_FAULT = (httptools.HttpParserError, UnicodeError, AttributeError)
"""What the parser's callbacks raise for wrong bytes; uvicorn's own decode a target without a path as None."""
DISCARD_S = 2.0
"""Seconds for which the rest of a refused body is discarded: closing at once would lose the reply."""
NEEDS_THE_APPLICATION = frozenset({b"origin", b"content-encoding"})
"""Headers of requests that are never refused unparsed: pages of other hosts need headers in their reply, and
compressed bodies do not show their deadline."""
OTHER_PROTOCOL = frozenset({b"upgrade", b"connection", b"http2-settings"})
"""Headers that ask for another protocol."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    A head must be small and arrive in time, a refused body must end in time, and the caller must take its
    reply. Where a bound is exceeded, the protocol replies with a problem if it still can, and closes the
    connection. Under overload it refuses what has waited unread for too long, and keeps the connection. A
    request to upgrade to another protocol is answered in this one. uvicorn's own protocol has none of these
    bounds: with it, most of `tests/service/http/test_protocol.py` fails.
    """

    runtime: Runtime
    settings: Settings
    metrics: Metrics
    admission: shedding.Admission
    backlog: shedding.Backlog

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._between = 0  # bytes outside bodies and complete heads
        self._delivered = False  # whether the present bytes held part of a body, or the end of a head or body
        self._upgrading = False
        self._verdict: RequestError | None = None  # sent once all earlier requests are answered
        self._unread_s = 0.0  # seconds for which the newest bytes waited before they were read
        self._held: bytearray | None = None  # the body so far of a request that is perhaps refused unparsed
        self._has_refused = False  # whether one of the present bytes has been refused unparsed
        self._timer: asyncio.TimerHandle | None = None
        self._untaken: asyncio.TimerHandle | None = None

    @property
    def _busy(self) -> bool:
        """Whether a complete request waits for its reply."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first head; refuse the connection beyond `max_connections`."""
        super().connection_made(ReplyTransport(transport, self.loop))  # type: ignore[arg-type]
        if len(self.connections) > self.settings.max_connections:
            self._refuse(RequestError("too-many-connections", "too many connections", retry_after_s=1))
            return
        self._wait(self.settings.read_s, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        self._wait_no_more()
        if self._untaken is not None:
            self._untaken.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed bytes to the parser, and bound those outside bodies."""
        if self._verdict is not None or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self._delivered = self._has_refused = False
        waited_s = shedding.unread_s(self.transport.get_extra_info("socket"))
        self._unread_s = self.metrics.lag_s if waited_s is None else waited_s
        self._feed(data)
        if self._verdict is not None or self.transport.is_closing():
            return
        if not self._delivered:
            self._between += len(data)
            if self._between > self.settings.max_header_bytes:
                self._refuse_head()
                return
        # An idle connection, and a head that has begun, must become a request in time.
        idle = self.cycle is None or self.cycle.response_complete
        if (self._in_head or idle) and self._timer is None and self.timeout_keep_alive_task is None:
            self._wait(self.settings.read_s, self._head_is_late)

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
            self._release()
        except httptools.HttpParserUpgrade as stopped:
            self._replay(data[stopped.args[0] :])
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, BYTES_AT_FAULT):
                self._refuse(RequestError("bad-http", "the bytes are not an HTTP/1.1 request"))
            else:
                error_log.error("a request failed before it was parsed", exc_info=error.__context__)
                self._refuse(problems.internal())
        except httptools.HttpParserError:
            self._refuse(RequestError("bad-http", "the bytes are not an HTTP/1.1 request"))

    def _replay(self, rest: bytes) -> None:
        """Parse the request anew, without the headers that ask for another protocol."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(RequestError("bad-http", "this is no proxy"))
            return
        headers = [each for each in self.headers if each[0] not in OTHER_PROTOCOL]
        lines = [b"%s %s HTTP/1.1\r\n" % (method, self.url), *(b"%s: %s\r\n" % each for each in headers)]
        self._upgrading = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed(b"".join([*lines, b"\r\n", rest]))

    def on_message_begin(self) -> None:
        """Note that a head has begun."""
        self._unset_keepalive_if_required()  # a refusal in the same bytes may have set it
        self._in_head, self._between = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header; trailers, which follow a body, are ignored."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, if its head is within the bound."""
        if self.parser.should_upgrade():
            self._upgrading = True
            return
        self._in_head, self._between, self._delivered = False, 0, True
        self._wait_no_more()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.settings.max_header_bytes:
            self._refuse_head()
        elif self._verdict is None:
            self._note_arrival()
            if self._may_be_refused:
                self._held = bytearray()
            else:
                self._start()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body; that of a refused request is discarded."""
        self._delivered = True
        if self._held is not None:
            self._held += body
        elif self.cycle is not None and self._verdict is None and not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a request is complete."""
        if self._upgrading:
            return
        self._between, self._delivered = 0, True
        if self._held is not None and self._refused_unparsed(bytes(self._held)):
            self._held = None
            return
        self._release()
        self._note_arrival()
        if self.cycle is None or self._verdict is not None:
            return
        if self.cycle.response_complete:
            self._wait_no_more()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Watch that the caller takes the reply, and send a refusal that waited for it."""
        self._watch_the_reply()
        if not self.transport.is_closing() and self.cycle.response_complete and self.cycle.more_body:
            self._wait(DISCARD_S, self.transport.close)
        super().on_response_complete()
        if self._verdict is not None and not self.pipeline and self.cycle.response_complete:
            self._tell(self._verdict)

    def shutdown(self) -> None:
        """Take no further request; one whose head has begun to arrive is still answered."""
        if self._in_head and self._between and not self._busy:
            self._wait(DISCARD_S, self.transport.close)
        else:
            super().shutdown()

    @property
    def _waits_s(self) -> float:
        """Seconds that the present request waits before it begins."""
        return self._unread_s + self.backlog.wait_s

    @property
    def _crowded(self) -> bool:
        return len(self.tasks) >= shedding.CROWD and self._waits_s > shedding.PRESSURE_S

    @property
    def _may_be_refused(self) -> bool:
        """Whether the present request, whose head is complete, is perhaps refused unparsed.

        Of pipelined requests one is, and none while the caller has not taken the last reply: the application
        answers, which makes such callers wait.
        """
        return (
            (self._crowded or self.admission.queue_is_long)
            and (self.cycle is None or self.cycle.response_complete)
            and not self._has_refused
            and not self.runtime.draining
            and not self.transport.get_write_buffer_size()
            and shedding.adapts(self.parser.get_method().decode(), self._path)
            and not any(name in NEEDS_THE_APPLICATION for name, _ in self.headers)
        )

    def _refused_unparsed(self, body: bytes) -> bool:
        """Whether the request is refused; then it is replied to, and the connection stays open."""
        path = self._path
        try:
            self.admission.check(body, path, self._waits_s, crowded=self._crowded)
        except RequestError as error:
            self._has_refused = True
            keep = self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"
            route = path if path in REQUESTS else "unmatched"
            self._reply(error, route, keep)
            self.metrics.request_seconds.labels(route).observe(self._unread_s)
            super().on_response_complete()
            return True
        self.scope["state"]["admitted"] = True
        return False

    def _start(self) -> None:
        """Give the present request, whose head is complete, to the application."""
        self.backlog.add(self.loop)
        super().on_headers_complete()

    def _note_arrival(self) -> None:
        self.scope["state"]["arrived"] = time.monotonic() - self._unread_s

    def _release(self) -> None:
        """Start the request that is held, if any."""
        if self._held is None:
            return
        body, self._held = bytes(self._held), None
        self._start()
        if body:
            super().on_body(body)

    @property
    def _path(self) -> str:
        """The path of the present request, as the routes see it."""
        path = getattr(self, "url", b"").decode("latin-1").partition("?")[0]
        return paths.routed(path, self.settings.root_path)

    def _head_is_late(self) -> None:
        self._timer = None
        if self._in_head:
            self._refuse(RequestError("too-slow", "the request's head did not arrive in time"))
        else:
            self.transport.close()  # the connection was idle

    def _refuse_head(self) -> None:
        most = self.settings.max_header_bytes
        self._refuse(RequestError("headers-too-large", f"the request's head exceeds {most} bytes"))

    def _refuse(self, error: RequestError) -> None:
        """Read no more, reply when it is this request's turn, and close."""
        if self._verdict is not None or self.transport.is_closing():
            return
        self._verdict = error
        self._wait_no_more()
        if not self._busy and not self.pipeline:
            self._tell(error)

    def _tell(self, error: RequestError) -> None:
        """Send the problem without the application, and close."""
        if not self.transport.is_closing():
            self._reply(error, "unread", keep=False)

    def _reply(self, error: RequestError, route: str, keep: bool) -> None:
        """Send the problem.

        Args:
            route: its label in log and metrics.
            keep: whether the connection stays open.
        """
        sent = (value for name, value in getattr(self, "headers", None) or () if name == b"x-request-id")
        name = request_id(next(sent, b""))
        body, media_type = problems.document(error, name), problems.MEDIA_TYPE
        if paths.open_inference(self._path):
            body, media_type = error_body(error), "application/json"
        headers = [
            (b"content-type", media_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", name.encode()),
        ]
        if error.retry_after_s is not None:
            headers.append((b"retry-after", str(error.retry_after_s).encode()))
        if not keep:
            headers.append((b"connection", b"close"))
        lines = [b"%s: %s\r\n" % header for header in (*self.server_state.default_headers, *headers)]
        assert isinstance(self.transport, ReplyTransport)
        self.transport.write_at_once(b"".join([STATUS_LINE[error.status], *lines, b"\r\n", body]))
        if not keep:
            self.transport.close()
        if self._untaken is None:
            self._watch_the_reply()
        self.metrics.requests.labels(route, str(error.status)).inc()
        self.metrics.problems.labels(error.kind).inc()
        fields = {
            "request_id": name,
            "route": route,
            "status": error.status,
            "problem": error.kind,
            "ms": round(1000 * self._unread_s, 3),
        }
        access_log.info("request", extra={"fields": fields})

    def _watch_the_reply(self, before: float = float("inf")) -> None:
        """Check every `read_s` that the caller takes some of the reply; abort where it took none."""
        if self._untaken is not None:
            self._untaken.cancel()
        self._untaken, unsent = None, self.transport.get_write_buffer_size()
        if unsent >= before:
            self.transport.abort()
        elif unsent:
            self._untaken = self.loop.call_later(self.settings.read_s, self._watch_the_reply, unsent)

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self._wait_no_more()
        self._timer = self.loop.call_later(seconds, then)

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def protocol(runtime: Runtime) -> type[BoundedProtocol]:
    """The protocol class with the bounds of this runtime's settings, for uvicorn."""
    settings = runtime.settings
    own = {
        "runtime": runtime,
        "settings": settings,
        "metrics": runtime.metrics,
        "admission": shedding.Admission(runtime.queue, runtime.registry, settings.deadline_ms),
        "backlog": shedding.Backlog(),
    }
    return type("Protocol", (BoundedProtocol,), own)
