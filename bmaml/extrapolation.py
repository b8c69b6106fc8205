"""The return to the prior outside the training range.

The network is untested there, and support rows say less with distance. With d the distance of a row from the
range, in widths of it, the prior's share of the answer is 1 − exp(−½ (d / FAR_DISTANCE)²).
`Predictive.towards` mixes the two.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from bmaml.shapes import Inputs, PerRow

FAR_DISTANCE = 0.25
"""Distance from the training range, in widths of it, beyond which a row counts as far away.

There the prior has 39 % of the answer, and 86 % at twice the distance.
"""

MIN_DISTANCE = 1e-6
"""Smaller distances count as zero: single precision's error for a row at the very end of the range."""

Range = Float[Tensor, "2 input"]
"""Lowest and highest value of each input in training, standardised."""


def all_inside(x: Inputs, trained: Range) -> bool:
    """Whether every row lies in the training range; on a GPU this is a host synchronisation."""
    low, high = trained.unbind(0)
    return bool(((x >= low) & (x <= high)).all())


def prior_share(x: Inputs, trained: Range) -> PerRow:
    """The prior's share of the answer at each row; zero inside the training range.

    The input that lies farthest outside counts.
    """
    low, high = trained.unbind(0)
    distance = (torch.maximum(low - x, x - high) / (high - low)).amax(-1)
    distance = torch.where(distance > MIN_DISTANCE, distance, 0.0)
    return -torch.expm1(-0.5 * (distance / FAR_DISTANCE).square())
