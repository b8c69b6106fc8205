"""The log joint, and its closed-form gradient and Hessian-vector product."""

import math

import pytest
import torch

from bmaml.densities import (
    Precisions,
    joint_scores,
    log_joint,
    log_likelihood,
    log_prior,
    noise_variance,
    weights_of,
    with_precisions,
)
from bmaml.networks import ACTIVATIONS, MLP
from bmaml.task import Examples
from tests.closed_form import ragged

PRIORS = Precisions()


def setting(activation="tanh", shared=False):
    network = MLP(2, (5, 4), 2, activation)
    tasks = 3
    weights = 0.5 * torch.randn(1 if shared else tasks, 4, network.size)
    particles = with_precisions(weights, 0.3, -0.2) + 0.1 * torch.randn(1, 4, network.size + 2)
    return network, particles.requires_grad_(), Examples.padded(ragged(tasks))


def test_likelihood_is_the_sum_over_real_rows_of_gaussian_log_densities():
    network, particles, examples = setting()
    means = network(weights_of(particles), examples.x)
    scale = noise_variance(particles).sqrt()[..., None, None].expand_as(means)
    logs = torch.distributions.Normal(means, scale).log_prob(examples.y.unsqueeze(1))
    expected = (logs * examples.mask[:, None, :, None]).sum((-1, -2))
    torch.testing.assert_close(log_likelihood(network, particles, examples), expected)


def test_prior_is_the_normal_and_two_gammas_in_log_coordinates_up_to_a_constant():
    particles = torch.randn(2, 3, 7)
    weights, log_noise, log_weight = particles[..., :-2], particles[..., -2], particles[..., -1]
    normal = torch.distributions.Normal(0, (-0.5 * log_weight).exp().unsqueeze(-1)).log_prob(weights).sum(-1)
    noise = torch.distributions.Gamma(2.0, 0.2).log_prob(log_noise.exp()) + log_noise
    weight = torch.distributions.Gamma(2.0, 2.0).log_prob(log_weight.exp()) + log_weight
    difference = log_prior(particles, PRIORS) - (normal + noise + weight)
    torch.testing.assert_close(difference, difference[:1, :1].expand_as(difference))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shared", [False, True])
def test_scores_and_their_derivative_equal_autograd(activation, shared):
    network, particles, examples = setting(activation, shared)
    copies = particles.detach().expand(3, -1, -1).clone().requires_grad_()
    (expected,) = torch.autograd.grad(
        log_joint(network, copies, examples, PRIORS).sum(), copies, create_graph=True
    )
    found = joint_scores(network, particles, examples, PRIORS)
    torch.testing.assert_close(found, expected)

    tangent = torch.randn_like(expected)
    (second,) = torch.autograd.grad((expected * tangent).sum(), copies)
    (product,) = torch.autograd.grad((found * tangent).sum(), particles)
    torch.testing.assert_close(product, second.sum(0, keepdim=True) if shared else second)


def test_no_rows_leave_the_prior_alone():
    network, particles, _ = setting()
    nothing = Examples(torch.zeros(3, 0, 2), torch.zeros(3, 0, 2), torch.zeros(3, 0, dtype=torch.bool))
    torch.testing.assert_close(log_joint(network, particles, nothing, PRIORS), log_prior(particles, PRIORS))


def test_starting_precisions_are_the_paper_s():
    assert PRIORS.starts() == (math.log(100), 0.0)
