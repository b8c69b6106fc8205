"""The exchange of requests and replies without input or output: what is sent, and when it is repeated.

A flow is a generator. It yields a `Call` and receives the `Reply`, or yields a `Wait` and receives None;
transport errors are thrown into it. Its return value is the result. `Client` and `AsyncClient` differ
only in the transport that they run a flow on.
"""

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
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
    error_class,
)
from bmaml_client.parsing import parse
from bmaml_client.retries import RETRIED_STATUSES, Retries, parse_retry_after
from bmaml_client.sessions import HEADER, Sessions

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """A request to send."""

    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes = b""


@dataclass(frozen=True)
class Reply:
    """A reply that was received."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True)
class Wait:
    """A pause before the next call."""

    seconds: float


Flow = Generator[Call | Wait, Reply | None, T]


class FlowRun(Generic[T]):
    """A flow and its current step.

    Attributes:
        step: the call or pause to do next; None once the flow has returned.
        result: the flow's return value; set once `step` is None.
    """

    step: Call | Wait | None
    result: T

    def __init__(self, flow: Flow[T], url: str, proxy: str | None = None) -> None:
        self._flow, self._url, self._proxy = flow, url, proxy
        self._advance(lambda: next(flow))

    def done(self, response: httpx.Response | None) -> None:
        """Continue after the step; the response of a pause is None."""
        reply = None
        if response is not None:
            reply = Reply(response.status_code, response.headers, response.content)
        self._advance(lambda: self._flow.send(reply))

    def failed(self, error: httpx.RequestError) -> None:
        """Continue after a call that failed, or whose reply could not be read."""
        self._advance(lambda: self._flow.throw(error_of_transport(error, self._url, self._proxy)))

    def _advance(self, resume: Callable[[], Call | Wait]) -> None:
        try:
            self.step = resume()
        except StopIteration as end:
            self.step, self.result = None, end.value


@dataclass(frozen=True)
class Requester:
    """Settings with which a client sends its requests.

    Attributes:
        retries: limits on repetitions of a request.
        binary: whether bodies are safetensors; None decides by size.
        draw: gives uniform numbers in [0, 1), for the pauses.
        clock: gives seconds.
        proxy: what the environment says of a proxy, for messages; None without one.
        sessions: those of the posteriors that the service kept for this client.
    """

    retries: Retries
    binary: bool | None
    draw: Callable[[], float]
    clock: Callable[[], float] = time.monotonic
    proxy: str | None = None
    sessions: Sessions = field(default_factory=Sessions)

    def request(
        self,
        method: str,
        path: str,
        document: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        session: str | None = None,
        binary: bool = False,
    ) -> Flow[Any]:
        """Send a request, with retries, and return the decoded reply; None for an empty one.

        Args:
            session: of the request's task; None where any replica of the service may answer.
            binary: whether to ask for safetensors in reply to a request without a document.

        Raises:
            Refused: the service refuses the request, and no retry is left or would help.
            Unreachable, TimedOut, BadReply: the attempts failed in this way.
        """
        began, retry = self.clock(), 0
        call = self._call(method, path, document, request_id, session, binary)
        while True:
            error: ClientError
            try:
                reply = yield call
            except Unreachable as unreachable:
                error, after = unreachable, None
            else:
                assert reply is not None
                if reply.status < 300:
                    if not reply.content:
                        return None
                    return bodies.decode(reply.content, reply.headers.get("content-type", ""))
                refused = error_of_reply(reply, self.proxy)
                if refused.status not in RETRIED_STATUSES:
                    raise refused
                error, after = refused, refused.retry_after_s
            retry += 1
            pause = self.retries.pause(retry, self.clock() - began, after, self.draw)
            if pause is None:
                raise error
            yield Wait(pause)

    def _call(
        self,
        method: str,
        path: str,
        document: Mapping[str, Any] | None,
        request_id: str | None,
        session: str | None,
        binary: bool,
    ) -> Call:
        headers = {"accept": bodies.BINARY if binary else bodies.JSON}
        content = b""
        if document is not None:
            content, media_type = bodies.encode(document, self.binary)
            headers = {"accept": media_type, "content-type": media_type}
        if request_id is not None:
            headers["x-request-id"] = header_value("request_id", request_id)
        if session is not None:
            headers[HEADER] = session
        return Call(method, path, headers, content)


def header_value(name: str, value: str) -> str:
    """The value, checked for use in a header.

    Raises:
        InvalidInput: a header cannot hold it. The message leaves the value out: it may be a secret.
    """
    if not (value.isascii() and value.isprintable()):
        raise InvalidInput(f"{name} has characters other than printable ASCII")
    return value


def error_of_reply(reply: Reply, proxy: str | None = None) -> Refused:
    """The error that a reply of status 400 or more describes, by its problem body or its status alone.

    Raises:
        BadReply: the status is below 400, such as that of a redirection.
    """
    if reply.status < 400:
        raise BadReply(f"the service answered {reply.status}: is this its address?")
    try:
        problem = bodies.decode(reply.content, reply.headers.get("content-type", ""))
        slug = str(problem["type"]).rpartition(":")[2]
        detail = str(problem["detail"])
        errors = [parse(FieldError, each) for each in problem.get("errors", ())]
        request_id = str(problem.get("request_id", ""))
    except (BadReply, KeyError, TypeError, AttributeError):  # a proxy answered, not the service
        through = "" if proxy is None else f", through {proxy}"
        slug, detail, errors = "http-error", f"status {reply.status} without an explanation{through}", []
        request_id = reply.headers.get("x-request-id", "")
    after = parse_retry_after(reply.headers.get("retry-after"))
    return error_class(reply.status, slug)(reply.status, slug, detail, errors, request_id, after)


def error_of_transport(error: httpx.RequestError, url: str, proxy: str | None = None) -> ClientError:
    """The client's error for one of httpx."""
    if not isinstance(error, httpx.TransportError):
        return BadReply(f"the reply of {url} cannot be read: {error or type(error).__name__}")
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError) and proxy is not None:
        return Unreachable(
            f"{url} cannot be reached through {proxy}: {error or type(error).__name__}. Does the proxy run "
            f"and reach the service? NO_PROXY={httpx.URL(url).host} connects without it"
        )
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Unreachable(
            f"nothing answers at {url}: {error or type(error).__name__}. Is the service running?"
        )
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"{url} took the request and did not answer in time; a larger `timeout` waits longer")
    return Unreachable(f"the connection to {url} broke: {error or type(error).__name__}")
