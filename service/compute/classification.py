"""Classification tasks of one model together: embedded, adapted, predicted, and taken apart into answers.

Rows are images, which are embedded, or the columns of a table, which are taken as they are.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bmaml.categorical import Categorical
from bmaml.learners import Diverged
from bmaml.task import Examples
from model_store import Model
from model_store.class_target import Label
from service.compute.adaptation import (
    Adaptation,
    diverged,
    padded_examples,
    single_precision,
    support_nll,
    to_numpy,
)
from service.compute.selection import choose_by_class
from service.job import (
    Answer,
    Array,
    BatchTimes,
    Job,
    PredictionSpec,
    Selection,
    SelectionSpec,
    Uncertainty,
)
from service.schemas.predictions import (
    ClassPrediction,
    Entropy,
    LabelInterval,
    LabelQuantiles,
    OrderedPrediction,
    ParticleProbabilities,
    ScoredClassPrediction,
    ScoredOrderedPrediction,
)

LEVEL_TOLERANCE = 1e-6
"""Rounding of cumulative probabilities: a label that lacks less of a level reaches it."""


def classify_batch(jobs: Sequence[Job]) -> tuple[list[Answer | Diverged], BatchTimes]:
    """The answers to jobs of one group, in order; a diverged task has its error in place of one."""
    first = jobs[0]
    model = first.model
    support, query = padded_examples(jobs, model.device, kept_rows=model.returns_to_prior)
    started = time.perf_counter()
    x = _features(model, support, query)
    support_rows = support.x.shape[1]
    embedded = time.perf_counter()
    shown = Examples(x[:, :support_rows], support.y, support.mask)
    adaptation = Adaptation.of(jobs, model, shown)
    adapted = time.perf_counter()
    belief = model.classify(adaptation.posterior, x, shown)
    nll = -belief.part(slice(None), slice(support_rows)).log_density(support.y)[..., 0]
    nll_after = to_numpy((nll * support.mask).sum(-1) / support.counts().clamp_min(1))
    nll_before = _nll_before(model, x[:, :support_rows], support, jobs)
    predicted = time.perf_counter()
    answers: list[Answer | Diverged] = []
    for task, job in enumerate(jobs):
        if not adaptation.finite[task] or not np.isfinite(nll_after[task]):
            answers.append(diverged(job))
            continue
        own, query_rows = slice(task, task + 1), slice(support_rows, support_rows + len(job.query_x))
        asked = belief.part(own, query_rows)
        uncertainty = None if job.spec is None else _uncertainty(asked)
        if uncertainty is not None and not _is_finite(uncertainty):
            answers.append(diverged(job))
            continue
        features: Tensor | None
        nll_pair: tuple[float, float] | None
        if job.kept is None:
            features = x[own, : len(job.support_x)]
            nll_pair = support_nll(job, float(nll_before[task]), float(nll_after[task]))
        else:
            features, nll_pair = job.kept.support_features, job.kept.support_nll
        answers.append(
            Answer(
                result=_result(job, asked, uncertainty, x[own, query_rows], features),
                support_nll=nll_pair,
                effective_particles=float(adaptation.effective_particles[task]),
                surprise=adaptation.surprise(task),
                kept=adaptation.kept_posterior(task, job, nll_pair, features),
                cached=job.kept is not None,
            )
        )
    return answers, BatchTimes(embedded - started, adapted - embedded, predicted - adapted)


def _uncertainty(belief: Categorical) -> Uncertainty:
    """The two parts of the uncertainty of one task's query rows."""
    return Uncertainty(to_numpy(belief.expected_entropy())[0], to_numpy(belief.mutual_information())[0])


def _is_finite(uncertainty: Uncertainty) -> bool:
    return bool(np.isfinite([uncertainty.aleatoric, uncertainty.epistemic]).all())


def _nll_before(model: Model, x: Tensor, support: Examples, jobs: Sequence[Job]) -> Array:
    """Mean NLL of each task's support labels before any label, nats per row; zero without rows.

    Without a label, classes of fixed meaning have the model's prior, and new ones are equally probable.
    """
    if model.manifest.labels is None:
        return np.array([np.log(len(job.classes)) for job in jobs])
    if jobs[0].kept is not None:
        return np.zeros(len(jobs))  # their NLL is kept, too
    logs = model.prior_of_classes(x.flatten(0, 1)).view(*x.shape[:2], -1)
    each = torch.where(support.y > 0, -logs, 0.0).sum(-1)
    return to_numpy((each * support.mask).sum(-1) / support.counts().clamp_min(1))


def _features(model: Model, support: Examples, query: Examples) -> Tensor:
    """Features of support and query rows, `[task, row, feature]`; zero for padding, which is not embedded."""
    x = torch.cat([support.x, query.x], 1)
    real = torch.cat([support.mask, query.mask], 1)
    features = model.embedded(x[real].unsqueeze(0))[0]
    result = features.new_zeros(*real.shape, features.shape[-1])
    result[real] = features
    return result


def _result(
    job: Job,
    belief: Categorical,
    uncertainty: Uncertainty | None,
    x: Tensor,
    support_features: Tensor | None,
) -> ClassPrediction | Selection | None:
    """The prediction or the selection that a task asks for.

    Args:
        belief, uncertainty: about its query rows; no uncertainty where it asks for nothing.
        x: their features.
    """
    if uncertainty is None:
        return None
    if isinstance(job.spec, SelectionSpec):
        assert support_features is not None
        return choose_by_class(job.spec, belief, uncertainty, x, support_features)
    return _prediction(job, belief, uncertainty)


def _prediction(job: Job, belief: Categorical, uncertainty: Uncertainty) -> ClassPrediction:
    """The probabilities, labels and uncertainties of a task's query rows; of ordered classes also ranks."""
    assert isinstance(job.spec, PredictionSpec)
    classes, particles = list(job.classes), None
    if job.spec.particles:
        by_particle = to_numpy(belief.log_probabilities.exp())[0, ..., : len(classes)]
        weights = to_numpy(belief.log_weights.exp())[0]
        particles = ParticleProbabilities(single_precision(by_particle), single_precision(weights))
    probabilities = to_numpy(belief.probabilities())[0, :, : len(classes)]
    aleatoric, epistemic = uncertainty.aleatoric, uncertainty.epistemic
    prediction = ClassPrediction(
        classes=classes,
        probabilities=single_precision(probabilities),
        label=[classes[index] for index in probabilities.argmax(-1).tolist()],
        entropy=Entropy(
            single_precision(aleatoric + epistemic), single_precision(aleatoric), single_precision(epistemic)
        ),
        margin=single_precision(to_numpy(belief.margin())[0]),
        variation_ratio=single_precision(to_numpy(belief.variation_ratio())[0]),
        particles=particles,
    )
    scored: dict[str, Any] = {}
    if job.query_y is not None:
        log_mixture = to_numpy(belief.log_mixture())[0]
        posted = log_mixture[np.arange(len(job.query_y)), job.query_y]
        scored["log_density"] = np.minimum(posted, 0)  # rounded above 0
    target = job.model.manifest.target
    if target is not None and target.ordered:
        ranks = _ranks(job.spec, classes, probabilities)
        ordered = ScoredOrderedPrediction if scored else OrderedPrediction
        return ordered(**vars(prediction), **ranks, **scored)
    return ScoredClassPrediction(**vars(prediction), **scored) if scored else prediction


def _ranks(spec: PredictionSpec, classes: list[Label], probabilities: Array) -> dict[str, Any]:
    """The median, the quantiles and the central interval of ordered classes, as labels."""
    cumulative = probabilities.cumsum(-1)

    def quantile(level: float) -> list[Label]:
        reached = cumulative >= level - LEVEL_TOLERANCE
        reached[:, -1] = True
        return [classes[place] for place in reached.argmax(-1).tolist()]

    assert spec.interval is not None
    tail = 0.5 - spec.interval / 2
    return {
        "median": quantile(0.5),
        "quantiles": LabelQuantiles(list(spec.quantiles), [quantile(level) for level in spec.quantiles]),
        "interval": LabelInterval(spec.interval, quantile(tail), quantile(1 - tail)),
    }
