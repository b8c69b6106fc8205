"""Bytes off the wire: bounded in size and in time, whether they come plain, chunked or packed."""

import asyncio
import zlib

from starlette.requests import Request

from service.bodies import JSON
from service.problems import RequestError

GZIP = 16 + zlib.MAX_WBITS
"""zlib's name for the gzip format."""
CLOSE = {"Connection": "close"}


class Intake:
    """Reads bodies; on the event loop alone.

    Args:
        most: bytes of one body, packed and unpacked alike.
        together: bytes of all bodies that are on their way in.
        within_s: how long a body may take to arrive.
    """

    def __init__(self, most: int, together: int, within_s: float) -> None:
        self._most, self._together, self._within_s = most, together, within_s
        self._held = 0

    async def read(self, request: Request) -> tuple[bytes, str]:
        """The body, unpacked, and its media type.

        Raises:
            RequestError: 413 for a body too large, 408 for one too slow, 429 where others fill the memory
                that there is for bodies, 415 for another packing than gzip, 400 for what is not gzip.
        """
        headers = request.headers
        kind = headers.get("content-type", JSON).partition(";")[0].strip().lower()
        packing = headers.get("content-encoding", "identity").strip().lower()
        if packing not in ("identity", "gzip"):
            raise RequestError("unsupported-media-type", "bodies come plain or packed with gzip")
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:18]) > self._most:
            raise _too_large(self._most)
        raw = bytearray()
        try:
            async with asyncio.timeout(self._within_s):
                async for chunk in request.stream():
                    raw += chunk
                    self._held += len(chunk)
                    if len(raw) > self._most:
                        raise _too_large(self._most)
                    if self._held > self._together:
                        crowded = "too many bodies are on their way in"
                        raise RequestError("queue-full", crowded, retry_after_s=1)
        except TimeoutError:
            late = f"the body did not arrive within {self._within_s:g} s"
            raise RequestError("too-slow", late, headers=CLOSE) from None
        finally:
            self._held -= len(raw)
        return (_unpacked(raw, self._most) if packing == "gzip" else bytes(raw)), kind


def _unpacked(packed: bytearray, most: int) -> bytes:
    """What a gzip body holds; never more than a byte above the limit is unpacked."""
    unpacker = zlib.decompressobj(GZIP)
    try:
        content = unpacker.decompress(packed, most + 1)
    except zlib.error:
        raise RequestError("bad-encoding", "the body is not gzip") from None
    if len(content) > most:
        raise _too_large(most)
    if not unpacker.eof or unpacker.unused_data:
        raise RequestError("bad-encoding", "the gzip body ends early, or goes on after its end")
    return content


def _too_large(most: int) -> RequestError:
    return RequestError("body-too-large", f"the body exceeds {most} bytes")
