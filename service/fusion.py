"""Many tasks of one model, adapted and predicted together: padded, masked, then taken apart.

Tensor work only, on whatever device the model lives on. A task's answer does not depend on its
company beyond rounding, and a task that diverges fails alone. On a CPU a large batch is done in parts:
more tasks at a time would be no faster, and need more memory.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bmaml.learners import Diverged
from bmaml.learners.posterior import Posterior
from bmaml.predictive import Predictive
from bmaml.task import Examples
from model_store import Model
from service.adaptation import Adaptation, array, diverged, padded
from service.class_fusion import classified_together
from service.selection import choose
from service.work import Answer, Array, Chosen, Moments, PredictAsk, Predicted, Seconds, Uncertainty, Work

NUMBERS = 1 << 22
"""In the features of a part's rows, and in its tasks' own particles."""
DOUBLE = 3
"""Rows of memory that a support row takes: more is kept of it, in float64."""
CELLS = 1 << 17
"""Tasks × hypotheses × rows that are predicted together: they stay in cache."""
WASTE = 8_000
"""Cells of padding that cost as much as a part more."""


def answer_together(works: Sequence[Work]) -> list[Answer | Diverged]:
    """The answers to works of one group, in order; a diverged task gets its error in place of one."""
    classification = works[0].model.manifest.kind == "classification"
    together = classified_together if classification else _predicted_together
    answers: list[Answer | Diverged] = []
    total = Seconds()
    with torch.no_grad():  # not inference mode: feature steps differentiate the evidence
        for part in _parts(works):
            some, seconds = together(part)
            answers += some
            total += seconds
    said: Any = {**asdict(total), "batched_tasks": len(works)}
    return [replace(answer, **said) if isinstance(answer, Answer) else answer for answer in answers]


def _parts(works: Sequence[Work]) -> Iterator[Sequence[Work]]:
    """Few enough at a time."""
    model, at_once = works[0].model, len(works)
    if model.device.type == "cpu":
        support, query = map(max, zip(*(work.shape for work in works), strict=True))
        rows = max(1, DOUBLE * support + query)
        features = model.learner.particles * rows * model.learner.network.feature_size
        moved = model.learned["initial"].numel() if works[0].steps else 0
        at_once = max(1, NUMBERS // (features + moved))
    for first in range(0, len(works), at_once):
        yield works[first : first + at_once]


def _predicted_together(works: Sequence[Work]) -> tuple[list[Answer | Diverged], Seconds]:
    first = works[0]
    model = first.model.drawing(first.seed)
    support, query = padded(works, model.device)
    started = time.perf_counter()
    adaptation = Adaptation.of(works, model, support)
    adapted = time.perf_counter()
    answers: dict[int, Answer | Diverged] = {}
    rows = query.x.shape[1] + (support.x.shape[1] if first.known is None else 0)
    for tasks in _alike(adaptation.posterior, rows):
        index = torch.tensor(tasks, device=model.device)
        own = Examples(support.x[index], support.y[index], support.mask[index])
        some = [works[task] for task in tasks]
        part = _predicted(model, adaptation.posterior.at(index), own, query.x[index], some)
        for place, task in enumerate(tasks):
            fine = bool(adaptation.finite[task]) and part.finite(place, works[task])
            answers[task] = (
                _taken_out(part, place, adaptation, task, works[task]) if fine else diverged(works[task])
            )
    seconds = Seconds(adapt_s=adapted - started, predict_s=time.perf_counter() - adapted)
    return [answers[task] for task in range(len(works))], seconds


def _alike(posterior: Posterior, rows: int) -> Iterator[list[int]]:
    """Tasks with about as many hypotheses: together they waste little, and stay in cache."""
    counts = (posterior.log_weights > -torch.inf).sum(-1).tolist()
    some: list[int] = []
    real = 0
    for task in sorted(range(len(counts)), key=counts.__getitem__):
        real, padded = real + counts[task], (len(some) + 1) * counts[task]
        if some and (rows * (padded - real) > WASTE or rows * padded > CELLS):
            yield some
            some, real = [], counts[task]
        some.append(task)
    yield some


@dataclass(frozen=True)
class _Part:
    """Results of some tasks in the caller's units; a leading task axis on every array.

    Attributes:
        belief: about the query rows.
        query_x: padded inputs, standardised, on the device.
        nll_before, nll_after: of the support labels, nats per value.
    """

    belief: Predictive
    query_x: Tensor
    nll_before: Array
    nll_after: Array
    moments: Moments
    quantiles: Array

    def finite(self, place: int, work: Work) -> bool:
        """Whether all that is said of a task are numbers."""
        rows, moments = len(work.query_x), self.moments
        numbers = (moments.mean, moments.aleatoric, moments.epistemic, *self.quantiles.swapaxes(0, 1))
        nll = self.nll_before[place] + self.nll_after[place]
        return bool(np.isfinite(nll)) and all(np.isfinite(each[place, :rows]).all() for each in numbers)


def _predicted(
    model: Model, posterior: Posterior, support: Examples, query_x: Tensor, works: Sequence[Work]
) -> _Part:
    nll_before = nll_after = np.zeros(len(works))
    x, shown = query_x, 0
    if works[0].known is None:
        # The support rows ride along with the query rows: one pass says how well they are explained.
        shown = support.x.shape[1]
        x = torch.cat([support.x, query_x], 1)
    belief = model.predict(posterior, x, works[0].joint)
    if shown:
        units = float(np.mean([np.log(column.std) for column in model.manifest.outputs]))
        nll_before = array(_nll(model.prior(support.x), support)) + units
        nll_after = array(_nll(belief.part(slice(None), slice(shown)), support)) + units
        belief = belief.part(slice(None), slice(shown, None))
    belief = model.in_callers_units(belief)
    return _Part(
        belief=belief,
        query_x=query_x,
        nll_before=nll_before,
        nll_after=nll_after,
        moments=Moments(array(belief.mean()), array(belief.aleatoric()), array(belief.epistemic())),
        quantiles=array(belief.quantiles(_levels(works).to(model.device))),
    )


def _taken_out(part: _Part, place: int, adaptation: Adaptation, task: int, work: Work) -> Answer:
    rows, shown = len(work.query_x), len(work.support_x)
    if work.known is not None:
        nll = work.known.support_nll
    else:
        nll = (float(part.nll_before[place]), float(part.nll_after[place])) if shown else None
    moments = Moments(
        part.moments.mean[place, :rows],
        part.moments.aleatoric[place, :rows],
        part.moments.epistemic[place, :rows],
    )
    own = slice(place, place + 1)
    result: Predicted | Chosen | None = None
    if isinstance(work.ask, PredictAsk):
        levels = part.quantiles[place, : len(work.ask.levels), :rows]
        result = Predicted(moments, levels)
        if work.ask.particles:
            result = _with_particles(part.belief.part(own, slice(rows)), moments, levels)
    elif work.ask is not None:
        belief = part.belief.part(own, slice(rows)).without_negligible(0.0)
        spread = Uncertainty(moments.aleatoric.sum(-1), moments.epistemic.sum(-1))
        labelled = torch.from_numpy(work.support_x).to(part.query_x).unsqueeze(0)
        result = choose(work.ask, belief, spread, part.query_x[own, :rows], labelled)
    return Answer(
        result=result,
        support_nll=nll,
        effective_particles=float(adaptation.effective[task]),
        kept=adaptation.kept(task, work, nll),
        cached=work.known is not None,
    )


def _with_particles(belief: Predictive, moments: Moments, quantiles: Array) -> Predicted:
    """With every hypothesis of weight."""
    weights = array(belief.log_weights.exp())[0]
    scale = (belief.noise + belief.within).sqrt().expand_as(belief.means)
    real = weights > 0
    means, scales = array(belief.means)[0], array(scale)[0]
    return Predicted(moments, quantiles, means[real], scales[real], weights[real])


def _nll(belief: Predictive, support: Examples) -> Tensor:
    """Mean NLL of each task's support labels, per value; zero where there are none."""
    mask = support.mask.unsqueeze(-1)
    total = torch.where(mask, -belief.log_density(support.y), 0).sum((1, 2))
    return total / (support.counts() * support.y.shape[-1]).clamp_min(1)


def _levels(works: Sequence[Work]) -> Tensor:
    """Each task's quantile levels, padded with medians to the longest list."""
    wanted = [work.ask.levels if isinstance(work.ask, PredictAsk) else () for work in works]
    levels = np.full((len(works), max(map(len, wanted))), 0.5)
    for task, own in enumerate(wanted):
        levels[task, : len(own)] = own
    return torch.from_numpy(levels)
