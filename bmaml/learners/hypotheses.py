"""The hypotheses of a collapsed learner: its last layers, each at several scales.

The layers are those of the particles, of particles with more noise, and of processes (`processes.py`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from bmaml import tails
from bmaml.densities import LOG_2PI, PRECISIONS
from bmaml.learners.surprise import GROUPS, Group, Surprise
from bmaml.shapes import Particles, PerParticle, PerTask


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

    A *layer* is a last layer with its own noise: a particle at one noise level, or a process. The hypotheses
    of a layer differ in scale alone, and lie side by side.

    Attributes:
        particles: M. The first M layers are the particles; then come, level by level, particles with more
            noise, then pooled processes, and last the broad ones.
        scales: s of the known hypotheses and of pooled processes.
        surprise: None where no hypothesis is surprising.
        pooled_layers: number of pooled processes.
    """

    particles: int
    scales: tuple[float, ...]
    surprise: Surprise | None = None
    pooled_layers: int = 0

    @cached_property
    def own(self) -> tuple[tuple[int, float], ...]:
        """Particle and noise level of each layer of a particle."""
        layers = [(particle, 1.0) for particle in range(self.particles)]
        if self.surprise is not None:
            some = range(0, self.particles, self.surprise.noisy_every)
            layers += [(particle, level) for level in self.surprise.noise_levels for particle in some]
        return tuple(layers)

    @property
    def own_layers(self) -> int:
        """Number of layers of particles."""
        return len(self.own)

    @property
    def process_layers(self) -> int:
        """Number of pooled and broad processes."""
        return self.pooled_layers + (len(self.surprise.broad_layers) if self.surprise else 0)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of hypotheses that shares are of."""
        return GROUPS if self.pooled_layers else GROUPS[:-1]

    @property
    def has_groups(self) -> bool:
        """Whether there is more than one group of hypotheses."""
        return self.surprise is not None or self.pooled_layers > 0

    @cached_property
    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """All hypotheses, layer by layer."""
        known = range(self.particles)
        pooled = range(self.own_layers, self.own_layers + self.pooled_layers)
        found = _group("known", known, self.scales, _even)
        for layer in pooled:
            found += _group("pooled", range(layer, layer + 1), self.scales, _near_one)
        if self.surprise is not None:
            noisy = range(self.particles, self.own_layers)
            broad = range(pooled.stop, self.own_layers + self.process_layers)
            found += _group("wide", known, self.surprise.wide_scales, _falling)
            found += _group("noisy", noisy, self.surprise.noisy_scales, _falling)
            near, far = self.surprise.broad_scales, self.surprise.far_scales
            found += _group("broad", broad, (*near, *far), lambda s: _falling(s) if s in near else _far(s))
        return tuple(sorted(found))

    def of_own(self, values: Tensor) -> Tensor:
        """Values of particles `[#task, #particle, …]` as those of their layers."""
        shared = values.shape[1] < self.particles
        return values if shared else values.index_select(1, self.table(values).particle)

    def with_noise_levels(self, particles: Particles) -> Float[Tensor, "#task layer param"]:
        """The particles of their layers, each with its own noise."""
        layers = self.of_own(particles)
        layers[..., -PRECISIONS] -= self.table(particles).log_level
        return layers

    def evidence(
        self, misfit: PerParticle, log_volume: PerParticle, rows: PerTask, outputs: int
    ) -> Float[Tensor, "task hypothesis"]:
        """log p(y | X) of every hypothesis on each support set.

        Args:
            misfit, log_volume: those of the layers (see `bmaml.last_layer`).
            rows: support rows of each task.
        """
        table, counts = self.table(misfit), rows.unsqueeze(-1)
        volume = log_volume.index_select(1, table.layer) + counts * table.log_scale_terms
        return -0.5 * (misfit.index_select(1, table.layer) / table.square_scale + outputs * volume)

    def log_prior(
        self, log_shares: Float[Tensor, " group"], pooled: Float[Tensor, " pooled"] | None = None
    ) -> Float[Tensor, " hypothesis"]:
        """The logarithm of the prior of every hypothesis, given those of the groups and of pooled layers."""
        table = self.table(log_shares)
        found = log_shares.index_select(0, table.group) + table.log_prior
        if pooled is None:
            return found
        own, others = self.own_layers, self.process_layers - self.pooled_layers
        return found + pad(pooled, (own, others)).index_select(0, table.layer)

    def group_weights(self, log_weights: Float[Tensor, "task hypothesis"]) -> Float[Tensor, "task group"]:
        """The weight of each group."""
        weights = tails.exp(log_weights)
        group = self.table(weights).group
        return weights.new_zeros(len(weights), len(self.groups)).index_add(1, group, weights)

    def table(self, like: Tensor) -> "LayoutTable":
        """The layout as tensors, made once for each precision and device."""
        key = like.dtype, like.device
        if torch.compiler.is_compiling():
            return LayoutTable.of(self, like)
        if key not in self._tables:
            with torch.inference_mode(False):
                self._tables[key] = LayoutTable.of(self, like)
        return self._tables[key]

    @cached_property
    def _tables(self) -> dict[tuple[torch.dtype, torch.device], "LayoutTable"]:
        return {}


@dataclass(frozen=True)
class LayoutTable:
    """A layout as tensors, which must not be written to.

    Attributes:
        layer, scale, group, log_prior: as in `Hypothesis`, `[hypothesis]`.
        square_scale: s².
        log_scale_terms: log 2π + 2 log s.
        particle, log_level: the particle and the logarithm of the noise level of each layer of a particle.
        layer_or_merged: `layer`, and after it all layers in order.
    """

    layer: Tensor
    scale: Tensor
    group: Tensor
    log_prior: Tensor
    square_scale: Tensor
    log_scale_terms: Tensor
    particle: Tensor
    log_level: Tensor
    layer_or_merged: Tensor

    @classmethod
    def of(cls, layout: Layout, like: Tensor) -> "LayoutTable":
        """The tables in the precision of `like`, on its device."""
        layers, scales, groups, priors = zip(*layout.hypotheses, strict=True)
        particles, levels = zip(*layout.own, strict=True)
        every = range(layout.own_layers + layout.process_layers)

        def indices(values: Sequence[int]) -> Tensor:
            return torch.tensor(values, device=like.device)

        def numbers(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=like.dtype, device=like.device)

        return cls(
            layer=indices(layers),
            scale=numbers(scales),
            group=indices(groups),
            log_prior=numbers(priors),
            square_scale=numbers([scale**2 for scale in scales]),
            log_scale_terms=numbers([LOG_2PI + 2 * math.log(scale) for scale in scales]),
            particle=indices(particles),
            log_level=numbers([math.log(level) for level in levels]),
            layer_or_merged=indices([*layers, *every]),
        )


def _group(
    group: Group, layers: range, scales: Sequence[float], weight: Callable[[float], float]
) -> list[Hypothesis]:
    """The hypotheses of a group, and the weight of each scale before they add up to one."""
    total = len(layers) * sum(map(weight, scales))
    return [
        Hypothesis(layer, scale, GROUPS.index(group), math.log(weight(scale) / total))
        for layer in layers
        for scale in scales
    ]


def _even(scale: float) -> float:
    """All alike: particles learn their size together with these scales."""
    return 1.0


def _falling(scale: float) -> float:
    """The largest scales do not rule the prior variance."""
    return 1 / scale


def _far(scale: float) -> float:
    """Scales without bound add a bounded variance to the prior, and less to that after a row."""
    return scale**-3


def _near_one(scale: float) -> float:
    """Pooled processes have the size of the training tasks at scale 1; few tasks are twice that size."""
    return min(scale, 1 / scale) ** 8
