"""Decode, call, encode: no handler touches a tensor or builds an error."""

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from bmaml.learners import MAX_STEPS
from service.codec import bodies, encode
from service.codec.decode import Decoder
from service.compute.acquisitions import CAPABILITIES
from service.errors import RequestError
from service.http.exchange import Exchange, ready
from service.http.problems import described
from service.schemas.cards import Limits, ModelList, ModelSummary, VersionCard
from service.schemas.requests import (
    MAX_BATCH_SIZE,
    MAX_DEADLINE_MS,
    MAX_QUANTILE_LEVELS,
    MAX_TTL_S,
    AdaptPredictRequest,
    PosteriorRequest,
    UncertaintyRequest,
)
from service.schemas.responses import (
    AdaptPredictResponse,
    PosteriorCard,
    PosteriorResponse,
    UncertaintyResponse,
)

router = APIRouter()


ASKING = described(400, 401, 404, 406, 408, 409, 410, 413, 415, 422, 429, 503, 504)
"""What may come of a request that is adapted to."""


def _body(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI of a body that is parsed from its bytes."""
    extra: Any = model.model_config.get("json_schema_extra")
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    content = {
        bodies.JSON: {"schema": schema, "example": extra["examples"][0]},
        bodies.SAFETENSORS: {"schema": {"type": "string", "format": "binary"}},
    }
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "/adapt-predict",
    response_model=AdaptPredictResponse,
    responses=ASKING,
    openapi_extra=_body(AdaptPredictRequest),
    tags=["predict"],
)
async def adapt_predict(request: Request) -> Response:
    """Adapt a model to the support set, then predict the query rows with honest uncertainty."""
    exchange = await Exchange.opened(request, AdaptPredictRequest, Decoder.prediction_job)
    return exchange.reply(exchange.answered.prediction_response())


@router.post(
    "/uncertainty",
    response_model=UncertaintyResponse,
    responses=ASKING,
    openapi_extra=_body(UncertaintyRequest),
    tags=["predict"],
)
async def uncertainty(request: Request) -> Response:
    """Adapt a model to the support set, then say which pool rows to label next."""
    exchange = await Exchange.opened(request, UncertaintyRequest, Decoder.selection_job)
    return exchange.reply(exchange.answered.selection_response(exchange.body))


@router.post(
    "/posteriors",
    response_model=PosteriorResponse,
    responses=ASKING,
    openapi_extra=_body(PosteriorRequest),
    tags=["posteriors"],
)
async def keep_posterior(request: Request) -> Response:
    """Adapt a model to the support set and keep what comes of it, to be asked under its id."""
    exchange = await Exchange.opened(request, PosteriorRequest, Decoder.posterior_job)
    answered = exchange.answered
    if answered.entry is None:
        posteriors = ready(request).posteriors
        if posteriors.too_large(answered.job, answered.answer.kept):
            raise RequestError("posterior-too-large", "the posterior does not fit into the cache")
        raise RequestError("posterior-gone", "it expired, or others displaced it: send its rows again")
    return exchange.reply(answered.posterior_response(answered.entry))


@router.get(
    "/posteriors/{id}",
    response_model=PosteriorCard,
    responses=described(401, 404, 410, 429, 503),
    tags=["posteriors"],
)
async def posterior(id: str, request: Request) -> PosteriorCard:
    """What a kept posterior is of, and until when it is kept."""
    return encode.posterior_card(ready(request).posteriors.find(id, request.state.caller))


@router.delete(
    "/posteriors/{id}", status_code=204, responses=described(401, 404, 429, 503), tags=["posteriors"]
)
async def forget_posterior(id: str, request: Request) -> Response:
    """Forget a kept posterior."""
    ready(request).posteriors.drop(id, request.state.caller)
    return Response(status_code=204)


@router.get("/models", response_model=ModelList, responses=described(401, 429, 503), tags=["models"])
async def models(request: Request) -> ModelList:
    """Every model by name, and versions in the store that had to be refused."""
    return ready(request, with_a_model=False).catalogue.listed()


@router.get(
    "/models/{name}", response_model=ModelSummary, responses=described(401, 404, 429, 503), tags=["models"]
)
async def model(name: str, request: Request) -> ModelSummary:
    """One model and its versions."""
    return ready(request).catalogue.summary(name)


@router.get(
    "/models/{name}/versions/{version}",
    response_model=VersionCard,
    responses=described(401, 404, 422, 429, 503),
    tags=["models"],
)
async def version_card(name: str, version: int, request: Request) -> VersionCard:
    """The model card: inputs, learner, training configuration, measured figures."""
    return await ready(request).registry.card(name, version)


@router.get("/limits", response_model=Limits, responses=described(401, 429), tags=["models"])
async def limits(request: Request) -> Limits:
    """Every bound the service enforces."""
    settings = request.app.state.runtime.settings
    return Limits(
        body_bytes=settings.max_body_bytes,
        header_bytes=settings.max_header_bytes,
        classes=settings.max_classes,
        particles=settings.max_particles,
        support_rows=settings.max_support_rows,
        query_rows=settings.max_query_rows,
        pool_rows=settings.max_pool_rows,
        steps=MAX_STEPS,
        quantile_levels=MAX_QUANTILE_LEVELS,
        batch_size=MAX_BATCH_SIZE,
        queue_work=settings.max_queue_work,
        batch_work=settings.max_batch_work,
        deadline_ms=settings.deadline_ms,
        longest_deadline_ms=MAX_DEADLINE_MS,
        ttl_s=MAX_TTL_S,
        posterior_bytes=settings.max_posterior_bytes,
        picture_pixels=settings.max_picture_pixels,
        request_pixels=settings.max_request_pixels,
        acquisitions={kind: list(each.acquisitions) for kind, each in CAPABILITIES.items()},
        strategies={kind: ["auto", *each.strategies] for kind, each in CAPABILITIES.items()},
    )
