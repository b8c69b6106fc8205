"""Requests to work, answers to responses: shapes, units and limits are checked here, once."""

import hashlib
import time
from collections.abc import Sequence

import numpy as np

from bmaml.acquisition import ACQUISITIONS
from model_store import Model, OutsideDomain
from model_store.columns import FAR, outside
from model_store.model import Single
from service.problems import FieldError, invalid, invalid_at
from service.schemas import (
    AdaptPredictRequest,
    AdaptPredictResponse,
    BatchReport,
    Diagnostics,
    Interval,
    ModelRef,
    ParticleMoments,
    Prediction,
    Quantiles,
    Selected,
    SupportNll,
    Timing,
    UncertaintyRequest,
    UncertaintyResponse,
    Variance,
)
from service.selection import STRATEGY_NAMES, resolved_strategy
from service.settings import Settings
from service.work import Answer, Array, ChooseAsk, Chosen, PredictAsk, Predicted, Work


def predict_work(request: AdaptPredictRequest, model: Model, settings: Settings) -> Work:
    """The work a prediction asks for.

    Raises:
        RequestError: 422 with a JSON pointer for shapes, values, and rows beyond the limits.
    """
    support_x, support_y, _ = _support(request, model, settings)
    raw = _rows(request.query.x, len(model.manifest.inputs), "/query/x", settings.max_query_rows, least=1)
    low, high = 0.5 - request.interval / 2, 0.5 + request.interval / 2
    return Work(
        model=model,
        support_x=support_x,
        support_y=support_y,
        query_x=_inputs(model, raw, "/query/x"),
        steps=_steps(request, model),
        seed=request.adapt.seed,
        ask=PredictAsk((*request.quantiles, low, high), request.particles),
        deadline=_deadline(request, settings),
        warnings=_warnings(model, len(support_x), raw, "query"),
    )


def choose_work(request: UncertaintyRequest, model: Model, settings: Settings) -> Work:
    """The work a choice of rows to label asks for; target rows follow the pool's.

    Raises:
        RequestError: as `predict_work`; also for an acquisition or strategy that is not offered.
    """
    support_x, support_y, labels = _support(request, model, settings)
    width = len(model.manifest.inputs)
    pool = _rows(request.pool.x, width, "/pool/x", settings.max_pool_rows, least=1)
    rows = [_inputs(model, pool, "/pool/x")]
    if request.target is not None:
        target = _rows(request.target.x, width, "/target/x", settings.max_query_rows, least=1)
        rows.append(_inputs(model, target, "/target/x"))
    acquisition = request.acquisition or ("epistemic_variance" if request.target is None else "epig")
    if acquisition not in ACQUISITIONS:
        raise invalid_at(
            "/acquisition", f"one of {', '.join(ACQUISITIONS)} fits a {model.manifest.kind} model"
        )
    if acquisition == "epig" and request.target is None:
        raise invalid_at("/target", "epig needs target rows: where should the predictions get better?")
    if request.batch.strategy not in STRATEGY_NAMES:
        raise invalid_at("/batch/strategy", f"one of {', '.join(STRATEGY_NAMES)}")
    strategy = resolved_strategy(request.batch.strategy, acquisition, request.batch.size)
    ids = _pool_ids(request, len(pool))
    excluded = _excluded(request, ids)
    return Work(
        model=model,
        support_x=support_x,
        support_y=support_y,
        query_x=np.concatenate(rows),
        steps=_steps(request, model),
        seed=request.adapt.seed,
        ask=ChooseAsk(
            acquisition=acquisition,
            strategy=strategy,
            size=request.batch.size,
            pool_rows=len(pool),
            keys=_keys(request.batch.seed, ids if request.pool.ids is not None else None, pool),
            excluded=excluded,
            best=float(labels[:, 0].max()) if len(labels) else None,
            joint=ACQUISITIONS[acquisition].joint or strategy == "max_determinant",
        ),
        deadline=_deadline(request, settings),
        warnings=_warnings(model, len(support_x), pool, "pool"),
    )


def predict_response(
    request: AdaptPredictRequest, work: Work, answer: Answer, request_id: str, accepted: float
) -> AdaptPredictResponse:
    """A prediction as JSON will say it."""
    result = answer.result
    assert isinstance(result, Predicted)
    moments, single = result.moments, result.moments.mean.shape[-1] == 1

    def listed(values: Array) -> list[object]:
        return list((values[..., 0] if single else values).tolist())

    total = moments.aleatoric + moments.epistemic
    particles = None
    if result.particle_mean is not None and result.particle_std is not None and result.weights is not None:
        particles = ParticleMoments(
            mean=listed(result.particle_mean), std=listed(result.particle_std), weight=result.weights.tolist()
        )
    *quantiles, lower, upper = result.quantiles
    return AdaptPredictResponse(
        request_id=request_id,
        model=_reference(work.model),
        posterior=None,
        prediction=Prediction(
            mean=listed(moments.mean),
            std=listed(np.sqrt(total)),
            variance=Variance(
                total=listed(total), aleatoric=listed(moments.aleatoric), epistemic=listed(moments.epistemic)
            ),
            quantiles=Quantiles(levels=request.quantiles, values=[listed(each) for each in quantiles]),
            interval=Interval(level=request.interval, lower=listed(lower), upper=listed(upper)),
            particles=particles,
        ),
        diagnostics=_diagnostics(work, answer),
        timing_ms=_timing(answer, accepted),
    )


def choose_response(
    request: UncertaintyRequest, work: Work, answer: Answer, request_id: str, accepted: float
) -> UncertaintyResponse:
    """A choice of rows as JSON will say it."""
    result, ask = answer.result, work.ask
    assert isinstance(result, Chosen)
    assert isinstance(ask, ChooseAsk)
    ids = request.pool.ids or list(range(ask.pool_rows))
    aleatoric, epistemic = result.moments.aleatoric.sum(-1), result.moments.epistemic.sum(-1)
    selected = [
        Selected(
            rank=rank,
            id=ids[index],
            index=index,
            score=result.scores[index],
            gain=gain,
            total=aleatoric[index] + epistemic[index],
            aleatoric=aleatoric[index],
            epistemic=epistemic[index],
        )
        for rank, (index, gain) in enumerate(zip(result.indices, result.gains, strict=True), start=1)
    ]
    return UncertaintyResponse(
        request_id=request_id,
        model=_reference(work.model),
        acquisition=ask.acquisition,
        units=ACQUISITIONS[ask.acquisition].units,
        selected=selected,
        scores=result.scores.tolist(),
        batch=BatchReport(
            strategies_used=result.strategies, saturated_at=result.saturated_at, ceiling=result.ceiling
        ),
        diagnostics=_diagnostics(work, answer),
        timing_ms=_timing(answer, accepted),
    )


def _support(
    request: AdaptPredictRequest | UncertaintyRequest, model: Model, settings: Settings
) -> tuple[Single, Single, Array]:
    """Standardised x and y, and the labels `[row, output]` as they came."""
    raw_x = _rows(request.support.x, len(model.manifest.inputs), "/support/x", settings.max_support_rows)
    outputs = len(model.manifest.outputs)
    labels = request.support.y
    columns = [[value] if isinstance(value, float | int) else value for value in labels]
    raw_y = _rows(columns, outputs, "/support/y", settings.max_support_rows)
    if len(raw_x) != len(raw_y):
        raise invalid_at("/support/y", f"{len(raw_y)} labels for {len(raw_x)} rows of x")
    y = _finite(model.standardised_targets(raw_y), "/support/y")
    return _inputs(model, raw_x, "/support/x"), y, raw_y


def _rows(values: Sequence[Sequence[float]], width: int, pointer: str, most: int, least: int = 0) -> Array:
    if len(values) > most:
        raise invalid_at(pointer, f"{len(values)} rows; this service takes at most {most}")
    if len(values) < least:
        raise invalid_at(pointer, f"at least {least} row is needed")
    ragged = [index for index, row in enumerate(values) if len(row) != width]
    if ragged:
        raise invalid(
            "the rows do not have the model's number of columns",
            *(
                FieldError(
                    pointer=f"{pointer}/{index}",
                    detail=f"{len(values[index])} numbers where the model takes {width}",
                )
                for index in ragged[:20]
            ),
        )
    return np.array(values, dtype=np.float64).reshape(len(values), width)


def _inputs(model: Model, raw: Array, pointer: str) -> Single:
    try:
        return _finite(model.standardised_inputs(raw), pointer)
    except OutsideDomain as error:
        raise invalid_at(f"{pointer}/{error.row}", str(error)) from None


def _finite(values: Single, pointer: str) -> Single:
    """Numbers that fit the network's precision."""
    if (bad := np.flatnonzero(~np.isfinite(values).all(-1))).size:
        raise invalid_at(f"{pointer}/{bad[0]}", "too large for this model's precision")
    return values


def _steps(request: AdaptPredictRequest | UncertaintyRequest, model: Model) -> int:
    return model.learner.steps if request.adapt.steps is None else request.adapt.steps


def _deadline(request: AdaptPredictRequest | UncertaintyRequest, settings: Settings) -> float:
    wanted = settings.deadline_ms if request.deadline_ms is None else request.deadline_ms
    return time.monotonic() + wanted / 1000


def _warnings(model: Model, shown: int, asked: Array, what: str) -> tuple[str, ...]:
    warnings = []
    if shown == 0:
        warnings.append("the support set is empty: this is the model's prior")
    if not model.learner.has_epistemic:
        warnings.append("this model is a single point: its epistemic variance is zero, whatever it has seen")
    if far := int((outside(model.manifest.inputs, asked) > FAR).sum()):
        spans = ", ".join(f"{c.name} in [{c.lower:g}, {c.upper:g}]" for c in model.manifest.inputs[:8])
        warnings.append(
            f"{far} of {len(asked)} {what} rows are far from what training saw ({spans}); "
            "there the answer returns to the model's prior"
        )
    return tuple(warnings)


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
    if unknown := [index for index, each in enumerate(request.exclude) if each not in set(ids)]:
        raise invalid(
            "exclude names rows that are not in the pool",
            *(FieldError(pointer=f"/exclude/{index}", detail="no such id") for index in unknown[:20]),
        )
    unwanted = set(request.exclude)
    return np.array([each in unwanted for each in ids], dtype=bool)


def _keys(seed: int, ids: Sequence[str | int] | None, pool: Array) -> Array:
    """One draw in (0, 1) per row, from the seed and the row's id (its contents, without ids)."""
    names = [row.tobytes() for row in pool] if ids is None else [repr(each).encode() for each in ids]
    salt = seed.to_bytes(8, "little")
    digests = b"".join(hashlib.blake2b(name, digest_size=8, key=salt).digest() for name in names)
    return (np.frombuffer(digests, dtype="<u8") >> 11).astype(np.float64) * 2.0**-53 + 2.0**-54


def _reference(model: Model) -> ModelRef:
    manifest = model.manifest
    return ModelRef(
        name=manifest.name, version=manifest.version, sha256=model.sha256, learner=manifest.learner
    )


def _diagnostics(work: Work, answer: Answer) -> Diagnostics:
    nll = answer.support_nll
    return Diagnostics(
        particles=work.model.learner.particles,
        effective_particles=answer.effective_particles,
        steps=work.steps,
        support_nll=None if nll is None else SupportNll(before=nll[0], after=nll[1]),
        warnings=list(work.warnings),
    )


def _timing(answer: Answer, accepted: float) -> Timing:
    return Timing(
        queue=1000 * answer.queue_s,
        adapt=1000 * answer.adapt_s,
        predict=1000 * answer.predict_s,
        total=1000 * (time.monotonic() - accepted),
        batched_tasks=answer.batched_tasks,
    )
