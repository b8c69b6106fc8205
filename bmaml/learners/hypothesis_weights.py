"""The weights of a collapsed learner's hypotheses: their prior times a power of their evidence.

**Correlated rows.** Where no particle is quite true, the errors of a task's rows are correlated. With
correlation ρ, n rows carry the information of n/(1 + (n − 1)ρ) independent ones (the design effect of Kish,
Survey Sampling, 1965). The evidence then has the exponent τ (1 + (n₀ − 1)ρ)/(1 + (n − 1)ρ). It is τ at n₀ = 5
rows, whatever ρ is. As a function of n it is the power of the coarsened posterior (Miller & Dunson 2019),
∝ 1/(α + n) with α = (1 − ρ)/ρ. ρ is zero in training, whose tasks the particles fit, and is calibrated on
validation tasks. n is clamped to the numbers of rows of that calibration.

The softened share of the weights is told in `surprise.py`.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from bmaml.learners.hypotheses import Layout
from bmaml.learners.interface import Learned
from bmaml.learners.surprise import POOLED_SHARE, START_SHARES
from bmaml.shapes import PerTask

REFERENCE_ROWS = 5
"""n₀, the number of rows at which the exponent of the evidence is τ, whatever the correlation."""


def log_weights(
    layout: Layout,
    learned: Learned,
    evidence: Float[Tensor, "task hypothesis"],
    exponent: Float[Tensor, "#task 1"],
) -> Float[Tensor, "task hypothesis"]:
    """Logarithms of the weights, normalised."""
    logs = exponent * evidence
    if layout.has_groups:
        logs = logs + log_prior_of(layout, learned, logs)
    return logs.log_softmax(-1)


def softened(
    layout: Layout, learned: Learned, log_weights: Float[Tensor, "task hypothesis"], power: float
) -> Float[Tensor, "task hypothesis"]:
    """The weights, of which a share follows a power of the evidence instead."""
    prior = log_prior_of(layout, learned, log_weights)
    soft = (power * (log_weights - prior) + prior).log_softmax(-1)
    log_share = learned["log_softened"].to(log_weights).clamp_max(math.log(0.5))
    return torch.logaddexp(log_weights + torch.log1p(-log_share.exp()), soft + log_share)


def log_prior_of(layout: Layout, learned: Learned, like: Tensor) -> Float[Tensor, " hypothesis"]:
    """Logarithms of the prior weights, in the precision of `like`."""
    pooled = learned["pooled_log_prior"].to(like) if layout.pooled_layers else None
    return layout.log_prior(learned["log_shares"].to(like), pooled)


def evidence_exponent(
    learned: Learned, rows: PerTask, correlated: tuple[int, int] | None
) -> Float[Tensor, "#task 1"]:
    """The exponent of the evidence, τ corrected for correlated rows.

    τ is at most 1: evidence counts once. Few training tasks may teach particles that it counts more.

    Args:
        rows: support rows of each task.
        correlated: the fewest and the most rows of calibration; None takes errors for independent.
    """
    temperature = learned["log_temperature"].clamp_max(0).exp().view(1, 1)
    if correlated is None:
        return temperature
    correlation, (fewest, most) = learned["correlation"], correlated
    rows = rows.clamp(max(1, fewest), most).unsqueeze(-1)
    return temperature * (1 + (REFERENCE_ROWS - 1) * correlation) / (1 + (rows - 1) * correlation)


def start_shares(layout: Layout) -> Float[Tensor, " group"]:
    """Prior weights of the groups of hypotheses, before the validation tasks are counted."""
    shares = torch.tensor(START_SHARES)
    if not layout.pooled_layers:
        return shares
    shares = torch.cat([shares, POOLED_SHARE * shares[:1]])
    shares[0] -= shares[-1]
    return shares
