"""The log densities that particles climb, and their gradient in closed form.

A particle is the weights w of a network followed by log γ (noise precision) and log λ (weight
precision). Up to a constant,

    log p(D | θ) = Σ_rows ½ log γ − ½ log 2π − ½ γ (f(x) − y)²        (summed, not averaged)
    log p(w | λ) = ½ P log λ − ½ λ ‖w‖²
    log p(t)     = a log t − b t          for t = γ, λ, in the coordinate log t

The last line is a Gamma(a, rate b) density including the Jacobian of the logarithm.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bmaml.networks import ACTIVATIONS, MLP, affine
from bmaml.shapes import Particles, PerParticle
from bmaml.task import Examples

LOG_2PI = math.log(2 * math.pi)
PRECISIONS = 2
"""log γ and log λ, the last two entries of every particle."""


@dataclass(frozen=True)
class Precisions:
    """Gamma priors (shape, rate) and starting values of γ, the noise, and λ, the weights.

    Source: the public settings of Yoon et al. 2018.
    """

    noise_shape: float = 2.0
    noise_rate: float = 0.2
    noise_start: float = 100.0
    weight_shape: float = 2.0
    weight_rate: float = 2.0
    weight_start: float = 1.0

    def starts(self) -> tuple[float, float]:
        """log γ and log λ before any data."""
        return math.log(self.noise_start), math.log(self.weight_start)


def with_precisions(weights: Tensor, log_noise: float, log_weight: float) -> Tensor:
    """Weights `[…, param]` with log γ and log λ appended."""
    ends = weights.new_tensor([log_noise, log_weight])
    return torch.cat([weights, ends.expand(*weights.shape[:-1], PRECISIONS)], -1)


def weights_of(particles: Tensor) -> Tensor:
    """Particles without their precisions: where distances between networks are measured."""
    return particles[..., :-PRECISIONS]


def noise_variance(particles: Tensor) -> PerParticle:
    """1/γ of each particle."""
    return torch.exp(-particles[..., -2])


def log_likelihood(network: MLP, particles: Particles, examples: Examples) -> PerParticle:
    """log p(D | θ) of every task under every particle; padding contributes nothing."""
    residual = network(weights_of(particles), examples.x) - examples.y.unsqueeze(1)
    log_noise, mask = particles[..., -2], examples.mask[:, None, :, None]
    squares = (residual.square() * mask).sum((-1, -2))
    terms = (examples.counts() * network.outputs).unsqueeze(-1)
    return 0.5 * terms * (log_noise - LOG_2PI) - 0.5 * log_noise.exp() * squares


def log_prior(particles: Particles, priors: Precisions) -> PerParticle:
    """log p(w | λ) + log p(γ) + log p(λ), up to a constant."""
    weights = weights_of(particles)
    log_noise, log_weight = particles[..., -2], particles[..., -1]
    normal = 0.5 * weights.shape[-1] * log_weight
    normal = normal - 0.5 * log_weight.exp() * weights.square().sum(-1)
    gamma_noise = priors.noise_shape * log_noise - priors.noise_rate * log_noise.exp()
    gamma_weight = priors.weight_shape * log_weight - priors.weight_rate * log_weight.exp()
    return normal + gamma_noise + gamma_weight


def log_joint(network: MLP, particles: Particles, examples: Examples, priors: Precisions) -> PerParticle:
    """log p(D | θ) + log p(θ)."""
    return log_likelihood(network, particles, examples) + log_prior(particles, priors)


def joint_scores(network: MLP, particles: Particles, examples: Examples, priors: Precisions) -> Particles:
    """∇θ log_joint in closed form, for every task.

    It can be differentiated once more (the chaser loss does): the backward pass is a
    Hessian-vector product, also in closed form (Pearlmutter 1994), which spares autograd the
    graph of a graph. Starts shared by all tasks enter as `[1, particle, param]`.
    """
    scores: Tensor = _Scores.apply(particles, examples, network, priors)
    return scores


def likelihood_scores(network: MLP, particles: Particles, examples: Examples) -> Particles:
    """∇θ log_likelihood, as `joint_scores` gives the joint's; zero for log λ."""
    scores: Tensor = _Scores.apply(particles, examples, network, None)
    return scores


class _Scores(torch.autograd.Function):
    """The likelihood's gradient, and the prior's where there is one."""

    @staticmethod
    def forward(
        ctx: Any, particles: Tensor, examples: Examples, network: MLP, priors: Precisions | None
    ) -> Tensor:
        activation = ACTIVATIONS[network.activation]
        weights, log_noise, log_weight = _take_apart(particles)
        gamma, lamda = log_noise.exp(), log_weight.exp()
        layers = network.unpack(weights)

        signals, slopes, pre_activations = [examples.x.unsqueeze(1)], [], []
        for weight, bias in layers[:-1]:
            a = affine(signals[-1], weight, bias)
            pre_activations.append(a)
            slopes.append(activation.slope(a))
            signals.append(activation.value(a))
        output = affine(signals[-1], *layers[-1])
        error = (examples.y.unsqueeze(1) - output) * examples.mask[:, None, :, None]

        squares = error.square().sum((-1, -2))
        delta = gamma[..., None, None] * error
        deltas = [delta]
        for (weight, _), slope in zip(reversed(layers[1:]), reversed(slopes), strict=True):
            delta = _times_transposed(delta, weight) * slope
            deltas.append(delta)
        deltas.reverse()

        tasks = len(examples)
        pieces = []
        for signal, delta in zip(signals, deltas, strict=True):
            pieces += [(signal.mT @ delta).flatten(-2), delta.sum(-2)]
        terms = (examples.counts() * network.outputs).unsqueeze(-1)
        d_noise = 0.5 * terms - 0.5 * gamma * squares
        d_weight, norm = torch.zeros_like(lamda), lamda
        if priors is not None:
            norm = torch.linalg.vector_norm(weights, dim=-1).square()
            d_noise = d_noise + priors.noise_shape - priors.noise_rate * gamma
            d_weight = 0.5 * (weights.shape[-1] - lamda * norm)
            d_weight = d_weight + priors.weight_shape - priors.weight_rate * lamda
        pieces += [d_noise.unsqueeze(-1), d_weight.expand(tasks, -1).unsqueeze(-1)]
        scores = torch.cat(pieces, -1)
        if priors is not None:
            weights_of(scores).addcmul_(weights, lamda.unsqueeze(-1), value=-1)

        ctx.save_for_backward(particles, error, squares, norm)
        ctx.parts = (network, priors, examples.mask, layers, signals, slopes, pre_activations, deltas)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor, None, None, None]:
        network, priors, mask, layers, signals, slopes, pre_activations, deltas = ctx.parts
        particles, error, squares, norm = ctx.saved_tensors
        curvature = ACTIVATIONS[network.activation].curvature
        weights, log_noise, log_weight = _take_apart(particles)
        gamma, lamda = log_noise.exp(), log_weight.exp()
        u, u_noise, u_weight = _take_apart(tangent)
        tangents = network.unpack(u)

        # Forward with tangents: how signals move when the parameters move along u.
        moves: list[Tensor | None] = [None]
        bends: list[Tensor] = []
        for layer, (dw, db) in enumerate(tangents):
            move = signals[layer] @ dw + db
            previous = moves[-1]
            if previous is not None:
                move = move + affine(previous, layers[layer][0], move.new_zeros(()))
            if layer < len(slopes):
                bends.append(move)
                moves.append(move * slopes[layer])
        error_move = -move * mask[:, None, :, None]

        # Backward with tangents, from the output layer down.
        shared = particles.shape[0] == 1 and tangent.shape[0] > 1
        delta_move = gamma[..., None, None] * (error_move + u_noise[..., None, None] * error)
        pieces: list[Tensor] = []
        for layer in reversed(range(len(layers))):
            previous = moves[layer]
            bias_piece = _over_tasks(delta_move.sum(-2), shared)
            weight_piece = _outer(signals[layer], delta_move, shared)
            if previous is not None:
                weight_piece = weight_piece + _outer(previous, deltas[layer], shared)
            pieces = [weight_piece.flatten(-2), bias_piece, *pieces]
            if layer:
                weight, (dw, _) = layers[layer][0], tangents[layer]
                back = _times_transposed(delta_move, weight) + deltas[layer] @ dw.mT
                delta_move = back * slopes[layer - 1]
                if curvature is not None:
                    bend = curvature(pre_activations[layer - 1]) * bends[layer - 1]
                    delta_move = delta_move + _times_transposed(deltas[layer], weight) * bend

        d_noise = gamma * (-0.5 * u_noise * squares - (error * error_move).sum((-1, -2)))
        if priors is None:
            pieces += [_over_tasks(d_noise, shared).unsqueeze(-1), torch.zeros_like(lamda).unsqueeze(-1)]
            return torch.cat(pieces, -1), None, None, None
        d_noise = d_noise - priors.noise_rate * gamma * u_noise
        # The prior is the same for all tasks, and linear in the tangent.
        u, u_weight = _over_tasks(u, shared), _over_tasks(u_weight, shared)
        d_weight = -lamda * (0.5 * u_weight * norm + (weights * u).sum(-1) + priors.weight_rate * u_weight)
        pieces += [_over_tasks(d_noise, shared).unsqueeze(-1), d_weight.unsqueeze(-1)]
        product = torch.cat(pieces, -1)
        weights_of(product).sub_(lamda.unsqueeze(-1) * (u + u_weight.unsqueeze(-1) * weights))
        return product, None, None, None


def _take_apart(particles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return weights_of(particles), particles[..., -2], particles[..., -1]


def _times_transposed(delta: Tensor, weight: Tensor) -> Tensor:
    return affine(delta, weight.mT, delta.new_zeros(()))


def _over_tasks(values: Tensor, shared: bool) -> Tensor:
    return values.sum(0, keepdim=True) if shared else values


def _outer(signal: Tensor, delta: Tensor, shared: bool) -> Tensor:
    """Σ_rows signalᵀ delta; summed over tasks too where the parameters are shared."""
    if not shared:
        return signal.mT @ delta
    particles = delta.shape[1]
    signal = signal.expand(-1, particles, -1, -1).transpose(0, 1).flatten(1, 2)
    return (signal.mT @ delta.transpose(0, 1).flatten(1, 2)).unsqueeze(0)
