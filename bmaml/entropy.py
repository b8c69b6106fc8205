"""Differential entropy of one-dimensional mixtures of Gaussians, many at a time.

−E[log p(y)] is a weighted sum over points. Of a few components they are the nodes of Gauss–Hermite quadrature
in each: exact for one Gaussian, and good to about a hundredth of a nat for mixtures whose narrow components
do not hide inside wide ones. Of more components STRATA points are drawn evenly instead, each standing for the
same share of the probability, so that the cost grows with the components and not with their square.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bmaml import tails
from bmaml.blocks import blocks
from bmaml.shapes import LogWeights

HERMITE_NODES, STRATA = 32, 1024
"""Points at which the density is looked at: in each component, and in all of many together."""
MAX_TERMS = 1 << 18
"""Places × points × components that are evaluated together: they stay in cache."""

Components = Float[Tensor, "task particle place"]


def of_mixtures(
    means: Components, scales: Components, log_weights: LogWeights
) -> Float[Tensor, "task place"]:
    """Entropy in nats of each mixture; not a number where the mixture is none."""
    component, standard, share = _points(log_weights)
    weights = tails.exp(log_weights)
    terms = component.shape[1] * means.shape[1]
    # Results have their place before: a small one that stays between large ones that go would split memory.
    found = means.new_empty(len(means), means.shape[2])
    for task in range(len(means)):
        points = component[task], standard[task], share[task]
        for some in blocks(means.shape[2], MAX_TERMS, terms):
            own = means[task, :, some].T, scales[task, :, some].T
            found[task, some] = _of_places(*own, weights[task], *points)
    return found


def _of_places(
    means: Tensor, scales: Tensor, weights: Tensor, component: Tensor, standard: Tensor, share: Tensor
) -> Tensor:
    """Means and scales are `[place, component]`; component, standard and share tell each point."""
    inverse = math.sqrt(0.5) / scales
    points = means[:, component] + scales[:, component] * standard
    offsets = (points.unsqueeze(-1) - means.unsqueeze(1)).mul_(inverse.unsqueeze(1))
    near = offsets.square_().neg_().clamp_min_(-tails.FAR).exp_()  # less counts as if it were so much
    # In units of the highest peak: whatever the unit of y, these are no tiny numbers.
    heights = weights * inverse
    highest = heights.amax(1, keepdim=True)
    logs = torch.bmm(near, (heights / highest).unsqueeze(-1)).squeeze(-1).log()
    return 0.5 * math.log(math.pi) - highest.squeeze(1).log() - logs @ share


def _points(log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where to look: `[task, point]` the component, the standard normal position in it, and the share."""
    tasks, components = log_weights.shape
    if components * HERMITE_NODES > STRATA:
        component, standard = _strata(log_weights)
        return component, standard, torch.full_like(standard, 1 / STRATA)
    nodes, shares = (
        log_weights.new_tensor(each) for each in np.polynomial.hermite_e.hermegauss(HERMITE_NODES)
    )
    component = torch.arange(components, device=log_weights.device).repeat_interleave(HERMITE_NODES)
    share = (tails.exp(log_weights).unsqueeze(-1) * (shares / shares.sum())).flatten(1)
    return component.expand(tasks, -1), nodes.repeat(tasks, components), share


def _strata(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """STRATA evenly spread points of each task's mixture: the component of each, and where in it.

    The probability line is laid out component after component and cut into equal parts, whose middles
    are the points (systematic sampling).

    Returns:
        Components `[task, point]`, and standard normal positions in them.
    """
    weights = tails.exp(log_weights.double())
    ends = weights.cumsum(-1)
    middles = (torch.arange(STRATA, dtype=ends.dtype, device=ends.device) + 0.5) / STRATA
    middles = (middles * ends[:, -1:]).contiguous()
    component = torch.searchsorted(ends, middles).clamp_max(weights.shape[-1] - 1)
    own = weights.gather(-1, component)
    position = (middles - ends.gather(-1, component) + own) / own
    eps = torch.finfo(ends.dtype).eps
    return component, torch.special.ndtri(position.clamp(eps, 1 - eps)).to(log_weights.dtype)
