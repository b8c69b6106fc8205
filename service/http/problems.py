"""Replies to failures: a status and a problem document (RFC 9457), which never repeats the input."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from bmaml.errors import BmamlError
from bmaml.learners import Diverged
from model_store import InvalidName, UnknownModel
from service.codec.open_inference.decode import error_body
from service.errors import (
    KINDS,
    MAX_DETAIL_CHARS,
    MAX_ERRORS,
    FieldError,
    Kind,
    RequestError,
    field_errors,
    invalid,
)

MEDIA_TYPE = "application/problem+json"
"""The media type of a problem document."""
METHODS = ("GET", "POST", "DELETE")
"""The methods of our routes, but for HEAD."""
MAX_PROBLEM_BYTES = 4096
"""Bytes of a problem document."""


def openapi_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The responses of a route in OpenAPI, for problems of these statuses."""
    schema = {"$ref": f"#/components/schemas/{Problem.__name__}"}
    return {
        status: {
            "description": " ".join(text for code, text in KINDS.values() if code == status),
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in statuses
    }


class Problem(BaseModel):
    """The body of every failure: RFC 9457 problem details."""

    type: str = Field(
        description="`urn:bmaml:problem:` and one of the kinds of docs/errors.md",
        examples=["urn:bmaml:problem:invalid-request"],
    )
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldError] = Field(default=[], max_length=MAX_ERRORS)


def install(app: FastAPI) -> None:
    """Answer every failure that reaches the app with a problem."""

    @app.exception_handler(BmamlError)
    async def own_error(request: Request, error: BmamlError) -> Response:
        return _reply(request, request_error(error))

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        found = field_errors(error.errors(), frozenset({"path", "query", "header"}))
        return _reply(request, invalid("the request's path or query is not valid", *found))

    @app.exception_handler(HTTPException)
    async def http_exception(request: Request, error: HTTPException) -> Response:
        kinds: dict[int, Kind] = {404: "no-such-route", 405: "method-not-allowed"}
        kind = kinds.get(error.status_code, "http-error")
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(allowed_methods(app, request.scope))
        problem = RequestError(kind, HTTPStatus(error.status_code).phrase, headers=headers)
        return _reply(request, problem, error.status_code)


def allowed_methods(app: FastAPI, scope: Scope) -> list[str]:
    """The methods that any route takes on this path; the framework's own 405 names those of one route."""
    found = [
        method
        for method in METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in app.routes)
    ]
    return [*found, "HEAD"] if "GET" in found else found  # HEAD is answered wherever GET is


def request_error(error: BmamlError) -> RequestError:
    """The problem that an error of the method, the store or the service is for the caller."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, UnknownModel | InvalidName):
        return RequestError("unknown-model", str(error))
    if isinstance(error, Diverged):
        return RequestError("diverged", str(error))
    return RequestError("invalid-request", str(error))


def internal() -> RequestError:
    """The 500 for an unforeseen failure, whose cause only the log names."""
    return RequestError("internal", "an unforeseen failure; it has been logged")


def document(error: RequestError, request_id: str, status: int | None = None) -> bytes:
    """The body of a problem reply, without the last of `errors` beyond `MAX_PROBLEM_BYTES`."""
    status = error.status if status is None else status
    problem = Problem(
        type=f"urn:bmaml:problem:{error.kind}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=error.detail[: 2 * MAX_DETAIL_CHARS],
        request_id=request_id,
        errors=list(error.errors)[:MAX_ERRORS],
    )
    while len(text := problem.model_dump_json().encode()) > MAX_PROBLEM_BYTES:
        problem.errors.pop()
    return text


def response(error: RequestError, state: dict[str, Any], status: int | None = None) -> Response:
    """The problem reply, or that of the Open Inference Protocol under its paths.

    The request's state gets the problem's kind, for log and metrics.
    """
    state["problem"] = error.kind
    headers = dict(error.headers)
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if state.get("open_inference"):
        return Response(error_body(error), status or error.status, headers, media_type="application/json")
    text = document(error, state.get("request_id", ""), status)
    return Response(text, status or error.status, headers, media_type=MEDIA_TYPE)


def _reply(request: Request, error: RequestError, status: int | None = None) -> Response:
    return response(error, request.scope.setdefault("state", {}), status)
