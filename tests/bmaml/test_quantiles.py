"""Quantiles of mixtures that are hard to search, by tensor code and by native functions."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bmaml.native.mixtures import quantile
from bmaml.quantiles import mixture_quantiles

Array = NDArray[np.float64]

MIXTURES = {
    "one normal": ([1.0], [2.0], [0.5]),
    "two narrow ones far apart": ([0.3, 0.7], [-100.0, 100.0], [0.01, 0.02]),
    "a light one far away": ([1 - 1e-7, 1e-7], [0.0, 1e6], [1.0, 1.0]),
    "scales of all sizes": ([0.25] * 4, [0.0, 0.1, -0.1, 0.0], [1e-6, 1e-3, 1.0, 1e3]),
    "many": (np.full(200, 1 / 200), np.linspace(-3, 3, 200), np.linspace(0.01, 2, 200)),
}
LEVELS = (1e-6, 0.05, 0.3, 0.5, 0.7, 0.95, 1 - 1e-6)


def natively(weights: Array, means: Array, stds: Array, level: float) -> float:
    """The quantile by the native function."""
    return quantile(weights, means, stds, np.sqrt(0.5) / stds, level)


def by_tensors(weights: Array, means: Array, stds: Array, level: float) -> float:
    """The quantile by tensor code in double precision."""
    columns = (torch.from_numpy(each).view(-1, 1, 1, 1) for each in (means, stds, weights))
    return float(mixture_quantiles(*columns, torch.tensor([[[level]]], dtype=torch.float64)))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("path", [natively, by_tensors])
def test_the_distribution_function_at_a_quantile_is_its_level(
    path: Callable[[Array, Array, Array, float], float], name: str, level: float
) -> None:
    weights, means, stds = (np.array(each, np.float64) for each in MIXTURES[name])
    standard = torch.from_numpy((path(weights, means, stds, level) - means) / stds)
    below, above = (
        float(torch.from_numpy(weights) @ torch.special.ndtr(sign * standard)) for sign in (1, -1)
    )
    if level < 0.5:
        assert below == pytest.approx(level, rel=1e-6)
    else:
        assert above == pytest.approx(1 - level, rel=1e-6)


def test_no_level_jumps_over_a_narrow_component() -> None:
    weights, means, stds = np.array([0.7, 0.3]), np.array([0.0, 0.2]), np.array([1.0, 1e-3])
    for level in np.append(np.linspace(0.4, 0.8, 2001), 0.706192):
        standard = torch.from_numpy((natively(weights, means, stds, level) - means) / stds)
        assert float(torch.from_numpy(weights) @ torch.special.ndtr(standard)) == pytest.approx(
            level, rel=1e-6
        )
