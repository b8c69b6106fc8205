"""Which unlabelled row to label next where labels are classes: scores for a pool, higher is better."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bmaml import tails
from bmaml.acquisition.scores import NeedsTarget
from bmaml.blocks import blocks
from bmaml.categorical import Categorical
from bmaml.shapes import PerRow

MAX_JOINT_PROBABILITIES = 2_000_000
"""Joint probabilities that are computed together."""


@dataclass(frozen=True)
class ClassPool:
    """What a score may look at: beliefs about the pool and, for EPIG, the target rows.

    `uniform` is one draw in (0, 1) per pool row.
    """

    predictive: Categorical
    uniform: PerRow
    target: Categorical | None = None


def entropy(pool: ClassPool) -> PerRow:
    """Of the mixture: maximum entropy sampling, as in Yoon et al. 2018."""
    return pool.predictive.entropy()


def bald(pool: ClassPool) -> PerRow:
    """Mutual information of label and particle (Houlsby et al. 2011)."""
    return pool.predictive.mutual_information()


def margin(pool: ClassPool) -> PerRow:
    """One minus the lead of the most probable class over the next."""
    return 1 - pool.predictive.margin()


def least_confidence(pool: ClassPool) -> PerRow:
    """One minus the largest probability."""
    return 1 - pool.predictive.probabilities().amax(-1)


def variation_ratio(pool: ClassPool) -> PerRow:
    """The weight of particles that name another class than most."""
    return pool.predictive.variation_ratio()


def epig(pool: ClassPool) -> PerRow:
    """Expected predictive information gain about the target rows (Bickford Smith et al. 2023, eq. 9).

    The mutual information of the labels of a pool row and of a target row, which are independent given
    the particle, averaged over target rows; exact over the particles.

    Raises:
        NeedsTarget: there are no target rows.
    """
    if pool.target is None:
        raise NeedsTarget("epig needs target rows: where should the predictions get better?")
    ours = tails.exp(pool.predictive.log_probabilities)  # [task, particle, row, class]
    weights = tails.exp(pool.predictive.log_weights)[..., None, None]
    theirs = weights * tails.exp(pool.target.log_probabilities)
    targets, classes = theirs.shape[2], theirs.shape[3]
    both = ours.new_empty(len(ours), ours.shape[2])
    for some in blocks(ours.shape[2], MAX_JOINT_PROBABILITIES, targets * classes**2 * len(ours)):
        joint = torch.einsum("tmrc,tmqd->trqcd", ours[:, :, some], theirs)
        both[:, some] = torch.special.entr(joint).sum((-1, -2)).mean(-1)
    return (pool.predictive.entropy() + pool.target.entropy().mean(-1, keepdim=True) - both).clamp_min(0)


def random(pool: ClassPool) -> PerRow:
    """Uniform: what every other score has to beat."""
    return pool.uniform


@dataclass(frozen=True)
class ClassAcquisition:
    """A score `[task, row]` with the unit it is in."""

    score: Callable[[ClassPool], Tensor]
    units: str


CLASS_ACQUISITIONS: dict[str, ClassAcquisition] = {
    "entropy": ClassAcquisition(entropy, "nats"),
    "bald": ClassAcquisition(bald, "nats"),
    "margin": ClassAcquisition(margin, "probability"),
    "least_confidence": ClassAcquisition(least_confidence, "probability"),
    "variation_ratio": ClassAcquisition(variation_ratio, "probability"),
    "epig": ClassAcquisition(epig, "nats"),
    "random": ClassAcquisition(random, "none"),
}
"""Those that fit a classification."""


def ceiling(belief: Categorical) -> float:
    """The most nats that any number of labels can tell about the particles: the entropy of their weights.

    log M for M that count alike.
    """
    most = torch.special.entr(tails.exp(belief.log_weights)).sum(-1).amax()
    return min(float(most), math.log(belief.log_weights.shape[-1]))
