"""The prior's share by distance from the training range, and the ceiling of noise."""

import math

import torch

from bmaml.extrapolation import FAR_DISTANCE, all_inside, prior_share
from bmaml.predictive import Predictive

RANGE = torch.tensor([[-1.0, 0.0], [1.0, 4.0]], dtype=torch.float64)


def rows(*values):
    return torch.tensor([values], dtype=torch.float64)


def test_the_prior_has_no_share_inside_and_at_the_ends_of_the_range():
    x = rows([0.0, 2.0], [-1.0, 0.0], [1.0, 4.0], [1.0 + 1e-7, 2.0])
    assert prior_share(x, RANGE).tolist() == [[0.0, 0.0, 0.0, 0.0]]
    assert all_inside(x[:, :3], RANGE)
    assert not all_inside(x, RANGE)


def test_the_prior_s_share_is_measured_in_widths_of_the_range_and_the_farthest_input_counts():
    x = rows([1.5, 2.0], [0.0, 5.0], [1.5, 8.0])  # a quarter of a width, twice, and a whole one
    far, whole = 1 - math.exp(-0.5), 1 - math.exp(-0.5 / FAR_DISTANCE**2)
    expected = torch.tensor([[far, far, whole]], dtype=torch.float64)
    torch.testing.assert_close(prior_share(x, RANGE), expected)


def test_the_ceiling_of_noise_is_one_per_output_and_moves_nothing_else():
    shape = (1, 2, 3, 2)
    belief = Predictive(
        means=torch.zeros(shape, dtype=torch.float64),
        noise=torch.arange(12.0, dtype=torch.float64).view(shape),
        within=torch.ones(shape, dtype=torch.float64),
        log_weights=torch.full((1, 2), math.log(0.5), dtype=torch.float64),
    )
    capped = belief.with_noise_at_most(torch.tensor([math.inf, 4.0]))
    assert torch.equal(capped.noise[..., 0], belief.noise[..., 0])
    assert torch.equal(capped.noise[..., 1], belief.noise[..., 1].clamp_max(4.0))
    assert torch.equal(capped.epistemic(), belief.epistemic())
