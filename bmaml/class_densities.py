"""The log densities that particles climb where labels are classes: `densities` with a softmax likelihood.

The likelihood is Σ_rows log softmax over the classes of the task. A particle is the same vector as for
numbers, so that learners serve both: weights, then log γ, which no class depends on and which stays where it
is, and log λ.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bmaml.categorical import normalised
from bmaml.conv_classifier import Network
from bmaml.densities import Precisions, log_prior, weights_of
from bmaml.networks import MLP
from bmaml.shapes import ChannelMoments, Inputs, Mask, Particles, PerParticle
from bmaml.task import Examples


def log_likelihood(
    network: Network,
    particles: Particles,
    examples: Examples,
    present: Bool[Tensor, "task class"],
    moments: ChannelMoments | None = None,
) -> PerParticle:
    """log p(D | θ) of every task under every particle: a sum over rows, as in Yoon et al. 2018.

    Args:
        present: the classes of each task, which share the probability.
        moments: as of `class_logs`.
    """
    logs = class_logs(network, particles, examples.x, present, examples.mask, moments)
    named = (examples.y > 0) & examples.mask.unsqueeze(-1)
    return torch.where(named.unsqueeze(1), logs, 0.0).sum((-1, -2))


def class_logs(
    network: Network,
    particles: Particles,
    x: Inputs,
    present: Bool[Tensor, "task class"],
    mask: Mask | None = None,
    moments: ChannelMoments | None = None,
) -> Float[Tensor, "task particle row class"]:
    """Log probabilities of the present classes; outputs beyond the number of classes are not used.

    Args:
        mask, moments: by which a `ConvClassifier` normalises.
    """
    theta = weights_of(particles)
    outputs = network(theta, x) if isinstance(network, MLP) else network(theta, x, mask, moments)
    return normalised(outputs[..., : present.shape[1]], present)


def likelihood_scores(
    network: Network, particles: Particles, examples: Examples, present: Bool[Tensor, "task class"]
) -> Particles:
    """∇θ log_likelihood of each task; differentiable again where its inputs are."""
    return _gradient(lambda theta: log_likelihood(network, theta, examples, present), particles, examples)


def joint_scores(
    network: Network,
    particles: Particles,
    examples: Examples,
    present: Bool[Tensor, "task class"],
    priors: Precisions,
) -> Particles:
    """∇θ of log_likelihood + log_prior; zero for log γ."""

    def joint(theta: Tensor) -> Tensor:
        return log_likelihood(network, theta, examples, present) + log_prior(theta, priors)

    scores = _gradient(joint, particles, examples)
    moving = torch.ones_like(scores[:1, :1])
    moving[..., -2] = 0
    return scores * moving


def _gradient(value: Callable[[Tensor], Tensor], particles: Tensor, examples: Examples) -> Tensor:
    again = torch.is_grad_enabled() and (particles.requires_grad or examples.x.requires_grad)
    with torch.enable_grad():
        theta = particles.expand(len(examples), -1, -1)
        theta = theta if again and particles.requires_grad else theta.detach().requires_grad_()
        return torch.autograd.grad(value(theta).sum(), theta, create_graph=again)[0]
