"""Standard errors of figures over tasks, in which the tasks of one group are dependent."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from training.families.splits import Indices


def error_of_mean(values: Tensor, groups: Indices | None = None) -> float:
    """The standard error of the mean of values `[task]`; not a number for a single group.

    The residuals of a group are added before they are squared (Cochran, Sampling Techniques, 1977, ch. 9A).
    Groups of one task give std / √n.

    Args:
        groups: the group of each task; None takes tasks for independent.
    """
    values = values.double()
    residuals = values - values.mean()
    if groups is not None:
        _, codes = np.unique(groups, return_inverse=True)
        residuals = _sums(residuals, torch.from_numpy(codes))
    count = len(residuals)
    if count < 2:
        return math.nan
    return math.sqrt(float(residuals.square().sum()) * count / (count - 1)) / len(values)


def error_of_median(values: Tensor, groups: Indices | None = None) -> float:
    """The standard error of the median of values `[task]`; not a number for a single group.

    Half the distance between the quantiles one standard error of the share of smaller values from the middle
    (Woodruff 1952).
    """
    values = values.double()
    share = error_of_mean((values <= values.median()).double(), groups)
    if math.isnan(share):
        return math.nan
    places = torch.tensor([0.5 - share, 0.5 + share], dtype=torch.float64).clamp(0, 1)
    lower, upper = torch.quantile(values, places).tolist()
    return float(upper - lower) / 2


def jackknifed_error(figure: Callable[[Tensor], Tensor], parts: Tensor) -> float:
    """The standard error of a figure of sums over groups, by leaving out one group at a time.

    Args:
        figure: of sums `[…, part]`, for each of them.
        parts: what each group adds to the sums, `[group, part]`.
    """
    count = len(parts)
    if count < 2:
        return math.nan
    each = figure(parts.sum(0) - parts)
    return math.sqrt(float((each - each.mean()).square().sum()) * (count - 1) / count)


def _sums(values: Tensor, codes: Tensor) -> Tensor:
    """Values added up by their code, `[code]`."""
    return values.new_zeros(int(codes.max()) + 1).index_add(0, codes, values)
