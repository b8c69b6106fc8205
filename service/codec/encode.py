"""Answers as the caller will read them: nested names with arrays at their ends, for any encoding.

The schemas in `schemas.py` describe them; a test holds the two together.
"""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.codec.warnings import on_the_fit
from service.compute.acquisitions import CAPABILITIES
from service.engine.posterior_cache import Entry
from service.job import Answer, Classified, Job, Predicted, Selection, SelectionSpec
from service.schemas.requests import AdaptPredictRequest, UncertaintyRequest

Reply = dict[str, Any]


def reply(job: Job, answer: Answer, entry: Entry | None, request_id: str, accepted: float) -> Reply:
    """What every answer says, whatever was asked."""
    manifest, nll = job.model.manifest, answer.support_nll
    return {
        "request_id": request_id,
        "model": {
            "name": manifest.name,
            "version": manifest.version,
            "sha256": job.model.sha256,
            "learner": manifest.learner,
        },
        "posterior": None if entry is None else reference(entry, answer.cached),
        "diagnostics": {
            "particles": job.model.learner.particles,
            "effective_particles": answer.effective_particles,
            "steps": job.steps,
            "support_nll": None if nll is None else {"before": nll[0], "after": nll[1]},
            "warnings": [*job.warnings, *on_the_fit(nll)],
        },
        "timing_ms": {
            "decode": 1000 * (job.made - accepted),
            "queue": 1000 * answer.queue_s,
            "embed": 1000 * answer.embed_s,
            "adapt": 1000 * answer.adapt_s,
            "predict": 1000 * answer.predict_s,
            "total": 1000 * (time.monotonic() - accepted),
            "batched_tasks": answer.batched_tasks,
        },
    }


def reference(entry: Entry, cached: bool) -> Reply:
    """Where a posterior is kept."""
    return {
        "id": entry.id,
        "rows": entry.rows,
        "expires_at": entry.expires_at.isoformat(timespec="milliseconds"),
        "cache": "hit" if cached else "miss",
    }


def card(entry: Entry) -> Reply:
    """A kept posterior."""
    manifest = entry.job.model.manifest
    return {
        "id": entry.id,
        "model": {
            "name": manifest.name,
            "version": manifest.version,
            "sha256": entry.job.model.sha256,
            "learner": manifest.learner,
        },
        "rows": entry.rows,
        "steps": entry.job.steps,
        "classes": list(entry.job.classes) or None,
        "bytes": entry.size,
        "expires_at": entry.expires_at,
    }


def prediction(request: AdaptPredictRequest, job: Job, answer: Answer) -> Reply:
    """The ensemble's belief about the query rows."""
    result = answer.result
    if isinstance(result, Classified):
        return _classes(job, result)
    assert isinstance(result, Predicted)
    moments, single = result.moments, result.moments.mean.shape[-1] == 1
    said = _of_one_output if single else _single
    total = moments.aleatoric + moments.epistemic
    particles = None
    if result.particle_mean is not None and result.particle_std is not None and result.weights is not None:
        particles = {
            "mean": said(result.particle_mean),
            "std": said(result.particle_std),
            "weight": _single(result.weights),
        }
    quantiles = said(result.quantiles)
    return {
        "mean": said(moments.mean),
        "std": said(np.sqrt(total)),
        "variance": {
            "total": said(total),
            "aleatoric": said(moments.aleatoric),
            "epistemic": said(moments.epistemic),
        },
        "quantiles": {"levels": request.quantiles, "values": quantiles[:-2]},
        "interval": {"level": request.interval, "lower": quantiles[-2], "upper": quantiles[-1]},
        "particles": particles,
    }


def _classes(job: Job, result: Classified) -> Reply:
    classes, uncertainty = list(job.classes), result.uncertainty
    particles = None
    if result.particle_probabilities is not None and result.weights is not None:
        particles = {
            "probabilities": _single(result.particle_probabilities),
            "weight": _single(result.weights),
        }
    return {
        "classes": classes,
        "probabilities": _single(result.probabilities),
        "label": [classes[index] for index in result.probabilities.argmax(-1).tolist()],
        "entropy": {
            "total": _single(uncertainty.aleatoric + uncertainty.epistemic),
            "expected": _single(uncertainty.aleatoric),
            "mutual_information": _single(uncertainty.epistemic),
        },
        "margin": _single(result.margin),
        "variation_ratio": _single(result.variation_ratio),
        "particles": particles,
    }


def choice(request: UncertaintyRequest, job: Job, answer: Answer) -> Reply:
    """What to label next."""
    result, spec = answer.result, job.spec
    assert isinstance(result, Selection)
    assert isinstance(spec, SelectionSpec)
    ids = request.pool.ids or list(range(spec.pool_rows))
    aleatoric, epistemic = result.uncertainty.aleatoric, result.uncertainty.epistemic
    return {
        "acquisition": spec.acquisition,
        "direction": "higher_is_more_informative",
        "units": CAPABILITIES[job.model.manifest.kind].acquisitions[spec.acquisition],
        "selected": [
            {
                "rank": rank,
                "id": ids[index],
                "index": index,
                "score": float(result.scores[index]),
                "gain": gain,
                "total": float(aleatoric[index] + epistemic[index]),
                "aleatoric": float(aleatoric[index]),
                "epistemic": float(epistemic[index]),
            }
            for rank, (index, gain) in enumerate(zip(result.indices, result.gains, strict=True), start=1)
        ],
        "scores": result.scores,
        "batch": {
            "strategies_used": result.strategies,
            "saturated_at": result.saturated_at,
            "ceiling": result.ceiling,
        },
    }


def _of_one_output(values: NDArray[Any]) -> NDArray[np.float32]:
    """Without the axis of outputs."""
    return _single(values[..., 0])


def _single(values: NDArray[Any]) -> NDArray[np.float32]:
    """As precise as the network, in one piece of memory."""
    return np.ascontiguousarray(values, dtype=np.float32)
