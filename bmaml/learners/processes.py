"""Gaussian processes beside the particles: linear last layers on features that are no particle's.

Two kinds share this form. *Pooled* processes are fitted to all training tasks together (`pooled.py`), and
*broad* ones to none (`surprise.py`). A layer predicts χ(x)ᵀw + noise with w ~ N(m, I), at scale 1. Its
features are linear combinations of a constant, the inputs x, their squares, and random Fourier features of an
RBF kernel (Rahimi & Recht 2007).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from bmaml.device_constants import constant
from bmaml.last_layer import ConditionedLayers, condition
from bmaml.learners.interface import Learned
from bmaml.learners.surprise import Surprise
from bmaml.random_features import broad_features, fourier_features
from bmaml.shapes import Inputs
from bmaml.task import Examples

MAX_LOG_NOISE_CHANGE = 3.0
"""The largest change of a pooled layer's log noise from that at x = 0: a trend does not go on for ever."""

POOLED_TENSORS = (
    *("pooled_frequencies", "pooled_roots", "pooled_means", "pooled_noise"),
    "log_pooled_widening",
)
FeatureMaps = Float[Tensor, "#task map row feature"]


@dataclass(frozen=True)
class Processes:
    """The process layers of a learner, pooled ones first; all tasks share them.

    A *map* is a set of features: one for each pooled layer, then one for each length of the broad ones.

    Attributes:
        surprise: the settings of the broad layers; None without.
        frequencies: of the broad layers, `[input, frequency]`, at length 1.
        pooled_frequencies: of each pooled layer, `[layer, input, frequency]`, divided by its lengths.
        pooled_roots: combinations of features, `[layer, feature, feature]`; None without pooled layers.
        pooled_means: m, `[layer, feature, output]`.
        pooled_noise: log variance of the noise at x = 0 and its slopes, `[layer, 1 + input]`.
        log_pooled_widening: logarithm of the factor of pooled layers' predicted standard deviations, scalar.
        min_noise: variance of the noise, at least.
    """

    surprise: Surprise | None
    frequencies: Tensor | None
    pooled_frequencies: Tensor | None
    pooled_roots: Tensor | None
    pooled_means: Tensor | None
    pooled_noise: Tensor | None
    log_pooled_widening: Tensor | None
    min_noise: float

    @classmethod
    def of(cls, learned: Learned, surprise: Surprise | None, pooled: bool, min_noise: float) -> "Processes":
        """Those of a learner's learned tensors."""
        tensors = {name: learned[name] if pooled else None for name in POOLED_TENSORS}
        frequencies = None if surprise is None else learned["frequencies"]
        return cls(surprise=surprise, frequencies=frequencies, min_noise=min_noise, **tensors)

    @property
    def pooled_layers(self) -> int:
        """Number of pooled layers."""
        return 0 if self.pooled_roots is None else len(self.pooled_roots)

    @cached_property
    def broad_layers(self) -> tuple[tuple[float, float], ...]:
        """Length and noise of each broad layer."""
        return () if self.surprise is None else self.surprise.broad_layers

    def map_of_layers(self, like: Tensor) -> Tensor:
        """The map of each layer."""
        repeats = 0 if self.surprise is None else len(self.surprise.broad_noises)
        pooled = self.pooled_layers
        maps = [*range(pooled), *(pooled + place // repeats for place in range(len(self.broad_layers)))]
        return constant(tuple(map(float, maps)), like).long()

    def features(self, x: Inputs) -> FeatureMaps:
        """χ(x) of every map; narrower ones end in zeros."""
        maps = []
        if self.pooled_roots is not None:
            assert self.pooled_frequencies is not None
            frequencies = self.pooled_frequencies.to(x)
            phases = (x @ frequencies.movedim(0, 1).flatten(1)).unflatten(-1, (len(frequencies), -1))
            inputs = x.unsqueeze(1).expand(-1, len(frequencies), -1, -1)
            maps.append(fourier_features(inputs, phases.movedim(-2, 1)) @ self.pooled_roots.to(x))
        if self.surprise is not None:
            assert self.frequencies is not None
            maps.append(broad_features(self.frequencies.to(x), x, self.surprise.lengths))
        width = max(each.shape[-1] for each in maps)
        return torch.cat([pad(each, (0, width - each.shape[-1])) for each in maps], 1)

    def noise(self, x: Inputs) -> Float[Tensor, "task layer row"]:
        """The variance of every layer's noise at rows x, at scale 1."""
        parts = []
        if self.pooled_noise is not None:
            parts.append(noise_of(self.pooled_noise.to(x), x))
        if self.broad_layers:
            broad = constant(tuple(noise for _, noise in self.broad_layers), x).view(1, -1, 1)
            parts.append(broad.expand(len(x), -1, x.shape[1]))
        return torch.cat(parts, 1).clamp_min(self.min_noise)

    def log_widening(self, like: Tensor) -> Float[Tensor, " layer"]:
        """Logarithm of the factor of every layer's predicted standard deviations."""
        broad = like.new_zeros(len(self.broad_layers))
        if self.log_pooled_widening is None:
            return broad
        return torch.cat([self.log_pooled_widening.to(like).expand(self.pooled_layers), broad])

    def means(self, like: Tensor, width: int, outputs: int) -> Float[Tensor, "layer feature output"]:
        """m of every layer."""
        broad = like.new_zeros(len(self.broad_layers), width, outputs)
        if self.pooled_means is None:
            return broad
        pooled = self.pooled_means.to(like)
        return torch.cat([pad(pooled, (0, 0, 0, width - pooled.shape[1])), broad])

    def condition(self, support: Examples) -> "ConditionedProcesses":
        """The layers conditioned on each support set, at scale 1, in double precision."""
        x, real = support.x.double(), support.mask.unsqueeze(1)
        noise = self.noise(x)
        features = self.features(x).index_select(1, self.map_of_layers(x))
        means = self.means(x, features.shape[-1], support.y.shape[-1])
        # Rows are scaled to noise of variance one; padding is zero.
        scale = torch.where(real, noise, math.inf).rsqrt().unsqueeze(-1)
        residual = (support.y.unsqueeze(1) - features @ means) * scale
        log_noise = torch.where(real, noise, 1.0).log().sum(-1)
        width = x.new_ones(1, noise.shape[1], 1, 1)
        layers = condition(features * scale, residual, width, log_noise)
        return ConditionedProcesses(layers, means.unsqueeze(0))


@dataclass(frozen=True)
class ConditionedProcesses:
    """The process layers conditioned on the rows of each task.

    Attributes:
        layers: the last layers, of residuals.
        means: m of every layer, `[1, layer, feature, output]`.
    """

    layers: ConditionedLayers
    means: Tensor


def noise_of(coefficients: Float[Tensor, "layer coefficient"], x: Inputs) -> Float[Tensor, "task layer row"]:
    """The noise variance of pooled layers: log-linear in x, within bounds."""
    start, slopes = coefficients.split([1, x.shape[-1]], -1)
    change = (x @ slopes.mT).mT.clamp(-MAX_LOG_NOISE_CHANGE, MAX_LOG_NOISE_CHANGE)
    return (start + change).exp()
