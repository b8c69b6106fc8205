"""What a request may fail of: one of `KINDS`, with what to say about it."""

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
    "unauthorized": (401, "A bearer key is needed and was not given, or is not one of this service's."),
    "origin-not-allowed": (403, "A page of another host asks that `BMAML_CORS_ORIGINS` does not name."),
    "no-such-route": (404, "There is no such path."),
    "unknown-model": (404, "No model of that name or version; `detail` lists those there are."),
    "unknown-posterior": (404, "No posterior of that id was ever given to this caller."),
    "method-not-allowed": (405, "The path takes other methods; `Allow` lists them."),
    "not-acceptable": (406, "`Accept` names neither JSON nor safetensors."),
    "too-slow": (408, "The request did not arrive within the time there is for it."),
    "other-model": (409, "The posterior belongs to another model or version than the one named."),
    "other-settings": (409, "The posterior was adapted in another number of steps than asked for."),
    "posterior-gone": (410, "The posterior was kept and is no longer: send its rows again."),
    "body-too-large": (413, "The body, plain or unpacked, exceeds `body_bytes` of `GET /limits`."),
    "picture-too-large": (413, "An image, or all of them, exceed the pixels that `GET /limits` names."),
    "posterior-too-large": (413, "The posterior alone exceeds the cache."),
    "task-too-large": (413, "The task alone does not fit into the device's memory: ask for fewer rows."),
    "unsupported-media-type": (
        415,
        "The body is neither JSON nor safetensors, or packed otherwise than gzip.",
    ),
    "invalid-request": (422, "The body can be read but not answered; `errors` points at what is wrong."),
    "diverged": (
        422,
        "Adaptation left the finite numbers: fewer steps, or rows nearer to what training saw.",
    ),
    "queue-full": (429, "More work waits than can be done in time; come back after `Retry-After` seconds."),
    "rate-limited": (429, "This key asks too often; come back after `Retry-After` seconds."),
    "too-many-connections": (429, "As many connections are open as there may be; come back, and reuse them."),
    "headers-too-large": (431, "The request line and headers exceed `header_bytes` of `GET /limits`."),
    "internal": (500, "A fault of the service; its log has the cause under the `request_id`."),
    "not-ready": (503, "The service is starting or shutting down, or nothing can be served yet."),
    "engine-failed": (503, "The device does not answer any more; the process ends and has to be restarted."),
    "expired": (504, "`deadline_ms` passed before the device got to the request."),
    "http-error": (400, "Another failure of the HTTP exchange; the status says which."),
}
"""Every kind of problem: the status it is sent with, and what it means to the caller."""


class FieldError(BaseModel):
    """One thing that is wrong with a request body."""

    pointer: str = Field(description="JSON pointer to the value", examples=["/query/x/3"])
    detail: str


@dataclass
class RequestError(BmamlError):
    """A request that cannot be answered: one of `KINDS`, and what to say about it."""

    kind: Kind
    detail: str
    errors: Sequence[FieldError] = ()
    retry_after_s: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """The HTTP status of its kind."""
        return KINDS[self.kind][0]

    def __str__(self) -> str:
        return self.detail


def invalid(detail: str, *errors: FieldError) -> RequestError:
    """422: the body is JSON but not a request we can answer."""
    return RequestError("invalid-request", detail, errors)


def invalid_at(pointer: str, detail: str) -> RequestError:
    """422 for one value."""
    return invalid("the request body is not valid", FieldError(pointer=pointer, detail=detail))


def field_errors(errors: Sequence[ErrorDetails], unions: frozenset[str]) -> list[FieldError]:
    """Pydantic's findings as JSON pointers; `unions` are tags that are not part of the body."""
    return [
        FieldError(
            pointer="".join(f"/{_escaped(part)}" for part in error["loc"] if part not in unions)[
                :MAX_POINTER_CHARS
            ],
            detail=error["msg"][:MAX_DETAIL_CHARS],
        )
        for error in errors[:MAX_ERRORS]
    ]


def _escaped(part: Any) -> str:
    return str(part)[:64].replace("~", "~0").replace("/", "~1")


class CallerLeft(Exception):
    """The caller closed the connection before the answer came."""
