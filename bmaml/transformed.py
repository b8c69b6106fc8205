"""The belief about targets that are functions of a real variable: positive, bounded, or whole numbers."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bmaml import tails
from bmaml.links import Link, log_cell_probability, node_levels
from bmaml.predictive import Predictive
from bmaml.shapes import LogWeights, Moments, Outputs, Targets

MAX_DEVIATIONS = 3.0
"""Standard deviations above the mixture's mean at which a component counts in moments, at most."""
CRPS_LEVELS = 64
"""Quantile levels that the CRPS is integrated over."""


@dataclass(frozen=True)
class Transformed:
    """The belief about y = g(z), output by output, for a mixture of Gaussians over z.

    It answers as `Predictive` does, in the units of y. Monotone maps keep probabilities: quantiles of y are
    those of z, transformed. Means and variances are those of y itself.

    Attributes:
        latent: the belief about z.
        links: of each output.
    """

    latent: Predictive
    links: tuple[Link, ...]

    @property
    def log_weights(self) -> LogWeights:
        """Logarithms of the components' weights."""
        return self.latent.log_weights

    @cached_property
    def _component_moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, aleatoric and epistemic variance of each component, `[task, component, row, output]`.

        On a logarithmic scale a component counts as at most `MAX_DEVIATIONS` above the mixture's mean, and
        no higher than the larger of that mean and the link's `max_location`: the exponential of one that
        lies far beyond would outweigh all others, however small its weight.
        """
        latent = self.latent.double()
        noise, within = (each.expand_as(latent.means) for each in (latent.noise, latent.within))
        mean = latent.mean().unsqueeze(1)
        highest = mean + MAX_DEVIATIONS * latent.variance().sqrt().unsqueeze(1)
        each = []
        for output, link in enumerate(self.links):
            location = latent.means[..., output]
            if link.is_logarithmic:
                most = mean[..., output].clamp_min(link.max_location)
                location = torch.minimum(location, torch.minimum(most, highest[..., output]))
            each.append(link.moments(location, noise[..., output], within[..., output]))
        means, aleatoric, epistemic = (torch.stack(parts, -1) for parts in zip(*each, strict=True))
        return means, aleatoric, epistemic

    @property
    def means(self) -> Outputs:
        """The mean of each component."""
        return self._component_moments[0]

    @property
    def stds(self) -> Outputs:
        """The standard deviation of each component."""
        return (self._component_moments[1] + self._component_moments[2]).sqrt()

    def mean(self) -> Moments:
        """The mixture's mean."""
        return self._average(self.means)

    def aleatoric(self) -> Moments:
        """The variance that no label removes: the mean of Var(y | function)."""
        return self._average(self._component_moments[1])

    def epistemic(self) -> Moments:
        """The variance that labels can remove: that of E(y | function)."""
        offsets = self.means - self.mean().unsqueeze(1)
        return self._average(offsets.square() + self._component_moments[2])

    def variance(self) -> Moments:
        """The mixture's variance: aleatoric + epistemic."""
        return self.aleatoric() + self.epistemic()

    def log_density(self, y: Targets) -> Moments:
        """Log density at y, output by output; where labels have a step, log of the cell's probability / step.

        For whole numbers the step is 1, and it is a log probability.
        """
        found = []
        for output, link in enumerate(self.links):
            own = slice(output, output + 1)
            if link.step is not None:
                found.append(self._log_cell_density(output, y[..., own], 0.5 * link.step))
                continue
            z, slope = (how(y[..., own].double()) for how in (link.to_scale, link.log_slope))
            found.append(self._of_output(output).log_density(z) + slope)
        return torch.cat(found, -1)

    def log_cell_density(self, y: Targets, half: float) -> Moments:
        """Logarithm of the probability of y ± half over the cell's width, output by output."""
        return torch.cat(
            [self._log_cell_density(i, y[..., i : i + 1], half) for i in range(len(self.links))], -1
        )

    def _log_cell_density(self, output: int, y: Targets, half: float) -> Moments:
        latent, ends = self._of_output(output), self.links[output].cell(y.double(), half)
        lower, upper = (end.unsqueeze(1) for end in ends)
        logs = log_cell_probability(lower, upper, latent.means, latent.stds) - math.log(2 * half)
        return tails.logsumexp(logs + latent.log_weights[..., None, None], 1)

    def _of_output(self, output: int) -> Predictive:
        """The belief about one output's z, in double precision."""
        latent, own = self.latent.double(), slice(output, output + 1)
        noise, within = (each.expand_as(latent.means)[..., own] for each in (latent.noise, latent.within))
        return Predictive(latent.means[..., own], noise, within, latent.log_weights)

    def quantiles(
        self, levels: Float[Tensor, "#task level"], rounds: int | None = None, tolerance: float = 0.0
    ) -> Float[Tensor, "task level row output"]:
        """The smallest value that y does not exceed with each probability; arguments as `Predictive`."""
        return self._mapped(Link.quantile, self.latent.quantiles(levels, rounds, tolerance))

    def interval(self, level: float) -> tuple[Moments, Moments]:
        """The central interval that holds at least `level` of the probability."""
        lower, upper = (self._mapped(Link.quantile, end) for end in self.latent.interval(level))
        return lower, upper

    def holds(self, y: Targets, level: float) -> Tensor:
        """Whether the central interval of each level holds y."""
        lower, upper = self.interval(level)
        return (y >= lower) & (y <= upper)

    def crps(self, y: Targets) -> Moments:
        """Continuous ranked probability score at y: twice the mean loss of `CRPS_LEVELS` quantiles."""
        levels = node_levels(CRPS_LEVELS, self.latent.means)
        values = self.quantiles(levels.unsqueeze(0)).double()
        error, levels = y.double().unsqueeze(1) - values, levels.view(1, -1, 1, 1)
        return 2 * torch.maximum(levels * error, (levels - 1) * error).mean(1)

    def pruned(self, negligible: float | Float[Tensor, "#task 1"]) -> "Transformed":
        """The belief without its lightest components, as `Predictive.pruned`."""
        return replace(self, latent=self.latent.pruned(negligible))

    def at_rows(self, rows: Int[Tensor, "task chosen"]) -> "Transformed":
        """The belief about some rows, different ones in each task."""
        return replace(self, latent=self.latent.at_rows(rows))

    def part(self, tasks: slice, rows: slice = slice(None)) -> "Transformed":
        """The belief about some rows of some tasks."""
        return replace(self, latent=self.latent.part(tasks, rows))

    def _mapped(self, how: Callable[[Link, Tensor], Tensor], z: Tensor) -> Tensor:
        """Values `[…, output]` on the links' scales through one of the links' maps."""
        return torch.stack([how(link, z[..., output]) for output, link in enumerate(self.links)], -1)

    def _average(self, values: Tensor) -> Tensor:
        return (self.latent.double().weights[..., None, None] * values).sum(1)
