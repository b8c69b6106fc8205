"""Our errors as HTTP: one status and one body (RFC 9457) for every failure, and never the input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException

from bmaml.errors import BmamlError
from bmaml.learners import Diverged
from model_store import InvalidName, UnknownModel

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS, MAX_DETAIL, MAX_POINTER, MAX_REPLY = 20, 300, 200, 4096
"""Entries of `errors`; characters of their details and pointers (a reply's own detail has twice as many);
bytes of a reply."""


KINDS: dict[str, tuple[int, str]] = {
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
    "picture-too-large": (413, "A picture, or all of them, exceed the pixels that `GET /limits` names."),
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


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These statuses in OpenAPI."""
    schema = {"$ref": f"#/components/schemas/{Problem.__name__}"}
    return {
        status: {
            "description": " ".join(text for code, text in KINDS.values() if code == status),
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in statuses
    }


class FieldError(BaseModel):
    """One thing that is wrong with a request body."""

    pointer: str = Field(description="JSON pointer to the value", examples=["/query/x/3"])
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str = Field(
        description="`urn:bmaml:problem:` and one of the kinds of docs/errors.md",
        examples=["urn:bmaml:problem:invalid-request"],
    )
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldError] = Field(default=[], max_length=MAX_ERRORS)


@dataclass
class RequestError(BmamlError):
    """A request that cannot be answered: one of `KINDS`, and what to say about it."""

    kind: str
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
                :MAX_POINTER
            ],
            detail=error["msg"][:MAX_DETAIL],
        )
        for error in errors[:MAX_ERRORS]
    ]


def install(app: FastAPI) -> None:
    """Turn every failure of the app into problem+json."""

    @app.exception_handler(BmamlError)
    async def known(request: Request, error: BmamlError) -> Response:
        return _reply(request, told(error))

    @app.exception_handler(RequestValidationError)
    async def misread(request: Request, error: RequestValidationError) -> Response:
        found = field_errors(error.errors(), frozenset({"path", "query", "header"}))
        return _reply(request, invalid("the request's path or query is not valid", *found))

    @app.exception_handler(HTTPException)
    async def routed(request: Request, error: HTTPException) -> Response:
        kind = {404: "no-such-route", 405: "method-not-allowed"}.get(error.status_code, "http-error")
        problem = RequestError(kind, HTTPStatus(error.status_code).phrase, headers=error.headers or {})
        return _reply(request, problem, error.status_code)


def told(error: BmamlError) -> RequestError:
    """What the caller is told of it."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, UnknownModel | InvalidName):
        return RequestError("unknown-model", str(error))
    if isinstance(error, Diverged):
        return RequestError("diverged", str(error))
    return RequestError("invalid-request", str(error))


def internal() -> RequestError:
    """500: our fault, with nothing about it for the caller but the request's id."""
    return RequestError("internal", "an unforeseen failure; it has been logged")


def document(error: RequestError, request_id: str, status: int | None = None) -> bytes:
    """The body of a reply, at most `MAX_REPLY` bytes long."""
    status = error.status if status is None else status
    problem = Problem(
        type=f"urn:bmaml:problem:{error.kind}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=error.detail[: 2 * MAX_DETAIL],
        request_id=request_id,
        errors=list(error.errors)[:MAX_ERRORS],
    )
    while len(text := problem.model_dump_json().encode()) > MAX_REPLY:
        problem.errors.pop()
    return text


def response(error: RequestError, state: dict[str, Any], status: int | None = None) -> Response:
    """The reply; its kind is noted in the request's state."""
    state["problem"] = error.kind
    headers = dict(error.headers)
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    text = document(error, state.get("request_id", ""), status)
    return Response(text, status or error.status, headers, media_type=MEDIA_TYPE)


def _reply(request: Request, error: RequestError, status: int | None = None) -> Response:
    return response(error, request.scope.setdefault("state", {}), status)


def _escaped(part: Any) -> str:
    return str(part)[:64].replace("~", "~0").replace("/", "~1")
