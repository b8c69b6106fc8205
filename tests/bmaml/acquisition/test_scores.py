"""Scores of numbers against closed forms and Monte Carlo."""

from dataclasses import replace

import pytest
import torch

from bmaml.acquisition import ACQUISITIONS, DEFAULT_ACQUISITION, Pool, scores
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


def test_epig_without_a_target_is_epig_about_the_pool():
    about = belief(rank=3)
    torch.testing.assert_close(
        ACQUISITIONS["epig"].score(pool(about)), ACQUISITIONS["epig"].score(pool(about, about))
    )


def test_a_large_pool_is_represented_by_the_rows_of_the_smallest_draws(monkeypatch):
    monkeypatch.setattr(scores, "MAX_POOL_TARGETS", 4)
    about = belief(rank=3)
    offered = pool(about)
    smallest = offered.uniform.argsort(-1)[:, :4]
    expected = ACQUISITIONS["epig"].score(pool(about, about.at_rows(smallest)))
    torch.testing.assert_close(ACQUISITIONS["epig"].score(offered), expected)


def test_the_representatives_of_a_pool_do_not_depend_on_its_order_or_on_other_tasks(monkeypatch):
    monkeypatch.setattr(scores, "MAX_POOL_TARGETS", 4)
    about = belief(rank=3)
    offered, order = pool(about), torch.randperm(12)
    found = ACQUISITIONS["epig"].score(offered)
    moved = replace(offered, predictive=about.at_rows(order.expand(2, -1)), uniform=offered.uniform[:, order])
    torch.testing.assert_close(ACQUISITIONS["epig"].score(moved), found[:, order])
    for task in range(2):
        own = slice(task, task + 1)
        alone = Pool(about.part(own), offered.best[own], offered.uniform[own])
        torch.testing.assert_close(ACQUISITIONS["epig"].score(alone), found[own])


@pytest.mark.parametrize("most", [256, 5])
def test_equal_rows_have_equal_epig(monkeypatch, most):
    monkeypatch.setattr(scores, "MAX_POOL_TARGETS", most)
    twice = torch.arange(8).repeat(2).expand(2, -1)
    found = ACQUISITIONS["epig"].score(pool(belief(rank=3).at_rows(twice)))
    torch.testing.assert_close(found[:, :8], found[:, 8:])


def test_epig_of_a_pool_of_one_row_is_the_information_about_a_second_label():
    about = belief(rows=1, rank=3)
    share = (about.epistemic() / about.variance())[..., 0]
    torch.testing.assert_close(ACQUISITIONS["epig"].score(pool(about)), -0.5 * torch.log1p(-share.square()))


@pytest.mark.parametrize("unit", [1.0, 1e-24, 1e15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_certain_belief_leaves_no_information_in_any_unit(dtype, unit):
    means = torch.full((2, 3, 4, 1), 0.7 * unit, dtype=dtype)
    zeros = torch.zeros_like(means)
    about = Predictive(means, zeros + 0.1 * unit**2, zeros, torch.zeros(2, 3, dtype=dtype).log_softmax(-1))
    found = ACQUISITIONS["epig"].score(pool(about))
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-10, rtol=0)


def test_epig_does_not_depend_on_the_unit():
    about = belief(rank=3)
    small = about.rescaled(torch.tensor([3.0]), torch.tensor([1e-9]))
    torch.testing.assert_close(
        ACQUISITIONS["epig"].score(pool(small)), ACQUISITIONS["epig"].score(pool(about))
    )


def test_the_default_is_an_acquisition():
    assert DEFAULT_ACQUISITION in ACQUISITIONS


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
