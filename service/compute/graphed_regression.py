"""Regression with CUDA graphs: a batch of predictions as one recorded function of padded arrays.

The function computes the same as `service.compute.regression`, without host synchronisation: it keeps every
hypothesis, and searches quantiles in a fixed number of rounds. A task with a result that is not finite is
left to the other module. Labels that no hypothesis of weight explains have a smaller NLL after adaptation
here, as the negligible hypotheses count, too.

Batches are padded to powers of two tasks and powers of four rows, so that few recordings serve all.
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
from service.compute.adaptation import padded_rows, support_nll
from service.compute.cuda_graphs import Arrays, GraphCache
from service.compute.regression import BatchMoments, believe, nll_before, quantile_levels
from service.compute.surprise import surprise_of
from service.job import Answer, BatchTimes, Job, PredictionSpec

QUANTILE_ROUNDS = 24
"""Rounds of the search for quantiles. One in a thousand answers of the shipped models takes more."""
MAX_PART_CELLS = 1 << 24
"""Tasks × hypotheses × rows × outputs × levels of one part of a batch, padding included."""
MIN_PADDED_ROWS = 16
"""Rows to which smaller sets are padded: a GPU takes as long for fewer rows."""


def answer_with_graphs(jobs: Sequence[Job], graphs: GraphCache) -> tuple[dict[int, Answer], BatchTimes]:
    """The answers to the jobs of a group that recordings can give, by index, and the time taken."""
    started = time.perf_counter()
    recordable = [index for index, job in enumerate(jobs) if _recordable(job, graphs)]
    launches = []
    for indices in _parts(jobs, recordable):  # the host prepares a part while the device computes the last
        part = [jobs[index] for index in indices]
        model, steps = part[0].model, part[0].steps
        _ = model.prior_posterior  # made here, not within a recording
        launched = graphs.launch(model, steps, partial(adapt_and_predict, model, steps), _padded_arrays(part))
        if launched is not None:
            launches.append((indices, launched))
    answers: dict[int, Answer] = {}
    for indices, launched in launches:
        results = launched.wait()
        group_weights = None if jobs[0].model.surprising_prior is None else results.pop()
        *moment_arrays, before, finite, effective = results
        moments = BatchMoments.of(jobs[0].model, moment_arrays)
        for task, index in enumerate(indices):
            job = jobs[index]
            if finite[task] and np.isfinite(before[task]) and moments.finite(task, job):
                answers[index] = Answer(
                    result=moments.prediction(task, job),
                    support_nll=support_nll(job, float(before[task]), float(moments.nll_after[task])),
                    effective_particles=float(effective[task]),
                    surprise=None if group_weights is None else surprise_of(group_weights[task]),
                )
    return answers, BatchTimes(adapt_s=time.perf_counter() - started)


def adapt_and_predict(
    model: Model,
    steps: int,
    support_x: Tensor,
    support_y: Tensor,
    support_mask: Tensor,
    query_x: Tensor,
    levels: Tensor,
) -> tuple[Tensor, ...]:
    """Adapt to a padded batch and predict it; the operations depend on shapes alone.

    Returns:
        The fields of `BatchMoments`; then of each task the NLL before adaptation, whether the posterior is
        finite, the effective particles and, where there are surprising ones, the weights of the groups of
        hypotheses.
    """
    support = Examples(support_x, support_y, support_mask)
    with torch.no_grad():
        posterior = model.learner.adapt(model.learned, support, steps)
        before = nll_before(model, support)
        _, moments = believe(model, posterior, support, query_x, levels, rounds=QUANTILE_ROUNDS)
        finite = posterior.finite().expand(len(support))
        effective = model.learner.effective_particles(posterior).expand(len(support))
        group_weights = model.learner.group_weights(posterior)
    results = *moments, before, finite, effective
    return results if group_weights is None else (*results, group_weights)


def _recordable(job: Job, graphs: GraphCache) -> bool:
    """Whether `adapt_and_predict` answers the job: numbers without draws, particles, targets or a key."""
    model, spec = job.model, job.spec
    return (
        model.device.type == graphs.device_type
        and model.manifest.kind == "regression"
        and model.drawing(job.seed) is model  # draws are made on the host
        and job.steps == model.learner.steps  # callers may choose many other numbers of steps
        and not graphs.unrecordable(model, job.steps)
        and isinstance(spec, PredictionSpec)
        and not spec.particles
        and job.key is None
        and job.query_y is None  # its density is that of the hypotheses that are not negligible
    )


def _parts(jobs: Sequence[Job], indices: Sequence[int]) -> Iterator[Sequence[int]]:
    """The indices in parts of at most `MAX_PART_CELLS`; none where one task alone is larger."""
    if not indices:
        return
    support, query, levels = _padded_sizes([jobs[index] for index in indices])
    learner = jobs[indices[0]].model.learner
    cells = learner.hypotheses * (support + query) * levels * learner.network.outputs
    if cells > MAX_PART_CELLS:
        return
    tasks = 1 << ((MAX_PART_CELLS // cells).bit_length() - 1)
    for part in blocks(len(indices), tasks):
        yield indices[part]


def _padded_sizes(jobs: Sequence[Job]) -> tuple[int, int, int]:
    """Support rows, query rows and quantile levels of each task, padding included."""
    levels = max(len(job.spec.levels) for job in jobs if isinstance(job.spec, PredictionSpec))
    longest = max(len(job.support_x) for job in jobs)
    support, features = _padded_row_count(longest), jobs[0].model.learner.network.feature_size + 1
    if longest <= features < support:  # exact layers take another form for more rows than features
        support = features
    return (
        support,
        _padded_row_count(max(len(job.query_x) for job in jobs)),
        _power_of_two(levels),
    )


def _padded_arrays(jobs: Sequence[Job]) -> Arrays:
    """The arguments of `adapt_and_predict`, padded in rows, levels and tasks."""
    tasks, (support, query, levels) = _power_of_two(len(jobs)), _padded_sizes(jobs)
    empty = [0] * (tasks - len(jobs))
    support_mask = np.arange(support) < np.array([len(job.support_x) for job in jobs] + empty)[:, None]
    query_mask = np.arange(query) < np.array([len(job.query_x) for job in jobs] + empty)[:, None]
    return (
        padded_rows([job.support_x for job in jobs], support_mask),
        padded_rows([job.support_y for job in jobs], support_mask),
        support_mask,
        padded_rows([job.query_x for job in jobs], query_mask),
        quantile_levels(jobs, tasks, levels),
    )


def _padded_row_count(count: int) -> int:
    """The smallest power of four that is at least `count`, and at least `MIN_PADDED_ROWS`."""
    return max(MIN_PADDED_ROWS, 1 << (_power_of_two(count).bit_length() // 2 * 2))


def _power_of_two(count: int) -> int:
    """The smallest power of two that is at least `count`."""
    return 1 << max(0, count - 1).bit_length()
