"""Many tasks of one model, adapted and predicted together: padded, masked, then taken apart.

Tensor work only, on whatever device the model lives on. A task's answer does not depend on its
company beyond rounding, and a task that diverges fails alone.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bmaml.learners import Diverged
from bmaml.predictive import Predictive
from bmaml.task import Examples
from service.class_fusion import classified_together
from service.padding import array, diverged, padded
from service.selection import choose
from service.work import Answer, Array, Chosen, Moments, PredictAsk, Predicted, Uncertainty, Work

NEGLIGIBLE = 1e-8
"""Weight of the components that quantiles and acquisitions leave out: far below single precision."""


@dataclass(frozen=True)
class _Batch:
    """All tasks' results, in the caller's units; a leading task axis on every array.

    Attributes:
        belief: about the query rows.
        light: the same without the components of negligible weight.
        support_x, query_x: padded inputs, standardised, on the device.
        nll_before, nll_after: of the support labels, nats per value.
    """

    belief: Predictive
    light: Predictive
    support_x: Tensor
    query_x: Tensor
    finite: Array
    nll_before: Array
    nll_after: Array
    effective: Array
    moments: Moments
    quantiles: Array
    adapt_s: float
    predict_s: float


def answer_together(works: Sequence[Work]) -> list[Answer | Diverged]:
    """The answers to works of one group, in order; a diverged task gets its error in place of one."""
    with torch.no_grad():  # not inference mode: feature steps differentiate the evidence
        if works[0].model.manifest.kind == "classification":
            return classified_together(works)
        batch = _run(works)
        return [_taken_out(batch, task, work, len(works)) for task, work in enumerate(works)]


def _run(works: Sequence[Work]) -> _Batch:
    first = works[0]
    model = first.model.drawing(first.seed)
    learner, learned = model.learner, model.learned
    support, query = padded(works, model.device)

    start = time.perf_counter()
    posterior = learner.adapt(learned, support, first.steps)
    finite = array(learner.finite(posterior))
    adapted = time.perf_counter()

    # The support rows ride along with the query rows: one pass says how well they are explained.
    shown = support.x.shape[1]
    everything = model.predict(posterior, torch.cat([support.x, query.x], 1), first.joint)
    nothing = Examples(support.x[:, :0], support.y[:, :0], support.mask[:, :0])
    prior = learner.predict(learner.adapt(learned, nothing, 0), support.x)
    assert isinstance(prior, Predictive)
    nll_after = array(_nll(everything.part(slice(None), slice(shown)), support))
    nll_before = array(_nll(prior, support))
    units = float(np.mean([np.log(column.std) for column in model.manifest.outputs]))

    belief = model.in_callers_units(everything.part(slice(None), slice(shown, None)))
    moments = Moments(array(belief.mean()), array(belief.aleatoric()), array(belief.epistemic()))
    light = belief.without_negligible(NEGLIGIBLE)
    quantiles = array(light.quantiles(_levels(works).to(model.device)))
    return _Batch(
        belief=belief,
        light=light,
        support_x=support.x,
        query_x=query.x,
        finite=finite,
        nll_before=nll_before + units,
        nll_after=nll_after + units,
        effective=array(belief.effective_particles(learner.particles)),
        moments=moments,
        quantiles=quantiles,
        adapt_s=adapted - start,
        predict_s=time.perf_counter() - adapted,
    )


def _taken_out(batch: _Batch, task: int, work: Work, tasks: int) -> Answer | Diverged:
    rows, shown = len(work.query_x), len(work.support_x)
    moments = Moments(
        batch.moments.mean[task, :rows],
        batch.moments.aleatoric[task, :rows],
        batch.moments.epistemic[task, :rows],
    )
    nll = (float(batch.nll_before[task]), float(batch.nll_after[task])) if shown else None
    numbers = (moments.mean, moments.aleatoric, moments.epistemic, np.array(nll or ()))
    if not batch.finite[task] or not all(np.isfinite(values).all() for values in numbers):
        return diverged(work)
    own = slice(task, task + 1)
    result: Predicted | Chosen
    if isinstance(work.ask, PredictAsk):
        levels = batch.quantiles[task, : len(work.ask.levels), :rows]
        result = (
            _with_particles(batch.belief.part(own, slice(rows)), moments, levels)
            if work.ask.particles
            else Predicted(moments, levels)
        )
    else:
        belief = batch.light.part(own, slice(rows)).without_negligible(0.0)
        spread = Uncertainty(moments.aleatoric.sum(-1), moments.epistemic.sum(-1))
        result = choose(work.ask, belief, spread, batch.query_x[own, :rows], batch.support_x[own, :shown])
    return Answer(
        result=result,
        support_nll=nll,
        effective_particles=float(batch.effective[task]),
        adapt_s=batch.adapt_s,
        predict_s=batch.predict_s,
        batched_tasks=tasks,
    )


def _with_particles(belief: Predictive, moments: Moments, quantiles: Array) -> Predicted:
    scale = (belief.noise + belief.within).sqrt().expand_as(belief.means)
    weights = array(belief.log_weights.exp())[0]
    return Predicted(moments, quantiles, array(belief.means)[0], array(scale)[0], weights)


def _nll(belief: Predictive, support: Examples) -> Tensor:
    """Mean NLL of each task's support labels, per value; zero where there are none."""
    mask = support.mask.unsqueeze(-1)
    total = torch.where(mask, -belief.log_density(support.y), 0).sum((1, 2))
    return total / (support.counts() * support.y.shape[-1]).clamp_min(1)


def _levels(works: Sequence[Work]) -> Tensor:
    """Each task's quantile levels, padded with medians to the longest list."""
    wanted = [work.ask.levels if isinstance(work.ask, PredictAsk) else () for work in works]
    levels = torch.full((len(works), max(map(len, wanted))), 0.5, dtype=torch.float64)
    for task, own in enumerate(wanted):
        levels[task, : len(own)] = torch.tensor(own, dtype=torch.float64)
    return levels
