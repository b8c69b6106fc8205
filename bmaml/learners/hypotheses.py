"""What collapsed particles believe after some rows, and which of their hypotheses have any weight.

A hypothesis is a particle held at one scale; see `collapsed.py`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bmaml.last_layer import Conditions
from bmaml.learners.posterior import Posterior
from bmaml.predictive import weightiest, weighty
from bmaml.shapes import Particles, Scalar, Verdicts


@dataclass(frozen=True)
class CollapsedPosterior(Posterior):
    """Particles, each with the exact posterior of its last layer, and the hypotheses they stand for.

    A hypothesis is a particle at one scale. With u = √(H + 1) φ, the hidden layer and a constant 1, it
    predicts headᵀu, with the epistemic deviation ‖u − spent seenᵀu‖ / √(λ (H + 1)) at scale 1.

    Attributes:
        particles: adapted parameters; `[1, …]` where no step was taken and all particles are there.
        head: mean of the last layer, prior mean included.
        seen, spent: of the root of its covariance (see `bmaml.last_layer`).
        owner: which particle it is of; None where every particle has the same scales, side by side.
        scales: s of each hypothesis.
        noise_slopes: a, where the noise depends on x.
        log_widening, log_prior_widening: log ω, what predicted standard deviations are multiplied by where
            the rows have spoken, and log ω₀, the epistemic ones where they have not.
    """

    fill: ClassVar[Mapping[str, float]] = {**Posterior.fill, "scales": 1.0}
    own: ClassVar[frozenset[str]] = Posterior.own | {"owner"}

    particles: Particles
    head: Float[Tensor, "#task particle unit output"]
    seen: Float[Tensor, "#task particle unit rank"]
    spent: Float[Tensor, "#task particle unit rank"]
    owner: Int[Tensor, "task hypothesis"] | None
    scales: Float[Tensor, "#task hypothesis"]
    noise_slopes: Float[Tensor, "#task particle unit"] | None
    log_widening: Scalar
    log_prior_widening: Scalar

    def finite(self) -> Verdicts:
        """True for each task whose adaptation stayed finite: where the factor is not, nothing is."""
        return ~self.log_weights.isnan().any(-1) & self.head.isfinite().flatten(1).all(-1)

    def at(self, tasks: Tensor) -> "CollapsedPosterior":
        """The posterior of some tasks, without what has weight in none of them."""
        part = super().at(tasks)
        if part.owner is None:
            return part
        hypotheses = slice(max(1, int((part.log_weights > -math.inf).sum(-1).max())))
        owner = part.owner[:, hypotheses]
        particles = slice(int(owner.max()) + 1)
        slopes = part.noise_slopes
        return replace(
            part,
            log_weights=part.log_weights[:, hypotheses],
            owner=owner,
            scales=part.scales[:, hypotheses],
            particles=part.particles[:, particles],
            head=part.head[:, particles],
            seen=part.seen[:, particles],
            spent=part.spent[:, particles],
            noise_slopes=None if slopes is None else slopes[:, particles],
        )


@dataclass(frozen=True)
class Chosen:
    """Which hypotheses of each task are kept, and which particles have any.

    Attributes:
        particle: indices of the kept particles; None where most are kept, and all may stay.
        real: which of them are; the others only fill up.
        hypothesis: indices of the kept hypotheses.
        owner: their particles, by place among the kept.
        log_weights: of the kept hypotheses, normalised; −∞ for those that only fill up.
    """

    particle: Int[Tensor, "task kept"] | None
    real: Bool[Tensor, "task kept"] | None
    hypothesis: Int[Tensor, "task hypothesis"]
    owner: Int[Tensor, "task hypothesis"]
    log_weights: Float[Tensor, "task hypothesis"]

    @classmethod
    def of(cls, log_weights: Tensor, scales: int, lost: float) -> "Chosen":
        """Drop, lightest first, what together weighs no more than `lost`; `scales` of each particle."""
        kept = weighty(log_weights, lost)
        hypothesis, logs = weightiest(log_weights, kept)
        owner, has_any = hypothesis // scales, kept.unflatten(1, (-1, scales)).any(-1)
        counts = has_any.sum(-1)
        if 2 * int(counts.sum()) > has_any.numel():
            return cls(None, None, hypothesis, owner, logs)
        count = int(counts.max())
        particle = has_any.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[:, :count]
        place = torch.zeros_like(has_any, dtype=particle.dtype)
        place.scatter_(1, particle, torch.arange(count, device=place.device).expand_as(particle))
        real = torch.arange(count, device=counts.device) < counts.unsqueeze(-1)
        return cls(particle, real, hypothesis, place.gather(1, owner), logs)

    def last_layer(self, conditions: Conditions) -> tuple[Tensor, Tensor, Tensor]:
        """Of the kept particles alone, many in one task and one in another; zero where they only fill up."""
        if self.particle is None or self.real is None:
            return conditions.last_layer()
        task, place = self.real.nonzero(as_tuple=True)
        particle = self.particle[task, place]
        each = conditions.each(lambda values: values[task if len(values) > 1 else 0, particle].unsqueeze(0))

        shape = self.real.shape

        def side_by_side(values: Tensor) -> Tensor:
            whole = values.new_zeros(*shape, *values.shape[2:])
            whole[task, place] = values[0]
            return whole

        mean, seen, spent = each.last_layer()
        return side_by_side(mean), side_by_side(seen), side_by_side(spent)


def picked(values: Tensor, index: Tensor) -> Tensor:
    """`values[task, index[task, …], …]`, where values may be the same for all tasks."""
    if values.shape[0] == 1:
        return values[0][index]
    return values[torch.arange(len(index), device=index.device).unsqueeze(-1), index]


def of_hypotheses(values: Tensor, posterior: CollapsedPosterior, power: int) -> Tensor:
    """`[task, particle, …]` times a power of the scale of each hypothesis, `[task, hypothesis, …]`."""
    scales = posterior.scales
    if posterior.owner is not None:
        values = picked(values, posterior.owner)
    elif scales.shape[1] != values.shape[1]:
        values = values.repeat_interleave(scales.shape[1] // values.shape[1], 1)
    if not power:
        return values
    return values * (scales**power).view(*scales.shape, *[1] * (values.ndim - 2))


def of_particles(values: Tensor, posterior: CollapsedPosterior) -> Tensor:
    """`[task, hypothesis]` added up over the hypotheses of each particle, `[task, particle]`."""
    if posterior.owner is None:
        return values.unflatten(1, (posterior.particles.shape[1], -1)).sum(-1)
    total = values.new_zeros(len(values), posterior.head.shape[1])
    return total.scatter_add(1, posterior.owner, values)
