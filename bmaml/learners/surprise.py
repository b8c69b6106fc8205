"""Hypotheses about tasks unlike those of training, beside the particles' own.

A mixture weighted by evidence is as sure of itself as its sharpest particle once the rows are easy to
explain, and nothing in it asks whether that particle is true. So hypotheses of three more groups take part:

* *wide*: the particles at scales s beyond those of training;
* *noisy*: the particles with f times their noise variance, while the signal keeps its size;
* *broad*: none of the particles, but Gaussian processes that learn from the task's rows alone.

Each has a small prior, and the evidence of the rows decides, as between particles. Where the rows are like
those of training, the three groups together have almost no weight from a handful of rows on.

A broad process has mean zero, a constant, linear and an RBF part, each of variance s² (the linear one at the
ends of the longest length), and noise of variance r s²:

    k(x, x') = s² (1 + 4 xᵀx'/(d ℓ₀²) + exp(−‖x − x'‖²/(2 d ℓ²)) + r [x = x'])

with d inputs and ℓ₀ the longest of the lengths ℓ. Its RBF part is approximated by random Fourier features
(Rahimi & Recht 2007), which makes it one more Bayesian linear last layer, on features that nobody trained.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bmaml import tails
from bmaml.densities import LOG_2PI
from bmaml.device_constants import constant
from bmaml.last_layer import ConditionedLayers, condition
from bmaml.learners.interface import InvalidLearner
from bmaml.shapes import Inputs, PerParticle, PerTask
from bmaml.task import Examples

Group = Literal["known", "wide", "noisy", "broad"]
GROUPS: tuple[Group, ...] = ("known", "wide", "noisy", "broad")
"""The groups of hypotheses: those of training, then the surprising ones."""
START_SHARES = (0.97, 0.012, 0.009, 0.009)
"""Prior weights of the groups, before the validation tasks are counted."""
LEAST_SHARES = (0.05, *START_SHARES[1:])
"""The least that calibration leaves to each group."""


@dataclass(frozen=True)
class Surprise:
    """The surprising hypotheses of a learner.

    Within a group the prior falls as 1/s, so that the largest scales do not rule the prior variance.

    Raises:
        InvalidLearner: a number that is not positive, or none.

    Attributes:
        wide_scales: s of the wide hypotheses.
        noise_levels: f of the noisy hypotheses.
        noisy_scales: s at each noise level.
        noisy_every: one particle of so many has noisy hypotheses: noise blurs the difference of neighbours.
        lengths: ℓ of the broad processes, in units of the network's inputs.
        broad_noises: r of the broad processes.
        broad_scales: s of the broad processes, in units of the network's outputs.
        frequencies: of the random features.
    """

    wide_scales: tuple[float, ...] = (8.0, 16.0)
    noise_levels: tuple[float, ...] = (25.0,)
    noisy_scales: tuple[float, ...] = (1.0, 4.0)
    noisy_every: int = 4
    lengths: tuple[float, ...] = (4.0, 1.0, 0.25)
    broad_noises: tuple[float, ...] = (1e-4, 1e-2, 1.0)
    broad_scales: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    frequencies: int = 32

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            numbers = value if isinstance(value, tuple) else (value,)
            if not numbers or not all(0 < number < math.inf for number in numbers):
                raise InvalidLearner(f"{field.name} of a surprise must be positive; found {value}")

    @property
    def broad_layers(self) -> tuple[tuple[float, float], ...]:
        """Length and noise of each broad process."""
        return tuple((length, noise) for length in self.lengths for noise in self.broad_noises)

    def draw_frequencies(self, inputs: int) -> Float[Tensor, "input frequency"]:
        """Standard normal frequencies from a scrambled Sobol sequence, the same every time."""
        sobol = torch.quasirandom.SobolEngine(inputs, scramble=True, seed=0)
        uniform = sobol.draw(self.frequencies, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
        return torch.special.ndtri(uniform).mT.contiguous().float()

    def condition(
        self, frequencies: Float[Tensor, "input frequency"], support: Examples
    ) -> ConditionedLayers:
        """The broad processes conditioned on each support set, at scale 1."""
        x, mask = support.x.double(), support.mask.unsqueeze(1)
        lengths = constant(self.lengths, x).unsqueeze(0)
        by_length = broad_features(frequencies.to(x), x, lengths, max(self.lengths)) * mask.unsqueeze(-1)
        noise = constant(tuple(noise for _, noise in self.broad_layers), x).view(1, -1, 1, 1)
        scaled = by_length.repeat_interleave(len(self.broad_noises), 1) * noise.rsqrt()
        residual = (support.y.unsqueeze(1) * mask.unsqueeze(-1)) * noise.rsqrt()
        log_noise = support.counts().unsqueeze(-1) * noise.log().view(1, -1)
        return condition(scaled, residual, torch.ones_like(noise), log_noise)


def broad_features(
    frequencies: Float[Tensor, "input frequency"],
    x: Inputs,
    lengths: Float[Tensor, "#task layer"],
    longest: float,
) -> Float[Tensor, "task layer row feature"]:
    """φ(x) of broad processes, where φᵀφ' is their covariance at scale 1, without noise.

    Args:
        lengths: ℓ of each process.
        longest: ℓ₀.
    """
    root = math.sqrt(x.shape[-1])
    phases = (x @ (frequencies / root)).unsqueeze(1) / lengths[..., None, None]
    waves = torch.cat([phases.cos(), phases.sin()], -1) / math.sqrt(frequencies.shape[-1])
    linear = (x * (2 / (root * longest))).unsqueeze(1).expand(-1, waves.shape[1], -1, -1)
    return torch.cat([torch.ones_like(waves[..., :1]), linear, waves], -1)


class Hypothesis(NamedTuple):
    """A layer at one scale.

    Attributes:
        layer: index of the layer.
        scale: s.
        group: index in `GROUPS`.
        log_prior: logarithm of its prior within the group.
    """

    layer: int
    scale: float
    group: int
    log_prior: float


@dataclass(frozen=True)
class Layout:
    """The hypotheses of a collapsed learner, in order.

    A *layer* is a last layer with its own noise: a particle at one noise level, or a broad process. The
    hypotheses of a layer differ in scale alone, and lie side by side.

    Attributes:
        particles: M. The first M layers are the particles; then come, level by level, particles with more
            noise, and last the broad processes.
        scales: s of the known hypotheses.
        surprise: None where there are known hypotheses alone.
    """

    particles: int
    scales: tuple[float, ...]
    surprise: Surprise | None = None

    @cached_property
    def noisy(self) -> tuple[tuple[int, float], ...]:
        """Particle and noise level of each layer of a particle with more noise."""
        if self.surprise is None:
            return ()
        some = range(0, self.particles, self.surprise.noisy_every)
        return tuple((particle, level) for level in self.surprise.noise_levels for particle in some)

    @property
    def own_layers(self) -> int:
        """Layers of particles."""
        return self.particles + len(self.noisy)

    @property
    def broad_layers(self) -> int:
        """Layers of broad processes."""
        return len(self.surprise.broad_layers) if self.surprise else 0

    @cached_property
    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """All hypotheses, layer by layer."""
        known = range(self.particles)
        found = _group("known", known, self.scales, tilt=0)
        if self.surprise is not None:
            noisy = range(self.particles, self.own_layers)
            broad = range(self.own_layers, self.own_layers + self.broad_layers)
            found += _group("wide", known, self.surprise.wide_scales)
            found += _group("noisy", noisy, self.surprise.noisy_scales)
            found += _group("broad", broad, self.surprise.broad_scales)
        return tuple(sorted(found))

    def evidence(
        self, misfit: PerParticle, log_volume: PerParticle, rows: PerTask, outputs: int
    ) -> Float[Tensor, "task hypothesis"]:
        """log p(y | X) of every hypothesis on each support set.

        Args:
            misfit, log_volume: those of the layers (see `bmaml.last_layer`).
            rows: support rows of each task.
        """
        table, counts = self.table(misfit), rows.unsqueeze(-1)
        volume = self.of_layers(log_volume) + counts * table.log_scale_terms
        return -0.5 * (self.of_layers(misfit) / table.square_scale + outputs * volume)

    def log_prior(self, log_shares: Float[Tensor, " group"]) -> Float[Tensor, " hypothesis"]:
        """The logarithm of the prior of every hypothesis, given those of the groups."""
        table = self.table(log_shares)
        return log_shares.index_select(0, table.group) + table.log_prior

    def group_weights(self, log_weights: Float[Tensor, "task hypothesis"]) -> Float[Tensor, "task group"]:
        """The weight of each group."""
        weights = tails.exp(log_weights)
        group = self.table(weights).group
        return weights.new_zeros(len(weights), len(GROUPS)).index_add(1, group, weights)

    def table(self, like: Tensor) -> "HypothesisTable":
        """The hypotheses as tensors, made once for each precision and device."""
        key = like.dtype, like.device
        if torch.compiler.is_compiling():
            return HypothesisTable.of(self.hypotheses, like)
        if key not in self._tables:
            with torch.inference_mode(False):
                self._tables[key] = HypothesisTable.of(self.hypotheses, like)
        return self._tables[key]

    @cached_property
    def _tables(self) -> dict[tuple[torch.dtype, torch.device], "HypothesisTable"]:
        return {}

    def of_layers(self, values: Tensor) -> Tensor:
        """Values `[task, layer]` as `[task, hypothesis]`."""
        return values.index_select(1, self.table(values).layer)


@dataclass(frozen=True)
class HypothesisTable:
    """The hypotheses as tensors `[hypothesis]`; they must not be written to.

    Attributes:
        layer, scale, group, log_prior: as in `Hypothesis`.
        square_scale: s².
        log_scale_terms: log 2π + 2 log s.
    """

    layer: Tensor
    scale: Tensor
    group: Tensor
    log_prior: Tensor
    square_scale: Tensor
    log_scale_terms: Tensor

    @classmethod
    def of(cls, hypotheses: Sequence[Hypothesis], like: Tensor) -> "HypothesisTable":
        """The table in the precision of `like`, on its device."""
        layers, scales, groups, priors = zip(*hypotheses, strict=True)
        scale = torch.tensor(scales, dtype=torch.float64, device=like.device)
        return cls(
            layer=torch.tensor(layers, device=like.device),
            scale=scale.to(like.dtype),
            group=torch.tensor(groups, device=like.device),
            log_prior=torch.tensor(priors, dtype=like.dtype, device=like.device),
            square_scale=scale.square().to(like.dtype),
            log_scale_terms=(LOG_2PI + 2 * scale.log()).to(like.dtype),
        )


def _group(group: Group, layers: range, scales: Sequence[float], tilt: int = 1) -> list[Hypothesis]:
    """The hypotheses of a group; within it the prior falls as s^−tilt."""
    total = len(layers) * sum(scale**-tilt for scale in scales)
    return [
        Hypothesis(layer, scale, GROUPS.index(group), math.log(scale**-tilt / total))
        for layer in layers
        for scale in scales
    ]
