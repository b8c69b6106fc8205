"""Results of jobs as responses, the dataclasses of `schemas.responses`."""

import time
from dataclasses import dataclass
from typing import TypedDict

from service.codec.warnings import fit_warnings, surprise_warnings
from service.compute.capabilities import units_of
from service.engine.posterior_cache import Entry
from service.job import Answer, Job, Selection, SelectionSpec
from service.schemas.diagnostics import Diagnostics, PolicyDiagnostics, SupportNll, Timing
from service.schemas.predictions import ActionPrediction, ClassPrediction, Prediction
from service.schemas.requests import UncertaintyRequest
from service.schemas.responses import (
    AdaptPredictResponse,
    BatchReport,
    ModelRef,
    PosteriorCard,
    PosteriorRef,
    PosteriorResponse,
    Selected,
    UncertaintyResponse,
)


class CommonFields(TypedDict):
    """The fields that all responses share."""

    request_id: str
    model: ModelRef
    diagnostics: Diagnostics | PolicyDiagnostics
    timing_ms: Timing


@dataclass(frozen=True)
class AnsweredJob:
    """A job and its answer, from which responses are made.

    Attributes:
        entry: the kept posterior, if any.
        began: the time on the engine's clock at which the event loop began with the request.
        waited_s: seconds from its arrival until then.
    """

    job: Job
    answer: Answer
    entry: Entry | None
    request_id: str
    began: float
    waited_s: float = 0.0

    def prediction_response(self) -> AdaptPredictResponse:
        """The response to POST /adapt-predict."""
        result = self.answer.result
        assert isinstance(result, Prediction | ClassPrediction | ActionPrediction)
        return AdaptPredictResponse(posterior=self._posterior(), prediction=result, **self._common_fields())

    def selection_response(self, request: UncertaintyRequest) -> UncertaintyResponse:
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
            units=units_of(self.job.model, spec.acquisition),
            targets=result.targets,
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
            **self._common_fields(),
        )

    def posterior_response(self, entry: Entry) -> PosteriorResponse:
        """The response to POST /posteriors, for the posterior that this entry keeps."""
        return PosteriorResponse(posterior=_posterior_ref(entry, self.answer.cached), **self._common_fields())

    def _posterior(self) -> PosteriorRef | None:
        return None if self.entry is None else _posterior_ref(self.entry, self.answer.cached)

    def _common_fields(self) -> CommonFields:
        job, answer, nll = self.job, self.answer, self.answer.support_nll
        diagnostics = Diagnostics(
            particles=job.model.learner.particles,
            effective_particles=answer.effective_particles,
            steps=job.steps,
            support_nll=None if nll is None else SupportNll(*nll),
            surprise=answer.surprise,
            warnings=[*job.warnings, *surprise_warnings(job, answer), *fit_warnings(job, nll)],
        )
        if answer.policy is not None:
            diagnostics = PolicyDiagnostics(**(vars(diagnostics) | vars(answer.policy)))
        return CommonFields(
            request_id=self.request_id,
            model=_model_ref(job),
            diagnostics=diagnostics,
            timing_ms=Timing(
                decode=1000 * (job.decoded_at - self.began),
                queue=1000 * (self.waited_s + answer.queue_s),
                embed=1000 * answer.times.embed_s,
                adapt=1000 * answer.times.adapt_s,
                predict=1000 * answer.times.predict_s,
                total=1000 * (time.monotonic() - self.began + self.waited_s),
                batched_tasks=answer.batched_tasks,
            ),
        )


def posterior_card(entry: Entry) -> PosteriorCard:
    """The response to GET /posteriors/{id}."""
    return PosteriorCard(
        id=entry.id,
        model=_model_ref(entry.job),
        rows=entry.rows,
        steps=entry.job.steps,
        classes=list(entry.job.classes) or None,
        bytes=entry.size,
        expires_at=entry.expires_at,
    )


def _posterior_ref(entry: Entry, cached: bool) -> PosteriorRef:
    return PosteriorRef(
        id=entry.id,
        rows=entry.rows,
        expires_at=entry.expires_at.isoformat(timespec="milliseconds"),
        cache="hit" if cached else "miss",
    )


def _model_ref(job: Job) -> ModelRef:
    manifest = job.model.manifest
    return ModelRef(manifest.name, manifest.version, job.model.sha256, manifest.learner)
