"""Bytes off the wire: bounded in size and in time, whether they come plain, chunked or packed."""

import asyncio
import zlib

from starlette.requests import Request

from service.bodies import JSON
from service.problems import RequestError

GZIP = 16 + zlib.MAX_WBITS
"""zlib's name for the gzip format."""
CLOSE = {"Connection": "close"}


async def read(request: Request, most: int, within_s: float) -> tuple[bytes, str]:
    """The body, unpacked, and its media type.

    Args:
        most: bytes, packed and unpacked alike.
        within_s: how long the body may take to arrive.

    Raises:
        RequestError: 413 beyond `most`, 408 beyond `within_s`, 415 for another packing than gzip, 400
            for what is not gzip.
    """
    headers = request.headers
    kind = headers.get("content-type", JSON).partition(";")[0].strip().lower()
    packing = headers.get("content-encoding", "identity").strip().lower()
    if packing not in ("identity", "gzip"):
        raise RequestError("unsupported-media-type", "bodies come plain or packed with gzip")
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:18]) > most:
        raise _too_large(most)
    raw = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for chunk in request.stream():
                raw += chunk
                if len(raw) > most:
                    raise _too_large(most)
    except TimeoutError:
        late = f"the body did not arrive within {within_s:g} s"
        raise RequestError("too-slow", late, headers=CLOSE) from None
    return (_unpacked(raw, most) if packing == "gzip" else bytes(raw)), kind


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
