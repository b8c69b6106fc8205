"""Differential entropy of one-dimensional mixtures of Gaussians, many at a time.

−E[log p(y)] is a weighted sum over points. With few components these are the nodes of Gauss–Hermite
quadrature in each: exact for one Gaussian, and within about 0.01 nats for mixtures whose narrow components
do not hide inside wide ones. With more components they are `STRATA` points of equal probability, so that the
cost grows with the number of components and not with its square.
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
"""Points at which the density is evaluated: in each of few components; in all of many together."""
MAX_TERMS = 1 << 18
"""Places × points × components that are evaluated together: they stay in cache."""

Components = Float[Tensor, "task particle place"]


def mixture_entropy(
    means: Components, scales: Components, log_weights: LogWeights
) -> Float[Tensor, "task place"]:
    """Entropy of each mixture in nats; NaN where a moment or weight is NaN."""
    component, standard, share = _points(log_weights)
    weights = tails.exp(log_weights)
    terms = component.shape[1] * means.shape[1]
    # Allocated first: a small result among large temporaries would fragment memory.
    found = means.new_empty(len(means), means.shape[2])
    for task in range(len(means)):
        points = component[task], standard[task], share[task]
        for some in blocks(means.shape[2], MAX_TERMS, terms):
            own = means[task, :, some].T, scales[task, :, some].T
            found[task, some] = _block_entropy(*own, weights[task], *points)
    return found


def _block_entropy(
    means: Tensor, scales: Tensor, weights: Tensor, component: Tensor, standard: Tensor, share: Tensor
) -> Tensor:
    """Entropy of the mixtures of a block, `[place]`.

    Args:
        means, scales: `[place, component]`.
        component, standard, share: of each point, as `_points` returns them.
    """
    inverse = math.sqrt(0.5) / scales
    points = means[:, component] + scales[:, component] * standard
    offsets = (points.unsqueeze(-1) - means.unsqueeze(1)).mul_(inverse.unsqueeze(1))
    near = offsets.square_().neg_().clamp_min_(-tails.MAX_EXPONENT).exp_()  # never subnormal
    # Relative to the highest peak, so that the unit of y cannot make them subnormal.
    heights = weights * inverse
    highest = heights.amax(1, keepdim=True)
    logs = torch.bmm(near, (heights / highest).unsqueeze(-1)).squeeze(-1).log()
    return 0.5 * math.log(math.pi) - highest.squeeze(1).log() - logs @ share


def _points(log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points `[task, point]`: component, standard normal position in it, and share of the probability."""
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
    """Points of each task's mixture by systematic sampling, `STRATA` in number.

    The probability line is laid out component after component and cut into equal parts; their middles are
    the points.

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
