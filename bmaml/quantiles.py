"""Quantiles of mixtures of Gaussians: many roots at once."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bmaml.tails import FURTHEST

UNITS = 4.0
"""Or so many units of the root's own rounding."""
GALLOP = 4.0
"""A move that bisects is at most so many of the last one: the ends may be far, and the root is near."""
MAX_CPU_TERMS = 1 << 18
"""Components × roots that are searched together on a CPU: they stay in cache."""
MAX_GPU_TERMS = 1 << 24
"""The same on a GPU: they fit into its memory."""
BISECTION, NEWTON = 0.01, 1.0
"""The last move that counts as arrival, of a bisection and of Newton's method, whose error is its square:
in units of the square root of the precision's rounding times a standard deviation."""


def solved(
    means: Float[Tensor, "component task #level place"],
    scales: Float[Tensor, "component task #level place"],
    weights: Float[Tensor, "component task #level #place"],
    levels: Float[Tensor, "task level #place"],
    rounds: int | None = None,
) -> Float[Tensor, "task level place"]:
    """Where the mixture's cdf is `level`, in the precision of the means.

    Each root lies between the smallest and the largest of the components' own quantiles. From there
    Newton's method solves Φ⁻¹(cdf) = Φ⁻¹(level), which is linear for one Gaussian and nearly so for
    many mixtures, and bisects where a step would leave the bracket or shrink too slowly (Numerical
    Recipes, `rtsafe`), though not far at once: what lies far out often hardly weighs anything. Roots
    that are found stay, and are set aside once they are half of all, so that a hard one does not keep
    the others.
    Levels above one half are solved in the mirror: a small tail is known more precisely than what it
    leaves of one.

    Args:
        levels: float64.
        rounds: take so many, whatever the numbers are, and answer NaN where a root has not been found by
            then. By default as many as it takes, which on a GPU is a wait for it in each.
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
        while left := int(search.left.sum()):
            if 2 * left <= len(search.root):
                search.set_found_aside()
            search.round()
            search.note()
        found = search.result
    else:
        for _ in range(rounds):
            search.round()
        found = torch.where(search.left, torch.nan, search.root)
    return (found * mirror).view(shape)


@dataclass
class _Search:
    """The roots that are looked for, each on its own place along the last axis.

    Attributes:
        narrow, half, peaks: of each component, `[component, place]`: 1 / (√2 scale); half its weight; and its
            density's peak, times √(2π). erfc is twice a tail of the normal at √2 times its place: both
            factors go into scale and weight.
        wanted: Φ⁻¹ of the level.
        close, newton_close: the last move that counts as arrival. Where a root is close, Newton's method is
            closer still; bisection is not.
        left: not found yet.
        place: in `result`, where all roots are.
    """

    means: Tensor
    narrow: Tensor
    half: Tensor
    peaks: Tensor
    levels: Tensor
    wanted: Tensor
    low: Tensor
    high: Tensor
    root: Tensor
    move: Tensor
    close: Tensor
    newton_close: Tensor
    left: Tensor
    place: Tensor
    result: Tensor

    @classmethod
    def of(cls, means: Tensor, scales: Tensor, weights: Tensor, levels: Tensor) -> "_Search":
        """At the start, `levels` at most one half."""
        wanted, rounding = torch.special.ndtri(levels), torch.finfo(means.dtype).eps
        each = torch.addcmul(means, scales, wanted)
        low, high = each.amin(0), each.amax(0)
        root = (weights * each).sum(0).clamp(low, high)
        typical = (weights * scales).sum(0) * math.sqrt(rounding)
        narrow, half, close = math.sqrt(0.5) / scales, 0.5 * weights, BISECTION * typical
        return cls(
            means=means,
            narrow=narrow,
            half=half,
            peaks=2 * math.sqrt(2) * half * narrow,
            levels=levels,
            wanted=wanted,
            low=low,
            high=high,
            root=root,
            move=high - low,
            close=close,
            newton_close=NEWTON * typical,
            left=high - low > close + UNITS * rounding * root.abs(),
            place=torch.arange(len(root), device=root.device),
            result=root.clone(),
        )

    def set_found_aside(self) -> None:
        """Go on with the others alone."""
        chosen = self.left.nonzero().squeeze(-1)
        for name in ("means", "narrow", "half", "peaks"):
            setattr(self, name, getattr(self, name).index_select(1, chosen))
        for name in (
            "levels",
            "wanted",
            "low",
            "high",
            "root",
            "move",
            "close",
            "newton_close",
            "left",
            "place",
        ):
            setattr(self, name, getattr(self, name)[chosen])

    def round(self) -> None:
        """One move of all that are left."""
        root = self.root
        standard = (root - self.means).mul_(self.narrow).clamp_(-FURTHEST, FURTHEST)
        slope = standard.square().neg_().exp_().mul_(self.peaks).sum(0)
        cdf = standard.neg_().erfc_().mul_(self.half).sum(0)
        below = cdf < self.levels
        self.low, self.high = torch.where(below, root, self.low), torch.where(below, self.high, root)
        reached = torch.special.ndtri(cdf)
        step = (self.wanted - reached).mul_(reached.square().mul_(-0.5).exp_()).div_(slope)
        newton = root + step
        good = (step.abs() <= 0.5 * self.move) & (newton.clamp(self.low, self.high) == newton)
        within = root.sub(self.move, alpha=GALLOP), root.add(self.move, alpha=GALLOP)
        halfway = torch.lerp(self.low, self.high, 0.5).clamp(*within)
        moved = torch.where(self.left, torch.where(good, newton, halfway), root)
        self.move = (moved - root).abs_()
        self.root = moved
        near = torch.where(good, self.newton_close, self.close)
        self.left = self.move > near.add_(moved.abs(), alpha=UNITS * torch.finfo(moved.dtype).eps)

    def note(self) -> None:
        """Where the roots are now."""
        self.result[self.place] = self.root
