"""Quantiles of mixtures of Gaussians, many roots at once."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bmaml.tails import MAX_ERFC_ARGUMENT

ROUNDING_UNITS = 4.0
"""Units of a root's own rounding; a root has converged when its last move is no larger."""
MAX_MOVE_GROWTH = 4.0
"""Length of a bisecting move over that of the move before: a bracket may be wide, and its root near."""
MAX_CPU_TERMS = 1 << 18
"""Components × roots that are searched together on a CPU: they stay in cache."""
MAX_GPU_TERMS = 1 << 24
"""Components × roots that are searched together on a GPU: they fit into its memory."""
BISECTION_TOLERANCE, NEWTON_TOLERANCE = 0.01, 1.0
"""Last move of a root that has converged, by bisection and by Newton's method, whose error is its square.

The unit is the square root of the precision's rounding times a standard deviation: the smaller of the
components' mean one and that of the normal distribution that is like the mixture at the root.
"""


def mixture_quantiles(
    means: Float[Tensor, "component task #level place"],
    scales: Float[Tensor, "component task #level place"],
    weights: Float[Tensor, "component task #level #place"],
    levels: Float[Tensor, "task level #place"],
    rounds: int | None = None,
) -> Float[Tensor, "task level place"]:
    """The values at which each mixture's cdf is `level`, in the precision of the means.

    A root lies between the smallest and the largest of the components' own quantiles. In that bracket
    Newton's method solves Φ⁻¹(cdf) = Φ⁻¹(level), which is linear for one Gaussian and nearly so for many
    mixtures. It bisects where a step would leave the bracket or shrink too slowly (Numerical Recipes,
    `rtsafe`). A bisecting move is bounded too, since the far ends of a bracket often weigh hardly anything.
    Converged roots are set aside once they are half of all, so that a hard one does not delay the others.
    Levels above one half are solved in the mirror, because a small tail is more precise than its complement.

    Args:
        levels: float64.
        rounds: a fixed number of rounds; roots that have not converged by then are NaN. None: as many as
            needed, each a host synchronisation on a GPU.
    """
    shape, count, dtype = np.broadcast_shapes(means.shape[1:], levels.shape), len(means), means.dtype
    levels = levels.expand(shape).flatten()
    mirror = torch.where(levels > 0.5, -1.0, 1.0).to(dtype)
    levels = torch.minimum(levels, 1 - levels).to(dtype)
    means, scales, weights = (
        values.expand(count, *shape).reshape(count, -1) for values in (means, scales, weights)
    )
    search = _Search.of(means * mirror, scales, weights, levels)
    if rounds is None:
        while active := int(search.active.sum()):
            if 2 * active <= len(search.root):
                search.drop_converged()
            search.round()
            search.store()
        found = search.result
    else:
        for _ in range(rounds):
            search.round()
        found = torch.where(search.active, torch.nan, search.root)
    return (found * mirror).view(shape)


@dataclass
class _Search:
    """The state of the search for the roots that have not converged, along the last axis.

    Attributes:
        inverse_scales, half_weights, peaks: of each component, `[component, place]`: 1 / (√2 scale), weight /
            2 and the density's peak times √(2π). The factors are those of Φ(−√2 z) = erfc(z) / 2.
        levels: at most one half.
        targets: Φ⁻¹ of the levels.
        low, high: the bracket of each root.
        move: length of the last move.
        typical: the components' mean standard deviation.
        active: True for roots that have not converged.
        place: index of each root in `result`.
        result: every root, converged or not.
    """

    means: Tensor
    inverse_scales: Tensor
    half_weights: Tensor
    peaks: Tensor
    levels: Tensor
    targets: Tensor
    low: Tensor
    high: Tensor
    root: Tensor
    move: Tensor
    typical: Tensor
    active: Tensor
    place: Tensor
    result: Tensor

    @classmethod
    def of(cls, means: Tensor, scales: Tensor, weights: Tensor, levels: Tensor) -> "_Search":
        """The start of a search."""
        targets, rounding = torch.special.ndtri(levels), torch.finfo(means.dtype).eps
        each = torch.addcmul(means, scales, targets)
        low, high = each.amin(0), each.amax(0)
        root = (weights * each).sum(0).clamp(low, high)
        typical = (weights * scales).sum(0)
        inverse_scales, half_weights = math.sqrt(0.5) / scales, 0.5 * weights
        negligible = BISECTION_TOLERANCE * math.sqrt(rounding) * typical
        return cls(
            means=means,
            inverse_scales=inverse_scales,
            half_weights=half_weights,
            peaks=2 * math.sqrt(2) * half_weights * inverse_scales,
            levels=levels,
            targets=targets,
            low=low,
            high=high,
            root=root,
            move=high - low,
            typical=typical,
            active=high - low > negligible + ROUNDING_UNITS * rounding * root.abs(),
            place=torch.arange(len(root), device=root.device),
            result=root.clone(),
        )

    def drop_converged(self) -> None:
        """Go on with the roots that have not converged."""
        chosen = self.active.nonzero().squeeze(-1)
        for name in ("means", "inverse_scales", "half_weights", "peaks"):
            setattr(self, name, getattr(self, name).index_select(1, chosen))
        for name in (
            "levels",
            "targets",
            "low",
            "high",
            "root",
            "move",
            "typical",
            "active",
            "place",
        ):
            setattr(self, name, getattr(self, name)[chosen])

    def round(self) -> None:
        """One move of every root that has not converged."""
        root = self.root
        standard = (root - self.means).mul_(self.inverse_scales).clamp_(-MAX_ERFC_ARGUMENT, MAX_ERFC_ARGUMENT)
        slope = standard.square().neg_().exp_().mul_(self.peaks).sum(0)
        cdf = standard.neg_().erfc_().mul_(self.half_weights).sum(0)
        below = cdf < self.levels
        self.low, self.high = torch.where(below, root, self.low), torch.where(below, self.high, root)
        reached = torch.special.ndtri(cdf)
        unit = reached.square().mul_(-0.5).exp_().div_(slope)  # Φ⁻¹(cdf) changes by one
        step = (self.targets - reached).mul_(unit)
        newton = root + step
        good = (step.abs() <= 0.5 * self.move) & (newton.clamp(self.low, self.high) == newton)
        within = root.sub(self.move, alpha=MAX_MOVE_GROWTH), root.add(self.move, alpha=MAX_MOVE_GROWTH)
        halfway = torch.lerp(self.low, self.high, 0.5).clamp(*within)
        moved = torch.where(self.active, torch.where(good, newton, halfway), root)
        self.move = (moved - root).abs_()
        self.root = moved
        rounding = torch.finfo(moved.dtype).eps
        near = torch.fmin(self.typical, unit).mul_(torch.where(good, NEWTON_TOLERANCE, BISECTION_TOLERANCE))
        near = near.mul_(math.sqrt(rounding)).add_(moved.abs(), alpha=ROUNDING_UNITS * rounding)
        self.active = self.move > near

    def store(self) -> None:
        """Write the roots to `result`."""
        self.result[self.place] = self.root
