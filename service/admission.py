"""Under pressure, what cannot be answered in time is refused before any of it is parsed.

Parsing a request and checking its rows takes a good part of the time that answering it takes: a service
that did both for what it then refuses would answer less the more it is asked. So the bytes are searched
for the name of the model and the deadline alone. What the search does not find, or has no say in, goes the
ordinary way, where the queue decides.
"""

import asyncio
import re
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import RequestError
from service.runtime import Runtime

PATHS = frozenset({"/adapt-predict", "/uncertainty", "/posteriors"})
PRESSURE_S = 0.1
"""Seconds of work that wait before anybody is refused unread."""
LOOKED_AT = 2048
"""Bytes at each end of a body that are searched."""
MODEL = re.compile(rb'"model\\?"\s*:\s*\\?"([a-z0-9._-]{1,200})\\?"')
NAMED = re.compile(rb'"(?:version|posterior)\\?"\s*:\s*(?!null)')
DEADLINE = re.compile(rb'"deadline_ms\\?"\s*:\s*([0-9]{1,6})')


@dataclass
class Admission:
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
