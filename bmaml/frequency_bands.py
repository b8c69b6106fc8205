"""Frequency bands: a start of sine networks that gives each particle one band of frequencies.

Random features sin(ωᵀx + b) with ‖ω‖ in a narrow band span the functions of about that frequency (Rahimi &
Recht 2007). Under a Gaussian last layer a particle is therefore the kernel of one narrow spectral line, and a
set of particles is a discrete spectrum. Wilson & Adams 2013 mix such lines in the kernel; here the posterior
mixes them. The evidence finds the line from a handful of rows, as it cannot where every particle has all
frequencies.
"""

import math

import torch
from torch import Tensor

from bmaml.networks import MLP

BAND_OVERLAP = 1.5
"""Width of a band over the distance of two neighbours; above 1, so that no frequency lies between bands."""


def redraw_in_bands(
    network: MLP, weights: Tensor, bands: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Weights `[particle, param]` whose first layer is redrawn, particle m in the m-th of M equal bands.

    Directions are uniform, lengths uniform within the band, phases uniform on the circle.

    Args:
        bands: lowest and highest frequency of all bands, in radians per unit of the standardised inputs.
    """
    particles, units = len(weights), network.hidden[0]
    lowest, highest = bands
    step = (highest - lowest) / particles
    offsets = 0.5 + BAND_OVERLAP * (torch.rand(particles, units, generator=generator) - 0.5)
    frequencies = lowest + step * (torch.arange(particles).unsqueeze(-1) + offsets)
    directions = torch.randn(particles, network.inputs, units, generator=generator)
    directions = directions / directions.norm(dim=1, keepdim=True)
    phases = 2 * math.pi * torch.rand(particles, units, generator=generator)
    first = torch.cat([(directions * frequencies.unsqueeze(1)).flatten(1), phases], -1)
    return torch.cat([first.to(weights), weights[:, first.shape[-1] :]], -1)
