"""SVGD on Gaussian networks without a graph: what serving and leaders need, in few passes over memory.

The same moves as `svgd.run` over `densities.joint_scores`, for when nothing is to be differentiated. A
layer's weights and biases lie side by side in a particle, so with a constant appended to every signal
they are one matrix: one product is the layer, and one is the gradient of both. Tasks are taken a few at
a time, so that particles, scores and moves stay in cache.
"""

import torch
from torch import Tensor

from bmaml import svgd
from bmaml.densities import PRECISIONS, Precisions
from bmaml.networks import ACTIVATIONS, MLP
from bmaml.shapes import Particles
from bmaml.task import Examples

CELLS = 1 << 19
"""Numbers in the particles of the tasks that move together."""


def run(
    network: MLP, particles: Particles, examples: Examples, priors: Precisions, steps: int, rates: Tensor
) -> Particles:
    """`steps` moves θ ← θ + ε φ under log p(D | θ) + log p(θ), `[task, particle, param]`.

    Args:
        particles: of each task, or one start for all.
        rates: ε, `[#task, 1, 1]` or one per parameter.
    """
    at_once = max(1, CELLS // particles[0].numel())
    moved = []
    for first in range(0, len(examples), at_once):
        some = slice(first, first + at_once)
        own = particles if len(particles) == 1 else particles[some]
        climb = _Climb(network, own, examples.tasks(some), priors)
        rate = rates if len(rates) == 1 else rates[some]
        for _ in range(steps):
            climb.move(rate)
        moved.append(climb.particles)
    return torch.cat(moved)


class _Climb:
    """The particles of a few tasks on their way, with the buffers they need."""

    def __init__(self, network: MLP, particles: Tensor, examples: Examples, priors: Precisions) -> None:
        tasks, rows = examples.mask.shape
        count = particles.shape[1]
        self._network, self._priors = network, priors
        self._activation = ACTIVATIONS[network.activation]
        self.particles = particles.expand(tasks, -1, -1).contiguous()

        def for_each(values: Tensor) -> Tensor:
            """`[task, …]` for every network."""
            return values.unsqueeze(1).expand(-1, count, *values.shape[1:]).flatten(0, 1)

        one = examples.x.new_ones(tasks * count, rows, 1)
        self._signals = [torch.cat([for_each(examples.x), one], -1)]
        self._signals += [torch.cat([one.expand(-1, -1, width), one], -1) for width in network.hidden]
        self._y = for_each(examples.y)
        self._mask = for_each(examples.mask.unsqueeze(-1).to(one.dtype))
        self._terms = 0.5 * for_each(examples.counts() * network.outputs)

    def move(self, rate: Tensor) -> None:
        """One step of all particles."""
        scores = self._scores()
        if self.particles.shape[1] == 1:
            self.particles = torch.addcmul(self.particles, rate, scores)
            return
        centred, attraction, repulsion = svgd.coefficients(self.particles)
        if rate.shape[-1] == 1:
            moved = torch.baddbmm(self.particles, rate * repulsion, centred)
            self.particles = moved.baddbmm_(rate * attraction, scores)
            return
        direction = torch.bmm(repulsion, centred).baddbmm_(attraction, scores)
        self.particles = torch.addcmul(self.particles, rate, direction)

    def _layers(self, flat: Tensor) -> list[Tensor]:
        """Every layer's weights over its biases, `[network, inputs + 1, outputs]`: views."""
        sizes = [(i + 1) * o for i, o in self._network.layers]
        pieces = flat[:, :-PRECISIONS].split(sizes, -1)
        return [
            piece.unflatten(-1, (i + 1, o))
            for piece, (i, o) in zip(pieces, self._network.layers, strict=True)
        ]

    def _scores(self) -> Tensor:
        """∇θ log p(D, θ), as in `densities`."""
        flat = self.particles.flatten(0, 1)
        layers = self._layers(flat)
        signals, activation, priors = self._signals, self._activation, self._priors
        before: list[Tensor] = []
        pieces: list[Tensor] = []
        for signal, layer, following in zip(signals, layers, signals[1:], strict=False):
            before.append(torch.bmm(signal, layer))
            following[..., :-1] = activation.value(before[-1])
        precisions = flat[:, -PRECISIONS:].exp()
        gamma, lamda = precisions.unbind(-1)
        error = (self._y - torch.bmm(signals[-1], layers[-1])).mul_(self._mask)
        delta = gamma[:, None, None] * error
        for depth in range(len(layers) - 1, -1, -1):
            pieces.insert(0, torch.bmm(signals[depth].mT, delta).flatten(1))
            if depth:
                delta = torch.bmm(delta, layers[depth][:, :-1].mT)
                delta = activation.pulled(delta, before[depth - 1])
        weights = flat[:, :-PRECISIONS]
        misfit, norm = error.square().sum((1, 2)), torch.linalg.vector_norm(weights, dim=-1).square()
        noise = self._terms + priors.noise_shape - gamma * (0.5 * misfit + priors.noise_rate)
        half = 0.5 * weights.shape[-1] + priors.weight_shape
        weight = half - lamda * (0.5 * norm + priors.weight_rate)
        scores = torch.cat([*pieces, noise.unsqueeze(-1), weight.unsqueeze(-1)], -1)
        scores[:, :-PRECISIONS].addcmul_(weights, lamda.unsqueeze(-1), value=-1)
        return scores.view_as(self.particles)
