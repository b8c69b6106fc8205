"""Scores of numbers against closed forms and Monte Carlo."""

import pytest
import torch

from bmaml.acquisition import ACQUISITIONS, NeedsTarget, scores
from bmaml.predictive import Predictive
from tests.bmaml.acquisition.pools import belief, pool


def test_variances_are_the_predictive_s():
    about = belief(rank=3)
    for name, expected in (("total_variance", about.variance()), ("epistemic_variance", about.epistemic())):
        torch.testing.assert_close(ACQUISITIONS[name].score(pool(about)), expected[..., 0])


def test_entropy_of_one_gaussian_is_half_the_log_of_its_variance():
    about = belief(particles=1, rank=3)
    expected = 0.5 * (2 * torch.pi * torch.e * about.variance()).log()[..., 0]
    torch.testing.assert_close(ACQUISITIONS["entropy"].score(pool(about)), expected)


def test_epig_of_one_gaussian_is_the_mutual_information_of_two_normals():
    about = belief(particles=1, rank=3)
    here, there = about.part(slice(None), slice(0, 8)), about.part(slice(None), slice(8, None))
    factor = about.factor[:, :, 0]
    joint = factor @ factor.mT + 0.2 * torch.eye(12)
    own = joint.diagonal(dim1=-2, dim2=-1)
    logdet = own[:, :8, None] * own[:, None, 8:] - joint[:, :8, 8:] ** 2
    information = 0.5 * (own[:, :8, None].log() + own[:, None, 8:].log() - logdet.log())
    torch.testing.assert_close(ACQUISITIONS["epig"].score(pool(here, there)), information.mean(-1))


@pytest.mark.parametrize("cells", [1, 20])
def test_epig_of_many_rows_is_that_of_a_few_at_a_time(monkeypatch, cells):
    about = belief(rank=3)
    here, there = about.part(slice(None), slice(0, 8)), about.part(slice(None), slice(8, None))
    whole = ACQUISITIONS["epig"].score(pool(here, there))
    monkeypatch.setattr(scores, "MAX_CORRELATIONS", cells)
    torch.testing.assert_close(ACQUISITIONS["epig"].score(pool(here, there)), whole)


def test_epig_needs_a_target():
    with pytest.raises(NeedsTarget):
        ACQUISITIONS["epig"].score(pool(belief()))


def test_expected_improvement_agrees_with_monte_carlo():
    about = belief(rows=3, rank=2)
    components = torch.distributions.Categorical(logits=about.log_weights).sample((200_000,))
    scale = (about.noise + about.within).sqrt().expand_as(about.means)[..., 0]
    means = about.means[..., 0]
    for task in range(2):
        picks = components[:, task]
        draws = means[task, picks] + scale[task, picks] * torch.randn(200_000, 3)
        expected = (draws - 0.3).clamp_min(0).mean(0)
        found = ACQUISITIONS["expected_improvement"].score(pool(about))[task]
        torch.testing.assert_close(found, expected, atol=0.01, rtol=0)  # five standard errors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_expected_to_be_worse_than_the_best(dtype):
    below = torch.linspace(0, 40, 81, dtype=dtype)  # deviations
    zeros = torch.zeros_like(below)[None, None, :, None]
    about = Predictive(-below[None, None, :, None], zeros + 1, zeros, torch.zeros(1, 1, dtype=dtype))
    found = ACQUISITIONS["expected_improvement"].score(pool(about, best=0.0))
    assert (found >= 0).all()
    assert (found[0].diff() <= 0).all()
    assert (found[0, below < 4] > 0).all()
    assert (found[0, below > 12] == 0).all()


def test_upper_confidence_bound_is_mean_plus_two_epistemic_deviations():
    about = belief(rank=2)
    expected = (about.mean() + 2 * about.epistemic().sqrt())[..., 0]
    torch.testing.assert_close(ACQUISITIONS["ucb"].score(pool(about)), expected)


def test_random_is_the_draw():
    offered = pool(belief())
    assert torch.equal(ACQUISITIONS["random"].score(offered), offered.uniform)
