"""exp and the normal distribution function in their tails, without subnormal numbers.

Vectorised kernels take up to a hundred times as long where a result is subnormal. Most hypotheses are there:
far from the support rows, or from the value in question. NaN stays NaN.
"""

import math

import torch
from torch import Tensor

MAX_EXPONENT = 80.0
"""e^−MAX_EXPONENT and less counts as zero."""
MAX_ERFC_ARGUMENT = 8.0
"""erfc is constant beyond, at erfc(8), which is of order e⁻⁶⁴."""


def exp(logs: Tensor) -> Tensor:
    """e to the power of each value; zero where that is less than e⁻⁸⁰."""
    return torch.threshold(torch.exp(logs.clamp_min(-MAX_EXPONENT)), 1.0001 * math.exp(-MAX_EXPONENT), 0.0)


def logsumexp(logs: Tensor, dim: int) -> Tensor:
    """log Σ exp along one axis; terms below e⁻⁸⁰ of the largest count as zero."""
    top = logs.detach().amax(dim, keepdim=True).clamp_min(torch.finfo(logs.dtype).min)
    return exp(logs - top).sum(dim).log() + top.squeeze(dim)


def ndtr(standard: Tensor) -> Tensor:
    """Φ, the standard normal distribution function; constant below −11.3."""
    return 0.5 * torch.erfc((-math.sqrt(0.5) * standard).clamp_max(MAX_ERFC_ARGUMENT))
