"""Answers of the engine as responses: `schemas.responses`, with arrays at their ends."""

import time
from dataclasses import dataclass
from typing import TypedDict

from service.codec.warnings import on_the_fit
from service.compute.acquisitions import CAPABILITIES
from service.engine.posterior_cache import Entry
from service.job import Answer, Job, Selection, SelectionSpec
from service.schemas.requests import UncertaintyRequest
from service.schemas.responses import (
    AdaptPredictResponse,
    BatchReport,
    ClassPrediction,
    Diagnostics,
    ModelRef,
    PosteriorCard,
    PosteriorRef,
    PosteriorResponse,
    Prediction,
    Selected,
    SupportNll,
    Timing,
    UncertaintyResponse,
)


class Common(TypedDict):
    """The fields that every answer carries."""

    request_id: str
    model: ModelRef
    diagnostics: Diagnostics
    timing_ms: Timing


@dataclass(frozen=True)
class Answered:
    """A job with its answer, ready to be encoded.

    Attributes:
        entry: the kept posterior, if any.
        accepted: when the request came, on the engine's clock.
    """

    job: Job
    answer: Answer
    entry: Entry | None
    request_id: str
    accepted: float

    def prediction(self) -> AdaptPredictResponse:
        """The response to POST /adapt-predict."""
        result = self.answer.result
        assert isinstance(result, Prediction | ClassPrediction)
        return AdaptPredictResponse(posterior=self._posterior(), prediction=result, **self._common())

    def selection(self, request: UncertaintyRequest) -> UncertaintyResponse:
        """The response to POST /uncertainty."""
        result, spec = self.answer.result, self.job.spec
        assert isinstance(result, Selection)
        assert isinstance(spec, SelectionSpec)
        ids = request.pool.ids or range(spec.pool_rows)
        aleatoric, epistemic = result.uncertainty.aleatoric, result.uncertainty.epistemic
        return UncertaintyResponse(
            posterior=self._posterior(),
            acquisition=spec.acquisition,
            direction="higher_is_more_informative",
            units=CAPABILITIES[self.job.model.manifest.kind].acquisitions[spec.acquisition],
            selected=[
                Selected(
                    rank=rank,
                    id=ids[index],
                    index=index,
                    score=float(result.scores[index]),
                    gain=gain,
                    total=float(aleatoric[index] + epistemic[index]),
                    aleatoric=float(aleatoric[index]),
                    epistemic=float(epistemic[index]),
                )
                for rank, (index, gain) in enumerate(zip(result.indices, result.gains, strict=True), start=1)
            ],
            scores=result.scores,
            batch=BatchReport(result.strategies, result.saturated_at, result.ceiling),
            **self._common(),
        )

    def kept(self, entry: Entry) -> PosteriorResponse:
        """The response to POST /posteriors, whose posterior is kept under this entry."""
        return PosteriorResponse(posterior=_reference(entry, self.answer.cached), **self._common())

    def _posterior(self) -> PosteriorRef | None:
        return None if self.entry is None else _reference(self.entry, self.answer.cached)

    def _common(self) -> Common:
        job, answer, nll = self.job, self.answer, self.answer.support_nll
        return Common(
            request_id=self.request_id,
            model=_model(job),
            diagnostics=Diagnostics(
                particles=job.model.learner.particles,
                effective_particles=answer.effective_particles,
                steps=job.steps,
                support_nll=None if nll is None else SupportNll(*nll),
                warnings=[*job.warnings, *on_the_fit(nll)],
            ),
            timing_ms=Timing(
                decode=1000 * (job.made - self.accepted),
                queue=1000 * answer.queue_s,
                embed=1000 * answer.times.embed_s,
                adapt=1000 * answer.times.adapt_s,
                predict=1000 * answer.times.predict_s,
                total=1000 * (time.monotonic() - self.accepted),
                batched_tasks=answer.batched_tasks,
            ),
        )


def posterior_card(entry: Entry) -> PosteriorCard:
    """The response to GET /posteriors/{id}."""
    return PosteriorCard(
        id=entry.id,
        model=_model(entry.job),
        rows=entry.rows,
        steps=entry.job.steps,
        classes=list(entry.job.classes) or None,
        bytes=entry.size,
        expires_at=entry.expires_at,
    )


def _reference(entry: Entry, cached: bool) -> PosteriorRef:
    return PosteriorRef(
        id=entry.id,
        rows=entry.rows,
        expires_at=entry.expires_at.isoformat(timespec="milliseconds"),
        cache="hit" if cached else "miss",
    )


def _model(job: Job) -> ModelRef:
    manifest = job.model.manifest
    return ModelRef(manifest.name, manifest.version, job.model.sha256, manifest.learner)
