"""Policies of one model together: adapted round by round, and asked for an action or for a selection."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from bmaml.episodes import PLACES, Episodes, rounds_of
from bmaml.learners import Diverged, Policy
from bmaml.learners.policy_posterior import PolicyParticles
from bmaml.predictive import Predictive
from bmaml.task import Examples
from service.compute.adaptation import diverged, single_precision, to_numpy
from service.compute.regression import by_row
from service.compute.selection import choose
from service.job import (
    ActionSpec,
    Answer,
    BatchTimes,
    Job,
    KeptPosterior,
    PolicyState,
    Selection,
    SelectionSpec,
    Uncertainty,
)
from service.schemas.predictions import ActionPrediction, ParticleMoments, Variance

MAX_PADDING = 2
"""Cells of padded episodes relative to those of the tasks alone, up to which tasks are adapted together."""


def act_batch(jobs: Sequence[Job]) -> tuple[list[Answer | Diverged], BatchTimes]:
    """The answers to jobs of one model, in order, and the times taken."""
    started = time.perf_counter()
    posteriors = _posteriors(jobs)
    adapted = time.perf_counter()
    answers = [_answer(job, posterior) for job, posterior in zip(jobs, posteriors, strict=True)]
    times = BatchTimes(adapt_s=adapted - started, predict_s=time.perf_counter() - adapted)
    return answers, times


def _posteriors(jobs: Sequence[Job]) -> list[PolicyParticles]:
    """The posterior of each job's task: kept, or folded over its rounds."""
    found: dict[int, PolicyParticles] = {}
    layouts: list[_Layout] = []
    for index, job in enumerate(jobs):
        if job.kept is not None:
            found[index] = cast(PolicyParticles, job.kept.posterior)
        else:
            layouts.append(_Layout.of(index, job))
    for together in _alike(layouts):
        posterior = _adapted([jobs[layout.index] for layout in together])
        for task, layout in enumerate(together):
            found[layout.index] = posterior.at(torch.tensor([task]))
    return [found[index] for index in range(len(jobs))]


@dataclass(frozen=True)
class _Layout:
    """The size of a task's padded episodes.

    Attributes:
        sizes: the most episodes and the longest one of each round.
    """

    index: int
    starts: bool
    sizes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, index: int, job: Job) -> "_Layout":
        places = job.support_x[job.start_rows :, -PLACES:]
        sizes = []
        for each in np.unique(places[:, 0]):
            own = places[places[:, 0] == each]
            sizes.append((int(own[:, 2].max()) + 1, int(own[:, 3].max()) + 1))
        return cls(index, job.start is not None, tuple(sizes))

    @property
    def cells(self) -> int:
        """Episodes × time of all rounds."""
        return sum(episodes * length for episodes, length in self.sizes)

    def padded(self, other: "_Layout") -> "_Layout":
        """The layout that holds both tasks."""
        pairs = zip(self.sizes, other.sizes, strict=True)
        return replace(self, sizes=tuple((max(a, c), max(b, d)) for (a, b), (c, d) in pairs))


def _alike(layouts: Sequence[_Layout]) -> Iterator[list[_Layout]]:
    """Tasks with as many rounds, in groups whose padding stays within `MAX_PADDING`."""
    group: list[_Layout] = []
    for layout in sorted(layouts, key=lambda each: (each.starts, len(each.sizes), each.cells)):
        if group:
            first = group[0]
            if first.starts == layout.starts and len(first.sizes) == len(layout.sizes):
                wide = layout
                for each in group:
                    wide = wide.padded(each)
                own = sum(each.cells for each in group) + layout.cells
                if wide.cells * (len(group) + 1) <= MAX_PADDING * own:
                    group.append(layout)
                    continue
            yield group
        group = [layout]
    if group:
        yield group


def _adapted(jobs: Sequence[Job]) -> PolicyParticles:
    """One posterior over tasks with as many new rounds."""
    model = jobs[0].model
    learner = cast(Policy, model.learner)
    starts = [cast(PolicyParticles, job.start) for job in jobs if job.start is not None]
    start = PolicyParticles.joined(starts) if starts else None
    return learner.adapt_rounds(model.learned, start, _new_rounds(jobs, learner.particles))


def _new_rounds(jobs: Sequence[Job], particles: int) -> list[Episodes]:
    """The rounds that the tasks have not adapted to yet, from the first of them on."""
    device = jobs[0].model.device
    rows = [(job.support_x[job.start_rows :], job.support_y[job.start_rows :]) for job in jobs]
    longest = max(1, *(len(x) for x, _ in rows))
    x = np.zeros((len(jobs), longest, rows[0][0].shape[1]), np.float32)
    y = np.zeros((len(jobs), longest, rows[0][1].shape[1]), np.float32)
    mask = np.zeros((len(jobs), longest), bool)
    for task, (own_x, own_y) in enumerate(rows):
        if len(own_x):
            x[task, : len(own_x)], y[task, : len(own_x)], mask[task, : len(own_x)] = own_x, own_y, True
            x[task, : len(own_x), -PLACES] -= own_x[0, -PLACES]  # rows come in the order of rounds
    return rounds_of(Examples(*(torch.from_numpy(each).to(device) for each in (x, y, mask))), particles)


def _answer(job: Job, posterior: PolicyParticles) -> Answer | Diverged:
    if not bool(posterior.finite().all()):
        return diverged(job)
    learner = cast(Policy, job.model.learner)
    effective = float(learner.effective_particles(posterior)[0])
    kept = job.kept
    if kept is None and job.key is not None:
        kept = KeptPosterior(posterior, None, effective)
    result = None if job.spec is None else _result(job, learner, posterior)
    if isinstance(result, ActionPrediction) and not _finite(result):
        return diverged(job)
    if isinstance(result, Selection) and not np.isfinite(result.scores).all():
        return diverged(job)
    return Answer(
        result=result,
        support_nll=None,
        effective_particles=effective,
        policy=PolicyState(
            rounds=int(posterior.rounds[0]),
            episodes=_of_particles(posterior.episodes),
            returns=_of_particles(posterior.returns),
            weights=_of_particles(posterior.log_weights.exp()),
            next_particle=int(posterior.next_particle()[0]),
        ),
        kept=kept if job.key is not None else None,
        cached=job.kept is not None,
    )


def _of_particles(values: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return single_precision(to_numpy(values)[0])


def _result(job: Job, learner: Policy, posterior: PolicyParticles) -> ActionPrediction | Selection:
    x = torch.from_numpy(job.query_x).to(job.model.device).unsqueeze(0)
    belief = job.model.on_own_scale(learner.predict(posterior, x).double())
    if isinstance(job.spec, SelectionSpec):
        aleatoric, epistemic = (
            to_numpy(each)[0].sum(-1) for each in (belief.aleatoric(), belief.epistemic())
        )
        return choose(job.spec, belief, Uncertainty(aleatoric, epistemic), x, x[:, :0])
    assert isinstance(job.spec, ActionSpec)
    return _action(job, job.spec, learner, posterior, belief)


def _action(
    job: Job, spec: ActionSpec, learner: Policy, posterior: PolicyParticles, belief: Predictive
) -> ActionPrediction:
    how = spec.act.how if spec.act.particle is None else spec.act.particle
    if how == "next":
        how = int(posterior.next_particle()[0])
    generator = torch.Generator().manual_seed(spec.act.seed)
    chosen = learner.act(posterior, belief, how, generator)
    action = single_precision(to_numpy(chosen.values)[0])
    low, high = job.model.output_range
    aleatoric, epistemic = (to_numpy(each)[0] for each in (belief.aleatoric(), belief.epistemic()))
    total = aleatoric + epistemic
    return ActionPrediction(
        action=by_row(action),
        command=by_row(np.clip(action, low, high)),
        particle=None if chosen.particle is None else int(chosen.particle[0]),
        mean=by_row(to_numpy(belief.mean())[0]),
        std=by_row(np.sqrt(total)),
        variance=Variance(by_row(total), by_row(aleatoric), by_row(epistemic)),
        particles=_moments(posterior, belief) if spec.particles else None,
    )


def _moments(posterior: PolicyParticles, belief: Predictive) -> ParticleMoments:
    stds = belief.noise.sqrt().expand_as(belief.means)
    return ParticleMoments(
        by_row(to_numpy(belief.means)[0]),
        by_row(to_numpy(stds)[0]),
        _of_particles(posterior.log_weights.exp()),
    )


def _finite(prediction: ActionPrediction) -> bool:
    values = [prediction.action, prediction.mean, prediction.std, prediction.variance.total]
    if prediction.particles is not None:
        values += [prediction.particles.mean, prediction.particles.std]
    return all(bool(np.isfinite(each).all()) for each in values)
