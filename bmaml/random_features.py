"""Random Fourier features, whose inner products approximate an RBF kernel (Rahimi & Recht 2007)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from bmaml.device_constants import constant
from bmaml.shapes import Inputs


def normal_sobol(inputs: int, frequencies: int) -> Float[Tensor, "input frequency"]:
    """Standard normal numbers from a scrambled Sobol sequence, the same every time."""
    sobol = torch.quasirandom.SobolEngine(inputs, scramble=True, seed=0)
    uniform = sobol.draw(frequencies, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    return torch.special.ndtri(uniform).mT.contiguous().to(torch.get_default_dtype())


def fourier_features(
    x: Float[Tensor, "*tasks row input"], phases: Tensor
) -> Float[Tensor, "*tasks row feature"]:
    """A constant 1, the inputs, their squares, and waves: cosines and sines, of squared norm 1 together."""
    waves = torch.cat([phases.cos(), phases.sin()], -1) / math.sqrt(max(1, phases.shape[-1]))
    return torch.cat([torch.ones_like(x[..., :1]), x, x.square(), waves], -1)


def broad_features(
    frequencies: Float[Tensor, "input frequency"], x: Inputs, lengths: tuple[float, ...]
) -> Float[Tensor, "task length row feature"]:
    """φ(x) of broad processes of each length, where φᵀφ' is their covariance at scale 1, without noise."""
    root = math.sqrt(x.shape[-1])
    inverse = constant(tuple(1 / length for length in lengths), x).view(-1, 1, 1)
    phases = (x @ (frequencies / root)).unsqueeze(1) * inverse
    waves = torch.cat([phases.cos(), phases.sin()], -1) / math.sqrt(frequencies.shape[-1])
    linear = (x * (2 / (root * max(lengths)))).unsqueeze(1).expand(-1, waves.shape[1], -1, -1)
    return torch.cat([torch.ones_like(waves[..., :1]), linear, waves], -1)
