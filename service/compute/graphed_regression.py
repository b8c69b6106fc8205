"""A batch of predictions as one function of padded arrays: what a GPU is launched with once.

The same as `service.compute.regression`, without host synchronisation: every hypothesis stays, and quantiles
take a fixed number of rounds. What is not a number then is not answered here. (Where labels lie so far out
that no hypothesis of weight explains them, their NLL after adaptation is smaller here: those that the other
one leaves out have a say in it.) Batches are padded to powers of two tasks and powers of four rows, so that
few recordings serve all.
"""

import time
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bmaml.blocks import blocks
from bmaml.task import Examples
from model_store import Model
from service.compute.adaptation import stacked
from service.compute.cuda_graphs import Arrays, Graphs
from service.compute.regression import BatchMoments, believe, nll_before, quantile_levels, support_nll
from service.job import Answer, BatchTimes, Job, PredictionSpec

ROUNDS = 24
"""Of the search for quantiles. Of the shipped models' answers one in a thousand takes more."""
CELLS = 1 << 24
"""Hypotheses × rows × outputs × levels that are computed at once, padding included."""
FEWEST_ROWS = 16
"""Of each task, padding included: as many as a GPU does in no time."""


def answer_with_graphs(jobs: Sequence[Job], graphs: Graphs) -> tuple[dict[int, Answer], BatchTimes]:
    """Answers to those of a group whose shape is recorded, by place."""
    start = time.perf_counter()
    places = [place for place, job in enumerate(jobs) if _fits(job, graphs)]
    begun = []
    for some in _parts(jobs, places):  # the next is got ready while the device is at work
        part = [jobs[place] for place in some]
        model, steps = part[0].model, part[0].steps
        launched = graphs.launch(model, steps, partial(predicted, model, steps), _arrays(part))
        if launched is not None:
            begun.append((some, launched))
    answers: dict[int, Answer] = {}
    for some, launched in begun:
        *numbers, before, finite, effective = launched.wait()
        moments = BatchMoments(*numbers)
        for row, place in enumerate(some):
            job = jobs[place]
            if finite[row] and np.isfinite(before[row]) and moments.finite(row, job):
                answers[place] = Answer(
                    result=moments.prediction(row, job),
                    support_nll=support_nll(job, float(before[row]), float(moments.nll_after[row])),
                    effective_particles=float(effective[row]),
                )
    return answers, BatchTimes(adapt_s=time.perf_counter() - start)


def predicted(
    model: Model,
    steps: int,
    support_x: Tensor,
    support_y: Tensor,
    support_mask: Tensor,
    query_x: Tensor,
    levels: Tensor,
) -> tuple[Tensor, ...]:
    """Adapt and predict: the fields of `BatchMoments`, NLL before, finiteness, effective particles.

    Which operations are done depends on shapes alone.
    """
    support = Examples(support_x, support_y, support_mask)
    with torch.no_grad():
        posterior = model.learner.adapt(model.learned, support, steps)
        before = nll_before(model, support)
        _, numbers = believe(model, posterior, support, query_x, levels, rounds=ROUNDS)
        finite = posterior.finite().expand(len(support))
        effective = model.learner.effective_particles(posterior).expand(len(support))
    return *numbers, before, finite, effective


def _fits(job: Job, graphs: Graphs) -> bool:
    """Whether a work is a prediction from rows, all of which is in its answer."""
    model, spec = job.model, job.spec
    return (
        model.device.type == graphs.device_type
        and model.manifest.kind == "regression"
        and model.drawing(job.seed) is model  # draws are made on the host
        and job.steps == model.learner.steps  # others are a caller's choice, and there may be many
        and not graphs.hopeless(model, job.steps)
        and isinstance(spec, PredictionSpec)
        and not spec.particles
        and job.key is None
    )


def _parts(jobs: Sequence[Job], places: Sequence[int]) -> Iterator[Sequence[int]]:
    """Few enough at a time; none where one task alone is too large."""
    if not places:
        return
    support, query, levels = _sizes([jobs[place] for place in places])
    learner = jobs[places[0]].model.learner
    cells = learner.hypotheses * (support + query) * levels * learner.network.outputs
    if cells > CELLS:
        return
    tasks = 1 << ((CELLS // cells).bit_length() - 1)
    for part in blocks(len(places), tasks):
        yield places[part]


def _sizes(jobs: Sequence[Job]) -> tuple[int, int, int]:
    """Support rows, query rows and levels, padding included."""
    levels = max(len(job.spec.levels) for job in jobs if isinstance(job.spec, PredictionSpec))
    shown = max(len(job.support_x) for job in jobs)
    support, features = _rows(shown), jobs[0].model.learner.network.feature_size + 1
    if shown <= features < support:  # exact layers have another form for more rows than features
        support = features
    return (
        support,
        _rows(max(len(job.query_x) for job in jobs)),
        _power_of_two(levels),
    )


def _arrays(jobs: Sequence[Job]) -> Arrays:
    """The arguments of `predicted`, padded with empty tasks, too."""
    tasks, (support, query, levels) = _power_of_two(len(jobs)), _sizes(jobs)
    fill = [0] * (tasks - len(jobs))
    shown = np.arange(support) < np.array([len(job.support_x) for job in jobs] + fill)[:, None]
    asked = np.arange(query) < np.array([len(job.query_x) for job in jobs] + fill)[:, None]
    return (
        stacked([job.support_x for job in jobs], shown),
        stacked([job.support_y for job in jobs], shown),
        shown,
        stacked([job.query_x for job in jobs], asked),
        quantile_levels(jobs, tasks, levels),
    )


def _rows(count: int) -> int:
    """The next power of four, or the same."""
    return max(FEWEST_ROWS, 1 << (_power_of_two(count).bit_length() // 2 * 2))


def _power_of_two(count: int) -> int:
    """The next, or the same."""
    return 1 << max(0, count - 1).bit_length()
