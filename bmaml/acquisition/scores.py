"""Acquisitions for regression: scores `[task, row]` of a pool, higher for rows more worth a label.

Scores of several outputs are summed: variances, and information as if outputs were independent given the
row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from bmaml import tails
from bmaml.blocks import blocks
from bmaml.errors import BmamlError
from bmaml.predictive import Predictive
from bmaml.shapes import PerRow, PerTask

MAX_CORRELATIONS = 1 << 20
"""Pool rows × target rows × outputs that are compared together."""
UCB_WIDTH = 2.0
"""Epistemic standard deviations above the mean, in the upper confidence bound."""
MAX_POOL_TARGETS = 256
"""Rows of the pool that are the targets of EPIG, at most, where it is given none."""
EPIG_NEEDS_TARGET = "epig needs target rows: where should the predictions get better?"
"""Message of `NeedsTarget`."""


class NeedsTarget(BmamlError, ValueError):
    """EPIG about classes without target rows."""


@dataclass(frozen=True)
class Pool:
    """The arguments of a score.

    Attributes:
        predictive: the belief about the pool rows.
        best: the largest label so far, `[task]`, which expected improvement compares with; without labels
            the largest predicted mean.
        uniform: one draw in (0, 1) per pool row, for `random` and for a sample of the pool.
        target: the belief about the target rows of EPIG, with its factor; None: the pool's own rows.
    """

    predictive: Predictive
    best: PerTask
    uniform: PerRow
    target: Predictive | None = None


PoolT = TypeVar("PoolT")


@dataclass(frozen=True)
class Acquisition(Generic[PoolT]):
    """A score with its unit.

    Attributes:
        score: `[task, row]` of a pool.
        joint: the score needs covariances between rows, as of `predict(joint=True)`.
        batch: the strategy that selects several rows by what the score measures. The best rows by information
            tend to repeat each other, so that it is measured for all of them together.
    """

    score: Callable[[PoolT], Tensor]
    units: str
    joint: bool = False
    batch: str = "power"


def total_variance(pool: Pool) -> PerRow:
    """Aleatoric + epistemic variance."""
    return pool.predictive.variance().sum(-1)


def epistemic_variance(pool: Pool) -> PerRow:
    """The variance that labels can remove (MacKay 1992)."""
    return pool.predictive.epistemic().sum(-1)


def entropy(pool: Pool) -> PerRow:
    """Differential entropy of the mixture (maximum entropy sampling, Shewry & Wynn 1987)."""
    return pool.predictive.entropy().sum(-1)


def epig(pool: Pool) -> PerRow:
    """Expected predictive information gain about the target rows (Bickford Smith et al. 2023).

    −½ log(1 − ρ²) averaged over targets, with ρ the predictive correlation of the labels of a pool row
    and of a target row: Gaussian in the mixture's first two moments.

    Without a target it is about the pool itself. A row's own target is then a second label of the same row.
    The `MAX_POOL_TARGETS` rows of the smallest draws represent a larger pool, whatever their order.
    """
    rows = _standardised_root(pool.predictive)
    if pool.target is not None:
        targets = _standardised_root(pool.target)
    elif rows.shape[1] <= MAX_POOL_TARGETS:
        targets = rows
    else:
        sample = pool.uniform.argsort(dim=-1, stable=True)[:, :MAX_POOL_TARGETS]
        targets = rows.gather(1, sample[..., None, None].expand(-1, -1, *rows.shape[2:]))
    found = rows.new_empty(rows.shape[:2])
    for some in blocks(rows.shape[1], MAX_CORRELATIONS, targets.shape[:-1].numel()):
        squares = torch.einsum("tpoe,tqoe->tpqo", rows[:, some], targets).square_()
        squares.clamp_max_(1 - torch.finfo(squares.dtype).eps)
        found[:, some] = torch.log1p(squares.neg_()).mean(2).sum(-1).mul_(-0.5)
    return found


def _standardised_root(predictive: Predictive) -> Tensor:
    """Rows whose inner products are the correlations of labels, `[task, row, output, dimension]`.

    The square of a row is the epistemic share of its variance.
    """
    variance = predictive.variance()
    scale = variance.clamp_min(torch.finfo(variance.dtype).tiny).rsqrt()
    return predictive.covariance_root() * scale.unsqueeze(-1)


def expected_improvement(pool: Pool) -> PerRow:
    """E[max(y − best, 0)] of the first output: Gaussian formulas, averaged by weight (Jones et al. 1998)."""
    predictive = pool.predictive
    scale = (predictive.within + predictive.noise).sqrt().expand_as(predictive.means)[..., 0]
    gain = predictive.means[..., 0] - pool.best.view(-1, 1, 1)
    standard = gain / scale
    density = tails.exp(-0.5 * standard.square()) / (2 * torch.pi) ** 0.5
    # Far below the best this is a difference of tiny numbers, and may come out negative.
    improvement = gain * tails.ndtr(standard) + scale * density
    return (predictive.weights.unsqueeze(-1) * improvement).sum(1).clamp_min(0)


def upper_confidence_bound(pool: Pool) -> PerRow:
    """Mean + `UCB_WIDTH` epistemic standard deviations of the first output (Srinivas et al. 2010)."""
    predictive = pool.predictive
    return predictive.mean()[..., 0] + UCB_WIDTH * predictive.epistemic()[..., 0].clamp_min(0).sqrt()


def random(pool: Pool) -> PerRow:
    """The uniform draw: the baseline of every other score."""
    return pool.uniform


ACQUISITIONS: dict[str, Acquisition[Pool]] = {
    "total_variance": Acquisition(total_variance, "output units squared", batch="joint_entropy"),
    "epistemic_variance": Acquisition(epistemic_variance, "output units squared", batch="max_determinant"),
    "entropy": Acquisition(entropy, "nats", batch="joint_entropy"),
    "epig": Acquisition(epig, "nats", joint=True, batch="joint_epig"),
    "expected_improvement": Acquisition(expected_improvement, "output units"),
    "ucb": Acquisition(upper_confidence_bound, "output units"),
    "random": Acquisition(random, "none", batch="top_k"),
}
"""Every acquisition for regression, by name."""

DEFAULT_ACQUISITION = "epig"
"""The acquisition for regression of a request that names none; docs/active-learning.md compares it."""
