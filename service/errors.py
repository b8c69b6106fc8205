"""RequestError, the failure of a request, and the kinds of problem that it may be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic_core import ErrorDetails

from bmaml.errors import BmamlError

MAX_ERRORS = 20
"""Entries of a problem's `errors`."""
MAX_DETAIL_CHARS = 300
"""Characters of an entry's detail; a problem's own detail may have twice as many."""
MAX_POINTER_CHARS = 200
"""Characters of an entry's JSON pointer."""

Kind = Literal[
    "not-json",
    "not-safetensors",
    "bad-encoding",
    "bad-http",
    "unauthorized",
    "origin-not-allowed",
    "no-such-route",
    "unknown-model",
    "unknown-posterior",
    "method-not-allowed",
    "not-acceptable",
    "too-slow",
    "other-model",
    "other-settings",
    "posterior-gone",
    "body-too-large",
    "picture-too-large",
    "posterior-too-large",
    "task-too-large",
    "unsupported-media-type",
    "invalid-request",
    "diverged",
    "queue-full",
    "rate-limited",
    "too-many-connections",
    "headers-too-large",
    "internal",
    "not-ready",
    "engine-failed",
    "expired",
    "http-error",
]
KINDS: dict[Kind, tuple[int, str]] = {
    "not-json": (400, "The body is not JSON."),
    "not-safetensors": (400, "The body is not in the safetensors format."),
    "bad-encoding": (400, "The body is not what its Content-Encoding says."),
    "bad-http": (400, "The bytes on the connection are not an HTTP request."),
    "unauthorized": (401, "A bearer key is required: none was sent, or one that this service does not know."),
    "origin-not-allowed": (
        403,
        "The request comes from a page of an origin that `BMAML_CORS_ORIGINS` does not name.",
    ),
    "no-such-route": (404, "There is no such path."),
    "unknown-model": (404, "No model of that name or version; `detail` lists those there are."),
    "unknown-posterior": (404, "No posterior of that id was ever given to this caller."),
    "method-not-allowed": (405, "The path takes other methods; `Allow` lists them."),
    "not-acceptable": (406, "`Accept` names neither JSON nor safetensors."),
    "too-slow": (408, "The request did not arrive in time."),
    "other-model": (409, "The posterior belongs to another model or version than the one named."),
    "other-settings": (
        409,
        "The posterior was adapted with another number of steps than the request asks for.",
    ),
    "posterior-gone": (410, "The posterior has expired or was displaced: send its rows again."),
    "body-too-large": (413, "The body, as sent or decompressed, exceeds `body_bytes` of `GET /limits`."),
    "picture-too-large": (
        413,
        "An image, or all images together, exceed the pixels that `GET /limits` names.",
    ),
    "posterior-too-large": (413, "The posterior alone exceeds the cache."),
    "task-too-large": (413, "The task alone does not fit into the device's memory: ask for fewer rows."),
    "unsupported-media-type": (
        415,
        "The body is neither JSON nor safetensors, or compressed otherwise than with gzip or deflate.",
    ),
    "invalid-request": (422, "The body can be read but not answered; `errors` points at the faults."),
    "diverged": (
        422,
        "Adaptation diverged: take fewer steps, or send rows nearer to the training range.",
    ),
    "queue-full": (
        429,
        "Too much work waits; retry after `Retry-After` seconds.",
    ),
    "rate-limited": (429, "This key exceeds its rate; retry after `Retry-After` seconds."),
    "too-many-connections": (
        429,
        "The limit on open connections is reached; retry later, and reuse connections.",
    ),
    "headers-too-large": (431, "The request line and headers exceed `header_bytes` of `GET /limits`."),
    "internal": (500, "A fault of the service; its log has the cause under the `request_id`."),
    "not-ready": (503, "The service is starting or shutting down, or nothing can be served yet."),
    "engine-failed": (503, "The device no longer answers; the process ends and has to be restarted."),
    "expired": (504, "`deadline_ms` passed before the device got to the request."),
    "http-error": (400, "Another failure of the HTTP exchange; the status says which."),
}
"""Every kind of problem, with its HTTP status and its meaning for the caller."""


class FieldError(BaseModel):
    """One error in a request."""

    pointer: str = Field(description="JSON pointer to the value", examples=["/query/x/3"])
    detail: str


@dataclass
class RequestError(BmamlError):
    """A request that cannot be answered.

    Attributes:
        detail: one sentence for the caller; it never repeats the input.
        retry_after_s: seconds after which the caller may try again.
        headers: further headers of the reply.
    """

    kind: Kind
    detail: str
    errors: Sequence[FieldError] = ()
    retry_after_s: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """The HTTP status of the kind."""
        return KINDS[self.kind][0]

    def __str__(self) -> str:
        return self.detail


def invalid(detail: str, *errors: FieldError) -> RequestError:
    """The 422 for a body that can be read but not answered."""
    return RequestError("invalid-request", detail, errors)


def invalid_at(pointer: str, detail: str) -> RequestError:
    """The 422 for the value at this JSON pointer."""
    return invalid("the request body is not valid", FieldError(pointer=pointer, detail=detail))


def field_errors(errors: Sequence[ErrorDetails], tags: frozenset[str]) -> list[FieldError]:
    """Pydantic's errors, at most `MAX_ERRORS`, with JSON pointers.

    Args:
        tags: parts of pydantic's locations that are no keys of the body.
    """
    return [
        FieldError(
            pointer="".join(f"/{_escaped(part)}" for part in error["loc"] if part not in tags)[
                :MAX_POINTER_CHARS
            ],
            detail=error["msg"][:MAX_DETAIL_CHARS],
        )
        for error in errors[:MAX_ERRORS]
    ]


def _escaped(part: Any) -> str:
    return str(part)[:64].replace("~", "~0").replace("/", "~1")


class CallerLeft(Exception):
    """The caller closed the connection before the reply."""
