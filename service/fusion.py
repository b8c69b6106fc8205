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
from model_store.model import Single
from service.selection import choose
from service.work import Answer, Array, Chosen, Moments, PredictAsk, Predicted, Work

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
        batch = _run(works)
        return [_taken_out(batch, task, work, len(works)) for task, work in enumerate(works)]


def _run(works: Sequence[Work]) -> _Batch:
    first = works[0]
    model = first.model.drawing(first.seed)
    learner, learned = model.learner, model.learned
    support = _padded([(work.support_x, work.support_y) for work in works]).to(model.device)
    unlabelled = [(work.query_x, work.query_x[:, :0]) for work in works]
    query = _padded(unlabelled).to(model.device)

    start = time.perf_counter()
    posterior = learner.adapt(learned, support, first.steps)
    finite = _array(learner.finite(posterior))
    adapted = time.perf_counter()

    # The support rows ride along with the query rows: one pass says how well they are explained.
    shown = support.x.shape[1]
    everything = model.predict(posterior, torch.cat([support.x, query.x], 1), first.joint)
    nothing = Examples(support.x[:, :0], support.y[:, :0], support.mask[:, :0])
    prior = learner.predict(learner.adapt(learned, nothing, 0), support.x)
    nll_after = _array(_nll(everything.part(slice(None), slice(shown)), support))
    nll_before = _array(_nll(prior, support))
    units = float(np.mean([np.log(column.std) for column in model.manifest.outputs]))

    belief = model.in_callers_units(everything.part(slice(None), slice(shown, None)))
    moments = Moments(_array(belief.mean()), _array(belief.aleatoric()), _array(belief.epistemic()))
    light = belief.without_negligible(NEGLIGIBLE)
    quantiles = _array(light.quantiles(_levels(works).to(model.device)))
    return _Batch(
        belief=belief,
        light=light,
        support_x=support.x,
        query_x=query.x,
        finite=finite,
        nll_before=nll_before + units,
        nll_after=nll_after + units,
        effective=_array(belief.effective_particles(learner.particles)),
        moments=moments,
        quantiles=quantiles,
        adapt_s=adapted - start,
        predict_s=time.perf_counter() - adapted,
    )


def _padded(rows: Sequence[tuple[Single, Single]]) -> Examples:
    return Examples.padded([(torch.from_numpy(x), torch.from_numpy(y)) for x, y in rows])


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
        return Diverged(
            f"adapting {work.model.manifest.name!r} to these {shown} rows left the finite numbers; "
            "check the units of the rows, or ask for fewer steps"
        )
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
        belief = batch.light.part(own, slice(rows))
        result = choose(work.ask, belief, moments, batch.query_x[own, :rows], batch.support_x[own, :shown])
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
    weights = _array(belief.log_weights.exp())[0]
    return Predicted(moments, quantiles, _array(belief.means)[0], _array(scale)[0], weights)


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


def _array(values: Tensor) -> Array:
    return values.double().cpu().numpy()
