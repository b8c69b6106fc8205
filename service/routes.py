"""Decode, call, encode: no handler touches a tensor or builds an error."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from bmaml.learners import MAX_STEPS
from model_store import Model
from service import bodies, replies
from service.answers import (
    AdaptPredictResponse,
    PosteriorCard,
    PosteriorResponse,
    UncertaintyResponse,
)
from service.boundary import CallerLeft
from service.cards import Limits, ModelList, ModelSummary, VersionCard
from service.codec import Codec
from service.offers import OFFERS
from service.posteriors import Entry
from service.problems import RequestError, described
from service.runtime import Runtime
from service.schemas import (
    LONGEST_MS,
    MAX_BATCH,
    MAX_LEVELS,
    MAX_TTL_S,
    AdaptPredictRequest,
    PosteriorRequest,
    UncertaintyRequest,
)
from service.work import Answer, Work


class _Direct(APIRoute):
    """A route whose handler takes the request and makes the response: FastAPI has nothing to solve for it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler itself."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


router = APIRouter()
asked = APIRouter(route_class=_Direct)
"""Of everything that is adapted to."""
BodyT = TypeVar("BodyT", AdaptPredictRequest, UncertaintyRequest, PosteriorRequest)

PARTS = ("decode", "queue", "embed", "adapt", "predict", "total")
"""Of the time a request took."""

ASKING = described(400, 401, 404, 406, 408, 409, 410, 413, 415, 422, 429, 503, 504)
"""What may come of a request that is adapted to."""


def _body(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI of a body that is parsed from its bytes."""
    extra: Any = model.model_config.get("json_schema_extra")
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    content = {
        bodies.JSON: {"schema": schema, "example": extra["examples"][0]},
        bodies.BINARY: {"schema": {"type": "string", "format": "binary"}},
    }
    return {"requestBody": {"required": True, "content": content}}


@asked.post(
    "/adapt-predict",
    response_model=AdaptPredictResponse,
    responses=ASKING,
    openapi_extra=_body(AdaptPredictRequest),
    tags=["predict"],
)
async def adapt_predict(request: Request) -> Response:
    """Adapt a model to the support set, then predict the query rows with honest uncertainty."""
    exchange = await _Exchange.opened(request, AdaptPredictRequest, Codec.predict)
    said = {"prediction": replies.prediction(exchange.body, exchange.work, exchange.answer)}
    return exchange.reply(said)


@asked.post(
    "/uncertainty",
    response_model=UncertaintyResponse,
    responses=ASKING,
    openapi_extra=_body(UncertaintyRequest),
    tags=["predict"],
)
async def uncertainty(request: Request) -> Response:
    """Adapt a model to the support set, then say which pool rows to label next."""
    exchange = await _Exchange.opened(request, UncertaintyRequest, Codec.choose)
    return exchange.reply(replies.choice(exchange.body, exchange.work, exchange.answer))


@asked.post(
    "/posteriors",
    response_model=PosteriorResponse,
    responses=ASKING,
    openapi_extra=_body(PosteriorRequest),
    tags=["posteriors"],
)
async def keep_posterior(request: Request) -> Response:
    """Adapt a model to the support set and keep what comes of it, to be asked under its id."""
    exchange = await _Exchange.opened(request, PosteriorRequest, Codec.keep)
    if exchange.entry is None:
        if exchange.runtime.posteriors.too_large(exchange.work, exchange.answer.kept):
            raise RequestError("posterior-too-large", "the posterior does not fit into the cache")
        raise RequestError("posterior-gone", "it expired, or others displaced it: send its rows again")
    return exchange.reply({})


@router.get(
    "/posteriors/{id}",
    response_model=PosteriorCard,
    responses=described(401, 404, 410, 429, 503),
    tags=["posteriors"],
)
async def posterior(id: str, request: Request) -> PosteriorCard:
    """What a kept posterior is of, and until when it is kept."""
    return PosteriorCard(**replies.card(_ready(request).posteriors.find(id, request.state.caller)))


@router.delete(
    "/posteriors/{id}", status_code=204, responses=described(401, 404, 429, 503), tags=["posteriors"]
)
async def forget_posterior(id: str, request: Request) -> Response:
    """Forget a kept posterior."""
    _ready(request).posteriors.drop(id, request.state.caller)
    return Response(status_code=204)


@router.get("/models", response_model=ModelList, responses=described(401, 429, 503), tags=["models"])
async def models(request: Request) -> ModelList:
    """Every model by name, and versions in the store that had to be refused."""
    return _ready(request, with_a_model=False).catalogue.listed()


@router.get(
    "/models/{name}", response_model=ModelSummary, responses=described(401, 404, 429, 503), tags=["models"]
)
async def model(name: str, request: Request) -> ModelSummary:
    """One model and its versions."""
    return _ready(request).catalogue.summary(name)


@router.get(
    "/models/{name}/versions/{version}",
    response_model=VersionCard,
    responses=described(401, 404, 422, 429, 503),
    tags=["models"],
)
async def version_card(name: str, version: int, request: Request) -> VersionCard:
    """The model card: inputs, learner, training configuration, measured figures."""
    return await _ready(request).versions.card(name, version)


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
        quantile_levels=MAX_LEVELS,
        batch_size=MAX_BATCH,
        queue_work=settings.max_queue_work,
        batch_work=settings.max_batch_work,
        deadline_ms=settings.deadline_ms,
        longest_deadline_ms=LONGEST_MS,
        ttl_s=MAX_TTL_S,
        posterior_bytes=settings.max_posterior_bytes,
        picture_pixels=settings.max_picture_pixels,
        request_pixels=settings.max_request_pixels,
        acquisitions={kind: list(each.acquisitions) for kind, each in OFFERS.items()},
        strategies={kind: ["auto", *each.strategies] for kind, each in OFFERS.items()},
    )


@dataclass(frozen=True)
class _Exchange(Generic[BodyT]):
    """A request that has been answered, on its way to a reply."""

    request: Request
    runtime: Runtime
    kind: str
    accepted: float
    body: BodyT
    work: Work
    answer: Answer
    entry: Entry | None

    @classmethod
    async def opened(
        cls, request: Request, model: type[BodyT], make: "Callable[[Codec, BodyT, Model, str, float], Work]"
    ) -> "_Exchange[BodyT]":
        """Read, decode, and wait for the device."""
        accepted, runtime = time.monotonic(), _ready(request)
        kind = bodies.reply_type(request.headers.get("accept", ""))
        content, caller = await runtime.intake.read(request), request.state.caller
        since = time.monotonic()
        body = bodies.parsed(*content, model)
        named = await runtime.versions.model(body.model, body.version, body.posterior)
        if named.manifest.image is None:
            work = make(runtime.codec, body, named, caller, since)
        else:
            work = await runtime.decoders.run(make, runtime.codec, body, named, caller, since)
        answer = await _answer(request, runtime, work)
        entry = None if work.key is None else runtime.posteriors.get(work.key)
        return cls(request, runtime, kind, accepted, body, work, answer, entry)

    def reply(self, said: Mapping[str, Any]) -> Response:
        """What all answers say, and this."""
        state = self.request.state
        common = replies.reply(self.work, self.answer, self.entry, state.request_id, self.accepted)
        timing = common["timing_ms"]
        state.server_timing = ", ".join(f"{part};dur={timing[part]:.3f}" for part in PARTS)
        content = bodies.encoded({**common, **said}, self.kind)
        model = self.work.model.manifest
        state.timing = timing
        state.log = {
            "model": model.name,
            "version": model.version,
            "rows": [len(self.work.support_x), len(self.work.query_x)],
            "cached": self.answer.cached,
            "bytes_out": len(content),
            **{f"{part}_ms": round(timing[part], 3) for part in PARTS[:-1]},
            "batched_tasks": timing["batched_tasks"],
        }
        return Response(content, media_type=self.kind)


def _ready(request: Request, with_a_model: bool = True) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    runtime.check_able(with_a_model)
    return runtime


async def _answer(request: Request, runtime: Runtime, work: Work) -> Answer:
    """The engine's answer, unless the caller leaves before it comes: then the work is dropped.

    Raises:
        CallerLeft: nobody waits any more.
    """
    answering = asyncio.current_task()
    assert answering is not None

    async def watch() -> None:
        await request.receive()  # after the body, nothing comes but the end
        answering.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await runtime.engine.submit(work)
    except asyncio.CancelledError:
        if watching.done():
            raise CallerLeft from None
        raise
    finally:
        watching.cancel()
