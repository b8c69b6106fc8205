"""Many classification tasks of one model together: embedded once, adapted, predicted, taken apart."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bmaml.categorical import Categorical
from bmaml.learners import Diverged
from bmaml.task import Examples
from model_store import Model
from service.padding import array, diverged, padded
from service.selection import choose_by_class
from service.work import Answer, Chosen, Classified, PredictAsk, Uncertainty, Work


def classified_together(works: Sequence[Work]) -> list[Answer | Diverged]:
    """The answers to works of one group, in order; a diverged task gets its error in place of one."""
    first = works[0]
    model = first.model
    support, query = padded(works, model.device)
    start = time.perf_counter()
    x = _embedded(model, support, query)
    shown = support.x.shape[1]
    examples = Examples(x[:, :shown], support.y, support.mask)
    embedded = time.perf_counter()
    posterior = model.learner.adapt(model.learned, examples, first.steps)
    finite = model.learner.finite(posterior).tolist()
    adapted = time.perf_counter()
    belief = model.classify(posterior, x)
    nll = -belief.part(slice(None), slice(shown)).log_density(support.y)[..., 0]
    nll_after = array((nll * support.mask).sum(-1) / support.counts())
    effective = array(belief.effective_particles(model.learner.particles))
    predicted = time.perf_counter()
    answers: list[Answer | Diverged] = []
    for task, work in enumerate(works):
        own, rows = slice(task, task + 1), slice(shown, shown + len(work.query_x))
        if not finite[task] or not np.isfinite(nll_after[task]):
            answers.append(diverged(work))
            continue
        answers.append(
            Answer(
                result=_answer(work, belief.part(own, rows), x[own, rows], x[own, : len(work.support_x)]),
                support_nll=(float(np.log(len(work.classes))), float(nll_after[task])),
                effective_particles=float(effective[task]),
                adapt_s=adapted - embedded,
                predict_s=predicted - adapted,
                batched_tasks=len(works),
                embed_s=embedded - start,
            )
        )
    return answers


def _embedded(model: Model, support: Examples, query: Examples) -> Tensor:
    """Features of support and query rows `[task, row, feature]`; padding is not embedded."""
    x = torch.cat([support.x, query.x], 1)
    real = torch.cat([support.mask, query.mask], 1)
    features = model.embedded(x[real].unsqueeze(0))[0]
    result = features.new_zeros(*real.shape, features.shape[-1])
    result[real] = features
    return result


def _answer(work: Work, belief: Categorical, x: Tensor, support_x: Tensor) -> Classified | Chosen:
    uncertainty = Uncertainty(array(belief.expected_entropy())[0], array(belief.mutual_information())[0])
    if not isinstance(work.ask, PredictAsk):
        return choose_by_class(work.ask, belief, uncertainty, x, support_x)
    classes = len(work.classes)
    each = array(belief.log_probabilities.exp())[0, ..., :classes] if work.ask.particles else None
    return Classified(
        probabilities=array(belief.probabilities())[0, :, :classes],
        uncertainty=uncertainty,
        margin=array(belief.margin())[0],
        variation_ratio=array(belief.variation_ratio())[0],
        particle_probabilities=each,
        weights=array(belief.log_weights.exp())[0] if work.ask.particles else None,
    )
