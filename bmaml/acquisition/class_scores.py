"""Acquisitions for classification: scores `[task, row]` of a pool, higher for rows more worth a label."""

import math
from dataclasses import dataclass

import torch

from bmaml import tails
from bmaml.acquisition.scores import EPIG_NEEDS_TARGET, Acquisition, NeedsTarget
from bmaml.blocks import blocks
from bmaml.categorical import Categorical
from bmaml.shapes import PerRow

MAX_JOINT_PROBABILITIES = 2_000_000
"""Joint probabilities that are computed together."""


@dataclass(frozen=True)
class ClassPool:
    """The arguments of a score.

    Attributes:
        predictive: the belief about the pool rows.
        uniform: one draw in (0, 1) per pool row, for `random`.
        target: the belief about the target rows of EPIG.
    """

    predictive: Categorical
    uniform: PerRow
    target: Categorical | None = None


def entropy(pool: ClassPool) -> PerRow:
    """Entropy of the mixture, in nats: maximum entropy sampling, as in Yoon et al. 2018."""
    return pool.predictive.entropy()


def bald(pool: ClassPool) -> PerRow:
    """Mutual information of label and hypothesis, in nats (Houlsby et al. 2011)."""
    return pool.predictive.hypotheses.mutual_information()


def margin(pool: ClassPool) -> PerRow:
    """One minus the lead of the most probable class over the next."""
    return 1 - pool.predictive.margin()


def least_confidence(pool: ClassPool) -> PerRow:
    """One minus the largest probability."""
    return 1 - pool.predictive.probabilities().amax(-1)


def variation_ratio(pool: ClassPool) -> PerRow:
    """The weight of the hypotheses whose most probable class is not the one that most of them name."""
    return pool.predictive.variation_ratio()


def epig(pool: ClassPool) -> PerRow:
    """Expected predictive information gain about the target rows (Bickford Smith et al. 2023, eq. 9).

    The mutual information of the labels of a pool row and of a target row, averaged over target rows.
    Labels are independent given the hypothesis, so that it is exact.

    Raises:
        NeedsTarget: without target rows.
    """
    if pool.target is None:
        raise NeedsTarget(EPIG_NEEDS_TARGET)
    own, target = pool.predictive.hypotheses, pool.target.hypotheses
    ours = tails.exp(own.log_probabilities)  # [task, hypothesis, row, class]
    theirs = tails.exp(own.log_weights)[..., None, None] * tails.exp(target.log_probabilities)
    targets, classes = theirs.shape[2], theirs.shape[3]
    both = ours.new_empty(len(ours), ours.shape[2])
    for some in blocks(ours.shape[2], MAX_JOINT_PROBABILITIES, targets * classes**2 * len(ours)):
        joint = torch.einsum("tmrc,tmqd->trqcd", ours[:, :, some], theirs)
        both[:, some] = torch.special.entr(joint).sum((-1, -2)).mean(-1)
    return (own.entropy() + target.entropy().mean(-1, keepdim=True) - both).clamp_min(0)


def random(pool: ClassPool) -> PerRow:
    """The uniform draw: the baseline of every other score."""
    return pool.uniform


CLASS_ACQUISITIONS: dict[str, Acquisition[ClassPool]] = {
    "entropy": Acquisition(entropy, "nats"),
    "bald": Acquisition(bald, "nats", batch="joint"),
    "margin": Acquisition(margin, "probability"),
    "least_confidence": Acquisition(least_confidence, "probability"),
    "variation_ratio": Acquisition(variation_ratio, "probability"),
    "epig": Acquisition(epig, "nats"),
    "random": Acquisition(random, "none", batch="top_k"),
}
"""Every acquisition for classification, by name."""


def information_ceiling(belief: Categorical) -> float:
    """The most nats that any number of labels can tell about the hypotheses: the entropy of their weights.

    M hypotheses of equal weight give log M, which is the maximum.
    """
    log_weights = belief.hypotheses.log_weights
    most = torch.special.entr(tails.exp(log_weights)).sum(-1).amax()
    return min(float(most), math.log(log_weights.shape[-1]))
