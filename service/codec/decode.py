"""Requests to work: shapes, units and limits are checked here, once."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store import Model
from service.codec.budget import Budget
from service.codec.inputs import Rows, rows
from service.codec.support_set import SupportSet, support
from service.codec.warnings import warnings_of
from service.compute.acquisitions import CAPABILITIES
from service.engine.posterior_cache import Entry, PosteriorCache
from service.errors import FieldError, RequestError, invalid, invalid_at
from service.job import Array, Job, PredictionSpec, SelectionSpec
from service.schemas.requests import DEFAULT_TTL_S, AdaptPredictRequest, PosteriorRequest, UncertaintyRequest
from service.settings import Settings

Request = AdaptPredictRequest | UncertaintyRequest | PosteriorRequest


class Decoder:
    """Makes work of requests.

    `since` is when the request came, on the engine's clock: its deadline counts from there.

    Every method raises `RequestError`: 422 with a JSON pointer for shapes, values, rows beyond the
    limits and what the model cannot do; 413 for pictures of too many pixels, and 504 where reading them
    takes until the deadline; 404 or 410 for a posterior
    that is not there, and 409 for one of another model or other settings.
    """

    def __init__(self, settings: Settings, posteriors: PosteriorCache) -> None:
        self._settings, self._posteriors = settings, posteriors

    def predict(self, request: AdaptPredictRequest, model: Model, caller: str, since: float) -> Job:
        """The work a prediction asks for."""
        budget = self._budget(request, since)
        before, shown = self._shown(request, model, caller, budget)
        query = rows(request.query.x, model, "/query/x", self._settings.max_query_rows, budget, 1)
        if model.manifest.kind == "classification":
            if request.quantiles:
                raise invalid_at("/quantiles", "classes have no quantiles")
            spec = PredictionSpec((), None, request.particles)
        else:
            spec = PredictionSpec(tuple(request.quantiles), request.interval, request.particles)
        return self._work(request, model, caller, budget, before, shown, query, spec, {"query": query.raw})

    def keep(self, request: PosteriorRequest, model: Model, caller: str, since: float) -> Job:
        """The work of adapting alone."""
        budget = self._budget(request, since)
        before, shown = self._shown(request, model, caller, budget)
        nothing = Rows(shown.x.raw[:0], shown.x.standardised[:0])
        return self._work(request, model, caller, budget, before, shown, nothing, None, {})

    def choose(self, request: UncertaintyRequest, model: Model, caller: str, since: float) -> Job:
        """The work a choice of rows to label asks for; target rows follow the pool's."""
        budget = self._budget(request, since)
        before, shown = self._shown(request, model, caller, budget)
        settings = self._settings
        pool = rows(request.pool.x, model, "/pool/x", settings.max_pool_rows, budget, 1)
        asked, said = pool.standardised, {"pool": pool.raw}
        if request.target is not None:
            target = rows(request.target.x, model, "/target/x", settings.max_query_rows, budget, 1)
            asked, said = np.concatenate([asked, target.standardised]), said | {"target": target.raw}
        capabilities = CAPABILITIES[model.manifest.kind]
        acquisition = request.acquisition or (
            capabilities.without_target if request.target is None else "epig"
        )
        if acquisition not in capabilities.acquisitions:
            raise invalid_at(
                "/acquisition",
                f"one of {', '.join(capabilities.acquisitions)} fits a {model.manifest.kind} model",
            )
        if acquisition == "epig" and request.target is None:
            raise invalid_at("/target", "epig needs target rows: where should the predictions get better?")
        if request.batch.strategy not in ("auto", *capabilities.strategies):
            raise invalid_at("/batch/strategy", f"one of auto, {', '.join(capabilities.strategies)}")
        strategy = capabilities.resolved(request.batch.strategy, acquisition, request.batch.size)
        ids = _pool_ids(request, len(pool.raw))
        spec = SelectionSpec(
            acquisition=acquisition,
            strategy=strategy,
            size=request.batch.size,
            pool_rows=len(pool.raw),
            keys=_keys(request.batch.seed, ids if request.pool.ids is not None else None, pool.raw),
            excluded=_excluded(request, ids),
            best=float(shown.labels[:, 0].max()) if shown.labels.size else None,
            joint=capabilities.needs_joint(acquisition, strategy),
        )
        return self._work(request, model, caller, budget, before, shown, Rows(pool.raw, asked), spec, said)

    def _budget(self, request: Request, since: float) -> Budget:
        wanted = self._settings.deadline_ms if request.deadline_ms is None else request.deadline_ms
        return Budget(self._settings, since + wanted / 1000)

    def _shown(
        self, request: Request, model: Model, caller: str, budget: Budget
    ) -> tuple[Entry | None, SupportSet]:
        """The kept posterior that the request names, and all the rows it is to be answered from."""
        before = None
        if request.support is None and request.posterior is None:
            raise invalid_at("/support", "one of support and posterior is needed")
        if request.posterior is not None:
            before = self._posteriors.find(request.posterior, caller)
            steps = _steps(request, model)
            if before.job.model.sha256 != model.sha256:
                raise RequestError("other-model", "the posterior belongs to another model or version")
            if request.adapt.steps is not None and before.job.steps != steps:
                raise RequestError("other-settings", "the posterior was adapted in other steps")
        return before, support(request.support, before, model, budget)

    def _work(
        self,
        request: Request,
        model: Model,
        caller: str,
        budget: Budget,
        before: Entry | None,
        shown: SupportSet,
        asked: Rows,
        spec: PredictionSpec | SelectionSpec | None,
        said: Mapping[str, NDArray[Any]],
    ) -> Job:
        keep = request.keep is not None or before is not None
        ttl = DEFAULT_TTL_S if before is not None and request.support is not None else 0.0
        job = Job(
            model=model,
            support_x=shown.x.standardised,
            support_y=shown.y,
            query_x=asked.standardised,
            steps=_steps(request, model) if before is None else before.job.steps,
            seed=request.adapt.seed if before is None else before.job.seed,
            spec=spec,
            deadline=budget.deadline,
            warnings=warnings_of(model, shown, said),
            classes=shown.classes,
            posted=shown.posted,
            ttl_s=request.keep.ttl_s if request.keep is not None else ttl,
        )
        if not keep:
            return job
        entry = before if request.support is None else None
        key = self._posteriors.id_of(job, caller) if entry is None else entry.id
        entry = entry or self._posteriors.get(key)
        return job.kept_as(key, None if entry is None else entry.kept)


def _steps(request: Request, model: Model) -> int:
    steps = model.learner.steps if request.adapt.steps is None else request.adapt.steps
    if steps and not model.learner.iterates:
        raise invalid_at("/adapt/steps", "this model adapts exactly, without steps: leave them out or send 0")
    return steps


def _pool_ids(request: UncertaintyRequest, rows: int) -> list[str | int]:
    ids: list[str | int] = list(range(rows)) if request.pool.ids is None else list(request.pool.ids)
    if len(ids) != rows:
        raise invalid_at("/pool/ids", f"{len(ids)} ids for {rows} rows")
    if len(set(ids)) != len(ids):
        raise invalid_at("/pool/ids", "ids must be unique")
    return ids


def _excluded(
    request: UncertaintyRequest, ids: list[str | int]
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    known = set(ids)
    if unknown := [index for index, each in enumerate(request.exclude) if each not in known]:
        raise invalid(
            "exclude names rows that are not in the pool",
            *(FieldError(pointer=f"/exclude/{index}", detail="no such id") for index in unknown[:20]),
        )
    unwanted = set(request.exclude)
    return np.array([each in unwanted for each in ids], dtype=bool)


def _keys(seed: int, ids: Sequence[str | int] | None, pool: NDArray[Any]) -> Array:
    """One draw in (0, 1) per row, from the seed and the row's id (its contents, without ids)."""
    names = [row.tobytes() for row in pool] if ids is None else [repr(each).encode() for each in ids]
    salt = seed.to_bytes(8, "little")
    digests = b"".join(hashlib.blake2b(name, digest_size=8, key=salt).digest() for name in names)
    return (np.frombuffer(digests, dtype="<u8") >> 11).astype(np.float64) * 2.0**-53 + 2.0**-54
