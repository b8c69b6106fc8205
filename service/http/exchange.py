"""One request for adaptation, from bytes to reply: read, decode, wait for the engine, encode."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from fastapi import Request, Response

from model_store import Model
from service.codec import bodies
from service.codec.decode import Decoder
from service.codec.encode import AnsweredJob
from service.errors import CallerLeft
from service.job import Answer, Job
from service.ops.tracing import PHASES
from service.runtime import Runtime
from service.schemas.policies import EpisodeSupport
from service.schemas.requests import AdaptationRequest
from service.schemas.responses import AdaptPredictResponse, PosteriorResponse, UncertaintyResponse

WATCH_AFTER_S = 0.1
"""Seconds for which a request waits before its connection is watched; most are answered earlier."""

BodyT = TypeVar("BodyT", bound=AdaptationRequest)
ResponseBody = AdaptPredictResponse | UncertaintyResponse | PosteriorResponse


@dataclass(frozen=True)
class Exchange(Generic[BodyT]):
    """A request whose job has been answered.

    Attributes:
        media_type: of the reply.
    """

    request: Request
    media_type: str
    body: BodyT
    answered: AnsweredJob

    @classmethod
    async def of(
        cls,
        request: Request,
        body_type: type[BodyT],
        make_job: Callable[[Decoder, BodyT, Model, str, float], Job],
    ) -> "Exchange[BodyT]":
        """As `run`, for a body of this type in the format that its header names."""
        media_type = bodies.reply_type(request.headers.get("accept", ""))
        return await cls.run(
            request, media_type, lambda content, sent: bodies.parsed(content, sent, body_type), make_job
        )

    @classmethod
    async def run(
        cls,
        request: Request,
        media_type: str,
        parse: Callable[[bytes, str], BodyT],
        make_job: Callable[[Decoder, BodyT, Model, str, float], Job],
    ) -> "Exchange[BodyT]":
        """Read and decode the request, submit its job, and wait for the answer.

        Args:
            media_type: of the reply.
            parse: makes a body of its bytes and their media type.
            make_job: the method of `Decoder` for this type of body.

        Raises:
            RequestError: any failure that the caller is told.
            CallerLeft: the connection was closed before the answer came.
        """
        waited_s: float = request.state.waited_s
        began, runtime = time.monotonic(), ready_runtime(request)
        content, caller = await runtime.body_reader.read(request), request.state.caller
        received = time.monotonic() - waited_s
        body = parse(*content)
        model = await runtime.registry.model(body.model, body.version, body.posterior)
        if model.manifest.image is None and not isinstance(body.support, EpisodeSupport):
            job = make_job(runtime.decoder, body, model, caller, received)
        else:
            job = await runtime.decoding_threads.run(make_job, runtime.decoder, body, model, caller, received)
        answer = await _answer(request, runtime, job, waited_s)
        entry = None if job.key is None else runtime.posteriors.get(job.key)
        answered = AnsweredJob(job, answer, entry, request.state.request_id, began, waited_s)
        return cls(request, media_type, body, answered)

    def reply(self, response: ResponseBody) -> Response:
        """The reply with this body."""
        return self.sent(response, bodies.encoded(response, self.media_type), self.media_type)

    def sent(
        self,
        response: ResponseBody,
        content: bytes,
        media_type: str,
        headers: dict[str, str] | None = None,
    ) -> Response:
        """The reply with these bytes; timings go into the header, the log and the trace of the request."""
        state, job = self.request.state, self.answered.job
        times = response.timing_ms
        timing = state.timing = {phase: getattr(times, phase) for phase in (*PHASES, "total")}
        state.server_timing = ", ".join(f"{phase};dur={ms:.3f}" for phase, ms in timing.items())
        state.log = {
            "model": response.model.name,
            "version": response.model.version,
            "rows": [len(job.support_x), len(job.query_x)],
            "cached": self.answered.answer.cached,
            "bytes_out": len(content),
            **{f"{phase}_ms": round(timing[phase], 3) for phase in PHASES},
            "batched_tasks": times.batched_tasks,
        }
        return Response(content, headers=headers, media_type=media_type)


def ready_runtime(request: Request, needs_model: bool = True) -> Runtime:
    """The runtime, if it can answer.

    Raises:
        RequestError: 503 with the reason where it cannot.
    """
    runtime: Runtime = request.app.state.runtime
    runtime.check_serving(needs_model)
    return runtime


async def _answer(request: Request, runtime: Runtime, job: Job, waited_s: float) -> Answer:
    """The engine's answer; a job whose caller leaves before it comes is dropped.

    Args:
        waited_s: seconds that the request has waited so far.

    Raises:
        CallerLeft: the connection was closed.
    """
    watch = _ConnectionWatch(request)
    try:
        return await runtime.engine.submit(job, waited_s)
    except asyncio.CancelledError:
        if watch.caller_left:
            raise CallerLeft from None
        raise
    finally:
        watch.end()


class _ConnectionWatch:
    """Cancels the current task when the caller closes the connection.

    It begins after `WATCH_AFTER_S`: a task for it would cost more than all the rest of a short wait.
    """

    def __init__(self, request: Request) -> None:
        self._request, self._answering = request, asyncio.current_task()
        self._watching: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(WATCH_AFTER_S, self._begin)
        self.caller_left = False

    def end(self) -> None:
        """Watch no more."""
        self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()

    def _begin(self) -> None:
        self._watching = self._loop.create_task(self._watch())

    async def _watch(self) -> None:
        await self._request.receive()  # after the body, the only message is the end of the connection
        self.caller_left = True
        assert self._answering is not None
        self._answering.cancel()
