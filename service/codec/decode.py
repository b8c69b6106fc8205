"""Requests to jobs: shapes, values, units and limits are checked here, once."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmaml.acquisition.scores import EPIG_NEEDS_TARGET
from model_store import Model
from model_store.model import Single
from service.codec.actions import action_spec
from service.codec.budget import Budget
from service.codec.episodes import episode_set, policy_warnings
from service.codec.inputs import InputRows, input_rows
from service.codec.intervals import conformal_warnings, interval_choice
from service.codec.query_targets import check_scoring, query_targets
from service.codec.support_set import SupportSet, support_set
from service.codec.warnings import input_warnings
from service.compute.capabilities import CAPABILITIES
from service.engine.posterior_cache import Entry, PosteriorCache
from service.errors import MAX_ERRORS, FieldError, RequestError, invalid, invalid_at
from service.job import Array, Job, PredictionSpec, SelectionSpec, Spec
from service.schemas.requests import (
    DEFAULT_TTL_S,
    AdaptationRequest,
    AdaptPredictRequest,
    PosteriorRequest,
    UncertaintyRequest,
)
from service.settings import Settings


@dataclass(frozen=True)
class _Adaptation:
    """The part of a request that all of them share, decoded.

    Attributes:
        entry: the kept posterior that the request names, if any.
        support: all rows to adapt to, those of the entry first.
    """

    request: AdaptationRequest
    model: Model
    caller: str
    budget: Budget
    entry: Entry | None
    support: SupportSet


class Decoder:
    """Makes jobs of requests.

    `received` is the time on the engine's clock at which the body had arrived; the deadline counts from
    there. Every method raises `RequestError`: 422 for shapes, values, too many rows and what the model
    cannot do, with a JSON pointer; 413 for images of too many pixels; 504 where the deadline passes;
    404 or 410 for a posterior that is not kept, and 409 for one of another model or other settings.
    """

    def __init__(self, settings: Settings, posteriors: PosteriorCache) -> None:
        self._settings, self._posteriors = settings, posteriors

    def prediction_job(self, request: AdaptPredictRequest, model: Model, caller: str, received: float) -> Job:
        """The job of adapting and predicting the query rows."""
        check_scoring(request)
        adaptation = self._adaptation(request, model, caller, received)
        max_rows = self._settings.max_query_rows
        query = input_rows(request.query.x, model, "/query/x", max_rows, adaptation.budget, min_rows=1)
        if (acting := action_spec(request, model)) is not None:
            return self._job(adaptation, query.standardised, acting, {"query": query})
        targets = query_targets(request, model, adaptation.support.classes, len(query.raw))
        steps = _steps(request, model) if adaptation.entry is None else adaptation.entry.job.steps
        level, method = interval_choice(request.interval, model, len(adaptation.support.y), steps)
        target = model.manifest.target
        if model.manifest.kind == "classification" and not (target is not None and target.ordered):
            if request.quantiles:
                raise invalid_at("/quantiles", "classes without an order have no quantiles")
            spec = PredictionSpec((), None, request.particles)
        else:
            spec = PredictionSpec(tuple(request.quantiles), level, request.particles, method)
        job = self._job(adaptation, query.standardised, spec, {"query": query})
        return job if targets is None else replace(job, query_y=targets)

    def posterior_job(self, request: PosteriorRequest, model: Model, caller: str, received: float) -> Job:
        """The job of adapting alone."""
        adaptation = self._adaptation(request, model, caller, received)
        return self._job(adaptation, adaptation.support.x.standardised[:0], None, {})

    def selection_job(self, request: UncertaintyRequest, model: Model, caller: str, received: float) -> Job:
        """The job of adapting and choosing pool rows to label; target rows follow the pool's."""
        adaptation = self._adaptation(request, model, caller, received)
        settings, budget = self._settings, adaptation.budget
        pool = input_rows(request.pool.x, model, "/pool/x", settings.max_pool_rows, budget, min_rows=1)
        query, rows = pool.standardised, {"pool": pool}
        if request.target is not None:
            max_rows = settings.max_query_rows
            target = input_rows(request.target.x, model, "/target/x", max_rows, budget, min_rows=1)
            query = np.concatenate([query, target.standardised])
            rows["target"] = target
        capabilities = CAPABILITIES[model.manifest.kind]
        informed = request.target is not None and "epig" in capabilities.acquisitions
        acquisition = request.acquisition or ("epig" if informed else capabilities.default_acquisition)
        if acquisition not in capabilities.acquisitions:
            raise invalid_at(
                "/acquisition",
                f"one of {', '.join(capabilities.acquisitions)} fits a {model.manifest.kind} model",
            )
        if acquisition == "epig" and request.target is None and model.manifest.kind == "classification":
            raise invalid_at("/target", EPIG_NEEDS_TARGET)
        if request.batch.strategy not in ("auto", *capabilities.strategies):
            raise invalid_at("/batch/strategy", f"one of auto, {', '.join(capabilities.strategies)}")
        strategy = capabilities.resolve_strategy(request.batch.strategy, acquisition, request.batch.size)
        ids, labels = _pool_ids(request, len(pool.raw)), adaptation.support.labels
        spec = SelectionSpec(
            acquisition=acquisition,
            strategy=strategy,
            size=request.batch.size,
            pool_rows=len(pool.raw),
            keys=_row_keys(request.batch.seed, ids if request.pool.ids is not None else None, pool.raw),
            excluded=_excluded(request, ids),
            best=float(labels[:, 0].max()) if labels.size else None,
            joint=capabilities.needs_joint(acquisition, strategy),
        )
        return self._job(adaptation, query, spec, rows)

    def _adaptation(
        self, request: AdaptationRequest, model: Model, caller: str, received: float
    ) -> _Adaptation:
        deadline_ms = self._settings.deadline_ms if request.deadline_ms is None else request.deadline_ms
        budget = Budget(self._settings, received + deadline_ms / 1000)
        entry = None
        if request.support is None and request.posterior is None:
            raise invalid_at("/support", "one of support and posterior is needed")
        if request.posterior is not None:
            entry = self._posteriors.find(request.posterior, caller)
            steps = _steps(request, model)
            if entry.job.model.sha256 != model.sha256:
                raise RequestError("other-model", "the posterior belongs to another model or version")
            if request.adapt.steps is not None and entry.job.steps != steps:
                raise RequestError("other-settings", "the posterior was adapted in other steps")
        sets = episode_set if model.manifest.kind == "policy" else support_set
        support = sets(request.support, entry, model, budget)
        return _Adaptation(request, model, caller, budget, entry, support)

    def _job(
        self,
        adaptation: _Adaptation,
        query: Single,
        spec: Spec | None,
        rows: Mapping[str, InputRows],
    ) -> Job:
        """The job, under the key of a kept posterior where the request keeps or names one.

        Args:
            query: standardised rows to answer.
            rows: the same, by the part of the request that they are from.
        """
        request, model, entry = adaptation.request, adaptation.model, adaptation.entry
        support = adaptation.support
        extends = entry is not None and request.support is not None
        default_ttl_s = DEFAULT_TTL_S if extends else 0.0
        policy = model.manifest.kind == "policy"
        warnings = (policy_warnings if policy else input_warnings)(model, support, rows)
        if isinstance(spec, PredictionSpec) and spec.interval_method == "conformal":
            warnings += conformal_warnings(model, len(support.y))
        if isinstance(spec, SelectionSpec) and "target" in rows and not spec.has_target:
            warnings += (f"{spec.acquisition} has no target: the target rows played no part",)
        job = Job(
            model=model,
            support_x=support.x.standardised,
            support_y=support.y,
            query_x=query,
            steps=_steps(request, model) if entry is None else entry.job.steps,
            seed=model.learner.drawing(request.adapt.seed).seed if entry is None else entry.job.seed,
            spec=spec,
            deadline=adaptation.budget.deadline,
            warnings=warnings,
            classes=support.classes,
            posted=support.posted,
            ttl_s=default_ttl_s if request.keep is None else request.keep.ttl_s,
        )
        if policy and extends:
            assert entry is not None
            job = replace(job, start=entry.kept.posterior, start_rows=len(entry.job.support_x))
        if request.keep is None and entry is None:
            return job
        if entry is not None and not extends:
            return job.with_key(entry.id, entry.kept)
        key = self._posteriors.id_of(job, adaptation.caller)
        entry = self._posteriors.get(key)
        return job.with_key(key, None if entry is None else entry.kept)


def _steps(request: AdaptationRequest, model: Model) -> int:
    """Steps to adapt in, by default those that the model was trained with."""
    if model.manifest.kind == "policy":
        if request.adapt.steps is not None:
            raise invalid_at("/adapt/steps", "a policy moves once after each round: leave the steps out")
        return 1
    steps = model.learner.steps if request.adapt.steps is None else request.adapt.steps
    if steps > model.learner.max_steps:
        raise invalid_at("/adapt/steps", "this model adapts exactly, without steps: leave them out or send 0")
    return steps


def _pool_ids(request: UncertaintyRequest, rows: int) -> list[str | int]:
    """The caller's ids of the pool rows, by default their indices."""
    ids: list[str | int] = list(range(rows)) if request.pool.ids is None else list(request.pool.ids)
    if len(ids) != rows:
        raise invalid_at("/pool/ids", f"{len(ids)} ids for {rows} rows")
    if len(set(ids)) != len(ids):
        raise invalid_at("/pool/ids", "ids must be unique")
    return ids


def _excluded(
    request: UncertaintyRequest, ids: list[str | int]
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """A mask `[row]` of the pool rows that must not be chosen."""
    pool, excluded = set(ids), set(request.exclude)
    if unknown := [index for index, each in enumerate(request.exclude) if each not in pool]:
        raise invalid(
            "exclude names rows that are not in the pool",
            *(FieldError(pointer=f"/exclude/{index}", detail="no such id") for index in unknown[:MAX_ERRORS]),
        )
    return np.array([each in excluded for each in ids], dtype=bool)


def _row_keys(seed: int, ids: Sequence[str | int] | None, pool: NDArray[Any]) -> Array:
    """One draw in (0, 1) per row, from the seed and the row's id (its contents, without ids)."""
    names = [row.tobytes() for row in pool] if ids is None else [repr(each).encode() for each in ids]
    salt = seed.to_bytes(8, "little")
    digests = b"".join(hashlib.blake2b(name, digest_size=8, key=salt).digest() for name in names)
    return (np.frombuffer(digests, dtype="<u8") >> 11).astype(np.float64) * 2.0**-53 + 2.0**-54
