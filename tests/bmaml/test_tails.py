"""exp and Φ that are nothing, or as good as nothing, where they vanish."""

import math

import pytest
import torch

from bmaml import tails


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exp_is_exp_down_to_e_to_the_minus_80_and_nothing_below(dtype):
    logs = torch.linspace(-79.9, 5, 1000, dtype=dtype)
    torch.testing.assert_close(tails.exp(logs), torch.exp(logs))
    assert tails.exp(torch.tensor([-80.0, -200.0, -1e30, -math.inf], dtype=dtype)).tolist() == [0, 0, 0, 0]
    assert tails.exp(torch.tensor([math.nan], dtype=dtype)).isnan().all()


def test_the_slope_of_exp_is_exp():
    logs = torch.tensor([-100.0, -1.0, 0.5], requires_grad=True)
    tails.exp(logs).sum().backward()
    torch.testing.assert_close(logs.grad, torch.tensor([0.0, math.exp(-1), math.exp(0.5)]))


@pytest.mark.parametrize("shift", [0.0, -1e4, 1e4])
def test_logsumexp_is_torchs(shift):
    generator = torch.Generator().manual_seed(0)
    logs = 30 * torch.randn(4, 50, 3, generator=generator, dtype=torch.float64) + shift
    logs[0] = -math.inf
    logs[1, 1:] = -math.inf
    logs[2, 7, 0] = math.nan
    found, expected = tails.logsumexp(logs, 1), torch.logsumexp(logs, 1)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0, equal_nan=True)
    whole = logs[3:].clone().requires_grad_()
    tails.logsumexp(whole, 1).sum().backward()
    torch.testing.assert_close(whole.grad, whole.detach().softmax(1))


def test_ndtr_is_the_normal_distribution_function():
    standard = torch.linspace(-11.3, 11.3, 500, dtype=torch.float64)
    expected = torch.special.log_ndtr(standard).exp()  # torch's own ndtr loses the lower tail
    torch.testing.assert_close(tails.ndtr(standard), expected, rtol=1e-12, atol=0)
    far = tails.ndtr(torch.tensor([-math.inf, -1e9, math.nan, 1e9, math.inf]))
    assert ((far[:2] > 0) & (far[:2] < 1e-28)).all()
    assert far[2].isnan()
    assert far[3:].tolist() == [1, 1]
