"""Who may come in: with a key where keys are asked for, and not too often."""

from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from service import problems
from service.problems import RequestError
from service.runtime import Runtime

OPEN = frozenset({"/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/"})
"""Paths that ask for no key: they tell nothing that belongs to a caller."""
OPEN_BELOW = ("/playground/",)


@dataclass
class Gate:
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
