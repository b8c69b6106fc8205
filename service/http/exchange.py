"""One request that is adapted to, from bytes to reply: read, decoded, answered by the engine, encoded."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import Request, Response

from model_store import Model
from service.codec import bodies, encode
from service.codec.decode import Decoder
from service.engine.posterior_cache import Entry
from service.http.middleware import CallerLeft
from service.job import Answer, Job
from service.runtime import Runtime
from service.schemas.requests import (
    AdaptPredictRequest,
    PosteriorRequest,
    UncertaintyRequest,
)

BodyT = TypeVar("BodyT", AdaptPredictRequest, UncertaintyRequest, PosteriorRequest)


PARTS = ("decode", "queue", "embed", "adapt", "predict", "total")
"""Of the time a request took."""


@dataclass(frozen=True)
class Exchange(Generic[BodyT]):
    """A request that has been answered, on its way to a reply."""

    request: Request
    runtime: Runtime
    kind: str
    accepted: float
    body: BodyT
    job: Job
    answer: Answer
    entry: Entry | None

    @classmethod
    async def opened(
        cls, request: Request, model: type[BodyT], make: Callable[[Decoder, BodyT, Model, str, float], Job]
    ) -> "Exchange[BodyT]":
        """Read, decode, and wait for the device."""
        accepted, runtime = time.monotonic(), ready(request)
        kind = bodies.reply_type(request.headers.get("accept", ""))
        content, caller = await runtime.body_reader.read(request), request.state.caller
        since = time.monotonic()
        body = bodies.parsed(*content, model)
        named = await runtime.registry.model(body.model, body.version, body.posterior)
        if named.manifest.image is None:
            job = make(runtime.decoder, body, named, caller, since)
        else:
            job = await runtime.decoding_threads.run(make, runtime.decoder, body, named, caller, since)
        answer = await answered(request, runtime, job)
        entry = None if job.key is None else runtime.posteriors.get(job.key)
        return cls(request, runtime, kind, accepted, body, job, answer, entry)

    def reply(self, said: Mapping[str, Any]) -> Response:
        """What all answers say, and this."""
        state = self.request.state
        common = encode.reply(self.job, self.answer, self.entry, state.request_id, self.accepted)
        timing = common["timing_ms"]
        state.server_timing = ", ".join(f"{part};dur={timing[part]:.3f}" for part in PARTS)
        content = bodies.encoded({**common, **said}, self.kind)
        model = self.job.model.manifest
        state.timing = timing
        state.log = {
            "model": model.name,
            "version": model.version,
            "rows": [len(self.job.support_x), len(self.job.query_x)],
            "cached": self.answer.cached,
            "bytes_out": len(content),
            **{f"{part}_ms": round(timing[part], 3) for part in PARTS[:-1]},
            "batched_tasks": timing["batched_tasks"],
        }
        return Response(content, media_type=self.kind)


def ready(request: Request, with_a_model: bool = True) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    runtime.check_able(with_a_model)
    return runtime


async def answered(request: Request, runtime: Runtime, job: Job) -> Answer:
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
        return await runtime.engine.submit(job)
    except asyncio.CancelledError:
        if watching.done():
            raise CallerLeft from None
        raise
    finally:
        watching.cancel()
