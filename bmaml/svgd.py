"""Stein variational gradient descent (SVGD): particles climb a density and repel each other.

Liu & Wang, "Stein Variational Gradient Descent", NeurIPS 2016, Algorithm 1.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from bmaml.shapes import Gram, Particles, PerTask, ScoreFunction


def squared_distances(particles: Particles) -> Gram:
    """‖θᵢ − θⱼ‖² for all pairs, exactly zero on the diagonal."""
    return _squared_distances(_centred(particles))


def median_bandwidth(squared: Gram) -> PerTask:
    """The bandwidth h: median squared distance of the M(M−1)/2 distinct pairs ÷ log(M + 1).

    It is a constant: no gradient flows through it. A floor above zero keeps the kernel finite for coincident
    particles. It is 1 for a single particle, which has no pairs.
    """
    count = squared.shape[-1]
    floor = torch.finfo(squared.dtype).eps
    if count == 1:
        return squared.new_full(squared.shape[:1], 1.0)
    # Of all entries in order the zeros of the diagonal come first, then every pair twice.
    ordered, pairs = squared.detach().flatten(1).sort(-1).values, count * (count - 1) // 2
    median = (ordered[:, count + 2 * (pairs // 2)] + ordered[:, count + 2 * ((pairs - 1) // 2)]) / 2
    return (median / math.log(count + 1)).clamp_min(floor)


def mean_bandwidth(squared: Gram) -> PerTask:
    """The bandwidth of the authors' code for policies: squared mean distance of pairs ÷ log(M + 1).

    A constant with the floor of `median_bandwidth`; 1 for a single particle.
    """
    count = squared.shape[-1]
    if count == 1:
        return squared.new_full(squared.shape[:1], 1.0)
    # The diagonal is zero, and every pair lies on both sides of it.
    mean = squared.detach().sqrt().sum((-1, -2)) / (count * (count - 1))
    return (mean.square() / math.log(count + 1)).clamp_min(torch.finfo(squared.dtype).eps)


def direction(particles: Particles, scores: Particles, bandwidth: PerTask | None = None) -> Particles:
    """φ, the direction that moves all particles uphill together.

    φᵢ = (1/M) Σⱼ [k(θⱼ, θᵢ) sⱼ + (2/h) k(θⱼ, θᵢ)(θᵢ − θⱼ)] with k(a, b) = exp(−‖a − b‖²/h) and
    scores s. Attraction shares scores between neighbours; repulsion is the kernel's own gradient.
    A single particle feels no repulsion and simply climbs its score.

    Args:
        bandwidth: h of each task; by default the median heuristic.
    """
    if particles.shape[-2] == 1:
        return scores
    centred, gram, sharpness = kernel(particles, bandwidth)
    # Σⱼ kᵢⱼ (θᵢ − θⱼ) = (Σⱼ kᵢⱼ) cᵢ − Σⱼ kᵢⱼ cⱼ for any origin of c, so that one product serves both parts.
    pushed = scores - sharpness * centred
    own = sharpness * gram.sum(-1, keepdim=True) * centred
    return torch.baddbmm(own, gram.expand(len(scores), -1, -1), pushed)


def kernel(
    particles: Particles, bandwidth: PerTask | None = None
) -> tuple[Particles, Gram, Float[Tensor, "#task 1 1"]]:
    """Centred particles c, the kernel matrix divided by M, and 2/h."""
    centred = _centred(particles)
    squared = _squared_distances(centred)
    if bandwidth is None:
        bandwidth = median_bandwidth(squared)
    width = bandwidth.view(-1, 1, 1)
    return centred, torch.exp(-squared / width) / particles.shape[-2], 2 / width


def run(particles: Particles, scores: ScoreFunction, steps: int, step_size: Tensor | float) -> Particles:
    """Particles after `steps` moves θ ← θ + ε φ, with ε one number or one per parameter."""
    rate = torch.as_tensor(step_size, dtype=particles.dtype, device=particles.device)
    for _ in range(steps):
        particles = torch.addcmul(particles, rate, direction(particles, scores(particles)))
    return particles


def _centred(particles: Tensor) -> Tensor:
    """Particles around their mean, so that cancellation is relative to their spread, not their norm."""
    return particles - particles.detach().mean(-2, keepdim=True)


def _squared_distances(centred: Tensor) -> Tensor:
    inner = centred @ centred.mT
    norms = inner.diagonal(dim1=-2, dim2=-1)
    # Exactly zero on the diagonal: doubling does not round.
    return (norms.unsqueeze(-1) + norms.unsqueeze(-2) - 2 * inner).clamp_min(0)
