"""Hypotheses about tasks unlike those of training, beside the particles' own.

A mixture weighted by evidence is as sure of itself as its sharpest particle once the rows are easy to
explain, and nothing in it asks whether that particle is true. So hypotheses of three more groups take part:

* *wide*: the particles at scales s beyond those of training;
* *noisy*: the particles with f times their noise variance, while the signal keeps its size;
* *broad*: none of the particles, but Gaussian processes that learn from the task's rows alone.

Each has a small prior, and the evidence of the rows decides, as between particles. Where the rows are like
those of training, the three groups together have almost no weight from a handful of rows on.

**Softened weights.** A few equal labels can rule out all hypotheses but one, where the task then leaves what
they seemed to show. A share ε of the weights therefore follows a small power of the evidence:
weight = (1 − ε) · prior · evidence^τ + ε · prior · evidence^(0.1 τ), each normalised. It is the answer of two
believers, of whom one takes ten rows for one. ε is found on the validation tasks, and is zero where the
answered standard deviation is no better for it.

A broad process has mean zero, a constant, linear and an RBF part, each of variance s² (the linear one at the
ends of the longest length), and noise of variance r s²:

    k(x, x') = s² (1 + 4 xᵀx'/(d ℓ₀²) + exp(−‖x − x'‖²/(2 d ℓ²)) + r [x = x'])

with d inputs and ℓ₀ the longest of the lengths ℓ. Its RBF part is approximated by random Fourier features
(Rahimi & Recht 2007), which makes it one more Bayesian linear last layer, on features that nobody trained.
"""

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bmaml.device_constants import constant
from bmaml.last_layer import ConditionedLayers, condition
from bmaml.learners.interface import InvalidLearner
from bmaml.shapes import Inputs
from bmaml.task import Examples

Group = Literal["known", "wide", "noisy", "broad"]
GROUPS: tuple[Group, ...] = ("known", "wide", "noisy", "broad")
"""The groups of hypotheses: those of training, then the surprising ones."""
START_SHARES = (0.98, 0.007, 0.005, 0.008)
"""Prior weights of the groups, before the validation tasks are counted."""
LOG_NOTHING = -1e30
"""The logarithm of a softened share that no answer shows."""
LEAST_SHARES = (0.05, *START_SHARES[1:])
"""The least that calibration leaves to each group."""


@dataclass(frozen=True)
class Surprise:
    """The surprising hypotheses of a learner.

    Within a group the prior falls as 1/s, so that the largest scales do not rule the prior variance.

    Raises:
        InvalidLearner: no number, or one that is not positive.

    Attributes:
        wide_scales: s of the wide hypotheses.
        noise_levels: f of the noisy hypotheses.
        noisy_scales: s at each noise level.
        noisy_every: one particle in this many has noisy hypotheses; noise blurs the difference of neighbours.
        lengths: ℓ of the broad processes, in units of the network's inputs.
        broad_noises: r of the broad processes.
        broad_scales: s of the broad processes, in units of the network's outputs.
        frequencies: number of random frequencies; each is a cosine and a sine.
        softening: the power of the evidence that the softened share of the weights follows.
    """

    wide_scales: tuple[float, ...] = (8.0, 16.0)
    noise_levels: tuple[float, ...] = (25.0,)
    noisy_scales: tuple[float, ...] = (1.0, 4.0)
    noisy_every: int = 4
    lengths: tuple[float, ...] = (4.0, 1.0, 0.25)
    broad_noises: tuple[float, ...] = (1e-4, 1e-2, 1.0)
    broad_scales: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    frequencies: int = 32
    softening: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            numbers = value if isinstance(value, tuple) else (value,)
            if not numbers or not all(0 < number < math.inf for number in numbers):
                raise InvalidLearner(f"{field.name} of a surprise must be positive; found {value}")

    @cached_property
    def broad_layers(self) -> tuple[tuple[float, float], ...]:
        """Length and noise of each broad process."""
        return tuple((length, noise) for length in self.lengths for noise in self.broad_noises)

    def with_noise_of_at_least(self, variance: float) -> "Surprise":
        """The same hypotheses, where no broad process has less noise than `variance` at scale 1."""
        return replace(self, broad_noises=tuple(max(noise, variance) for noise in self.broad_noises))

    def draw_frequencies(self, inputs: int) -> Float[Tensor, "input frequency"]:
        """Standard normal frequencies from a scrambled Sobol sequence, the same every time."""
        sobol = torch.quasirandom.SobolEngine(inputs, scramble=True, seed=0)
        uniform = sobol.draw(self.frequencies, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
        return torch.special.ndtri(uniform).mT.contiguous().to(torch.get_default_dtype())

    def condition(
        self, frequencies: Float[Tensor, "input frequency"], support: Examples
    ) -> ConditionedLayers:
        """The broad processes conditioned on each support set, at scale 1, in double precision."""
        x = support.x.double()
        by_length = broad_features(frequencies.to(x), x, self.lengths)
        noise = constant(tuple(noise for _, noise in self.broad_layers), x)
        # Rows are scaled to noise of variance one; padding is zero.
        scale = support.mask[:, None, :, None] * noise.rsqrt().view(-1, 1, 1)
        scaled = by_length.repeat_interleave(len(self.broad_noises), 1) * scale
        log_noise = support.counts().unsqueeze(-1) * noise.log()
        return condition(scaled, support.y.unsqueeze(1) * scale, x.new_ones(1, len(noise), 1, 1), log_noise)


def broad_features(
    frequencies: Float[Tensor, "input frequency"], x: Inputs, lengths: tuple[float, ...]
) -> Float[Tensor, "task length row feature"]:
    """φ(x) of broad processes of each length, where φᵀφ' is their covariance at scale 1, without noise."""
    root = math.sqrt(x.shape[-1])
    inverse = constant(tuple(1 / length for length in lengths), x).view(-1, 1, 1)
    phases = (x @ (frequencies / root)).unsqueeze(1) * inverse
    waves = torch.cat([phases.cos(), phases.sin()], -1) / math.sqrt(frequencies.shape[-1])
    linear = (x * (2 / (root * max(lengths)))).unsqueeze(1).expand(-1, waves.shape[1], -1, -1)
    return torch.cat([torch.ones_like(waves[..., :1]), linear, waves], -1)
