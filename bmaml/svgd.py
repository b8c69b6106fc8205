"""Stein variational gradient descent: particles that climb a density and keep apart.

Liu & Wang, "Stein Variational Gradient Descent", NeurIPS 2016, Algorithm 1.
"""

import math

import torch
from torch import Tensor

from bmaml.shapes import Gram, Particles, PerTask, ScoreFunction


def squared_distances(particles: Particles) -> Gram:
    """‖θᵢ − θⱼ‖² for all pairs, exactly zero on the diagonal."""
    return _squared_distances(_centred(particles))


def median_bandwidth(squared: Gram) -> PerTask:
    """h = median squared distance of the M(M−1)/2 distinct pairs ÷ log(M + 1).

    A constant: no gradient flows through it. Floored above zero, so that coincident particles
    (and a single one, which has no pairs) leave the kernel finite.
    """
    count = squared.shape[-1]
    floor = torch.finfo(squared.dtype).eps
    if count == 1:
        return squared.new_full(squared.shape[:1], 1.0)
    first, second = torch.triu_indices(count, count, offset=1, device=squared.device)
    pairs = squared.detach()[:, first, second].sort(-1).values
    middle = pairs.shape[-1] // 2
    median = (pairs[:, middle] + pairs[:, (pairs.shape[-1] - 1) // 2]) / 2
    return (median / math.log(count + 1)).clamp_min(floor)


def direction(particles: Particles, scores: Particles, bandwidth: PerTask | None = None) -> Particles:
    """φ, the direction that moves all particles uphill together.

    φᵢ = (1/M) Σⱼ [k(θⱼ, θᵢ) sⱼ + (2/h) k(θⱼ, θᵢ)(θᵢ − θⱼ)] with k(a, b) = exp(−‖a − b‖²/h) and
    scores s. Attraction shares scores between neighbours; repulsion is the kernel's own gradient.
    A single particle feels no repulsion and simply climbs its score.

    Args:
        bandwidth: h of each task; by default the median heuristic.
    """
    count = particles.shape[-2]
    if count == 1:
        return scores
    centred = _centred(particles)
    squared = _squared_distances(centred)
    if bandwidth is None:
        bandwidth = median_bandwidth(squared)
    width = bandwidth.view(-1, 1, 1)
    gram = torch.exp(-squared / width) / count
    # Σⱼ kᵢⱼ (θᵢ − θⱼ) is one product with (diag(Σⱼ kᵢⱼ) − k), wherever the origin lies.
    repulsion = (torch.diag_embed(gram.sum(-1)) - gram) * (2 / width) @ centred
    return torch.baddbmm(repulsion, gram.expand(len(scores), -1, -1), scores)


def run(particles: Particles, scores: ScoreFunction, steps: int, step_size: Tensor | float) -> Particles:
    """`steps` moves θ ← θ + ε φ, with ε one number or one per parameter."""
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
    squared = norms.unsqueeze(-1) + norms.unsqueeze(-2) - 2 * inner
    off_diagonal = 1 - torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device)
    return squared.clamp_min(0) * off_diagonal
