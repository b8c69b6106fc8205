"""Decode, call, encode: no handler touches a tensor or builds an error."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ValidationError

from bmaml.learners import MAX_STEPS
from model_store import Model
from service.codec import choose_response, choose_work, predict_response, predict_work
from service.offers import OFFERS
from service.problems import MEDIA_TYPE, Problem, RequestError, field_errors, invalid
from service.runtime import Runtime
from service.schemas import (
    MAX_BATCH,
    MAX_LEVELS,
    AdaptPredictRequest,
    AdaptPredictResponse,
    Health,
    Limits,
    ModelList,
    ModelSummary,
    UncertaintyRequest,
    UncertaintyResponse,
    VersionCard,
)
from service.settings import Settings
from service.wire import UNION_TAGS
from service.work import Work

router = APIRouter()
BodyT = TypeVar("BodyT", bound=BaseModel)

DESCRIPTIONS = {
    400: "the body is not JSON",
    404: "no such model or version",
    413: "the body is too large",
    415: "the body is not application/json",
    422: "the body is JSON but cannot be answered; `errors` says where",
    429: "too much work is waiting; `Retry-After` says when to come back",
    503: "starting or shutting down",
    504: "the deadline passed before the work was started",
}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"description": DESCRIPTIONS[status], "content": {MEDIA_TYPE: {"schema": PROBLEM_SCHEMA}}}
        for status in statuses
    }


PROBLEM_SCHEMA = {"$ref": f"#/components/schemas/{Problem.__name__}"}


def _body(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI of a body that is parsed from its bytes."""
    extra: Any = model.model_config.get("json_schema_extra")
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    content = {"schema": schema, "example": extra["examples"][0]}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


@router.post(
    "/adapt-predict",
    response_model=AdaptPredictResponse,
    responses=_problems(400, 404, 413, 415, 422, 429, 503, 504),
    openapi_extra=_body(AdaptPredictRequest),
    tags=["predict"],
)
async def adapt_predict(request: Request) -> Response:
    """Adapt a model to the support set, then predict the query rows with honest uncertainty."""
    accepted, runtime = time.monotonic(), _ready(request)
    body = await _parsed(request, AdaptPredictRequest, runtime.settings)
    work = await _decoded(predict_work, body, runtime)
    answer = await runtime.engine.submit(work)
    return _json(request, predict_response(body, work, answer, request.state.request_id, accepted))


@router.post(
    "/uncertainty",
    response_model=UncertaintyResponse,
    responses=_problems(400, 404, 413, 415, 422, 429, 503, 504),
    openapi_extra=_body(UncertaintyRequest),
    tags=["predict"],
)
async def uncertainty(request: Request) -> Response:
    """Adapt a model to the support set, then say which pool rows to label next."""
    accepted, runtime = time.monotonic(), _ready(request)
    body = await _parsed(request, UncertaintyRequest, runtime.settings)
    work = await _decoded(choose_work, body, runtime)
    answer = await runtime.engine.submit(work)
    return _json(request, choose_response(body, work, answer, request.state.request_id, accepted))


@router.get("/models", response_model=ModelList, responses=_problems(503), tags=["models"])
async def models(request: Request) -> ModelList:
    """Every model by name, and versions in the store that had to be refused."""
    return _ready(request).catalogue.listed()


@router.get("/models/{name}", response_model=ModelSummary, responses=_problems(404, 503), tags=["models"])
async def model(name: str, request: Request) -> ModelSummary:
    """One model and its versions."""
    return _ready(request).catalogue.summary(name)


@router.get(
    "/models/{name}/versions/{version}",
    response_model=VersionCard,
    responses=_problems(404, 422, 503),
    tags=["models"],
)
async def version_card(name: str, version: int, request: Request) -> VersionCard:
    """The model card: inputs, learner, training configuration, measured figures."""
    return _ready(request).catalogue.card(name, version)


@router.get("/limits", response_model=Limits, tags=["models"])
async def limits(request: Request) -> Limits:
    """Every bound the service enforces."""
    settings = request.app.state.runtime.settings
    return Limits(
        body_bytes=settings.max_body_bytes,
        support_rows=settings.max_support_rows,
        query_rows=settings.max_query_rows,
        pool_rows=settings.max_pool_rows,
        steps=MAX_STEPS,
        quantile_levels=MAX_LEVELS,
        batch_size=MAX_BATCH,
        queue_work=settings.max_queue_work,
        batch_work=settings.max_batch_work,
        deadline_ms=settings.deadline_ms,
        picture_pixels=settings.max_picture_pixels,
        acquisitions={kind: list(each.acquisitions) for kind, each in OFFERS.items()},
        strategies={kind: ["auto", *each.strategies] for kind, each in OFFERS.items()},
    )


@router.get("/livez", response_model=Health, responses=_problems(503), tags=["health"])
async def livez(request: Request) -> Health:
    """The process runs and its engine has not failed."""
    if request.app.state.runtime.failed:
        raise RequestError("engine-failed", 503, "the engine does not run")
    return Health(status="ok")


@router.get("/readyz", response_model=Health, responses=_problems(503), tags=["health"])
async def readyz(request: Request) -> Health:
    """A model is loaded, warm, and the device answers."""
    _ready(request)
    return Health(status="ok")


async def _decoded(make: Callable[[Any, Model, Settings], Work], body: Any, runtime: Runtime) -> Work:
    """The work a body describes; pictures are decoded off the event loop."""
    model = runtime.catalogue.model(body.model, body.version)
    if model.manifest.image is None:
        return make(body, model, runtime.settings)
    return await asyncio.to_thread(make, body, model, runtime.settings)


def _ready(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    if not runtime.ready:
        raise RequestError("not-ready", 503, runtime.why_not_ready, retry_after_s=1)
    return runtime


async def _parsed(request: Request, model: type[BodyT], settings: Settings) -> BodyT:
    """The body, parsed and validated in one pass over its bytes."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError("unsupported-media-type", 415, "send application/json")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RequestError("unsupported-media-type", 415, "compressed bodies are not taken")
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > settings.max_body_bytes:
            raise RequestError("body-too-large", 413, f"the body exceeds {settings.max_body_bytes} bytes")
    try:
        return model.model_validate_json(bytes(raw))
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        if found[0]["type"] == "json_invalid":
            raise RequestError("not-json", 400, found[0]["msg"][:200]) from None
        raise invalid("the request body is not valid", *field_errors(found, UNION_TAGS)) from None


def _json(request: Request, body: AdaptPredictResponse | UncertaintyResponse) -> Response:
    timing = body.timing_ms
    request.state.server_timing = ", ".join(
        f"{part};dur={getattr(timing, part):.3f}"
        for part in ("decode", "queue", "embed", "adapt", "predict", "total")
    )
    return Response(body.model_dump_json(), media_type="application/json")
