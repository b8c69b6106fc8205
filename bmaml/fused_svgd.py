"""SVGD of networks with Gaussian noise without autograd, in few passes over memory.

The moves are those of `svgd.run` over `densities.joint_scores`, for serving and for leaders, which are not
differentiated. A layer's weights and biases lie side by side in a particle: with a constant appended to every
signal they are one matrix, one product is the layer, and one product is the gradient of both. On a CPU tasks
move block by block, so that particles, scores and moves stay in cache.
"""

import torch
from torch import Tensor

from bmaml import svgd
from bmaml.blocks import blocks
from bmaml.densities import PRECISIONS, Precisions
from bmaml.device_constants import constant
from bmaml.networks import ACTIVATIONS, MLP
from bmaml.shapes import Particles
from bmaml.task import Examples

MAX_CPU_PARAMETERS = 1 << 19
"""Parameters, over all particles, of the tasks that move together on a CPU."""


def run(
    network: MLP, particles: Particles, examples: Examples, priors: Precisions, steps: int, rates: Tensor
) -> Particles:
    """Particles after `steps` moves θ ← θ + ε φ under log p(D | θ) + log p(θ), `[task, particle, param]`.

    Args:
        particles: those of each task, or one start for all.
        rates: ε, `[#task, 1, 1]` or one per parameter.
    """
    most = MAX_CPU_PARAMETERS if particles.device.type == "cpu" else None
    moved = []
    for some in blocks(len(examples), most, particles[0].numel()):
        own = particles if len(particles) == 1 else particles[some]
        moving = _MovingParticles(network, own, examples.tasks(some), priors)
        rate = rates if len(rates) == 1 else rates[some]
        for _ in range(steps):
            moving.move(rate)
        moved.append(moving.particles)
    return torch.cat(moved)


class _MovingParticles:
    """The particles of a block of tasks, with buffers and views that every step uses again.

    A step of few tasks costs as much as it has operations, so that all that can be is prepared here.
    """

    def __init__(self, network: MLP, particles: Tensor, examples: Examples, priors: Precisions) -> None:
        tasks, rows = examples.mask.shape
        count, size = particles.shape[1:]
        self._activation = ACTIVATIONS[network.activation]
        self.particles = particles.repeat(tasks // len(particles), 1, 1)

        def for_each(values: Tensor) -> Tensor:
            """Values `[task, …]` repeated for every network."""
            return values.unsqueeze(1).expand(-1, count, *values.shape[1:]).flatten(0, 1)

        one = examples.x.new_ones(tasks * count, rows, 1)
        self._signals = [torch.cat([for_each(examples.x), one], -1)]
        self._signals += [torch.cat([one.expand(-1, -1, width), one], -1) for width in network.hidden]
        self._hidden = [signal[..., :-1] for signal in self._signals[1:]]
        self._y = for_each(examples.y)
        self._mask = for_each(examples.mask.unsqueeze(-1).to(one.dtype))

        flat = self.particles.flatten(0, 1)
        self._weights, self._log_precisions = flat[:, :-PRECISIONS], flat[:, -PRECISIONS:]
        # Each layer's weights above its biases, [network, inputs + 1, outputs].
        shapes = [(i + 1, o) for i, o in network.layers]
        pieces = self._weights.split([i * o for i, o in shapes], -1)
        self._layers = [piece.unflatten(-1, shape) for piece, shape in zip(pieces, shapes, strict=True)]
        self._norms = flat.new_empty(len(flat), PRECISIONS)
        terms = 0.5 * for_each(examples.counts() * network.outputs) + priors.noise_shape
        half = torch.full_like(terms, 0.5 * (size - PRECISIONS) + priors.weight_shape)
        self._shapes = torch.stack([terms, half], -1)
        self._rates = constant((priors.noise_rate, priors.weight_rate), flat)

    def move(self, rate: Tensor) -> None:
        """One step of all particles."""
        score = self._score()
        if self.particles.shape[1] == 1:
            self.particles.addcmul_(rate, score)
            return
        centred, gram, sharpness = svgd.kernel(self.particles)
        push = score.addcmul_(centred, sharpness, value=-1)
        if rate.shape[-1] == 1:
            self.particles.addcmul_(centred, rate * sharpness * gram.sum(-1, keepdim=True))
            self.particles.baddbmm_(rate * gram, push)
            return
        direction = torch.baddbmm(centred.mul_(sharpness * gram.sum(-1, keepdim=True)), gram, push)
        self.particles.addcmul_(rate, direction)

    def _score(self) -> Tensor:
        """∇θ log p(D, θ), as in `densities`."""
        signals, layers, activation = self._signals, self._layers, self._activation
        before: list[Tensor] = []
        pieces: list[Tensor] = []
        for signal, layer, following in zip(signals, layers, self._hidden, strict=False):
            before.append(torch.bmm(signal, layer))
            following.copy_(activation.value(before[-1]))
        precisions = self._log_precisions.exp()
        error = torch.sub(self._y, torch.bmm(signals[-1], layers[-1])).mul_(self._mask)
        delta = error * precisions[:, :1].unsqueeze(-1)
        for depth in range(len(layers) - 1, -1, -1):
            pieces.insert(0, torch.bmm(signals[depth].mT, delta).flatten(1))
            if depth:
                delta = torch.bmm(delta, layers[depth][:, :-1].mT)
                delta = activation.backward(delta, before[depth - 1])
        # γ and λ have Gamma posteriors: shape − precision × (rate + ½ misfit or ½ ‖w‖²).
        torch.linalg.vector_norm(error, dim=(1, 2), out=self._norms[:, 0])
        torch.linalg.vector_norm(self._weights, dim=-1, out=self._norms[:, 1])
        halves = torch.addcmul(self._rates, self._norms, self._norms, value=0.5)
        pieces.append(torch.addcmul(self._shapes, precisions, halves, value=-1))
        score = torch.cat(pieces, -1)
        score[:, :-PRECISIONS].addcmul_(self._weights, precisions[:, 1:], value=-1)
        return score.view_as(self.particles)
