"""What is asked most goes straight to its handler."""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from bmaml.errors import BmamlError
from service.problems import told
from service.routes import adapt_predict, keep_posterior, uncertainty

HANDLERS = {"/adapt-predict": adapt_predict, "/uncertainty": uncertainty, "/posteriors": keep_posterior}


@dataclass
class Shortcut:
    """Past the router, which has nothing to add for them and takes as long as decoding the request."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request.

        Raises:
            RequestError: whatever the handler has against it.
        """
        posted = scope["type"] == "http" and scope["method"] == "POST"
        handler = HANDLERS.get(scope["path"]) if posted else None
        if handler is None:
            await self.app(scope, receive, send)
            return
        try:
            response = await handler(Request(scope, receive, send))
        except BmamlError as error:
            raise told(error) from None
        await response(scope, receive, send)
