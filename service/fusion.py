"""Many tasks of one model, adapted and predicted together: padded, masked, then taken apart.

Tensor work only, on whatever device the model lives on. A task's answer does not depend on its
company beyond rounding, and a task that diverges fails alone. On a CPU a large batch is done in parts:
more tasks at a time would be no faster, and need more memory.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
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
from service.graphs import Graphs
from service.selection import choose
from service.telling import Said, Told, levels_of, nll_before, support_nll, told
from service.whole import answered_whole
from service.work import Answer, Array, Chosen, PredictAsk, Predicted, Seconds, Uncertainty, Work

NUMBERS = 1 << 22
"""In the features of a part's rows, and in its tasks' own particles."""
DOUBLE = 3
"""Rows of memory that a support row takes: more is kept of it, in float64."""
CELLS, GPU_CELLS = 1 << 17, 1 << 24
"""Tasks × hypotheses × rows that are predicted together: they stay in cache, and in a GPU's memory."""
WASTE, GPU_WASTE = 20_000, 1 << 21
"""Cells of padding that cost as much as a part more."""


def answer_together(works: Sequence[Work], graphs: Graphs | None = None) -> list[Answer | Diverged]:
    """The answers to works of one group, in order; a diverged task gets its error in place of one.

    Args:
        graphs: recorded computations, which are tried first.
    """
    classification = works[0].model.manifest.kind == "classification"
    together = classified_together if classification else _predicted_together
    answers: dict[int, Answer | Diverged] = {}
    total = Seconds()
    if graphs is not None:
        recorded, total = answered_whole(works, graphs)
        answers |= recorded
    left = [place for place in range(len(works)) if place not in answers]
    # Without steps nothing is differentiated, and tensors need not remember how they came to be.
    with torch.no_grad() if works[0].steps else torch.inference_mode():
        for places in _parts(works, left):
            some, seconds = together([works[place] for place in places])
            answers |= zip(places, some, strict=True)
            total += seconds
    said: Any = {**asdict(total), "batched_tasks": len(works)}
    each = (answers[place] for place in range(len(works)))
    return [replace(answer, **said) if isinstance(answer, Answer) else answer for answer in each]


def _parts(works: Sequence[Work], places: Sequence[int]) -> Iterator[Sequence[int]]:
    """Few enough at a time."""
    model, at_once = works[0].model, max(1, len(places))
    if places and model.device.type == "cpu":
        support, query = map(max, zip(*(works[place].shape for place in places), strict=True))
        rows = max(1, DOUBLE * support + query)
        features = model.learner.particles * rows * model.learner.network.feature_size
        moved = model.learned["initial"].numel() if works[0].steps else 0
        at_once = max(1, NUMBERS // (features + moved))
    for first in range(0, len(places), at_once):
        yield places[first : first + at_once]


def _predicted_together(works: Sequence[Work]) -> tuple[list[Answer | Diverged], Seconds]:
    first = works[0]
    model = first.model.drawing(first.seed)
    support, query = padded(works, model.device)
    started = time.perf_counter()
    adaptation = Adaptation.of(works, model, support)
    adapted = time.perf_counter()
    before = _before(model, support) if first.known is None else np.zeros(len(works))
    answers: dict[int, Answer | Diverged] = {}
    rows = query.x.shape[1] + (support.x.shape[1] if first.known is None else 0)
    for tasks in _alike(adaptation.posterior, rows):
        posterior, shown, x = adaptation.posterior, support, query.x
        if len(tasks) < len(works):
            index = torch.tensor(tasks, device=model.device)
            posterior, x = posterior.at(index), x[index]
            shown = Examples(support.x[index], support.y[index], support.mask[index])
        levels = torch.from_numpy(levels_of([works[task] for task in tasks])).to(model.device)
        found = told(model, posterior, None if first.known else shown, x, levels, first.joint)
        said = Said.of(found)
        for place, task in enumerate(tasks):
            work = works[task]
            if adaptation.finite[task] and np.isfinite(before[task]) and said.finite(place, work):
                nll = support_nll(work, float(before[task]), float(said.nll_after[place]))
                answers[task] = _taken_out(found, said, x, place, adaptation, task, work, nll)
            else:
                answers[task] = diverged(work)
    seconds = Seconds(adapt_s=adapted - started, predict_s=time.perf_counter() - adapted)
    return [answers[task] for task in range(len(works))], seconds


def _before(model: Model, support: Examples) -> Array:
    """NLL of the support labels before adaptation, of few enough tasks at a time."""
    cells = CELLS if model.device.type == "cpu" else GPU_CELLS
    at_once = max(1, cells // (model.learner.hypotheses * support.x.shape[1]))
    firsts = range(0, len(support), at_once)
    return array(torch.cat([nll_before(model, support.tasks(slice(i, i + at_once))) for i in firsts]))


def _alike(posterior: Posterior, rows: int) -> Iterator[list[int]]:
    """Tasks with about as many hypotheses, in order: together they waste little, and stay in cache."""
    on_cpu = posterior.log_weights.device.type == "cpu"
    cells, waste = (CELLS, WASTE) if on_cpu else (GPU_CELLS, GPU_WASTE)
    counts = (posterior.log_weights > -torch.inf).sum(-1).tolist()
    some: list[int] = []
    real = 0
    for task in sorted(range(len(counts)), key=counts.__getitem__):
        real, padded = real + counts[task], (len(some) + 1) * counts[task]
        if some and (rows * (padded - real) > waste or rows * padded > cells):
            yield sorted(some)
            some, real = [], counts[task]
        some.append(task)
    yield sorted(some)


def _taken_out(
    found: Told,
    said: Said,
    query_x: Tensor,
    place: int,
    adaptation: Adaptation,
    task: int,
    work: Work,
    nll: tuple[float, float] | None,
) -> Answer:
    if work.known is not None:
        nll = work.known.support_nll
    own, rows = slice(place, place + 1), slice(len(work.query_x))
    moments = said.moments(place, work)
    result: Predicted | Chosen | None = None
    if isinstance(work.ask, PredictAsk):
        result = Predicted(moments, said.levels(place, work))
        if work.ask.particles:
            result = _with_particles(found.belief.part(own, rows), result)
    elif work.ask is not None:
        belief = found.belief.part(own, rows).without_negligible(0.0)
        spread = Uncertainty(moments.aleatoric.sum(-1), moments.epistemic.sum(-1))
        labelled = torch.from_numpy(work.support_x).to(query_x).unsqueeze(0)
        result = choose(work.ask, belief, spread, query_x[own, rows], labelled)
    return Answer(
        result=result,
        support_nll=nll,
        effective_particles=float(adaptation.effective[task]),
        kept=adaptation.kept(task, work, nll),
        cached=work.known is not None,
    )


def _with_particles(belief: Predictive, result: Predicted) -> Predicted:
    """With every hypothesis of weight."""
    weights = array(belief.log_weights.exp())[0]
    scale = (belief.noise + belief.within).sqrt().expand_as(belief.means)
    real = weights > 0
    means, scales = array(belief.means)[0], array(scale)[0]
    return replace(result, particle_mean=means[real], particle_std=scales[real], weights=weights[real])
