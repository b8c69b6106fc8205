"""Many classification tasks of one model together: embedded once, adapted, predicted, taken apart."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bmaml.categorical import Categorical
from bmaml.learners import Diverged
from bmaml.task import Examples
from model_store import Model
from service.compute.adaptation import Adaptation, diverged, padded, to_numpy
from service.compute.selection import choose_by_class
from service.job import Answer, Array, BatchTimes, Job, PredictionSpec, Selection, Uncertainty
from service.schemas.responses import ClassPrediction, Entropy, ParticleProbabilities


def classify_batch(jobs: Sequence[Job]) -> tuple[list[Answer | Diverged], BatchTimes]:
    """The answers to works of one group, in order; a diverged task gets its error in place of one."""
    first = jobs[0]
    model = first.model
    support, query = padded(jobs, model.device)
    start = time.perf_counter()
    x = _embedded(model, support, query)
    shown = support.x.shape[1]
    embedded = time.perf_counter()
    adaptation = Adaptation.of(jobs, model, Examples(x[:, :shown], support.y, support.mask))
    adapted = time.perf_counter()
    belief = model.classify(adaptation.posterior, x)
    nll = -belief.part(slice(None), slice(shown)).log_density(support.y)[..., 0]
    nll_after = to_numpy((nll * support.mask).sum(-1) / support.counts().clamp_min(1))
    predicted = time.perf_counter()
    answers: list[Answer | Diverged] = []
    for task, job in enumerate(jobs):
        if not adaptation.finite[task] or not np.isfinite(nll_after[task]):
            answers.append(diverged(job))
            continue
        own, rows = slice(task, task + 1), slice(shown, shown + len(job.query_x))
        known = job.kept
        labelled = x[own, : len(job.support_x)] if known is None else known.support_features
        said = (
            (float(np.log(len(job.classes))), float(nll_after[task])) if known is None else known.support_nll
        )
        answers.append(
            Answer(
                result=_answer(job, belief.part(own, rows), x[own, rows], labelled),
                support_nll=said,
                effective_particles=float(adaptation.effective[task]),
                kept=adaptation.kept(task, job, said, labelled),
                cached=job.kept is not None,
            )
        )
    return answers, BatchTimes(embedded - start, adapted - embedded, predicted - adapted)


def _embedded(model: Model, support: Examples, query: Examples) -> Tensor:
    """Features of support and query rows `[task, row, feature]`; padding is not embedded."""
    x = torch.cat([support.x, query.x], 1)
    real = torch.cat([support.mask, query.mask], 1)
    features = model.embedded(x[real].unsqueeze(0))[0]
    result = features.new_zeros(*real.shape, features.shape[-1])
    result[real] = features
    return result


def _answer(
    job: Job, belief: Categorical, x: Tensor, labelled: Tensor | None
) -> ClassPrediction | Selection | None:
    if job.spec is None:
        return None
    uncertainty = Uncertainty(
        to_numpy(belief.expected_entropy())[0], to_numpy(belief.mutual_information())[0]
    )
    if not isinstance(job.spec, PredictionSpec):
        assert labelled is not None
        return choose_by_class(job.spec, belief, uncertainty, x, labelled)
    return _prediction(job, belief, uncertainty)


def _prediction(job: Job, belief: Categorical, uncertainty: Uncertainty) -> ClassPrediction:
    assert isinstance(job.spec, PredictionSpec)
    classes, particles = list(job.classes), None
    if job.spec.particles:
        each = to_numpy(belief.log_probabilities.exp())[0, ..., : len(classes)]
        particles = ParticleProbabilities(_single(each), _single(to_numpy(belief.log_weights.exp())[0]))
    probabilities = to_numpy(belief.probabilities())[0, :, : len(classes)]
    aleatoric, epistemic = uncertainty.aleatoric, uncertainty.epistemic
    return ClassPrediction(
        classes=classes,
        probabilities=_single(probabilities),
        label=[classes[index] for index in probabilities.argmax(-1).tolist()],
        entropy=Entropy(_single(aleatoric + epistemic), _single(aleatoric), _single(epistemic)),
        margin=_single(to_numpy(belief.margin())[0]),
        variation_ratio=_single(to_numpy(belief.variation_ratio())[0]),
        particles=particles,
    )


def _single(values: Array) -> NDArray[np.float32]:
    """The same in single precision, in one piece of memory."""
    return np.ascontiguousarray(values, dtype=np.float32)
