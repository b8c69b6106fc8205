"""The class likelihood that particles climb: Σ_rows log softmax, over the classes a task has.

A particle is the same vector as for numbers, so that the learners need not know which they serve:
weights, then log γ, which no class depends on and which stays where it is, and log λ.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bmaml.categorical import classes_of, normalised
from bmaml.densities import Precisions, log_prior, weights_of
from bmaml.networks import MLP
from bmaml.shapes import Inputs, Particles, PerParticle
from bmaml.task import Examples


def log_likelihood(
    network: MLP, particles: Particles, examples: Examples, present: Bool[Tensor, "task class"]
) -> PerParticle:
    """log p(D | θ) of every task under every particle (METHOD of Yoon et al. 2018: a sum over rows).

    Args:
        present: the classes that share the probability.
    """
    logs = class_logs(network, particles, examples.x, present)
    named = (examples.y > 0) & examples.mask.unsqueeze(-1)
    return torch.where(named.unsqueeze(1), logs, 0.0).sum((-1, -2))


def class_logs(
    network: MLP, particles: Particles, x: Inputs, present: Bool[Tensor, "task class"]
) -> Float[Tensor, "task particle row class"]:
    """log probabilities of the present classes; a network of more outputs than classes uses the first."""
    return normalised(network(weights_of(particles), x)[..., : present.shape[1]], present)


def likelihood_scores(network: MLP, particles: Particles, examples: Examples) -> Particles:
    """∇θ log_likelihood of each task; differentiable again where its inputs are."""
    present = classes_of(examples.y, examples.mask)
    return _gradient(lambda theta: log_likelihood(network, theta, examples, present), particles, examples)


def joint_scores(network: MLP, particles: Particles, examples: Examples, priors: Precisions) -> Particles:
    """∇θ of log_likelihood + log_prior; zero for log γ."""
    present = classes_of(examples.y, examples.mask)

    def joint(theta: Tensor) -> Tensor:
        return log_likelihood(network, theta, examples, present) + log_prior(theta, priors)

    scores = _gradient(joint, particles, examples)
    still = torch.ones_like(scores[:1, :1])
    still[..., -2] = 0
    return scores * still


def _gradient(value: Callable[[Tensor], Tensor], particles: Tensor, examples: Examples) -> Tensor:
    again = torch.is_grad_enabled() and (particles.requires_grad or examples.x.requires_grad)
    with torch.enable_grad():
        theta = particles.expand(len(examples), -1, -1)
        theta = theta if again and particles.requires_grad else theta.detach().requires_grad_()
        return torch.autograd.grad(value(theta).sum(), theta, create_graph=again)[0]
