"""Our errors as HTTP: one status and one body (RFC 9457) for every failure, and never the input."""

from collections.abc import Sequence
from dataclasses import dataclass
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
MAX_ERRORS = 20
MAX_DETAIL = 300


class FieldError(BaseModel):
    """One thing that is wrong with a request body."""

    pointer: str = Field(description="JSON pointer to the value", examples=["/query/x/3"])
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str = Field(examples=["urn:bmaml:problem:invalid-request"])
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldError] = Field(default=[], max_length=MAX_ERRORS)


@dataclass
class RequestError(BmamlError):
    """A request that cannot be answered, and the status that says so."""

    slug: str
    status: int
    detail: str
    errors: Sequence[FieldError] = ()
    retry_after_s: int | None = None

    def __str__(self) -> str:
        return self.detail


def invalid(detail: str, *errors: FieldError) -> RequestError:
    """422: the body is JSON but not a request we can answer."""
    return RequestError("invalid-request", 422, detail, errors)


def invalid_at(pointer: str, detail: str) -> RequestError:
    """422 for one value."""
    return invalid("the request body is not valid", FieldError(pointer=pointer, detail=detail))


def field_errors(errors: Sequence[ErrorDetails], unions: frozenset[str]) -> list[FieldError]:
    """Pydantic's findings as JSON pointers; `unions` are tags that are not part of the body."""
    return [
        FieldError(
            pointer="".join(f"/{_escaped(part)}" for part in error["loc"] if part not in unions),
            detail=error["msg"][:MAX_DETAIL],
        )
        for error in errors[:MAX_ERRORS]
    ]


def install(app: FastAPI) -> None:
    """Turn every failure of the app into problem+json."""

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        return _reply(request, error)

    @app.exception_handler(BmamlError)
    async def known(request: Request, error: BmamlError) -> Response:
        if isinstance(error, UnknownModel | InvalidName):
            return _reply(request, RequestError("unknown-model", 404, str(error)))
        if isinstance(error, Diverged):
            return _reply(request, RequestError("diverged", 422, str(error)))
        return _reply(request, RequestError("invalid-request", 422, str(error)))

    @app.exception_handler(RequestValidationError)
    async def misread(request: Request, error: RequestValidationError) -> Response:
        found = field_errors(error.errors(), frozenset({"path", "query", "header"}))
        return _reply(request, invalid("the request's path or query is not valid", *found))

    @app.exception_handler(HTTPException)
    async def routed(request: Request, error: HTTPException) -> Response:
        slug = {404: "no-such-route", 405: "method-not-allowed"}.get(error.status_code, "http-error")
        phrase = HTTPStatus(error.status_code).phrase
        response = _reply(request, RequestError(slug, error.status_code, phrase))
        response.headers.update(error.headers or {})
        return response


def internal(request: Request) -> Response:
    """500: our fault, with nothing about it for the caller but the request's id."""
    return _reply(request, RequestError("internal", 500, "an unforeseen failure; it has been logged"))


def _reply(request: Request, error: RequestError) -> Response:
    problem = Problem(
        type=f"urn:bmaml:problem:{error.slug}",
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        detail=error.detail[: 4 * MAX_DETAIL],
        request_id=str(request.scope.get("state", {}).get("request_id", "")),
        errors=list(error.errors)[:MAX_ERRORS],
    )
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return Response(problem.model_dump_json(), error.status, headers, media_type=MEDIA_TYPE)


def _escaped(part: Any) -> str:
    return str(part)[:64].replace("~", "~0").replace("/", "~1")
