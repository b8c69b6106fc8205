"""HTTP/1.1 as uvicorn speaks it, with what it leaves unbounded: heads, patience, and connections."""

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import RequestError
from service.http import problems
from service.ops.metrics import Metrics
from service.settings import Settings

access_log = logging.getLogger("service.access")

LINGER_S = 2.0
"""How long the rest of a body is thrown away that was refused before it had all come: a connection
closed at once would take the reply with it."""
OTHER_PROTOCOL = frozenset({b"upgrade", b"connection", b"http2-settings"})
"""Headers that ask for a protocol other than this one."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    A head must be small and come soon, a refused body must end soon, and a caller must take its reply.
    What breaks one of these is told so, where it can be, and let go. Requests to speak another protocol
    are answered in this one.
    """

    settings: Settings
    metrics: Metrics

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._between = 0  # bytes that were neither body nor of a head that has come whole
        self._delivered = False  # whether the bytes at hand held some of a body, or the end of something
        self._upgrading = False
        self._verdict: RequestError | None = None  # to be told once all that came before is answered
        self._timer: asyncio.TimerHandle | None = None
        self._untaken: asyncio.TimerHandle | None = None

    @property
    def _busy(self) -> bool:
        """Whether a request that has come whole waits for its reply."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        if len(self.connections) > self.settings.max_connections:
            self._refuse(RequestError("too-many-connections", "too many connections", retry_after_s=1))
            return
        self._wait(self.settings.read_s, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._wait_no_more()
        if self._untaken is not None:
            self._untaken.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request."""
        if self._verdict is not None or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self._delivered = False
        self._feed(data)
        if self._verdict is not None or self.transport.is_closing():
            return
        if not self._delivered:
            self._between += len(data)
            if self._between > self.settings.max_header_bytes:
                self._refuse_head()
                return
        # Whatever is not a request under way must become one soon.
        idle = self.cycle is None or self.cycle.response_complete
        if (self._in_head or idle) and self._timer is None:
            self._wait(self.settings.read_s, self._head_is_late)

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            self._replay(data[stopped.args[0] :])
        except httptools.HttpParserError:
            self._refuse(RequestError("bad-http", "the bytes are not an HTTP/1.1 request"))

    def _replay(self, rest: bytes) -> None:
        """Read the request anew, as if it did not ask for another protocol."""
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
        """A head begins."""
        self._in_head, self._between = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; what comes after a body is not read."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head has come."""
        if self.parser.should_upgrade():
            self._upgrading = True
            return
        self._in_head, self._between, self._delivered = False, 0, True
        self._wait_no_more()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.settings.max_header_bytes:
            self._refuse_head()
        elif self._verdict is None:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body; nothing is kept of one that was refused."""
        self._delivered = True
        if self.cycle is not None and self._verdict is None and not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has come whole."""
        if self._upgrading:
            return
        self._between, self._delivered = 0, True
        if self.cycle is None or self._verdict is not None:
            return
        if self.cycle.response_complete:
            self._wait_no_more()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A reply has been handed over."""
        self._watch_the_reply()
        if not self.transport.is_closing() and self.cycle.response_complete and self.cycle.more_body:
            self._wait(LINGER_S, self.transport.close)
        super().on_response_complete()
        if self._verdict is not None and not self.pipeline and self.cycle.response_complete:
            self._tell(self._verdict)

    def shutdown(self) -> None:
        """No further request on this connection; one that has begun to come is answered."""
        if self._in_head and self._between and not self._busy:
            self._wait(LINGER_S, self.transport.close)
        else:
            super().shutdown()

    def _head_is_late(self) -> None:
        self._timer = None
        if self._in_head:
            self._refuse(RequestError("too-slow", "the request's head did not arrive in time"))
        else:
            self.transport.close()  # nobody has asked anything

    def _refuse_head(self) -> None:
        most = self.settings.max_header_bytes
        self._refuse(RequestError("headers-too-large", f"the request's head exceeds {most} bytes"))

    def _refuse(self, error: RequestError) -> None:
        """Hear no more, reply when it is this request's turn, and close."""
        if self._verdict is not None or self.transport.is_closing():
            return
        self._verdict = error
        self._wait_no_more()
        if not self._busy and not self.pipeline:
            self._tell(error)

    def _tell(self, error: RequestError) -> None:
        """Reply outside of the application, and close."""
        if self.transport.is_closing():
            return
        name = uuid.uuid4().hex
        body = problems.document(error, name)
        headers = [
            (b"content-type", problems.MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", name.encode()),
            (b"connection", b"close"),
        ]
        if error.retry_after_s is not None:
            headers.append((b"retry-after", str(error.retry_after_s).encode()))
        lines = [b"%s: %s\r\n" % header for header in (*self.server_state.default_headers, *headers)]
        self.transport.write(b"".join([STATUS_LINE[error.status], *lines, b"\r\n", body]))
        self.transport.close()
        self._watch_the_reply()
        self.metrics.requests.labels("unread", str(error.status)).inc()
        self.metrics.problems.labels(error.kind).inc()
        fields = {"request_id": name, "route": "unread", "status": error.status, "problem": error.kind}
        access_log.info("request", extra={"fields": fields})

    def _watch_the_reply(self, before: float = float("inf")) -> None:
        """See again and again that the caller takes the reply; abort where nothing of it is taken."""
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


def protocol(settings: Settings, metrics: Metrics) -> type[BoundedProtocol]:
    """The protocol with these bounds."""
    return type("Protocol", (BoundedProtocol,), {"settings": settings, "metrics": metrics})
