"""The posterior of collapsed particles, and the hypotheses of weight in it.

A hypothesis is a particle at one scale; see `collapsed.py`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bmaml.last_layer import ConditionedLayers
from bmaml.learners.posterior import Posterior
from bmaml.predictive import heaviest_first, kept_components
from bmaml.shapes import Particles, Scalar, Verdicts


@dataclass(frozen=True)
class CollapsedPosterior(Posterior):
    """Particles with the exact posteriors of their last layers, and their hypotheses.

    With u = √(H + 1) φ, the hidden layer and a constant 1, a particle predicts headᵀu. Its epistemic standard
    deviation is ‖u − spent seenᵀu‖ / √(λ (H + 1)) at scale 1.

    Attributes:
        particles: adapted parameters; `[1, …]` for zero steps with all particles kept.
        head: mean of the last layer, prior mean included.
        seen, spent: factors in the root of its covariance (see `bmaml.last_layer`).
        owner: particle of each hypothesis; None where all particles have all scales, side by side.
        scales: s of each hypothesis.
        noise_slopes: a, where the noise depends on x.
        log_widening: log ω, for standard deviations where the support rows determine a prediction.
        log_prior_widening: log ω₀, for epistemic standard deviations where they do not.
    """

    fill: ClassVar[Mapping[str, float]] = {**Posterior.fill, "scales": 1.0}
    per_task: ClassVar[frozenset[str]] = Posterior.per_task | {"owner"}

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
        """True for each task whose adaptation stayed finite; the head shows a failed Cholesky factor."""
        return ~self.log_weights.isnan().any(-1) & self.head.isfinite().flatten(1).all(-1)

    def at(self, tasks: Tensor) -> "CollapsedPosterior":
        """The posterior of some tasks, without hypotheses that have weight in none of them."""
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
class KeptHypotheses:
    """The hypotheses of each task that are kept, and the particles that have any.

    Attributes:
        particle: indices of the kept particles; None where most are kept, so that all stay.
        real: False for padding among the kept particles.
        hypothesis: indices of the kept hypotheses.
        owner: place of their particles among the kept ones.
        log_weights: of the kept hypotheses, normalised; −∞ for padding.
    """

    particle: Int[Tensor, "task kept"] | None
    real: Bool[Tensor, "task kept"] | None
    hypothesis: Int[Tensor, "task hypothesis"]
    owner: Int[Tensor, "task hypothesis"]
    log_weights: Float[Tensor, "task hypothesis"]

    @classmethod
    def of(cls, log_weights: Tensor, scales: int, negligible: float) -> "KeptHypotheses":
        """Keep all but the lightest, which together weigh `negligible` at most; a particle has `scales`."""
        kept = kept_components(log_weights, negligible)
        hypothesis, logs = heaviest_first(log_weights, kept)
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

    def posterior(self, layers: ConditionedLayers) -> tuple[Tensor, Tensor, Tensor]:
        """The posterior of the kept particles' last layers; zero for padding."""
        if self.particle is None or self.real is None:
            return layers.posterior()
        task, place = self.real.nonzero(as_tuple=True)
        particle = self.particle[task, place]
        each = layers.of_particles(
            lambda values: values[task if len(values) > 1 else 0, particle].unsqueeze(0)
        )

        shape = self.real.shape

        def padded(values: Tensor) -> Tensor:
            whole = values.new_zeros(*shape, *values.shape[2:])
            whole[task, place] = values[0]
            return whole

        mean, seen, spent = each.posterior()
        return padded(mean), padded(seen), padded(spent)


def gathered(values: Tensor, index: Tensor) -> Tensor:
    """`values[task, index[task, …], …]`; `values` may have a task axis of length one."""
    if values.shape[0] == 1:
        return values[0][index]
    return values[torch.arange(len(index), device=index.device).unsqueeze(-1), index]


def per_hypothesis(values: Tensor, posterior: CollapsedPosterior, power: int) -> Tensor:
    """Values `[task, particle, …]` as `[task, hypothesis, …]`, times a power of each hypothesis' scale."""
    scales = posterior.scales
    if posterior.owner is not None:
        values = gathered(values, posterior.owner)
    elif scales.shape[1] != values.shape[1]:
        values = values.repeat_interleave(scales.shape[1] // values.shape[1], 1)
    if not power:
        return values
    return values * (scales**power).view(*scales.shape, *[1] * (values.ndim - 2))


def sum_per_particle(values: Tensor, posterior: CollapsedPosterior) -> Tensor:
    """Values `[task, hypothesis]` added up over the hypotheses of each particle, `[task, particle]`."""
    if posterior.owner is None:
        return values.unflatten(1, (posterior.particles.shape[1], -1)).sum(-1)
    total = values.new_zeros(len(values), posterior.head.shape[1])
    return total.scatter_add(1, posterior.owner, values)
