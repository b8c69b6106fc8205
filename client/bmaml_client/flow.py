"""One request and its reply without any input or output: what to send, when to wait, what an answer means.

A talk is a generator. It yields a `Call` and is sent the `Reply` (or has the transport's error thrown
in), or yields a `Wait` and is sent nothing; what it returns is the result. `Client` and `AsyncClient`
differ only in how they do what a talk asks for.
"""

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx

from bmaml_client import bodies
from bmaml_client.errors import (
    BadReply,
    ClientError,
    FieldError,
    InvalidInput,
    Refused,
    TimedOut,
    Unreachable,
    kind_of,
)
from bmaml_client.parsing import read
from bmaml_client.retries import AGAIN, Retries, seconds_of

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """A request to be sent."""

    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes = b""


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True)
class Wait:
    """Seconds to let pass."""

    seconds: float


Talk = Generator[Call | Wait, Reply | None, T]


class Turn(Generic[T]):
    """A talk under way.

    Attributes:
        wants: what is to be done next; None once the talk has returned.
        result: what it returned.
    """

    wants: Call | Wait | None
    result: T

    def __init__(self, talk: Talk[T], url: str) -> None:
        self._talk, self._url = talk, url
        self._go_on(lambda: next(talk))

    def done(self, response: httpx.Response | None) -> None:
        """What was wanted has been done; a wait has no response."""
        reply = None
        if response is not None:
            reply = Reply(response.status_code, response.headers, response.content)
        self._go_on(lambda: self._talk.send(reply))

    def failed(self, error: httpx.TransportError) -> None:
        """It could not be done."""
        self._go_on(lambda: self._talk.throw(broken(error, self._url)))

    def _go_on(self, step: Callable[[], Call | Wait]) -> None:
        try:
            self.wants = step()
        except StopIteration as end:
            self.wants, self.result = None, end.value


@dataclass(frozen=True)
class Manner:
    """How a client asks.

    Attributes:
        binary: whether bodies are safetensors; None decides by size.
        draw: uniform numbers in [0, 1), of the waits.
        clock: seconds.
    """

    retries: Retries
    binary: bool | None
    draw: Callable[[], float]
    clock: Callable[[], float] = time.monotonic

    def ask(
        self,
        method: str,
        path: str,
        document: Mapping[str, Any] | None = None,
        request_id: str | None = None,
    ) -> Talk[Any]:
        """The decoded reply, after as many attempts as it takes; None where there is no body.

        Raises:
            Refused: the service says no, and is not expected to say otherwise soon.
            Unreachable, TimedOut, BadReply: as they are named.
        """
        began, retry = self.clock(), 0
        call = self._call(method, path, document, request_id)
        while True:
            error: ClientError
            try:
                reply = yield call
            except Unreachable as broken:
                error, after = broken, None
            else:
                assert reply is not None
                if reply.status < 300:
                    return (
                        bodies.decoded(reply.content, reply.headers.get("content-type", ""))
                        if (reply.content)
                        else None
                    )
                refusal = refused(reply)
                if refusal.status not in AGAIN:
                    raise refusal
                error, after = refusal, refusal.retry_after_s
            retry += 1
            pause = self.retries.pause(retry, self.clock() - began, after, self.draw)
            if pause is None:
                raise error
            yield Wait(pause)

    def _call(
        self, method: str, path: str, document: Mapping[str, Any] | None, request_id: str | None
    ) -> Call:
        headers = {"accept": bodies.JSON}
        content = b""
        if document is not None:
            content, kind = bodies.encoded(document, self.binary)
            headers = {"accept": kind, "content-type": kind}
        if request_id is not None:
            headers["x-request-id"] = checked("request_id", request_id)
        return Call(method, path, headers, content)


def checked(name: str, value: str) -> str:
    """What goes into a header.

    Raises:
        InvalidInput: it cannot be sent there. The value, which may be a secret, is not told.
    """
    if not (value.isascii() and value.isprintable()):
        raise InvalidInput(f"{name} has characters other than printable ASCII")
    return value


def refused(reply: Reply) -> Refused:
    """The error that a problem+json tells of; for other bodies, what the status says.

    Raises:
        BadReply: something that is no failure of this interface, such as a redirection.
    """
    if reply.status < 400:
        raise BadReply(f"the service answered {reply.status}: is this its address?")
    try:
        said = bodies.decoded(reply.content, reply.headers.get("content-type", ""))
        slug = str(said["type"]).rpartition(":")[2]
        detail, errors = str(said["detail"]), [read(FieldError, each) for each in said.get("errors", ())]
        request_id = str(said.get("request_id", ""))
    except (BadReply, KeyError, TypeError, AttributeError):  # a proxy's words, not the service's
        slug, detail, errors = "http-error", f"status {reply.status} without an explanation", []
        request_id = reply.headers.get("x-request-id", "")
    after = seconds_of(reply.headers.get("retry-after"))
    return kind_of(reply.status, slug)(reply.status, slug, detail, errors, request_id, after)


def broken(error: httpx.TransportError, url: str) -> ClientError:
    """What a transport's error means to the caller."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Unreachable(
            f"nothing answers at {url}: {error or type(error).__name__}. Is the service running?"
        )
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"{url} took the request and did not answer in time; `timeout` gives it more")
    return Unreachable(f"the connection to {url} broke: {error or type(error).__name__}")
