"""The noise of several targets of one table, and the units in which they are learned."""

import numpy as np
import pytest
import torch

from bmaml.task import Examples
from training.families.noise_scales import LEAST_NOISE, noise_scales

TASKS, ROWS = 30, 10


def tasks_with_noise(*noise, seed=0):
    """Targets whose levels and curves differ from task to task, with this noise each."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(TASKS, ROWS, 1, generator=draw, dtype=torch.float64) * 4 - 2
    level, size = torch.randn(2, TASKS, 1, len(noise), generator=draw, dtype=torch.float64)
    errors = torch.randn(TASKS, ROWS, len(noise), generator=draw, dtype=torch.float64)
    y = level + size * torch.sin(1.5 * x) + torch.tensor(noise, dtype=torch.float64) * errors
    return Examples.full(x, y)


def test_one_target_keeps_its_standard_deviation():
    assert noise_scales(tasks_with_noise(0.3)) == [1.0]


def test_the_scales_have_the_ratios_of_the_noise():
    found = np.array(noise_scales(tasks_with_noise(0.1, 1.0, 0.5)))
    np.testing.assert_allclose(found / found[1], [0.1, 1.0, 0.5], rtol=0.25)
    assert np.log(found).sum() == pytest.approx(0, abs=1e-12)


def test_a_target_without_noise_stops_at_the_least():
    found = noise_scales(tasks_with_noise(0.0, 0.5))
    assert found[0] / found[1] == pytest.approx(LEAST_NOISE / 0.5, rel=0.2)
