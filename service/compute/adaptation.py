"""The adaptation of a batch, for all kinds of model: padded rows in, one posterior over all tasks out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bmaml.learners import Diverged
from bmaml.learners.posterior import Posterior
from bmaml.task import Examples
from model_store import Model
from model_store.model import NEGLIGIBLE_WEIGHT, Single
from service.compute.surprise import surprise_of
from service.job import Array, Job, KeptPosterior
from service.schemas.diagnostics import Surprise


@dataclass(frozen=True)
class Adaptation:
    """The posterior of a batch.

    Attributes:
        posterior: one posterior over all tasks, with a leading `task` axis.
        finite: whether the task's adaptation stayed finite, `[task]`.
        effective_particles: 1 / Σ weight² over particles, `[task]`.
        group_weights: weights of the groups of hypotheses, `[task, group]`; None where all are known ones.
    """

    posterior: Any
    finite: NDArray[np.bool_]
    effective_particles: Array
    group_weights: Array | None

    @classmethod
    def of(cls, jobs: Sequence[Job], model: Model, support: Examples) -> "Adaptation":
        """Adapt to the support sets, or join the jobs' kept posteriors."""
        all_kept = [job.kept for job in jobs if job.kept is not None]
        if all_kept:
            posteriors = [kept.posterior for kept in all_kept]
            posterior: Posterior = type(posteriors[0]).joined(posteriors)
            effective = np.array([kept.effective_particles for kept in all_kept])
            finite = np.ones(len(all_kept), bool)
            return cls(posterior, finite, effective, _group_weights(model, posterior))
        posterior = model.learner.adapt_pruned(model.learned, support, NEGLIGIBLE_WEIGHT, jobs[0].steps)
        finite = np.broadcast_to(posterior.finite().cpu().numpy(), len(jobs))
        effective = to_numpy(model.learner.effective_particles(posterior))
        return cls(posterior, finite, effective, _group_weights(model, posterior))

    def surprise(self, task: int) -> Surprise | None:
        """The weights of a task's surprising hypotheses; None where the model has none."""
        return None if self.group_weights is None else surprise_of(self.group_weights[task])

    def kept_posterior(
        self,
        task: int,
        job: Job,
        support_nll: tuple[float, float] | None,
        support_features: Tensor | None = None,
    ) -> KeptPosterior | None:
        """One task's posterior, if its job has a key; else None."""
        if job.key is None:
            return None
        if job.kept is not None:
            return job.kept
        own = self.posterior.at(torch.tensor([task]))
        features = None if support_features is None else support_features.clone()
        return KeptPosterior(own, support_nll, float(self.effective_particles[task]), features)


def _group_weights(model: Model, posterior: Posterior) -> Array | None:
    weights = model.learner.group_weights(posterior)
    return None if weights is None else to_numpy(weights)


def support_nll(job: Job, before: float, after: float) -> tuple[float, float] | None:
    """NLL of a task's support labels before and after adaptation; None without support rows."""
    return (before, after) if len(job.support_x) else None


def padded_examples(
    jobs: Sequence[Job], device: torch.device, kept_rows: bool = False
) -> tuple[Examples, Examples]:
    """Support sets, and query rows without labels, padded to the longest of the batch.

    Args:
        kept_rows: also take the support sets of kept posteriors, which otherwise are empty.
    """
    has_rows = kept_rows or jobs[0].kept is None
    support_x = [job.support_x if has_rows else job.support_x[:0] for job in jobs]
    support_y = [job.support_y if has_rows else job.support_y[:0] for job in jobs]
    query_x = [job.query_x for job in jobs]
    return _padded(support_x, support_y, device), _padded(query_x, [x[:, :0] for x in query_x], device)


def _padded(x: Sequence[Single], y: Sequence[Single], device: torch.device) -> Examples:
    counts = np.array([len(each) for each in x])
    mask = np.arange(max(1, counts.max())) < counts[:, None]
    arrays = padded_rows(x, mask), padded_rows(y, mask), mask
    return Examples(*(_to_device(array, device) for array in arrays))


def padded_rows(rows: Sequence[Single], mask: NDArray[np.bool_]) -> Single:
    """All tasks' rows in one array `[task, row, column]`, zero where the mask is False."""
    result = np.zeros((*mask.shape, rows[0].shape[1]), np.float32)
    result[mask] = np.concatenate(rows)
    return result


def padded_targets(jobs: Sequence[Job], rows: int) -> NDArray[np.float64] | None:
    """The jobs' targets, `[task, row, output]`, padded with zeros; None where no job has any."""
    posted = {task: job.query_y for task, job in enumerate(jobs) if job.query_y is not None}
    if not posted:
        return None
    targets = np.zeros((len(jobs), rows, len(jobs[0].model.manifest.outputs)))
    for task, own in posted.items():
        targets[task, : len(own)] = own
    return targets


def _to_device(values: NDArray[Any], device: torch.device) -> Tensor:
    """A copy on the device; through pinned memory on a GPU, so that the host does not wait for it."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def to_numpy(values: Tensor) -> Array:
    """The values on the CPU in double precision."""
    return values.double().cpu().numpy()


def single_precision(values: NDArray[Any]) -> NDArray[np.float32]:
    """The values in single precision, contiguous."""
    return np.ascontiguousarray(values, dtype=np.float32)


def diverged(job: Job) -> Diverged:
    """The error of a task whose adaptation left the finite numbers."""
    fewer = ", or ask for fewer steps" if job.steps and job.model.manifest.kind != "policy" else ""
    return Diverged(
        f"adapting {job.model.manifest.name!r} to these {len(job.support_x)} rows left the finite numbers; "
        f"check the units of the rows{fewer}"
    )
