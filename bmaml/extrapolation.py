"""The return to the prior outside the training range, as far as the support rows do not reach there.

The network is untested outside the range, and support rows say less with distance. In each input, the
training range and the values of the task's support rows are covered. With a and b the distances of a row's
value to the nearest covered values below and above it, in widths of the range, its gap is zero inside the
range, and outside

    min(a, b) max(0, 1 − FAR_DISTANCE / (a + b)).

So there is no gap between covered values that are close together, and beyond all of them the gap is the
distance to the nearest. The distance d of a row is the root mean square of its gaps over the inputs. The
prior's share of the answer is 1 − exp(−½ (d / FAR_DISTANCE)²). `Predictive.towards` mixes the two.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from bmaml.shapes import Inputs, PerRow
from bmaml.task import Examples

FAR_DISTANCE = 0.25
"""Distance, in widths of the training range, beyond which a row counts as far away.

There the prior has 39 % of the answer, and 86 % at twice the distance.
"""

MIN_GAP = 1e-6
"""Smaller gaps count as zero: single precision's error for a row at the very end of the range."""

Range = Float[Tensor, "2 input"]
"""Lowest and highest value of each input in training, standardised."""


def all_inside(x: Inputs, trained: Range) -> bool:
    """Whether every row lies in the training range; on a GPU this is a host synchronisation."""
    low, high = trained.unbind(0)
    return bool(((x >= low) & (x <= high)).all())


def prior_share(x: Inputs, trained: Range, support: Examples) -> PerRow:
    """The prior's share of the answer at each row; zero inside the training range.

    Args:
        support: the support rows of each task, whose labels do not matter; their task axis may have length 1.
    """
    return -torch.expm1(-0.5 * (distance(x, trained, support) / FAR_DISTANCE).square())


def distance(x: Inputs, trained: Range, support: Examples) -> PerRow:
    """The distance of each row from the training range and the support rows, in widths of the range."""
    return _gaps(x, trained, support).square().mean(-1).sqrt()


def _gaps(x: Inputs, trained: Range, support: Examples) -> Inputs:
    """The gap of each row in each input."""
    low, high = trained.unbind(0)
    nothing = x.new_full((len(support), 1, x.shape[-1]), torch.inf)
    rows = torch.where(support.mask.unsqueeze(-1), support.x.to(x), torch.inf)
    covered = torch.cat([-nothing, trained.expand(len(support), -1, -1), rows, nothing], 1)
    covered = covered.sort(1).values.expand(len(x), -1, -1)  # padding comes last
    place = torch.searchsorted(covered.mT.contiguous(), x.mT.contiguous()).mT  # the nearest value above
    above, below = covered.gather(1, place) - x, x - covered.gather(1, place - 1)
    near = (1 - FAR_DISTANCE * (high - low) / (below + above)).clamp_min(0)
    gaps = torch.minimum(below, above) / (high - low) * near
    return torch.where(((x < low) | (x > high)) & (gaps > MIN_GAP), gaps, 0.0)
