"""Regression tasks of one model together: adapted, predicted, and taken apart into answers."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bmaml.blocks import blocks
from bmaml.learners import Diverged
from bmaml.learners.posterior import Posterior
from bmaml.predictive import Predictive
from bmaml.task import Examples
from bmaml.transformed import Transformed
from model_store import Model
from service.compute.adaptation import (
    Adaptation,
    diverged,
    padded_examples,
    padded_targets,
    single_precision,
    support_nll,
    to_numpy,
)
from service.compute.selection import choose
from service.job import (
    Answer,
    Array,
    BatchTimes,
    Job,
    PredictionSpec,
    Selection,
    SelectionSpec,
    Uncertainty,
)
from service.schemas.predictions import (
    Interval,
    IntervalByMethod,
    ParticleMoments,
    Prediction,
    Quantiles,
    ScoredPrediction,
    Variance,
)

MAX_CELLS, MAX_GPU_CELLS = 1 << 17, 1 << 24
"""Tasks × hypotheses × rows that are predicted together: on a CPU they stay in cache, on a GPU in memory."""
LEVEL_TOLERANCE = 1e-3
"""Relative error of a quantile's level, or of its complement, for which light hypotheses are left out."""
MAX_PADDING_CELLS, MAX_GPU_PADDING_CELLS = 20_000, 1 << 21
"""Cells of padding that take as long as another group, on a CPU and on a GPU."""


@dataclass(frozen=True)
class BatchMoments:
    """The beliefs about a batch of tasks as arrays on the CPU, padding included.

    Attributes:
        nll_after: of the support labels, nats per value, `[task]`; zero without support rows.
        mean, aleatoric, epistemic: `[task, row, output]`, in the caller's units.
        quantiles: `[task, level, row, output]`.
        log_density: of the posted targets in nats, `[task, row, output]`; None where no task has any.
        own_scale: mean and variance on the scales of the outputs' links, `[2, task, row, output]`; None where
            these are the caller's units.
        known_finite: whether all moments and quantiles of a task are finite in single precision, `[task]`;
            None where nobody has looked.
    """

    nll_after: Array
    mean: Array
    aleatoric: Array
    epistemic: Array
    quantiles: Array
    log_density: Array | None = None
    own_scale: Array | None = None
    known_finite: NDArray[np.bool_] | None = field(default=None, kw_only=True)

    @classmethod
    def of(cls, model: Model, arrays: Sequence[Array]) -> Self:
        """The tensors of `believe`, on the CPU."""
        if model.plain:
            return cls(*arrays)
        nll_after, mean, aleatoric, epistemic, quantiles, own_scale, *scored = arrays
        log_density = scored[0] if scored else None
        return cls(nll_after, mean, aleatoric, epistemic, quantiles, log_density, own_scale)

    def finite(self, task: int, job: Job) -> bool:
        """Whether every number of a task's answer is finite; padding does not count."""
        scored = self._scored(task, job)
        if scored is not None and not np.isfinite(scored).all():
            return False
        ends = self._conformal_ends(task, job)
        if ends is not None and not np.isfinite(ends).all():
            return False
        if self.known_finite is not None:
            return bool(self.known_finite[task] and np.isfinite(self.nll_after[task]))
        if self._finite_with_padding[task]:
            return True
        rows, levels = len(job.query_x), job.spec.levels if isinstance(job.spec, PredictionSpec) else ()
        *moments, quantiles = (values[task, ..., :rows, :] for values in self._in_single_precision)
        values = [*moments, quantiles[: len(levels)], self.nll_after[task]]
        return all(bool(np.isfinite(each).all()) for each in values)

    @cached_property
    def _finite_with_padding(self) -> NDArray[np.bool_]:
        """True for tasks whose numbers are all finite, padding included: one pass for the whole batch."""
        finite = np.isfinite(self.nll_after)
        for values in self._in_single_precision:
            finite &= np.isfinite(values).reshape(len(values), -1).all(-1)
        return finite

    @cached_property
    def _in_single_precision(self) -> tuple[NDArray[np.float32], ...]:
        """Mean, std, total, aleatoric and epistemic variance, and quantiles, as they are answered."""
        total = self.aleatoric + self.epistemic
        each = self.mean, np.sqrt(total), total, self.aleatoric, self.epistemic, self.quantiles
        with np.errstate(over="ignore", invalid="ignore"):  # `finite` looks
            return tuple(single_precision(values) for values in each)

    def uncertainty(self, task: int, job: Job) -> Uncertainty:
        """A task's variances, summed over outputs."""
        own = task, slice(len(job.query_x))
        return Uncertainty(self.aleatoric[own].sum(-1), self.epistemic[own].sum(-1))

    def prediction(self, task: int, job: Job, particles: ParticleMoments | None = None) -> Prediction:
        """A task's prediction in the caller's units."""
        spec, rows = job.spec, slice(len(job.query_x))
        assert isinstance(spec, PredictionSpec)
        assert spec.interval is not None
        *moments, quantiles = (values[task, ..., rows, :] for values in self._in_single_precision)
        mean, std, *variances = map(by_row, moments)
        quantiles = by_row(quantiles[: len(spec.levels)])
        ends = self._conformal_ends(task, job)
        lower, upper = quantiles[-2:] if ends is None else ends
        interval = Interval(spec.interval, lower, upper)
        if spec.interval_method is not None:
            interval = IntervalByMethod(**vars(interval), method=spec.interval_method)
        prediction = Prediction(
            mean=mean,
            std=std,
            variance=Variance(*variances),
            quantiles=Quantiles(list(spec.quantiles), quantiles[: len(spec.quantiles)]),
            interval=interval,
            particles=particles,
        )
        scored = self._scored(task, job)
        return prediction if scored is None else ScoredPrediction(**vars(prediction), log_density=scored)

    def _conformal_ends(self, task: int, job: Job) -> tuple[NDArray[np.float32], ...] | None:
        """Both ends of a task's conformal interval, as they are answered; None where it asks for none."""
        spec, own = job.spec, (task, slice(len(job.query_x)))
        if not isinstance(spec, PredictionSpec) or spec.interval_method != "conformal":
            return None
        conformal, outputs = job.model.manifest.conformal, job.model.manifest.outputs
        assert conformal is not None
        assert spec.interval is not None
        if self.own_scale is None:
            mean, variance = self.mean[own], self.aleatoric[own] + self.epistemic[own]
        else:
            mean, variance = self.own_scale[:, *own]
        std, scale = np.sqrt(variance), np.array([each.std for each in outputs])
        with np.errstate(over="ignore", invalid="ignore"):  # `finite` looks
            reach = conformal.half_widths(len(job.support_x), std, scale, spec.interval)
            ends = (job.model.values(torch.from_numpy(mean + each)).numpy() for each in (-reach, reach))
            return tuple(by_row(single_precision(each)) for each in ends)

    def _scored(self, task: int, job: Job) -> Array | None:
        """The log density of a task's targets, as it is answered; None without targets."""
        if self.log_density is None or job.query_y is None:
            return None
        return np.ascontiguousarray(_without_single_output(self.log_density[task, : len(job.query_y)]))


def believe(
    model: Model,
    posterior: object,
    support: Examples,
    query_x: Tensor,
    levels: Tensor,
    joint: bool = False,
    rounds: int | None = None,
    targets: Tensor | None = None,
    score_support: bool = True,
) -> tuple[Predictive | Transformed, tuple[Tensor, ...]]:
    """The belief about the query rows in the caller's units, and the tensors that `BatchMoments` takes.

    Args:
        support: the rows that the posterior was given.
        query_x: standardised inputs, `[task, row, input]`.
        levels: quantile levels, `[task, level]`.
        joint: whether the belief also carries the features that covariances between rows need.
        rounds: rounds of the search for quantiles; with a given number there is no host synchronisation.
            None: until it converges.
        targets: numbers whose log density is asked for, `[task, row, output]`, in the network's units.
        score_support: whether to score the support rows' labels; False where their NLL is known.
    """
    skip_inside = rounds is None
    if not score_support:
        nll_after = query_x.new_zeros(len(query_x))
        belief = model.predict(posterior, query_x, support, joint, skip_inside)
    else:
        # The support rows are predicted beside the query rows: one pass also scores their labels.
        support_rows = support.x.shape[1]
        rows = torch.cat([support.x, query_x], 1)
        belief = model.predict(posterior, rows, support, joint, skip_inside)
        nll_after = _nll(model, belief.part(slice(None), slice(support_rows)), support)
        belief = belief.part(slice(None), slice(support_rows, None))
    scored = () if targets is None else (_log_density(model, belief, targets),)
    answered = model.in_callers_units(belief)
    moments = answered.mean(), answered.aleatoric(), answered.epistemic()
    quantiles = answered.quantiles(levels, rounds, LEVEL_TOLERANCE if rounds is None else 0.0)
    results = nll_after, *moments, quantiles
    if isinstance(answered, Transformed):
        own_scale = torch.stack([answered.latent.mean(), answered.latent.variance()])
        return answered, (*results, own_scale, *scored)
    return answered, (*results, *scored)


def nll_before(model: Model, support: Examples) -> Tensor:
    """Mean NLL of each task's support labels under the prior, nats per value; zero without rows."""
    return _nll(model, model.prior(support.x), support)


def quantile_levels(jobs: Sequence[Job], tasks: int = 0, width: int = 0) -> Array:
    """Each task's quantile levels, padded with medians to the longest list, and to `tasks` × `width`."""
    by_job = [job.spec.levels if isinstance(job.spec, PredictionSpec) else () for job in jobs]
    levels = np.full((max(tasks, len(jobs)), max(width, *map(len, by_job))), 0.5)
    for task, own in enumerate(by_job):
        levels[task, : len(own)] = own
    return levels


def predict_batch(jobs: Sequence[Job]) -> tuple[list[Answer | Diverged], BatchTimes]:
    """The answers to jobs of one group, in order; a diverged task has its error in place of one."""
    first = jobs[0]
    model = first.model.drawing(first.seed)
    support, query = padded_examples(jobs, model.device, kept_rows=True)
    started = time.perf_counter()
    adaptation = Adaptation.of(jobs, model, support)
    adapted = time.perf_counter()
    before = _nll_before_in_blocks(model, support) if first.kept is None else np.zeros(len(jobs))
    answers: dict[int, Answer | Diverged] = {}
    rows = query.x.shape[1] + (support.x.shape[1] if first.kept is None else 0)
    for tasks in _groups_of_like_size(adaptation.posterior, rows):
        posterior, group_support, x = adaptation.posterior, support, query.x
        if len(tasks) < len(jobs):
            index = torch.tensor(tasks, device=model.device)
            posterior, x = posterior.at(index), x[index]
            group_support = Examples(support.x[index], support.y[index], support.mask[index])
        group = [jobs[task] for task in tasks]
        levels = torch.from_numpy(quantile_levels(group)).to(model.device)
        posted, score_support = padded_targets(group, x.shape[1]), first.kept is None
        targets = None if posted is None else torch.from_numpy(posted).to(x.device)
        belief, tensors = believe(
            model,
            posterior,
            group_support,
            x,
            levels,
            first.joint,
            targets=targets,
            score_support=score_support,
        )
        moments = BatchMoments.of(model, [to_numpy(each) for each in tensors])
        for row, task in enumerate(tasks):
            job = jobs[task]
            if not (adaptation.finite[task] and np.isfinite(before[task]) and moments.finite(row, job)):
                answers[task] = diverged(job)
                continue
            nll = support_nll(job, float(before[task]), float(moments.nll_after[row]))
            nll = nll if job.kept is None else job.kept.support_nll
            answers[task] = Answer(
                result=result_of(job, moments, row, belief, x),
                support_nll=nll,
                effective_particles=float(adaptation.effective_particles[task]),
                surprise=adaptation.surprise(task),
                kept=adaptation.kept_posterior(task, job, nll),
                cached=job.kept is not None,
            )
    times = BatchTimes(adapt_s=adapted - started, predict_s=time.perf_counter() - adapted)
    return [answers[task] for task in range(len(jobs))], times


def result_of(
    job: Job, moments: BatchMoments, task: int, belief: Predictive | Transformed | None, x: Tensor
) -> Prediction | Selection | None:
    """The prediction or the selection that a task asks for.

    Args:
        task: index of the task in `moments`, `belief` and `x`.
        belief: None where neither particles nor a selection are asked for.
    """
    if job.spec is None:
        return None
    own = slice(task, task + 1), slice(len(job.query_x))
    if isinstance(job.spec, PredictionSpec):
        if not job.spec.particles:
            return moments.prediction(task, job)
        assert belief is not None
        return moments.prediction(task, job, _particles(belief.part(*own)))
    assert isinstance(job.spec, SelectionSpec)
    assert belief is not None
    support_x = torch.from_numpy(job.support_x).to(x).unsqueeze(0)
    uncertainty = moments.uncertainty(task, job)
    own_scale, spec = belief.part(*own), job.spec
    if isinstance(own_scale, Transformed):
        own_scale, spec = own_scale.latent, _on_own_scale(spec, job.model)
    return choose(spec, own_scale.pruned(0.0), uncertainty, x[own], support_x)


def _on_own_scale(spec: SelectionSpec, model: Model) -> SelectionSpec:
    """A selection by beliefs on the output's own scale: its best label is there, too."""
    if spec.best is None:
        return spec
    best = model.links[0].to_scale(torch.tensor(spec.best, dtype=torch.float64))
    return replace(spec, best=float(best))


def _particles(belief: Predictive | Transformed) -> ParticleMoments:
    """Means, standard deviations and weights of the hypotheses that have weight."""
    weights = to_numpy(belief.log_weights.exp())[0]
    real = weights > 0
    means, stds = to_numpy(belief.means)[0], to_numpy(belief.stds)[0]
    return ParticleMoments(by_row(means[real]), by_row(stds[real]), weights[real].astype(np.float32))


def by_row(values: NDArray[Any]) -> NDArray[np.float32]:
    """`[…, row, output]` in single precision; `[…, row]` for a single output."""
    return single_precision(_without_single_output(values))


def _without_single_output(values: NDArray[Any]) -> NDArray[Any]:
    """`[…, row]` from `[…, row, output]` for a single output."""
    return values[..., 0] if values.shape[-1] == 1 else values


def _nll_before_in_blocks(model: Model, support: Examples) -> Array:
    """`nll_before`, computed in blocks of tasks."""
    max_cells = MAX_CELLS if model.device.type == "cpu" else MAX_GPU_CELLS
    parts = blocks(len(support), max_cells, model.learner.hypotheses * support.x.shape[1])
    return to_numpy(torch.cat([nll_before(model, support.tasks(part)) for part in parts]))


def _groups_of_like_size(posterior: Posterior, rows: int) -> Iterator[list[int]]:
    """Groups of tasks with about as many hypotheses each: little padding, and few cells.

    Args:
        rows: predicted rows of each task.
    """
    on_cpu = posterior.log_weights.device.type == "cpu"
    max_cells = MAX_CELLS if on_cpu else MAX_GPU_CELLS
    max_padding = MAX_PADDING_CELLS if on_cpu else MAX_GPU_PADDING_CELLS
    counts = (posterior.log_weights > -torch.inf).sum(-1).tolist()
    group: list[int] = []
    real = 0
    for task in sorted(range(len(counts)), key=counts.__getitem__):
        real, with_padding = real + counts[task], (len(group) + 1) * counts[task]
        if group and (rows * (with_padding - real) > max_padding or rows * with_padding > max_cells):
            yield sorted(group)
            group, real = [], counts[task]
        group.append(task)
    yield sorted(group)


def _log_density(model: Model, belief: Predictive, targets: Tensor) -> Tensor:
    """Log density of targets `[task, row, output]` under a belief, both in the network's units.

    In nats, per unit of the caller; of targets with a step, the log probability of the cell per unit.
    In double precision the squares of far targets do not overflow.
    """
    if not model.plain:
        return model.in_callers_units(belief).log_density(model.labels(targets))
    units = targets.new_tensor([math.log(column.std) for column in model.manifest.outputs])
    return belief.double().log_density(targets) - units


def _nll(model: Model, belief: Predictive, support: Examples) -> Tensor:
    """NLL of the support labels under a belief in the network's units, nats per value, `[task]`."""
    mask, labels = support.mask.unsqueeze(-1), (support.counts() * support.y.shape[-1]).clamp_min(1)
    if not model.plain:
        log_density = model.in_callers_units(belief).log_density(model.labels(support.y.double()))
        return torch.where(mask, -log_density, 0).sum((1, 2)) / labels
    total = torch.where(mask, -belief.log_density(support.y), 0).sum((1, 2))
    units = float(np.mean([np.log(column.std) for column in model.manifest.outputs]))
    return total / labels + units
