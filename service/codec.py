"""Requests to work, answers to responses: shapes, units and limits are checked here, once."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model_store import Model, OutsideDomain
from model_store.columns import FAR, outside
from model_store.model import Single
from service.labels import class_rows
from service.offers import OFFERS
from service.problems import FieldError, invalid, invalid_at
from service.schemas import (
    AdaptPredictRequest,
    AdaptPredictResponse,
    BatchReport,
    ClassPrediction,
    Diagnostics,
    Entropy,
    Interval,
    ModelRef,
    ParticleMoments,
    ParticleProbabilities,
    Prediction,
    Quantiles,
    Selected,
    SupportNll,
    Timing,
    UncertaintyRequest,
    UncertaintyResponse,
    Variance,
)
from service.settings import Settings
from service.tensors import pictures_of, rows_of
from service.wire import Values
from service.work import Answer, Array, ChooseAsk, Chosen, Classified, PredictAsk, Predicted, Work


def predict_work(request: AdaptPredictRequest, model: Model, settings: Settings) -> Work:
    """The work a prediction asks for.

    Raises:
        RequestError: 422 with a JSON pointer for shapes, values, and rows beyond the limits; 413 for
            pictures of too many pixels.
    """
    support = _support(request, model, settings)
    query = _x(request.query.x, model, "/query/x", settings.max_query_rows, settings, least=1)
    if model.manifest.kind == "classification":
        if request.quantiles:
            raise invalid_at("/quantiles", "classes have no quantiles")
        levels: tuple[float, ...] = ()
    else:
        levels = (*request.quantiles, 0.5 - request.interval / 2, 0.5 + request.interval / 2)
    return _work(request, model, settings, support, query, PredictAsk(levels, request.particles), "query")


def choose_work(request: UncertaintyRequest, model: Model, settings: Settings) -> Work:
    """The work a choice of rows to label asks for; target rows follow the pool's.

    Raises:
        RequestError: as `predict_work`; also for an acquisition or strategy that is not offered.
    """
    support = _support(request, model, settings)
    pool = _x(request.pool.x, model, "/pool/x", settings.max_pool_rows, settings, least=1)
    rows = pool.standardised
    if request.target is not None:
        target = _x(request.target.x, model, "/target/x", settings.max_query_rows, settings, least=1)
        rows = np.concatenate([rows, target.standardised])
    offers = OFFERS[model.manifest.kind]
    acquisition = request.acquisition or (offers.without_target if request.target is None else "epig")
    if acquisition not in offers.acquisitions:
        raise invalid_at(
            "/acquisition", f"one of {', '.join(offers.acquisitions)} fits a {model.manifest.kind} model"
        )
    if acquisition == "epig" and request.target is None:
        raise invalid_at("/target", "epig needs target rows: where should the predictions get better?")
    if request.batch.strategy not in ("auto", *offers.strategies):
        raise invalid_at("/batch/strategy", f"one of auto, {', '.join(offers.strategies)}")
    strategy = offers.resolved(request.batch.strategy, acquisition, request.batch.size)
    ids = _pool_ids(request, len(pool.raw))
    ask = ChooseAsk(
        acquisition=acquisition,
        strategy=strategy,
        size=request.batch.size,
        pool_rows=len(pool.raw),
        keys=_keys(request.batch.seed, ids if request.pool.ids is not None else None, pool.raw),
        excluded=_excluded(request, ids),
        best=float(support.labels[:, 0].max()) if support.labels.size else None,
        joint=offers.needs_joint(acquisition, strategy),
    )
    return _work(request, model, settings, support, Rows(pool.raw, rows), ask, "pool")


def predict_response(
    request: AdaptPredictRequest, work: Work, answer: Answer, request_id: str, accepted: float
) -> AdaptPredictResponse:
    """A prediction as JSON will say it."""
    result = answer.result
    assert isinstance(result, Predicted | Classified)
    said = _classes(work, result) if isinstance(result, Classified) else _numbers(request, result)
    return AdaptPredictResponse(
        request_id=request_id,
        model=_reference(work.model),
        posterior=None,
        prediction=said,
        diagnostics=_diagnostics(work, answer),
        timing_ms=_timing(work, answer, accepted),
    )


def _numbers(request: AdaptPredictRequest, result: Predicted) -> Prediction:
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
    return Prediction(
        mean=listed(moments.mean),
        std=listed(np.sqrt(total)),
        variance=Variance(
            total=listed(total), aleatoric=listed(moments.aleatoric), epistemic=listed(moments.epistemic)
        ),
        quantiles=Quantiles(levels=request.quantiles, values=[listed(each) for each in quantiles]),
        interval=Interval(level=request.interval, lower=listed(lower), upper=listed(upper)),
        particles=particles,
    )


def _classes(work: Work, result: Classified) -> ClassPrediction:
    classes, uncertainty = work.classes, result.uncertainty
    particles = None
    if result.particle_probabilities is not None and result.weights is not None:
        particles = ParticleProbabilities(
            probabilities=result.particle_probabilities.tolist(), weight=result.weights.tolist()
        )
    return ClassPrediction(
        classes=list(classes),
        probabilities=result.probabilities.tolist(),
        label=[classes[index] for index in result.probabilities.argmax(-1).tolist()],
        entropy=Entropy(
            total=(uncertainty.aleatoric + uncertainty.epistemic).tolist(),
            expected=uncertainty.aleatoric.tolist(),
            mutual_information=uncertainty.epistemic.tolist(),
        ),
        margin=result.margin.tolist(),
        variation_ratio=result.variation_ratio.tolist(),
        particles=particles,
    )


def choose_response(
    request: UncertaintyRequest, work: Work, answer: Answer, request_id: str, accepted: float
) -> UncertaintyResponse:
    """A choice of rows as JSON will say it."""
    result, ask = answer.result, work.ask
    assert isinstance(result, Chosen)
    assert isinstance(ask, ChooseAsk)
    ids = request.pool.ids or list(range(ask.pool_rows))
    aleatoric, epistemic = result.uncertainty.aleatoric, result.uncertainty.epistemic
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
        units=OFFERS[work.model.manifest.kind].acquisitions[ask.acquisition],
        selected=selected,
        scores=result.scores.tolist(),
        batch=BatchReport(
            strategies_used=result.strategies, saturated_at=result.saturated_at, ceiling=result.ceiling
        ),
        diagnostics=_diagnostics(work, answer),
        timing_ms=_timing(work, answer, accepted),
    )


@dataclass(frozen=True)
class Rows:
    """Rows as they came, and as the network wants them."""

    raw: Array
    standardised: Single


@dataclass(frozen=True)
class Shown:
    """A support set: rows, targets as the network wants them, numeric labels as they came, or classes."""

    x: Rows
    y: Single
    labels: Array
    classes: tuple[str | int, ...] = ()


def _x(values: Values, model: Model, pointer: str, most: int, settings: Settings, least: int = 0) -> Rows:
    image = model.manifest.image
    if image is not None:
        pixels = pictures_of(values, image, pointer, most, settings.max_picture_pixels, least)
        return Rows(pixels.astype(np.float64), pixels)
    raw = rows_of(values, len(model.manifest.inputs), pointer, most, least)
    try:
        standardised = model.standardised_inputs(raw)
    except OutsideDomain as error:
        raise invalid_at(f"{pointer}/{error.row}", str(error)) from None
    return Rows(raw, _finite(standardised, pointer))


def _support(request: AdaptPredictRequest | UncertaintyRequest, model: Model, settings: Settings) -> Shown:
    x = _x(request.support.x, model, "/support/x", settings.max_support_rows, settings)
    labels = request.support.y
    if len(labels) != len(x.raw):
        raise invalid_at("/support/y", f"{len(labels)} labels for {len(x.raw)} rows of x")
    if model.manifest.kind == "classification":
        classes, y = class_rows(labels, model)
        return Shown(x, y, np.zeros((0, 1)), classes)
    if labels and isinstance(labels[0], str):
        raise invalid_at("/support/y/0", "this model predicts numbers, not classes")
    columns = [[value] if isinstance(value, float | int) else value for value in labels]
    raw = rows_of(columns, len(model.manifest.outputs), "/support/y", settings.max_support_rows)  # type: ignore[arg-type]
    return Shown(x, _finite(model.standardised_targets(raw), "/support/y"), raw)


def _work(
    request: AdaptPredictRequest | UncertaintyRequest,
    model: Model,
    settings: Settings,
    support: Shown,
    asked: Rows,
    ask: PredictAsk | ChooseAsk,
    what: str,
) -> Work:
    steps = model.learner.steps if request.adapt.steps is None else request.adapt.steps
    if steps and not model.learner.iterates:
        raise invalid_at("/adapt/steps", "this model adapts exactly, without steps: leave them out or send 0")
    wanted = settings.deadline_ms if request.deadline_ms is None else request.deadline_ms
    return Work(
        model=model,
        support_x=support.x.standardised,
        support_y=support.y,
        query_x=asked.standardised,
        steps=steps,
        seed=request.adapt.seed,
        ask=ask,
        deadline=time.monotonic() + wanted / 1000,
        warnings=_warnings(model, support, asked.raw, what),
        classes=support.classes,
    )


def _finite(values: Single, pointer: str) -> Single:
    """Numbers that fit the network's precision."""
    if (bad := np.flatnonzero(~np.isfinite(values).all(-1))).size:
        raise invalid_at(f"{pointer}/{bad[0]}", "too large for this model's precision")
    return values


def _warnings(model: Model, support: Shown, asked: Array, what: str) -> tuple[str, ...]:
    warnings = []
    if not len(support.x.raw):
        warnings.append("the support set is empty: this is the model's prior")
    if len(support.classes) == 1:
        warnings.append("the support set names one class: every row is of it, whatever it shows")
    if not model.learner.has_epistemic:
        warnings.append("this model is a single point: its epistemic variance is zero, whatever it has seen")
    if not model.manifest.inputs:
        return tuple(warnings)
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


def _timing(work: Work, answer: Answer, accepted: float) -> Timing:
    return Timing(
        decode=1000 * (work.made - accepted),
        queue=1000 * answer.queue_s,
        embed=1000 * answer.embed_s,
        adapt=1000 * answer.adapt_s,
        predict=1000 * answer.predict_s,
        total=1000 * (time.monotonic() - accepted),
        batched_tasks=answer.batched_tasks,
    )
