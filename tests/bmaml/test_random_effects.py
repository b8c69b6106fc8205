"""Laplace's method for random effects: the likelihoods, the mode, the evidence, and its gradients."""

import pytest
import torch
from torch.autograd.functional import hessian, jacobian

from bmaml.class_likelihoods import Nominal, Ordered
from bmaml.random_effects import condition, importance_weights
from tests.closed_form import generator

THRESHOLDS = torch.tensor([[[-1.5, 0.2, 0.9]]], dtype=torch.float64)
LIKELIHOODS = [(Nominal(), 4), (Ordered(THRESHOLDS), 1)]


def latent_and_labels(latents, rows=6, classes=4, seed=1):
    noise = generator(seed)
    latent = 2 * torch.randn(2, 1, rows, latents, generator=noise)
    labels = torch.eye(classes)[torch.randint(classes, (2, 1, rows), generator=noise)]
    labels[1, 0, -2:] = 0  # padding
    return latent, labels


def log_probability(likelihood, latent, labels):
    return (likelihood.log_probabilities(latent) * labels).sum()


@pytest.mark.parametrize(("likelihood", "latents"), LIKELIHOODS)
def test_slope_and_curvature_are_the_derivatives_of_the_log_probability(likelihood, latents):
    latent, labels = latent_and_labels(latents)

    def of(values):
        return log_probability(likelihood, values, labels)

    torch.testing.assert_close(likelihood.slope(latent, labels), jacobian(of, latent))
    full = hessian(of, latent)
    for task in range(2):
        for row in range(latent.shape[2]):
            expected = -full[task, 0, row, :, task, 0, row, :]
            torch.testing.assert_close(likelihood.curvature(latent, labels)[task, 0, row], expected)


@pytest.mark.parametrize(("likelihood", "latents"), LIKELIHOODS)
@pytest.mark.parametrize("shift", [0.0, 40.0, -40.0])
def test_probabilities_add_up_and_stay_finite_far_out(likelihood, latents, shift):
    latent, _ = latent_and_labels(latents)
    latent[..., 0] += shift
    logs = likelihood.log_probabilities(latent)
    assert logs.isfinite().all()
    torch.testing.assert_close(logs.exp().sum(-1), torch.ones(2, 1, 6))


def test_two_ordered_classes_are_logistic():
    latent, _ = latent_and_labels(1)
    found = Ordered(torch.tensor([[[0.3]]])).log_probabilities(latent)
    torch.testing.assert_close(found[..., 1:], torch.nn.functional.logsigmoid(latent - 0.3))


def problem(likelihood, latents, effects=3, factors=2, rows=6, seed=3):
    """Offset, effects, loadings and labels of two tasks, two particles."""
    noise = generator(seed)
    factors = min(factors, latents)
    offset = torch.randn(2, 2, rows, latents, generator=noise)
    psi = torch.randn(2, 2, rows, effects, generator=noise)
    loadings = torch.randn(1, 2, latents, factors, generator=noise)
    labels = torch.eye(4)[torch.randint(4, (2, 1, rows), generator=noise)]
    labels[1, 0, -2:] = 0
    return offset, psi, loadings, labels


@pytest.mark.parametrize(("likelihood", "latents"), LIKELIHOODS)
def test_the_mode_is_stationary_and_its_precision_is_the_negative_hessian(likelihood, latents):
    offset, psi, loadings, labels = problem(likelihood, latents)
    found = condition(likelihood, offset, psi, loadings, labels)
    for task in range(2):
        for particle in range(2):
            own = slice(task, task + 1), slice(particle, particle + 1)

            def log_posterior(flat, own=own, shape=found.mode.shape[2:]):
                latent = offset[own] + psi[own] @ flat.view(1, 1, *shape) @ loadings[:, own[1]].mT
                return log_probability(likelihood, latent, labels[own[0]]) - 0.5 * flat.square().sum()

            mode = found.mode[own].flatten()
            torch.testing.assert_close(
                jacobian(log_posterior, mode), torch.zeros_like(mode), atol=1e-9, rtol=0
            )
            lower = found.lower[own][0, 0]
            torch.testing.assert_close(lower @ lower.mT, -hessian(log_posterior, mode))


def test_newton_reaches_the_mode_where_a_whole_step_would_overshoot():
    offset = torch.full((1, 1, 3, 1), 12.0)
    psi = 8 * torch.ones(1, 1, 3, 1)
    labels = torch.tensor([[1.0, 0.0]] * 3).view(1, 1, 3, 2)
    likelihood, loadings = Ordered(torch.zeros(1, 1, 1)), torch.ones(1, 1, 1, 1)
    mode = condition(likelihood, offset, psi, loadings, labels).mode
    slope = psi.mT @ likelihood.slope(offset + psi @ mode, labels)
    torch.testing.assert_close(slope, mode, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("likelihood", "latents"), LIKELIHOODS)
def test_rows_without_labels_leave_the_prior(likelihood, latents):
    offset, psi, loadings, labels = problem(likelihood, latents)
    found = condition(likelihood, offset, psi, loadings, torch.zeros_like(labels))
    assert torch.equal(found.mode, torch.zeros_like(found.mode))
    eye = torch.eye(found.lower.shape[-1]).expand_as(found.lower)
    torch.testing.assert_close(found.lower, eye)
    noise = torch.randn(5, eye.shape[-1], generator=generator(2))
    draws, log_ratios = found.draws(noise)
    torch.testing.assert_close(draws[0, 0].flatten(1), noise)
    torch.testing.assert_close(log_ratios, torch.zeros(2, 2, 5))


def weighted_draws(likelihood, offset, psi, loadings, labels, noise):
    found = condition(likelihood, offset, psi, loadings, labels)
    draws, log_ratios = found.draws(noise)
    latent = offset.unsqueeze(2) + psi.unsqueeze(2) @ draws @ loadings.mT.unsqueeze(2)
    logs = likelihood.log_probabilities(latent)
    return draws, *importance_weights((logs * labels.unsqueeze(2)).sum((-1, -2)) + log_ratios)


@pytest.mark.parametrize(("size", "rows"), [(0.5, 8), (3.0, 1), (3.0, 4)])
def test_evidence_and_posterior_of_a_random_intercept_agree_with_quadrature(size, rows):
    likelihood = Nominal()
    offset = torch.randn(1, 1, rows, 2, generator=generator(4))
    psi, loadings = torch.ones(1, 1, rows, 1), size * torch.tensor([[[[-0.5], [0.5]]]])
    labels = torch.eye(2)[torch.tensor([0, 1, 1, 1, 0, 1, 1, 1])[:rows]].view(1, 1, rows, 2)
    grid = torch.linspace(-8, 8, 4001)
    latent = offset + (psi * grid.view(-1, 1, 1, 1)) @ loadings.mT
    logs = (likelihood.log_probabilities(latent) * labels).sum((-1, -2))[:, 0] - 0.5 * grid.square()
    logs = logs - 0.5 * torch.log(torch.tensor(2 * torch.pi)) + torch.log(grid[1] - grid[0])
    density = logs.softmax(0)
    mean = (density * grid).sum()

    noise = torch.special.ndtri((torch.arange(2000) + 0.5) / 2000).unsqueeze(-1)
    draws, evidence, weights = weighted_draws(likelihood, offset, psi, loadings, labels, noise)
    # The noise is a quadrature of 2,000 quantiles of the normal distribution, which leaves its tails out.
    torch.testing.assert_close(evidence[0, 0], logs.logsumexp(0), atol=4e-3, rtol=0)
    found = (weights.exp() * draws.flatten(2)).sum()
    torch.testing.assert_close(found, mean, atol=1e-2, rtol=0)


def test_no_draw_weighs_more_than_the_root_of_their_number():
    logs = torch.zeros(1, 1, 16)
    logs[..., 3] = 50.0
    evidence, weights = importance_weights(logs)
    torch.testing.assert_close(evidence[0, 0], 50.0 - torch.log(torch.tensor(16.0)))
    assert weights.exp()[0, 0, 3] / weights.exp()[0, 0, 0] > 1e15
    spread = torch.tensor([0.0] * 15 + [2.5]).view(1, 1, 16)
    assert importance_weights(spread)[1].exp().max() < spread.softmax(-1).max()


@pytest.mark.parametrize(("likelihood", "latents"), LIKELIHOODS)
def test_gradients_pass_through_the_mode(likelihood, latents):
    offset, psi, loadings, labels = (each[:1] for each in problem(likelihood, latents, rows=3))
    noise = torch.randn(2, psi.shape[-1] * loadings.shape[-1], generator=generator(6))

    def outcome(offset, psi, loadings):
        return weighted_draws(likelihood, offset, psi, loadings, labels, noise)

    each = [value.clone().requires_grad_() for value in (offset, psi, loadings)]
    assert torch.autograd.gradcheck(outcome, each)
