"""A start for sine networks in which each particle listens to one band of frequencies.

Random features sin(ωᵀx + b) with ‖ω‖ in a narrow band span the functions that oscillate about that fast
(Rahimi & Recht 2007), so under a Gaussian last layer a particle is the kernel of one narrow spectral
line and a set of particles is a discrete spectrum (Wilson & Adams 2013, with the mixture over
lines taken in the posterior instead of in the kernel). The evidence then picks the line from a
handful of rows, which no start with all frequencies in every particle allows.
"""

import math

import torch
from torch import Tensor

from bmaml.networks import MLP

OVERLAP = 1.5
"""The width of a band over the distance to the next: no frequency falls between two particles."""


def in_bands(network: MLP, weights: Tensor, bands: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Weights `[particle, param]` whose first layer is redrawn, particle m in the m-th of M equal bands.

    Directions are uniform, lengths uniform within the band, phases uniform on the circle.

    Args:
        bands: lowest and highest frequency of all, in radians per unit of the (scaled) inputs.
    """
    particles, units = len(weights), network.hidden[0]
    lowest, highest = bands
    step = (highest - lowest) / particles
    offsets = 0.5 + OVERLAP * (torch.rand(particles, units, generator=generator) - 0.5)
    frequencies = lowest + step * (torch.arange(particles).unsqueeze(-1) + offsets)
    directions = torch.randn(particles, network.inputs, units, generator=generator)
    directions = directions / directions.norm(dim=1, keepdim=True)
    phases = 2 * math.pi * torch.rand(particles, units, generator=generator)
    first = torch.cat([(directions * frequencies.unsqueeze(1)).flatten(1), phases], -1)
    return torch.cat([first.to(weights), weights[:, first.shape[-1] :]], -1)
