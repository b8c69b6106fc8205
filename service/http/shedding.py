"""Refusals under overload, at a small part of an answer's cost: else each further request costs answers.

A request waits in two places: unread, while the event loop is late, and in the queue, while the device is. In
both together it may wait for `MAX_WAIT_SHARE` of its deadline, and for half of that unread. Parsing and
checking take a good part of a request's time, so that its bytes are searched for the deadline and the model's
name alone. Where the deadline cannot be told, the request goes on, and the queue decides.
"""

import asyncio
import math
import re
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.engine.queue import MAX_WAIT_SHARE, Queue
from service.errors import RequestError
from service.http import problems
from service.registry.registry import Registry
from service.schemas.requests import REQUESTS

PRESSURE_S = 0.1
"""Seconds of waiting, queued or unread, from which requests may be refused before they are parsed."""
MAX_UNREAD_SHARE = MAX_WAIT_SHARE / 2
"""Share of a request's deadline that it may wait for the event loop; the rest is left for the queue. Were it
all of the queue's share, most requests would be parsed and then refused."""
CROWD = 32
"""Requests in progress from which one that has waited unread may be refused. With fewer, the machine is slow
rather than the service overloaded, and to come back later would help nobody."""
FIRST_REQUEST_S = 1e-3
"""Seconds of the event loop for a request, where no crowded round has taught them lately."""
WEIGHT_OF_A_ROUND = 0.2
"""Weight of the newest round in the average time of a request."""
RECENT_S = 1.0
"""Seconds in which what crowded rounds taught fades to e⁻¹ of it."""
SEARCHED_BYTES = 2048
"""Bytes at each end of a body that are searched for the model's name; the deadline is looked for in all."""
MODEL = re.compile(rb'"model\\?"\s*:\s*\\?"([a-z0-9._-]{1,200})\\?"')
"""The model's name in a body, as JSON or as JSON within safetensors' metadata."""
NAMED = re.compile(rb'"(?:version|posterior)\\?"\s*:\s*(?!null)')
"""A version or posterior that a body names, other than null."""
INFER = re.compile(r"/v2/models/([a-z0-9._-]{1,200})(?:/versions/[0-9]{1,9})?/infer")
"""The path of an inference, with the model's name."""
DEADLINES = {
    True: (b"deadline_ms", re.compile(rb'deadline_ms\\?"\s*:\s*([0-9]{1,6})\b'), 1e-3),
    False: (b'"timeout"', re.compile(rb'"timeout"\s*:\s*([1-9][0-9]{0,8})\b'), 1e-6),
}
"""The deadline in the body of one of `REQUESTS`, or of an inference: its name, form, and unit in seconds."""
LAST_DATA_RECEIVED = struct.Struct("=52xI")
"""The milliseconds since the newest data arrived, in Linux' `tcp_info`."""


def unread_s(connection: Any) -> float | None:
    """Seconds since the newest bytes of a connection arrived in the kernel, where it tells: TCP on Linux."""
    try:
        told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAST_DATA_RECEIVED.size)
        (milliseconds,) = LAST_DATA_RECEIVED.unpack(told)
    except (AttributeError, OSError, struct.error):
        return None
    return float(milliseconds) / 1000


class Backlog:
    """The requests that the event loop has read in its present round: they begin in the next, one by one.

    Attributes:
        count: their number.
    """

    def __init__(self) -> None:
        self.count = 0
        self._request_s, self._learned_at = FIRST_REQUEST_S, 0.0

    @property
    def request_s(self) -> float:
        """Seconds of the event loop for one request, all refusals included, in recent crowded rounds.

        Without a crowded round for longer than `RECENT_S`, what was learned fades: after a stall it is too
        long, and would refuse the crowd that could correct it.
        """
        age_s = time.monotonic() - self._learned_at
        return FIRST_REQUEST_S + math.exp(-age_s / RECENT_S) * (self._request_s - FIRST_REQUEST_S)

    @property
    def wait_s(self) -> float:
        """Expected seconds until one more request has its turn."""
        return self.count * self.request_s

    def add(self, loop: asyncio.AbstractEventLoop) -> None:
        """Count one more."""
        if not self.count:
            loop.call_soon(self._begin, loop)
        self.count += 1

    def learn(self, count: int, seconds: float) -> None:
        """Learn from a round of so many seconds that began so many requests."""
        before = self.request_s
        self._request_s = before + WEIGHT_OF_A_ROUND * (seconds / count - before)
        self._learned_at = time.monotonic()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """A round begins, in which the counted requests run before others are read."""
        if self.count >= CROWD:
            loop.call_soon(self._end, self.count, time.monotonic())
        self.count = 0

    def _end(self, count: int, began: float) -> None:
        self.learn(count, time.monotonic() - began)


def adapts(method: str, path: str) -> bool:
    """Whether a request asks for adaptation, which takes long enough to be refused."""
    return method == "POST" and (path in REQUESTS or INFER.fullmatch(path) is not None)


@dataclass(frozen=True)
class Admission:
    """Decides by a request's bytes whether it waits for too long."""

    queue: Queue
    registry: Registry
    deadline_ms: int

    @property
    def queue_is_long(self) -> bool:
        """Whether requests may have to be refused for the queue's sake."""
        return self.queue.drain_s >= PRESSURE_S

    def check(
        self, body: bytes, path: str, waited_s: float, whole: bool = True, crowded: bool = False
    ) -> None:
        """Check that a request would be answered in time.

        A version or posterior that it names may have a lane of its own in the queue, which then decides. So
        it does where the bytes do not tell the deadline.

        Args:
            body: the beginning of it, or all where it is `whole`.
            path: as the routes see it.
            waited_s: seconds that the request waits before it begins.
            crowded: whether it may be refused for these alone.

        Raises:
            RequestError: 429 where it would not.
        """
        limit_s = self._deadline_s(body, path, whole)
        if limit_s is None:
            return
        if crowded and waited_s > MAX_UNREAD_SHARE * limit_s:
            again_s = max(1, math.ceil(waited_s))
            raise RequestError("queue-full", "too many requests are waiting", retry_after_s=again_s)
        if not self.queue_is_long or "/versions/" in path:
            return
        short = len(body) <= 2 * SEARCHED_BYTES
        ends = body if short else body[:SEARCHED_BYTES] + b"\n" + body[-SEARCHED_BYTES:]
        if NAMED.search(ends):
            return
        if path in REQUESTS:
            named = MODEL.search(ends)
            model = named[1].decode() if named else ""
        else:
            model = path.split("/")[3]
        if versions := self.registry.catalogue.models.get(model):
            newest = versions[max(versions)].sha256
            self.queue.check_admission(newest, limit_s - waited_s, waited_s=waited_s)

    def _deadline_s(self, body: bytes, path: str, whole: bool) -> float | None:
        """The time limit that the body names, else the default; None where it may name one elsewhere."""
        name, pattern, unit_s = DEADLINES[path in REQUESTS]
        place = body.find(name)
        if place < 0:
            return self.deadline_ms / 1000 if whole else None
        found = pattern.match(body, place)
        return int(found[1]) * unit_s if found else None


@dataclass
class LoadShedding:
    """Refuses requests that would not be answered in time, where the server's protocol has not done so.

    That is the case of bodies that arrive in parts, of pages of other hosts, and of other servers than ours.
    """

    app: ASGIApp
    admission: Admission
    read_s: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; 429 where it could not start before its deadline."""
        asks = scope["type"] == "http" and adapts(scope["method"], scope["path"])
        if not asks or scope["state"].get("admitted") or not self.admission.queue_is_long:
            await self.app(scope, receive, send)
            return
        try:
            first: Message | None = await self._first(receive, scope)
        except RequestError as error:
            await problems.response(error, scope["state"])(scope, receive, send)
            return

        async def replayed() -> Message:
            nonlocal first
            message, first = first, None
            return await receive() if message is None else message

        await self.app(scope, replayed, send)

    async def _first(self, receive: Receive, scope: Scope) -> Message:
        """The message with the beginning of the body, unless the request cannot start in time.

        Raises:
            RequestError: 408 where it does not arrive, 429 where the request has to be refused.
        """
        try:
            async with asyncio.timeout(self.read_s):
                message = await receive()
        except TimeoutError:
            raise RequestError("too-slow", "the body did not arrive in time") from None
        body, whole = message.get("body", b""), not message.get("more_body", False)
        whole = whole and not any(name == b"content-encoding" for name, _ in scope["headers"])
        self.admission.check(body, scope["path"], scope["state"]["waited_s"], whole)
        return message
