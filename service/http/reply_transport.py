"""The transport of a connection, which sends a reply in one piece."""

import asyncio
from typing import Any

HEAD_START = b"HTTP/1.1 2", b"HTTP/1.1 3", b"HTTP/1.1 4", b"HTTP/1.1 5"
"""The starts of a reply's head; `100 Continue` is none."""


class ReplyTransport:
    """A transport that sends a reply's head with the first part of its body: one packet, one system call.

    A head without a body that follows at once goes out in the next round of the event loop. All but the
    methods here are the transport's own.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop, self._head = transport, loop, b""
        self.is_closing, self.get_extra_info = transport.is_closing, transport.get_extra_info

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send the bytes, or keep them for a moment where they are a head."""
        if self._head or not data.startswith(HEAD_START):
            self.write_at_once(data)
        else:
            self._head = data
            self._loop.call_soon(self._flush)

    def write_at_once(self, data: bytes) -> None:
        """Send the bytes after those that are kept."""
        head, self._head = self._head, b""
        self._transport.write(head + data)

    def close(self) -> None:
        """Send what is kept, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            self.write_at_once(b"")
