"""exp and the normal distribution function far out, where they vanish.

The vectorised functions behind torch look one by one at numbers whose result is below the smallest normal
one, and take up to a hundred times as long for each. Most hypotheses are there: far from the rows that were
shown, or from the point that is asked about. What is not a number stays so.
"""

import math

import torch
from torch import Tensor

FAR = 80.0
"""e^−FAR and less is nothing."""
FURTHEST = 8.0
"""From here on erfc, of order e^−64, counts as if it were erfc(8)."""


def exp(logs: Tensor) -> Tensor:
    """e to the power of each, and zero for less than e^−80."""
    return torch.threshold(torch.exp(logs.clamp_min(-FAR)), 1.0001 * math.exp(-FAR), 0.0)


def logsumexp(logs: Tensor, dim: int) -> Tensor:
    """log Σ exp along one axis, without what is less than e^−80 of the largest."""
    top = logs.detach().amax(dim, keepdim=True).clamp_min(torch.finfo(logs.dtype).min)
    return exp(logs - top).sum(dim).log() + top.squeeze(dim)


def ndtr(standard: Tensor) -> Tensor:
    """Φ, the standard normal distribution function; below −11.3 as at −11.3."""
    return 0.5 * torch.erfc((-math.sqrt(0.5) * standard).clamp_max(FURTHEST))
