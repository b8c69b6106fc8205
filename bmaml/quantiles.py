"""Quantiles of mixtures of Gaussians: many roots at once."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 1 << 18
"""Components × roots that are worked on together: they stay in cache."""
STEP_TOLERANCE, NEWTON_TOLERANCE = 1e-9, 1e-6
"""The last move, in standard deviations, of a bisection and of Newton's method, whose error is its square."""


def solved(
    means: Float[Tensor, "component task #level place"],
    scales: Float[Tensor, "component task #level place"],
    weights: Float[Tensor, "component task #level #place"],
    levels: Float[Tensor, "task level #place"],
) -> Float[Tensor, "task level place"]:
    """Where the mixture's cdf is `level`.

    Each root lies between the smallest and the largest of the components' own quantiles. From there
    Newton's method solves Φ⁻¹(cdf) = Φ⁻¹(level), which is linear for one Gaussian and nearly so for
    many mixtures, and bisects where a step would leave the bracket or shrink too slowly (Numerical
    Recipes, `rtsafe`). Roots that are found are set aside, so that a hard one does not keep the others.
    """
    shape = torch.broadcast_shapes(means.shape[1:], levels.shape)
    count = len(means)
    means, scales, weights = (
        values.expand(count, *shape).reshape(count, -1) for values in (means, scales, weights)
    )
    levels = levels.expand(shape).flatten()

    wanted = torch.special.ndtri(levels)
    each = torch.addcmul(means, scales, wanted)
    low, high = each.amin(0), each.amax(0)
    root = (weights * each).sum(0).clamp(low, high)
    typical = (weights * scales).sum(0)
    rounding = 4 * torch.finfo(means.dtype).eps * torch.maximum(low.abs(), high.abs())
    move = high - low
    result, place = root.clone(), torch.arange(len(root), device=root.device)
    # erfc is twice a tail of the normal at √2 times its place: both factors go into scale and weight.
    narrow, half = math.sqrt(0.5) / scales, 0.5 * weights
    left = move > STEP_TOLERANCE * typical + rounding
    while bool(left.any()):
        if not bool(left.all()):
            left = left.nonzero().squeeze(-1)
            means, narrow, half = (values[:, left] for values in (means, narrow, half))
            low, high, root, move, place = (values[left] for values in (low, high, root, move, place))
            wanted, levels, typical, rounding = (
                values[left] for values in (wanted, levels, typical, rounding)
            )
        standard = (root - means).mul_(narrow)
        slope = (standard.square().neg_().exp_() * half).mul_(narrow).sum(0) * (2 * math.sqrt(2))
        cdf = torch.erfc(standard.neg_()).mul_(half).sum(0)
        error, reached = cdf - levels, torch.special.ndtri(cdf)
        low = torch.where(error < 0, root, low)
        high = torch.where(error > 0, root, high)
        newton = root - (reached - wanted) * torch.exp(-0.5 * reached.square()) / slope
        good = (newton > low) & (newton < high) & ((newton - root).abs() <= 0.5 * move)
        moved = torch.where(good, newton, 0.5 * (low + high))
        moved = torch.where(error == 0, root, moved)
        move = (moved - root).abs()
        root = moved
        result[place] = root
        tolerance = torch.where(good, NEWTON_TOLERANCE, STEP_TOLERANCE)
        left = move > tolerance * typical + rounding
    return result.view(shape)
