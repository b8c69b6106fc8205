"""SVGD as its algorithm box reads, one particle at a time: the reference for ours."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def svgd_step(particles: Sequence[Tensor], scores: Sequence[Tensor], step_size: float) -> list[Tensor]:
    """Every particle after one step (Liu & Wang 2016, Algorithm 1); the bandwidth counts as a constant."""
    squared = torch.pdist(torch.stack(list(particles)).detach()).square()
    width = squared.quantile(0.5) / math.log(len(particles) + 1)
    result = []
    for theta in particles:
        total = torch.zeros_like(theta)
        for other, score in zip(particles, scores, strict=True):
            kernel = torch.exp(-(theta - other).square().sum() / width)
            total = total + kernel * score + 2 / width * kernel * (theta - other)
        result.append(theta + step_size * total / len(particles))
    return result
