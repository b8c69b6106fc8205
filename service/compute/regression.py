"""What is said of tasks of numbers, in the caller's units: on the device first, then as arrays.

The second half of a batch, after `service.compute.adaptation`.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bmaml.learners import Diverged
from bmaml.learners.posterior import Posterior
from bmaml.predictive import Predictive
from bmaml.task import Examples
from model_store import Model
from service.compute.adaptation import Adaptation, array, diverged, padded
from service.compute.selection import choose
from service.job import (
    Answer,
    Array,
    BatchTimes,
    Job,
    Moments,
    Predicted,
    PredictionSpec,
    Selection,
    Uncertainty,
)


@dataclass(frozen=True)
class Told:
    """Tensors with a leading axis of tasks, padding included.

    Attributes:
        belief: about the query rows.
        nll_after: of the support labels, nats per value, `[task]`; zero where none was shown.
        mean, aleatoric, epistemic: `[task, row, output]`.
        quantiles: `[task, level, row, output]`.
    """

    belief: Predictive
    nll_after: Tensor
    mean: Tensor
    aleatoric: Tensor
    epistemic: Tensor
    quantiles: Tensor

    def numbers(self) -> tuple[Tensor, ...]:
        """All but the belief, as `Said` takes them."""
        return self.nll_after, self.mean, self.aleatoric, self.epistemic, self.quantiles


@dataclass(frozen=True)
class Said:
    """The same on the CPU."""

    nll_after: Array
    mean: Array
    aleatoric: Array
    epistemic: Array
    quantiles: Array

    @classmethod
    def of(cls, told: Told) -> "Said":
        """Waits for the device."""
        return cls(*map(array, told.numbers()))

    def finite(self, place: int, job: Job) -> bool:
        """Whether all that is said of a task are numbers."""
        rows, levels = len(job.query_x), job.spec.levels if isinstance(job.spec, PredictionSpec) else ()
        quantiles = self.quantiles.swapaxes(0, 1)[: len(levels)]
        numbers = (self.mean, self.aleatoric, self.epistemic, *quantiles)
        return bool(np.isfinite(self.nll_after[place])) and all(
            np.isfinite(each[place, :rows]).all() for each in numbers
        )

    def moments(self, place: int, job: Job) -> Moments:
        """Of a task's query rows."""
        rows = len(job.query_x)
        return Moments(self.mean[place, :rows], self.aleatoric[place, :rows], self.epistemic[place, :rows])

    def levels(self, place: int, job: Job) -> Array:
        """The quantiles that a task asked for."""
        assert isinstance(job.spec, PredictionSpec)
        return self.quantiles[place, : len(job.spec.levels), : len(job.query_x)]


def told(
    model: Model,
    posterior: object,
    support: Examples | None,
    query_x: Tensor,
    levels: Tensor,
    joint: bool = False,
    rounds: int | None = None,
) -> Told:
    """What the posterior says.

    Args:
        support: whose labels are to be explained; None where that is known.
        query_x: standardised, `[task, row, input]`.
        levels: of the quantiles, `[task, level]`.
        joint: the belief also carries what covariances between rows need.
        rounds: of the search for quantiles; then nothing depends on a look at the numbers.
    """
    look = rounds is None
    if support is None:
        nll_after = query_x.new_zeros(len(query_x))
        belief = model.predict(posterior, query_x, joint, look)
    else:
        # The support rows ride along with the query rows: one pass says how well they are explained.
        shown = support.x.shape[1]
        belief = model.predict(posterior, torch.cat([support.x, query_x], 1), joint, look)
        nll_after = _nll(model, belief.part(slice(None), slice(shown)), support)
        belief = belief.part(slice(None), slice(shown, None))
    belief = model.in_callers_units(belief)
    return Told(
        belief=belief,
        nll_after=nll_after,
        mean=belief.mean(),
        aleatoric=belief.aleatoric(),
        epistemic=belief.epistemic(),
        quantiles=belief.quantiles(levels, rounds),
    )


def nll_before(model: Model, support: Examples) -> Tensor:
    """Mean NLL of each task's support labels before adaptation, nats per value; zero where there are none."""
    return _nll(model, model.prior(support.x), support)


def support_nll(job: Job, before: float, after: float) -> tuple[float, float] | None:
    """What is said of it; None where no rows were shown."""
    return (before, after) if len(job.support_x) else None


def quantile_levels(jobs: Sequence[Job], tasks: int = 0, most: int = 0) -> Array:
    """Each task's quantile levels, padded with medians to the longest list; to `tasks` × `most` at least."""
    wanted = [job.spec.levels if isinstance(job.spec, PredictionSpec) else () for job in jobs]
    levels = np.full((max(tasks, len(jobs)), max(most, *map(len, wanted))), 0.5)
    for task, own in enumerate(wanted):
        levels[task, : len(own)] = own
    return levels


def _nll(model: Model, belief: Predictive, support: Examples) -> Tensor:
    """Of a belief in the network's units about the support rows."""
    mask = support.mask.unsqueeze(-1)
    total = torch.where(mask, -belief.log_density(support.y), 0).sum((1, 2))
    units = float(np.mean([np.log(column.std) for column in model.manifest.outputs]))
    return total / (support.counts() * support.y.shape[-1]).clamp_min(1) + units


CELLS, GPU_CELLS = 1 << 17, 1 << 24
"""Tasks × hypotheses × rows that are predicted together: they stay in cache, and in a GPU's memory."""


WASTE, GPU_WASTE = 20_000, 1 << 21
"""Cells of padding that cost as much as a part more."""


def _predicted_together(jobs: Sequence[Job]) -> tuple[list[Answer | Diverged], BatchTimes]:
    first = jobs[0]
    model = first.model.drawing(first.seed)
    support, query = padded(jobs, model.device)
    started = time.perf_counter()
    adaptation = Adaptation.of(jobs, model, support)
    adapted = time.perf_counter()
    before = _before(model, support) if first.known is None else np.zeros(len(jobs))
    answers: dict[int, Answer | Diverged] = {}
    rows = query.x.shape[1] + (support.x.shape[1] if first.known is None else 0)
    for tasks in _alike(adaptation.posterior, rows):
        posterior, shown, x = adaptation.posterior, support, query.x
        if len(tasks) < len(jobs):
            index = torch.tensor(tasks, device=model.device)
            posterior, x = posterior.at(index), x[index]
            shown = Examples(support.x[index], support.y[index], support.mask[index])
        levels = torch.from_numpy(quantile_levels([jobs[task] for task in tasks])).to(model.device)
        found = told(model, posterior, None if first.known else shown, x, levels, first.joint)
        said = Said.of(found)
        for place, task in enumerate(tasks):
            job = jobs[task]
            if adaptation.finite[task] and np.isfinite(before[task]) and said.finite(place, job):
                nll = support_nll(job, float(before[task]), float(said.nll_after[place]))
                answers[task] = _taken_out(found, said, x, place, adaptation, task, job, nll)
            else:
                answers[task] = diverged(job)
    seconds = BatchTimes(adapt_s=adapted - started, predict_s=time.perf_counter() - adapted)
    return [answers[task] for task in range(len(jobs))], seconds


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
    job: Job,
    nll: tuple[float, float] | None,
) -> Answer:
    if job.known is not None:
        nll = job.known.support_nll
    own, rows = slice(place, place + 1), slice(len(job.query_x))
    moments = said.moments(place, job)
    result: Predicted | Selection | None = None
    if isinstance(job.spec, PredictionSpec):
        result = Predicted(moments, said.levels(place, job))
        if job.spec.particles:
            result = _with_particles(found.belief.part(own, rows), result)
    elif job.spec is not None:
        belief = found.belief.part(own, rows).without_negligible(0.0)
        spread = Uncertainty(moments.aleatoric.sum(-1), moments.epistemic.sum(-1))
        labelled = torch.from_numpy(job.support_x).to(query_x).unsqueeze(0)
        result = choose(job.spec, belief, spread, query_x[own, rows], labelled)
    return Answer(
        result=result,
        support_nll=nll,
        effective_particles=float(adaptation.effective[task]),
        kept=adaptation.kept(task, job, nll),
        cached=job.known is not None,
    )


def _with_particles(belief: Predictive, result: Predicted) -> Predicted:
    """With every hypothesis of weight."""
    weights = array(belief.log_weights.exp())[0]
    scale = (belief.noise + belief.within).sqrt().expand_as(belief.means)
    real = weights > 0
    means, scales = array(belief.means)[0], array(scale)[0]
    return replace(result, particle_mean=means[real], particle_std=scales[real], weights=weights[real])
