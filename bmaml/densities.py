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

from bmaml.networks import ACTIVATIONS, MLP
from bmaml.shapes import Particles, PerParticle
from bmaml.task import Examples

LOG_2PI = math.log(2 * math.pi)
PRECISIONS = 2
"""Precisions at the end of every particle: log γ and log λ."""


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
    """Particles without their precisions."""
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

    The result can be differentiated once more, as the chaser loss does. That backward pass is a
    Hessian-vector product, also in closed form (Pearlmutter 1994), and needs no graph of a graph. A start
    that all tasks share has the shape `[1, particle, param]`.
    """
    scores: Tensor = _Scores.apply(particles, examples, network, priors)
    return scores


def likelihood_scores(network: MLP, particles: Particles, examples: Examples) -> Particles:
    """∇θ log_likelihood in closed form, differentiable as `joint_scores`; zero for log λ."""
    scores: Tensor = _Scores.apply(particles, examples, network, None)
    return scores


class _Scores(torch.autograd.Function):
    """The gradient of the log likelihood, and of the log prior where there is one.

    Every tensor inside is a stack of matrices, one for each network. Where all tasks share the networks, a
    network's matrix holds the rows of all tasks, so that one product multiplies them. Sums over a single
    task's rows split them again, which is a view.
    """

    @staticmethod
    def forward(
        ctx: Any, particles: Tensor, examples: Examples, network: MLP, priors: Precisions | None
    ) -> Tensor:
        activation, stack = ACTIVATIONS[network.activation], _Stack.of(particles, examples)
        weights, log_noise, log_weight = _split(particles.flatten(0, 1))
        gamma, lamda = log_noise.exp(), log_weight.exp()
        layers = network.unpack(weights)

        signals, slopes, pre_activations = [stack.rows_of(examples.x)], [], []
        for weight, bias in layers[:-1]:
            a = torch.baddbmm(bias, signals[-1], weight)
            pre_activations.append(a)
            slopes.append(activation.slope(a))
            signals.append(activation.value(a))
        weight, bias = layers[-1]
        output = torch.baddbmm(bias, signals[-1], weight)
        mask = stack.rows_of(examples.mask.unsqueeze(-1).to(output.dtype))
        error = (stack.rows_of(examples.y) - output) * mask

        squares = stack.by_task(error).square().sum((1, 2))
        delta = gamma[:, None, None] * error
        deltas = [delta]
        for (weight, _), slope in zip(reversed(layers[1:]), reversed(slopes), strict=True):
            delta = torch.bmm(delta, weight.mT).mul_(slope)
            deltas.append(delta)
        deltas.reverse()

        pieces = []
        for signal, delta in zip(signals, deltas, strict=True):
            apart = stack.by_task(delta)
            pieces += [torch.bmm(stack.by_task(signal).mT, apart).flatten(1), apart.sum(1)]
        d_noise = 0.5 * stack.each_task(examples.counts() * network.outputs)
        d_noise = d_noise - 0.5 * stack.each_network(gamma) * squares
        d_weight, norm = torch.zeros_like(lamda), lamda
        if priors is not None:
            norm = torch.linalg.vector_norm(weights, dim=-1).square()
            d_noise = d_noise + priors.noise_shape - priors.noise_rate * stack.each_network(gamma)
            d_weight = 0.5 * (weights.shape[-1] - lamda * norm)
            d_weight = d_weight + priors.weight_shape - priors.weight_rate * lamda
        pieces += [d_noise.unsqueeze(-1), stack.each_network(d_weight).unsqueeze(-1)]
        scores = torch.cat(pieces, -1).unflatten(0, (len(weights), -1))
        if priors is not None:
            weights_of(scores).addcmul_(weights.unsqueeze(1), lamda[:, None, None], value=-1)

        ctx.save_for_backward(particles, error, squares, norm)
        ctx.parts = (network, priors, stack, mask, layers, signals, slopes, pre_activations, deltas)
        return stack.as_particles(scores)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor, None, None, None]:
        network, priors, stack, mask, layers, signals, slopes, pre_activations, deltas = ctx.parts
        particles, error, squares, norm = ctx.saved_tensors
        curvature = ACTIVATIONS[network.activation].curvature
        weights, log_noise, log_weight = _split(particles.flatten(0, 1))
        gamma, lamda = log_noise.exp(), log_weight.exp()
        whole = stack.from_particles(tangent)  # [network, task, param]
        u, u_noise, u_weight = _split(whole)
        tangents = network.unpack(u.flatten(0, 1))

        # Forward with tangents: how signals move when the parameters move along u.
        moves: list[Tensor | None] = [None]
        bends: list[Tensor] = []
        for layer, (dw, db) in enumerate(tangents):
            move = stack.together(torch.baddbmm(db, stack.by_task(signals[layer]), dw))
            previous = moves[-1]
            if previous is not None:
                move = torch.baddbmm(move, previous, layers[layer][0])
            if layer < len(slopes):
                bends.append(move)
                moves.append(move * slopes[layer])
        error_move = -move * mask

        # Backward with tangents, from the output layer down.
        noise_move = stack.by_task(error) * u_noise.flatten()[:, None, None]
        delta_move = gamma[:, None, None] * (error_move + stack.together(noise_move))
        pieces: list[Tensor] = []
        for layer in reversed(range(len(layers))):
            previous = moves[layer]
            weight_piece = torch.bmm(signals[layer].mT, delta_move)
            if previous is not None:
                weight_piece = torch.baddbmm(weight_piece, previous.mT, deltas[layer])
            pieces = [weight_piece.flatten(1), delta_move.sum(1), *pieces]
            if layer:
                weight, (dw, _) = layers[layer][0], tangents[layer]
                back = stack.by_task(torch.bmm(delta_move, weight.mT))
                back = stack.together(torch.baddbmm(back, stack.by_task(deltas[layer]), dw.mT))
                delta_move = back * slopes[layer - 1]
                if curvature is not None:
                    bend = curvature(pre_activations[layer - 1]) * bends[layer - 1]
                    delta_move = delta_move + torch.bmm(deltas[layer], weight.mT) * bend

        product = stack.by_task(error * error_move).sum((1, 2)).view_as(u_noise)
        d_noise = -gamma[:, None] * (0.5 * u_noise * squares.view_as(u_noise) + product)
        if priors is None:
            pieces += [d_noise.sum(1, keepdim=True), torch.zeros_like(lamda).unsqueeze(-1)]
            return torch.cat(pieces, -1).view_as(particles), None, None, None
        d_noise = d_noise - priors.noise_rate * gamma[:, None] * u_noise
        # The prior's part is the same for all tasks, and linear in the tangent.
        u, u_weight = u.sum(1), u_weight.sum(1)
        d_weight = -lamda * (0.5 * u_weight * norm + (weights * u).sum(-1) + priors.weight_rate * u_weight)
        pieces += [d_noise.sum(1, keepdim=True), d_weight.unsqueeze(-1)]
        hessian_product = torch.cat(pieces, -1)
        weights_of(hessian_product).sub_(lamda.unsqueeze(-1) * (u + u_weight.unsqueeze(-1) * weights))
        return hessian_product.view_as(particles), None, None, None


@dataclass(frozen=True)
class _Stack:
    """The layout of tasks and particles in a stack of networks.

    Shared networks are one per particle, each with the rows of all `tasks`. Own networks are one per task and
    particle, each with the rows of its task; `tasks` is then 1.
    """

    shared: bool
    networks: int
    particles: int
    tasks: int
    rows: int

    @classmethod
    def of(cls, particles: Tensor, examples: Examples) -> "_Stack":
        tasks, count = len(examples), particles.shape[1]
        shared = particles.shape[0] == 1
        return cls(
            shared, count if shared else tasks * count, count, tasks if shared else 1, examples.x.shape[1]
        )

    def rows_of(self, values: Tensor) -> Tensor:
        """`[task, row, …]` for each network."""
        if self.shared:
            return values.flatten(0, 1).expand(self.networks, -1, -1)
        return values.unsqueeze(1).expand(-1, self.particles, -1, -1).flatten(0, 1)

    def by_task(self, values: Tensor) -> Tensor:
        """A matrix per network, split into one per network and task."""
        return values.reshape(self.networks * self.tasks, self.rows, values.shape[-1])

    def together(self, values: Tensor) -> Tensor:
        """The inverse of `by_task`."""
        return values.view(self.networks, self.tasks * self.rows, values.shape[-1])

    def each_task(self, values: Tensor) -> Tensor:
        """A number per task for each network and task."""
        if self.shared:
            return values.repeat(self.networks)
        return values.repeat_interleave(self.particles)

    def each_network(self, values: Tensor) -> Tensor:
        """A number per network for each network and task."""
        return values.repeat_interleave(self.tasks) if self.shared else values

    def as_particles(self, values: Tensor) -> Tensor:
        """`[network, task, …]` as `[task, particle, …]`."""
        return values.transpose(0, 1) if self.shared else values.view(-1, self.particles, values.shape[-1])

    def from_particles(self, values: Tensor) -> Tensor:
        """The inverse of `as_particles`, in one piece of memory."""
        if self.shared:
            return values.transpose(0, 1).contiguous()
        return values.reshape(self.networks, 1, -1)


def _split(particles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return weights_of(particles), particles[..., -2], particles[..., -1]
