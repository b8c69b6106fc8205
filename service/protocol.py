"""HTTP/1.1 as uvicorn speaks it, with what it leaves unbounded: heads, patience, and connections."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service import problems
from service.problems import RequestError
from service.settings import Settings

LINGER_S = 2.0
"""How long the rest of a body is thrown away that was refused before it had all come: a connection
closed at once would take the reply with it."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    A head must be small and come soon, a refused body must end soon, and a caller must take its reply.
    What breaks one of these is told so, where it can be, and let go.
    """

    settings = Settings.model_construct()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head, self._head_bytes, self._began = True, 0, False
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = 0

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
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request."""
        if self.transport.is_closing():
            return
        self._began = False
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        if self._timer is None:
            self._wait(self.settings.read_s, self._head_is_late)
        # Of bytes that also end the request before, how many are of this head is not known: one at least.
        self._head_bytes += 1 if self._began and self.cycle is not None else len(data)
        if self._head_bytes > self.settings.max_header_bytes:
            self._refuse_head()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head, self._head_bytes, self._began = True, 0, True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A head has come."""
        self._in_head = False
        self._wait_no_more()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.settings.max_header_bytes:
            self._refuse_head()
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body; nothing is kept of one that was refused."""
        if self.cycle is not None and not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has come whole."""
        if self.cycle is None:
            return
        if self.cycle.response_complete:
            self._wait_no_more()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A reply has been handed over."""
        refused = self.cycle.response_complete and self.cycle.more_body
        if refused and not self.transport.is_closing():
            self._wait(LINGER_S, self.transport.close)
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close what is idle; abort what does not take its reply."""
        unsent = self.transport.get_write_buffer_size()
        if unsent and (not self._unsent or unsent < self._unsent):
            self._unsent = unsent
            self.timeout_keep_alive_task = self.loop.call_later(
                self.settings.read_s, self.timeout_keep_alive_handler
            )
        elif unsent:
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """No further request on this connection; one that has begun to come is answered."""
        if self._in_head and self._head_bytes:
            self._wait(LINGER_S, self.transport.close)
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed."""
        self._refuse(RequestError("bad-http", msg))

    def _head_is_late(self) -> None:
        if not self._head_bytes:
            self.transport.close()  # nobody has asked anything
        else:
            self._refuse(RequestError("too-slow", "the request's head did not arrive in time"))

    def _refuse_head(self) -> None:
        most = self.settings.max_header_bytes
        self._refuse(RequestError("headers-too-large", f"the request's head exceeds {most} bytes"))

    def _refuse(self, error: RequestError) -> None:
        """Reply outside of the application, and close."""
        body = problems.document(error, "")
        headers = [
            (b"content-type", problems.MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        if error.retry_after_s is not None:
            headers.append((b"retry-after", str(error.retry_after_s).encode()))
        lines = [b"%s: %s\r\n" % header for header in (*self.server_state.default_headers, *headers)]
        self.transport.write(b"".join([STATUS_LINE[error.status], *lines, b"\r\n", body]))
        self.transport.close()

    def _wait(self, seconds: float, then: Any) -> None:
        self._wait_no_more()
        self._timer = self.loop.call_later(seconds, then)

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def protocol(settings: Settings) -> type[BoundedProtocol]:
    """The protocol with these bounds."""
    return type("Protocol", (BoundedProtocol,), {"settings": settings})
