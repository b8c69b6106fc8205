"""Mixtures of Gaussians: decompositions add up, quantiles invert the cdf."""

import dataclasses
import math

import pytest
import torch
from scipy import integrate

from bmaml import entropy
from bmaml.predictive import NoJoint, Predictive


def mixture(tasks=2, particles=4, rows=3, outputs=2, rank=None):
    within, factor = torch.rand(tasks, particles, rows, 1), None
    logs = torch.randn(tasks, particles).log_softmax(-1)
    if rank is not None:
        factors = torch.randn(tasks, particles, rows, rank)
        within = factors.square().sum(-1, keepdim=True)
        factor = (factors * (0.5 * logs).exp()[..., None, None]).movedim(1, 2).flatten(2).unsqueeze(2)
    return Predictive(
        means=torch.randn(tasks, particles, rows, outputs),
        noise=0.1 + torch.rand(tasks, particles, 1, 1),
        within=within,
        log_weights=logs,
        factor=factor,
    )


def reference(belief):
    """The same mixture by torch.distributions, with the particle axis last."""
    scale = (belief.noise + belief.within).sqrt().expand_as(belief.means)
    shape = belief.means.movedim(1, -1).shape
    weights = belief.log_weights[:, None, None, :].expand(shape)
    return torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=weights),
        torch.distributions.Normal(belief.means.movedim(1, -1), scale.movedim(1, -1)),
    )


def test_moments_densities_and_cdf_are_the_mixture_s():
    belief, y = mixture(), torch.randn(2, 3, 2)
    expected = reference(belief)
    torch.testing.assert_close(belief.mean(), expected.mean)
    torch.testing.assert_close(belief.aleatoric() + belief.epistemic(), expected.variance)
    torch.testing.assert_close(belief.variance(), expected.variance)
    torch.testing.assert_close(belief.log_density(y), expected.log_prob(y))
    torch.testing.assert_close(belief.cdf(y), expected.cdf(y))


def test_a_target_whose_square_overflows_in_single_precision_has_a_finite_density_in_double():
    belief = mixture()
    names = ("means", "noise", "within", "log_weights")
    single = dataclasses.replace(belief, **{name: getattr(belief, name).float() for name in names})
    far = torch.full((2, 3, 2), 1e30)
    assert (single.log_density(far.float()) == -torch.inf).all()
    found = single.double().log_density(far.double())
    assert found.isfinite().all()
    torch.testing.assert_close(found, single.double().log_density(-far.double()))
    torch.testing.assert_close(single.double().mean(), belief.mean(), rtol=1e-6, atol=1e-6)


def test_quantiles_invert_the_cdf_even_between_far_apart_modes():
    belief = mixture().rescaled(torch.zeros(2), torch.tensor([1.0, 1e-3]))
    belief.means[:, 0] += 50
    levels = torch.tensor([[0.001, 0.05, 0.5, 0.95, 0.999], [0.01, 0.2, 0.3, 0.7, 0.99]])
    found = belief.quantiles(levels)
    for index in range(5):
        expected = levels[:, index, None, None].expand(2, 3, 2)
        torch.testing.assert_close(belief.cdf(found[:, index]), expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("far", [-1e1, -1e2, -1e3])
def test_what_is_far_and_hardly_weighs_anything_does_not_slow_the_search_down(far):
    """Three in a hundred lie where the lower quantile is, beside the rest; one in a million lies anywhere."""
    belief = Predictive(
        means=torch.tensor([far, -0.2, 0.0])[None, :, None, None],
        noise=torch.tensor([1.0, 0.02, 0.02]).square()[None, :, None, None],
        within=torch.zeros(1, 3, 1, 1),
        log_weights=torch.tensor([[1e-6, 0.06, 0.94 - 1e-6]]).log(),
    )
    levels = torch.tensor([[0.05, 0.5, 0.95]])
    found = belief.quantiles(levels, rounds=12)[:, :, 0, 0]
    for index in range(3):
        torch.testing.assert_close(belief.cdf(found[:, index, None, None])[..., 0], levels[:, index, None])


@pytest.mark.parametrize("far", [1e2, 1e4, 1e6])
def test_what_is_far_and_hardly_weighs_anything_costs_no_precision(far):
    belief = Predictive(
        means=torch.tensor([0.0, 1.0, far], dtype=torch.float32)[None, :, None, None],
        noise=torch.full((1, 1, 1, 1), 0.01, dtype=torch.float32),
        within=torch.zeros(1, 3, 1, 1, dtype=torch.float32),
        log_weights=torch.tensor([[0.5, 0.5 - 1e-7, 1e-7]], dtype=torch.float32).log(),
    )
    near = Predictive(belief.means[:, :2], belief.noise, belief.within[:, :2], belief.log_weights[:, :2])
    levels = torch.tensor([[0.05, 0.3, 0.6, 0.7, 0.95]])
    torch.testing.assert_close(belief.quantiles(levels), near.quantiles(levels), atol=1e-5, rtol=1e-5)


def test_quantiles_of_one_particle_are_the_normal_s():
    belief = mixture(particles=1)
    found = belief.quantiles(torch.tensor([[0.05, 0.975]]))
    normal = torch.distributions.Normal(belief.mean(), belief.variance().sqrt())
    torch.testing.assert_close(found[:, 0], normal.icdf(torch.tensor(0.05)))
    torch.testing.assert_close(found[:, 1], normal.icdf(torch.tensor(0.975)))


def test_the_interval_holds_its_level_with_equal_tails():
    belief = mixture()
    lower, upper = belief.interval(0.8)
    torch.testing.assert_close(belief.cdf(lower), torch.full((2, 3, 2), 0.1), atol=1e-8, rtol=0)
    torch.testing.assert_close(belief.cdf(upper), torch.full((2, 3, 2), 0.9), atol=1e-8, rtol=0)


def test_a_prediction_that_is_not_a_number_has_no_quantiles_and_does_not_hang():
    belief = mixture()
    belief.means[0] = torch.nan
    found = belief.quantiles(torch.tensor([[0.5]]))
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


def test_entropy_is_exact_for_one_gaussian_and_close_for_mixtures():
    single = mixture(particles=1)
    expected = torch.distributions.Normal(single.mean(), single.variance().sqrt()).entropy()
    torch.testing.assert_close(single.entropy(), expected)

    belief = mixture(tasks=1, rows=1, outputs=1)

    def surprise(y):
        log = belief.log_density(torch.tensor([[[y]]]))
        return float(-log.exp() * log)

    exact, _ = integrate.quad(surprise, -15, 15, limit=200)
    assert float(belief.entropy()) == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("at_once", [1, 10**7])
def test_entropy_is_each_place_s_own_affair(monkeypatch, at_once):
    belief = mixture(particles=40)
    alone = [belief.part(slice(task, task + 1), slice(row, row + 1)) for task in range(2) for row in range(3)]
    expected = torch.cat([each.entropy() for each in alone]).view(2, 3, 2)
    monkeypatch.setattr(entropy, "MAX_TERMS", at_once)
    torch.testing.assert_close(belief.entropy(), expected)


@pytest.mark.parametrize("particles", [4, 40])
def test_another_unit_adds_its_logarithm_to_the_entropy(particles):
    belief = mixture(particles=particles)
    belief.log_weights.copy_((20 * torch.randn(2, particles)).log_softmax(-1))
    belief.means[:, :, 0] *= 1e4
    single = dataclasses.replace(
        belief,
        **{name: getattr(belief, name).float() for name in ("means", "noise", "within", "log_weights")},
    )
    for unit in (1e-12, 1.0, 1e14):
        scaled = single.rescaled(torch.zeros(2).float(), torch.full((2,), unit).float())
        expected = belief.entropy() + math.log(unit)
        torch.testing.assert_close(scaled.entropy().double(), expected, rtol=0, atol=2e-3)


def test_entropy_of_many_components_is_close_to_the_integral():
    belief = mixture(tasks=3, particles=300, rows=1, outputs=1)
    belief.means.mul_(3)
    belief.log_weights.copy_((6 * torch.randn(3, 300)).log_softmax(-1))
    found = belief.entropy()
    for task in range(3):
        own = belief.part(slice(task, task + 1))

        def integrand(y, own=own):
            log = float(own.log_density(torch.tensor([[[y]]], dtype=own.means.dtype)))
            return -log * math.exp(log)

        exact = integrate.quad(integrand, -16, 16, limit=500, points=[-3, 0, 3])[0]
        assert float(found[task]) == pytest.approx(exact, abs=0.02)


def test_embedding_s_inner_products_are_the_epistemic_covariances():
    belief = mixture(tasks=1, rank=3)
    embedding = belief.covariance_root()[0, :, 1]
    weights, means = belief.log_weights.exp()[0], belief.means[0, :, :, 1]
    offsets = means - weights @ means
    between = torch.einsum("m,mi,mj->ij", weights, offsets, offsets)
    inside = belief.factor[0, :, 0] @ belief.factor[0, :, 0].T
    torch.testing.assert_close(embedding @ embedding.T, between + inside)
    torch.testing.assert_close((embedding @ embedding.T).diagonal(), belief.epistemic()[0, :, 1])


@pytest.mark.parametrize("rank", [None, 3])
def test_on_the_way_to_the_prior_covariances_still_have_the_variances_on_their_diagonal(rank):
    belief, prior = mixture(rank=rank), mixture(particles=2)
    if rank is None:
        belief = dataclasses.replace(belief, within=torch.zeros(1, 1, 1, 1))
    share = torch.tensor([[0.0, 0.3, 1.0], [0.9, 0.0, 0.5]])
    mixed = belief.towards(prior, share, joint=True)
    torch.testing.assert_close(mixed.covariance_root().square().sum(-1), mixed.epistemic())
    torch.testing.assert_close(mixed.mean()[0, 2], prior.mean()[0, 2])
    torch.testing.assert_close(mixed.epistemic()[0, 2], prior.epistemic()[0, 2])


def test_covariances_need_the_factor():
    with pytest.raises(NoJoint):
        mixture().covariance_root()


def test_another_unit_scales_moments_and_quantiles():
    belief = mixture(rank=2)
    shift, scale = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5])
    other = belief.rescaled(shift, scale)
    levels = torch.tensor([[0.1, 0.6]])
    torch.testing.assert_close(other.mean(), belief.mean() * scale + shift)
    torch.testing.assert_close(other.variance(), belief.variance() * scale**2)
    torch.testing.assert_close(other.quantiles(levels), belief.quantiles(levels) * scale + shift)
    torch.testing.assert_close(other.covariance_root(), belief.covariance_root() * scale[:, None])


def test_a_part_is_the_same_belief_about_fewer_rows_and_tasks():
    belief = mixture(rank=2)
    part = belief.part(slice(1, 2), slice(0, 2))
    torch.testing.assert_close(part.variance(), belief.variance()[1:2, :2])
    torch.testing.assert_close(part.covariance_root(), belief.covariance_root()[1:2, :2])


def test_the_crps_is_the_integral_of_the_squared_distance_between_cdfs():
    belief, y = mixture(tasks=1, rows=2, outputs=1), torch.randn(1, 2, 1)
    found = belief.crps(y)
    for row in range(2):
        truth = float(y[0, row, 0])

        def squared(value, row=row, truth=truth):
            below = float(belief.cdf(torch.full((1, 2, 1), value))[0, row, 0])
            return (below - (value >= truth)) ** 2

        expected = sum(integrate.quad(squared, *span, epsabs=1e-9)[0] for span in ((-15, truth), (truth, 15)))
        torch.testing.assert_close(float(found[0, row, 0]), expected, rtol=1e-6, atol=0)


def test_components_of_no_weight_go_and_the_others_stay():
    belief = mixture(particles=5, rank=2)
    weights = torch.tensor([[0.5, 1e-4, 0.3, 2e-4, 0.1997], [0.9, 0.1 - 3e-4, 1e-4, 1e-4, 1e-4]])
    belief = dataclasses.replace(belief, log_weights=weights.log())
    light = belief.pruned(3.5e-4)
    torch.testing.assert_close(
        light.log_weights.exp(),
        torch.tensor([[0.5, 0.3, 0.1997], [0.9, 0.0997, 0.0]]) / torch.tensor([[0.9997], [0.9997]]),
    )
    for name in ("means", "noise", "within"):
        torch.testing.assert_close(getattr(light, name)[0], getattr(belief, name)[0, [0, 2, 4]])
    torch.testing.assert_close(light.mean(), belief.mean(), atol=5e-3, rtol=0)
    levels = torch.tensor([[0.05, 0.5]])
    torch.testing.assert_close(light.quantiles(levels), belief.quantiles(levels), atol=5e-3, rtol=0)


def test_dropping_components_is_each_task_s_own_affair():
    belief = mixture(tasks=3, particles=6)
    together = belief.pruned(0.2)
    for task in range(3):
        alone = belief.part(slice(task, task + 1)).pruned(0.2)
        torch.testing.assert_close(alone.mean()[0], together.mean()[task])
        torch.testing.assert_close(alone.variance()[0], together.variance()[task])


@pytest.mark.parametrize("tolerance", [1e-3, 0.1])
def test_quantiles_without_the_lightest_components_keep_their_levels_to_the_tolerance(tolerance):
    belief = mixture(particles=60)
    logs = torch.log_softmax(8 * torch.randn(2, 60), -1)
    belief = dataclasses.replace(belief, log_weights=logs)
    levels = torch.tensor([[0.05, 0.5, 0.95], [0.5, 0.9, 0.5]])  # each task has its own
    least = torch.minimum(levels, 1 - levels).amin(-1, keepdim=True)
    assert belief.pruned(tolerance * least).means.shape[1] < 30
    found = belief.quantiles(levels, tolerance=tolerance)
    for index in range(3):
        error = (belief.cdf(found[:, index]) - levels[:, index, None, None]).abs()
        assert bool((error <= tolerance * least.unsqueeze(-1) + 1e-9).all())
    assert belief.quantiles(levels[:, :0], tolerance=tolerance).shape[1] == 0
