"""Answers of the service in this process: decoder, computation and encoder, without HTTP and queue."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from bmaml.learners import Diverged
from model_store import Model
from service.codec.decode import Decoder
from service.codec.encode import AnsweredJob
from service.compute.batch import answer_batch
from service.engine.posterior_cache import PosteriorCache
from service.errors import RequestError
from service.job import Job
from service.ops.metrics import Metrics
from service.schemas.requests import MAX_DEADLINE_MS, AdaptPredictRequest
from service.schemas.responses import AdaptPredictResponse
from service.settings import Settings


def ask(model: Model, bodies: Sequence[Mapping[str, Any]]) -> list[AdaptPredictResponse | None]:
    """The responses of POST /adapt-predict to these bodies, in order; None where the service refuses.

    Requests that the engine would fuse are computed in one batch.

    Args:
        bodies: JSON bodies; `model` and `deadline_ms` are added.
    """
    decoder = Decoder(Settings(), PosteriorCache(0, b"", Metrics()))
    groups: dict[tuple[Any, ...], dict[int, Job]] = {}
    for index, body in enumerate(bodies):
        named = {"model": model.manifest.name, "deadline_ms": MAX_DEADLINE_MS, **body}
        request = AdaptPredictRequest.model_validate(named)
        try:
            job = decoder.prediction_job(request, model, "", time.monotonic())
        except RequestError:
            continue
        groups.setdefault(job.group, {})[index] = job
    found: list[AdaptPredictResponse | None] = [None] * len(bodies)
    for jobs in groups.values():
        for (index, job), answer in zip(jobs.items(), answer_batch(list(jobs.values())), strict=True):
            if not isinstance(answer, Diverged):
                answered = AnsweredJob(job, answer, None, "", time.monotonic())
                found[index] = answered.prediction_response()
    return found
