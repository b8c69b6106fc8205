"""The first half of a batch, for all kinds of model: padded rows in, one posterior over all tasks out."""

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
from model_store.model import Single
from service.job import Array, Job, KeptPosterior

NEGLIGIBLE = 1e-8
"""Weight of the hypotheses that are left out: far below single precision."""


@dataclass(frozen=True)
class Adaptation:
    """Every task's posterior, and what is said of it.

    Attributes:
        finite: False where adaptation diverged.
        effective: 1 / Σ weight² over particles.
    """

    posterior: Any
    finite: NDArray[np.bool_]
    effective: Array

    @classmethod
    def of(cls, jobs: Sequence[Job], model: Model, support: Examples) -> "Adaptation":
        """Adapt to the support sets, or recall what is known of them."""
        known = [job.kept for job in jobs if job.kept is not None]
        if known:
            posteriors = [kept.posterior for kept in known]
            posterior: Posterior = type(posteriors[0]).joined(posteriors)
            effective = np.array([kept.effective_particles for kept in known])
            return cls(posterior, np.ones(len(known), bool), effective)
        posterior = model.learner.adapt_pruned(model.learned, support, NEGLIGIBLE, jobs[0].steps)
        finite = np.broadcast_to(posterior.finite().cpu().numpy(), len(jobs))
        return cls(posterior, finite, to_numpy(model.learner.effective_particles(posterior)))

    def kept(
        self, task: int, job: Job, support_nll: tuple[float, float] | None, labelled: Tensor | None = None
    ) -> KeptPosterior | None:
        """One task's share, if it is to be kept."""
        if job.key is None:
            return None
        if job.kept is not None:
            return job.kept
        alone = self.posterior.at(torch.tensor([task]))
        features = None if labelled is None else labelled.clone()
        return KeptPosterior(alone, support_nll, float(self.effective[task]), features)


def padded(jobs: Sequence[Job], device: torch.device) -> tuple[Examples, Examples]:
    """Support sets, and query rows without labels, padded to the longest; no support where it is known."""
    known = jobs[0].kept is not None
    support_x = [job.support_x[:0] if known else job.support_x for job in jobs]
    support_y = [job.support_y[:0] if known else job.support_y for job in jobs]
    query_x = [job.query_x for job in jobs]
    return _examples(support_x, support_y, device), _examples(query_x, [x[:, :0] for x in query_x], device)


def _examples(x: Sequence[Single], y: Sequence[Single], device: torch.device) -> Examples:
    counts = np.array([len(each) for each in x])
    mask = np.arange(max(1, counts.max())) < counts[:, None]
    return Examples(*(_moved(values, device) for values in (stacked(x, mask), stacked(y, mask), mask)))


def stacked(rows: Sequence[Single], mask: NDArray[np.bool_]) -> Single:
    """The tasks' rows where the mask is true, `[task, row, column]`."""
    whole = np.zeros((*mask.shape, rows[0].shape[1]), np.float32)
    whole[mask] = np.concatenate(rows)
    return whole


def _moved(values: NDArray[Any], device: torch.device) -> Tensor:
    """On the device; through pinned memory, so that the copy need not be waited for."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def to_numpy(values: Tensor) -> Array:
    """On the CPU, in double precision."""
    return values.double().cpu().numpy()


def diverged(job: Job) -> Diverged:
    """What a task is told whose adaptation left the finite numbers."""
    return Diverged(
        f"adapting {job.model.manifest.name!r} to these {len(job.support_x)} rows left the finite numbers; "
        "check the units of the rows, or ask for fewer steps"
    )
