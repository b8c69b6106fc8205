"""Regression tasks answered by native functions: the same answers as `service.compute.regression`.

Plain predictions of a batch are one call, which holds no lock. Where the posterior is kept, or single
hypotheses are asked for, tasks are answered one by one.
"""

import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bmaml.learners import Diverged
from bmaml.learners.collapsed_posterior import CollapsedPosterior
from bmaml.native import answering
from bmaml.native.tables import Results, Task, no_results
from bmaml.predictive import Predictive
from bmaml.transformed import Transformed
from model_store.model import NEGLIGIBLE_WEIGHT
from service.compute.adaptation import diverged, padded_targets, support_nll
from service.compute.native_model import NativeModel
from service.compute.regression import LEVEL_TOLERANCE, BatchMoments, quantile_levels, result_of
from service.compute.surprise import surprise_of
from service.job import Answer, BatchTimes, Job, KeptPosterior, PredictionSpec, SelectionSpec

_threads = ThreadPoolExecutor(thread_name_prefix="bmaml-native")
"""Threads for the tasks of a batch, started when they are first needed."""


def predict_natively(jobs: Sequence[Job]) -> tuple[list[Answer | Diverged], BatchTimes]:
    """The answers to jobs of one group, in order; a diverged task has its error in place of one."""
    started = time.perf_counter()
    native = NativeModel.of(jobs[0].model)
    together = [index for index, job in enumerate(jobs) if _is_plain(job)]
    answers: dict[int, Answer | Diverged] = {}
    if together:
        answers |= zip(together, _answer_together([jobs[index] for index in together], native), strict=True)
    for index, job in enumerate(jobs):
        if index not in answers:
            answers[index] = _answer_alone(job, native)
    times = BatchTimes(adapt_s=time.perf_counter() - started)
    return [answers[index] for index in range(len(jobs))], times


def _is_plain(job: Job) -> bool:
    """Whether a job asks for moments and quantiles alone, and keeps nothing."""
    is_prediction = isinstance(job.spec, PredictionSpec) and not job.spec.particles
    return is_prediction and job.key is None and job.kept is None


def _answer_together(jobs: Sequence[Job], native: NativeModel) -> list[Answer | Diverged]:
    """The answers to plain jobs."""
    support_rows, query_rows = _counts(jobs)
    support_x, support_y, query_x, targets, levels, level_counts = _arrays(jobs, support_rows, query_rows)
    results = _results(native, len(jobs), levels.shape[1], query_x.shape[1], targets.shape[1], 0)
    arguments = (
        native.tables,
        native.hypotheses,
        NEGLIGIBLE_WEIGHT,
        support_x,
        support_y,
        support_rows,
        query_x,
        query_rows,
        targets,
        levels,
        level_counts,
        LEVEL_TOLERANCE,
        results,
    )
    parts = min(torch.get_num_threads(), len(jobs))
    ends = [len(jobs) * part // parts for part in range(parts + 1)]
    if parts == 1:
        answering.adapted_and_answered(*arguments, 0, len(jobs))
    else:
        spans = itertools.pairwise(ends)
        for done in [_threads.submit(answering.adapted_and_answered, *arguments, *span) for span in spans]:
            done.result()
    moments = _moments(results, jobs)
    return [_answer(job, native, results, moments, place) for place, job in enumerate(jobs)]


def _answer(
    job: Job, native: NativeModel, results: Results, moments: BatchMoments, place: int
) -> Answer | Diverged:
    """The answer of a plain job."""
    before, after = float(results.nll_before[place]), float(results.nll_after[place])
    if not (np.isfinite(before) and moments.finite(place, job)):
        return diverged(job)
    return Answer(
        result=moments.prediction(place, job),
        support_nll=support_nll(job, before, after),
        effective_particles=float(results.effective[place]),
        surprise=None if native.learner.surprise is None else surprise_of(results.group_weights[place]),
    )


def _answer_alone(job: Job, native: NativeModel) -> Answer | Diverged:
    """The answer of a job whose posterior is kept, or which asks for single hypotheses."""
    x, y = _double(job.support_x), _double(job.support_y)
    model, before = native.tables, 0.0
    if job.kept is not None:
        assert isinstance(job.kept.posterior, CollapsedPosterior)
        model, posterior = native.from_tensors(job.kept.posterior)
        effective, kept, y = job.kept.effective_particles, job.kept, y[:0]  # its labels have been scored
    else:
        posterior = answering.adapted(
            model.particles, model.processes, native.hypotheses, x, y, NEGLIGIBLE_WEIGHT
        )
        if not posterior.finite:
            return diverged(job)
        effective, kept = posterior.effective, None
        before = answering.nll_before(model, x, y)
    rows, outputs = len(job.query_x), y.shape[1]
    targets = np.zeros((0, outputs)) if job.query_y is None else _double(job.query_y)
    levels = np.array(job.spec.levels if isinstance(job.spec, PredictionSpec) else (), np.float64)
    wants_components = isinstance(job.spec, SelectionSpec) or bool(getattr(job.spec, "particles", False))
    results = _results(native, 1, len(levels), rows, len(targets), len(posterior.owner) * wants_components)
    task = Task(x, y, _double(job.query_x), targets, levels, LEVEL_TOLERANCE)
    answering.answered(model, posterior, task, results, 0)
    moments = _moments(results, [job])
    if not (np.isfinite(before) and moments.finite(0, job)):
        return diverged(job)
    nll = support_nll(job, before, float(results.nll_after[0]))
    if kept is not None:
        nll = kept.support_nll
    elif job.key is not None:
        kept = KeptPosterior(native.as_tensors(posterior, job.model), nll, effective)
    group_weights = posterior.group_weights
    belief = _belief(job, posterior.log_weights, results.components) if wants_components else None
    return Answer(
        result=result_of(job, moments, 0, belief, torch.from_numpy(job.query_x).unsqueeze(0)),
        support_nll=nll,
        effective_particles=float(effective),
        surprise=None if native.learner.surprise is None else surprise_of(group_weights),
        kept=kept if job.key is not None else None,
        cached=job.kept is not None,
    )


def _belief(
    job: Job, log_weights: NDArray[np.float64], components: NDArray[np.float64]
) -> Predictive | Transformed:
    """The belief about a job's query rows in the caller's units, for what is no native function."""
    means, noise, within = torch.from_numpy(components).movedim(-1, 1).float().unsqueeze(1)
    latent = Predictive(means, noise, within, torch.from_numpy(log_weights).float().unsqueeze(0))
    return latent if job.model.plain else Transformed(latent, job.model.links)


def _double(values: NDArray[Any]) -> NDArray[np.float64]:
    """A copy in double precision, contiguous and writable, as compiled functions take arrays."""
    return np.array(values, np.float64, order="C")


def _padded(rows: Sequence[NDArray[Any]], length: int) -> NDArray[np.float64]:
    """All tasks' rows in one array in double precision, `[task, row, column]`, padded with zeros."""
    result = np.zeros((len(rows), length, rows[0].shape[1]))
    for task, own in enumerate(rows):
        result[task, : len(own)] = own
    return result


def _counts(jobs: Sequence[Job]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Support and query rows of each job."""
    return np.array([len(job.support_x) for job in jobs]), np.array([len(job.query_x) for job in jobs])


def _arrays(
    jobs: Sequence[Job], support_rows: NDArray[np.int64], query_rows: NDArray[np.int64]
) -> tuple[
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.int64],
]:
    """The jobs' rows, labels, query rows, targets and levels, padded, and the number of levels of each."""
    support_x = _padded([job.support_x for job in jobs], support_rows.max())
    support_y = _padded([job.support_y for job in jobs], support_rows.max())
    query_x = _padded([job.query_x for job in jobs], query_rows.max())
    targets = padded_targets(jobs, query_x.shape[1])
    if targets is None:
        targets = np.zeros((len(jobs), 0, support_y.shape[2]))
    counts = np.array([len(job.spec.levels) for job in jobs if isinstance(job.spec, PredictionSpec)])
    return support_x, support_y, query_x, targets, quantile_levels(jobs), counts


def _results(
    native: NativeModel, tasks: int, levels: int, rows: int, target_rows: int, components: int
) -> Results:
    """Empty results for tasks of a model."""
    outputs, groups = native.learner.network.outputs, native.hypotheses.groups
    return no_results(tasks, groups, levels, rows, target_rows, components, outputs)


def _moments(results: Results, jobs: Sequence[Job]) -> BatchMoments:
    """The results as the rest of the service takes them."""
    plain = jobs[0].model.plain
    scored = any(job.query_y is not None for job in jobs)
    return BatchMoments(
        nll_after=results.nll_after,
        mean=results.mean,
        aleatoric=results.aleatoric,
        epistemic=results.epistemic,
        quantiles=results.quantiles,
        log_density=results.log_density if scored else None,
        own_scale=None if plain else results.own_scale,
        known_finite=results.finite,
    )
