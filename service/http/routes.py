"""The routes of the API: handlers decode, call and encode; none touches a tensor or builds an error reply."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from bmaml.errors import BmamlError
from bmaml.learners import MAX_STEPS
from service.codec import bodies, encode
from service.codec.decode import Decoder
from service.codec.policy_weights import policy_weights
from service.compute.capabilities import CAPABILITIES
from service.errors import RequestError
from service.http import problems
from service.http.exchange import Exchange, ready_runtime
from service.http.problems import openapi_responses
from service.schemas.cards import Limits, ModelList, ModelSummary, VersionCard
from service.schemas.policies import MAX_EPISODES, MAX_ROUNDS
from service.schemas.requests import (
    MAX_BATCH_SIZE,
    MAX_DEADLINE_MS,
    MAX_QUANTILE_LEVELS,
    MAX_TTL_S,
    REQUESTS,
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

ADAPTATION_PROBLEMS = openapi_responses(400, 401, 404, 406, 408, 409, 410, 413, 415, 422, 429, 503, 504)
"""Problems of the routes that adapt a model, for OpenAPI."""

WEIGHTS = {"content": {bodies.SAFETENSORS: {"schema": {"type": "string", "format": "binary"}}}}
"""The particles of a policy in OpenAPI."""


def _request_body(body_type: type[BaseModel]) -> dict[str, Any]:
    """The request body in OpenAPI: FastAPI does not see it, because handlers parse the bytes."""
    extra: Any = body_type.model_config.get("json_schema_extra")
    schema = {"$ref": f"#/components/schemas/{body_type.__name__}"}
    content = {
        bodies.JSON: {"schema": schema, "example": extra["examples"][0]},
        bodies.SAFETENSORS: {"schema": {"type": "string", "format": "binary"}},
    }
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "/adapt-predict",
    response_model=AdaptPredictResponse,
    responses=ADAPTATION_PROBLEMS,
    openapi_extra=_request_body(AdaptPredictRequest),
    tags=["predict"],
)
async def adapt_predict(request: Request) -> Response:
    """Adapt a model to the support set, then predict the query rows with honest uncertainty."""
    exchange = await Exchange.of(request, AdaptPredictRequest, Decoder.prediction_job)
    return exchange.reply(exchange.answered.prediction_response())


@router.post(
    "/uncertainty",
    response_model=UncertaintyResponse,
    responses=ADAPTATION_PROBLEMS,
    openapi_extra=_request_body(UncertaintyRequest),
    tags=["predict"],
)
async def uncertainty(request: Request) -> Response:
    """Adapt a model to the support set, then choose the pool rows to label next."""
    exchange = await Exchange.of(request, UncertaintyRequest, Decoder.selection_job)
    return exchange.reply(exchange.answered.selection_response(exchange.body))


@router.post(
    "/posteriors",
    response_model=PosteriorResponse,
    responses=ADAPTATION_PROBLEMS,
    openapi_extra=_request_body(PosteriorRequest),
    tags=["posteriors"],
)
async def keep_posterior(request: Request) -> Response:
    """Adapt a model to the support set and keep the posterior, to be asked under its id."""
    exchange = await Exchange.of(request, PosteriorRequest, Decoder.posterior_job)
    answered = exchange.answered
    if answered.entry is None:
        posteriors = ready_runtime(request).posteriors
        if posteriors.too_large(answered.job, answered.answer.kept):
            raise RequestError("posterior-too-large", "the posterior does not fit into the cache")
        raise RequestError("posterior-gone", "it expired, or others displaced it: send its rows again")
    return exchange.reply(answered.posterior_response(answered.entry))


@router.get(
    "/posteriors/{id}",
    response_model=PosteriorCard,
    responses={200: WEIGHTS, **openapi_responses(401, 404, 410, 422, 429, 503)},
    tags=["posteriors"],
)
async def posterior(id: str, request: Request) -> PosteriorCard | Response:
    """The model, rows and time of expiry of a kept posterior; as safetensors, the particles of a policy."""
    runtime = ready_runtime(request)
    entry = runtime.posteriors.find(id, request.state.caller)
    if bodies.SAFETENSORS not in bodies.accepted_types(request.headers.get("accept", "")):
        return encode.posterior_card(entry)
    content = await runtime.decoding_threads.run(policy_weights, entry)
    return Response(content, media_type=bodies.SAFETENSORS)


@router.delete(
    "/posteriors/{id}", status_code=204, responses=openapi_responses(401, 404, 429, 503), tags=["posteriors"]
)
async def forget_posterior(id: str, request: Request) -> Response:
    """Drop a kept posterior."""
    ready_runtime(request).posteriors.drop(id, request.state.caller)
    return Response(status_code=204)


@router.get("/models", response_model=ModelList, responses=openapi_responses(401, 429, 503), tags=["models"])
async def models(request: Request) -> ModelList:
    """Every model by name, and the versions in the store that cannot be served."""
    return ready_runtime(request, needs_model=False).catalogue.model_list()


@router.get(
    "/models/{name}",
    response_model=ModelSummary,
    responses=openapi_responses(401, 404, 429, 503),
    tags=["models"],
)
async def model(name: str, request: Request) -> ModelSummary:
    """One model and its versions."""
    return ready_runtime(request).catalogue.summary(name)


@router.get(
    "/models/{name}/versions/{version}",
    response_model=VersionCard,
    responses=openapi_responses(401, 404, 422, 429, 503),
    tags=["models"],
)
async def version_card(name: str, version: int, request: Request) -> VersionCard:
    """The model card of one version: inputs, learner, training configuration, measured figures."""
    return VersionCard.of(await ready_runtime(request).registry.manifest(name, version))


@router.get("/limits", response_model=Limits, responses=openapi_responses(401, 429), tags=["models"])
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
        episode_steps=settings.max_episode_steps,
        episodes=MAX_EPISODES,
        rounds=MAX_ROUNDS,
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
        default_acquisitions={kind: each.default_acquisition for kind, each in CAPABILITIES.items()},
        strategies={kind: ["auto", *each.strategies] for kind, each in CAPABILITIES.items()},
    )


HANDLERS: Mapping[str, Callable[[Request], Awaitable[Response]]] = {
    "/adapt-predict": adapt_predict,
    "/uncertainty": uncertainty,
    "/posteriors": keep_posterior,
}
"""The handlers of requests for adaptation, by path."""
assert HANDLERS.keys() == REQUESTS.keys()


@dataclass
class DirectRoutes:
    """The innermost layer: it hands requests for adaptation to their handlers.

    FastAPI's routes describe these handlers and would serve them, too. Its layers, its search for a route and
    its dependency injection take time at each request, and have nothing to add to these.
    """

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        posts = scope["type"] == "http" and scope["method"] == "POST"
        handler = HANDLERS.get(scope["path"]) if posts else None
        if handler is None:
            await self.app(scope, receive, send)
            return
        try:
            response = await handler(Request(scope, receive, send))
        except BmamlError as error:
            response = problems.response(problems.request_error(error), scope["state"])
        await response(scope, receive, send)
