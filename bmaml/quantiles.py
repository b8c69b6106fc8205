"""Quantiles of mixtures of Gaussians: many roots at once."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bmaml.tails import FURTHEST

BLOCK = 1 << 18
"""Components × roots that are worked on together: they stay in cache."""
BISECTION, NEWTON = 0.01, 1.0
"""The last move that counts as arrival, of a bisection and of Newton's method, whose error is its square:
in units of the square root of the precision's rounding times a standard deviation."""


def solved(
    means: Float[Tensor, "component task #level place"],
    scales: Float[Tensor, "component task #level place"],
    weights: Float[Tensor, "component task #level #place"],
    levels: Float[Tensor, "task level #place"],
) -> Float[Tensor, "task level place"]:
    """Where the mixture's cdf is `level`, in the precision of the means.

    Each root lies between the smallest and the largest of the components' own quantiles. From there
    Newton's method solves Φ⁻¹(cdf) = Φ⁻¹(level), which is linear for one Gaussian and nearly so for
    many mixtures, and bisects where a step would leave the bracket or shrink too slowly (Numerical
    Recipes, `rtsafe`). Roots that are found stay, and are set aside once they are half of all, so that a
    hard one does not keep the others.
    Levels above one half are solved in the mirror: a small tail is known more precisely than what it
    leaves of one.

    Args:
        levels: float64.
    """
    shape, count, dtype = np.broadcast_shapes(means.shape[1:], levels.shape), len(means), means.dtype
    levels = levels.expand(shape).flatten()
    mirror = torch.where(levels > 0.5, -1.0, 1.0).to(dtype)
    levels = torch.minimum(levels, 1 - levels).to(dtype)
    means, scales, weights = (
        values.expand(count, *shape).reshape(count, -1) for values in (means, scales, weights)
    )
    means = means * mirror

    wanted = torch.special.ndtri(levels)
    each = torch.addcmul(means, scales, wanted)
    low, high = each.amin(0), each.amax(0)
    root = (weights * each).sum(0).clamp(low, high)
    typical = (weights * scales).sum(0) * math.sqrt(torch.finfo(dtype).eps)
    rounding = 4 * torch.finfo(dtype).eps * torch.maximum(low.abs(), high.abs())
    move = high - low
    result, place = root.clone(), torch.arange(len(root), device=root.device)
    # erfc is twice a tail of the normal at √2 times its place: both factors go into scale and weight.
    narrow, half = math.sqrt(0.5) / scales, 0.5 * weights
    peaks = 2 * math.sqrt(2) * half * narrow  # of each component's density, times √(2π)
    # Where a root is close, Newton's method is closer still; bisection is not.
    newton_close, close = NEWTON * typical + rounding, BISECTION * typical + rounding
    left = move > close
    while count := int(left.sum()):
        if 2 * count <= len(place):
            chosen = left.nonzero().squeeze(-1)
            means, narrow, half, peaks = (
                each.index_select(1, chosen) for each in (means, narrow, half, peaks)
            )
            low, high, root, move, place = (each[chosen] for each in (low, high, root, move, place))
            wanted, levels = wanted[chosen], levels[chosen]
            close, newton_close, left = close[chosen], newton_close[chosen], left[chosen]
        standard = (root - means).mul_(narrow).clamp_(-FURTHEST, FURTHEST)
        slope = torch.exp(-standard.square()).mul_(peaks).sum(0)
        cdf = torch.erfc(standard.neg_()).mul_(half).sum(0)
        below = cdf < levels
        low, high = torch.where(below, root, low), torch.where(below, high, root)
        reached = torch.special.ndtri(cdf)
        step = (wanted - reached).mul_(torch.exp(-0.5 * reached.square())).div_(slope)
        newton = root + step
        good = (step.abs() <= 0.5 * move) & (newton.clamp(low, high) == newton)
        moved = torch.where(left, torch.where(good, newton, 0.5 * (low + high)), root)
        move = (moved - root).abs()
        root = moved
        result[place] = root
        left = move > torch.where(good, newton_close, close)
    return (result * mirror).view(shape)
