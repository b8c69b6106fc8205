"""The belief about a query: a weighted mixture of the particles' Gaussian predictions."""

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bmaml import entropy, quantiles, tails
from bmaml.blocks import blocks
from bmaml.errors import BmamlError
from bmaml.shapes import LogWeights, Moments, Outputs, Targets


class NoJoint(BmamlError, ValueError):
    """Covariances between rows, asked of a prediction that carries variances alone."""


@dataclass(frozen=True)
class Predictive:
    """A mixture of Gaussians for every query row and output.

    Attributes:
        means: prediction of each particle.
        noise: variance of each particle's noise, 1/γ, broadcastable to `means`.
        within: epistemic variance inside each particle, broadcastable to `means`; zero for bare
            particles, the exact posterior variance of the last layer for `collapsed`.
        log_weights: logarithms of the particles' weights, normalised.
        factor: rows whose inner products are the average covariances inside the particles, and whose
            squared norms are the average of `within`; None where it was not asked for.
    """

    means: Outputs
    noise: Float[Tensor, "#task #particle #row #output"]
    within: Float[Tensor, "#task #particle #row #output"]
    log_weights: LogWeights
    factor: Float[Tensor, "task row #output rank"] | None = None

    @cached_property
    def weights(self) -> LogWeights:
        """The particles' weights; they add up to one."""
        return tails.exp(self.log_weights)

    def mean(self) -> Moments:
        """The mixture's mean."""
        return self._average(self.means)

    def aleatoric(self) -> Moments:
        """The variance that no label removes: the weighted mean of the particles' noise variances."""
        return self._average(self.noise.expand_as(self.means))

    def epistemic(self) -> Moments:
        """The variance that labels can remove: that of the particles' means + the mean within particles."""
        offsets = self.means - self.mean().unsqueeze(1)
        return self._average(offsets.square() + self.within)

    def variance(self) -> Moments:
        """The mixture's variance: aleatoric + epistemic."""
        return self.aleatoric() + self.epistemic()

    def log_density(self, y: Targets) -> Moments:
        """Log density of the mixture at y, output by output."""
        return self._log_average(self.component_log_density(y))

    def component_log_density(self, y: Targets) -> Outputs:
        """Log density of each particle's Gaussian at y."""
        scale = self._scale()
        standard = (y.unsqueeze(1) - self.means) / scale
        return -0.5 * standard.square() - scale.log() - 0.5 * math.log(2 * math.pi)

    def cdf(self, y: Targets) -> Moments:
        """P(value ≤ y) under the mixture, output by output."""
        return self._average(tails.ndtr((y.unsqueeze(1) - self.means) / self._scale()))

    def crps(self, y: Targets) -> Moments:
        """Continuous ranked probability score at y, in the units of y; lower is better.

        E|Y − y| − ½ E|Y − Y′| in closed form (Grimit et al. 2006, eq. 3). Like the log density it is a proper
        score; unlike it, it grows only linearly with an outlier's distance.
        """
        scale = self._scale()
        weights = self.weights[..., None, None]
        total = (weights * _mean_absolute(self.means - y.unsqueeze(1), scale)).sum(1)
        for other in range(self.means.shape[1]):
            one = slice(other, other + 1)
            distance = self.means - self.means[:, one]
            both = (scale.square() + scale[:, one].square()).sqrt()
            total = total - 0.5 * weights[:, other] * (weights * _mean_absolute(distance, both)).sum(1)
        return total

    def entropy(self) -> Moments:
        """Differential entropy of each output in nats, −E[log p(y)]; see `bmaml.entropy`."""
        means, scales = self.means.flatten(2), self._scale().flatten(2)
        return entropy.mixture_entropy(means, scales, self.log_weights).unflatten(-1, self.means.shape[2:])

    def quantiles(
        self, levels: Float[Tensor, "#task level"], rounds: int | None = None, tolerance: float = 0.0
    ) -> Float[Tensor, "task level row output"]:
        """The mixture's quantiles (not those of a matched normal), for levels strictly inside (0, 1).

        NaN where the prediction is NaN. `rounds` is that of `quantiles.mixture_quantiles`.

        Args:
            tolerance: the largest relative error of each level, or of its complement, for which the lightest
                components are left out.
        """
        if tolerance and levels.shape[-1]:
            least = torch.minimum(levels, 1 - levels).amin(-1, keepdim=True)
            return self.pruned(tolerance * least).quantiles(levels, rounds)
        tasks, components, rows, outputs = self.means.shape
        means = self.means.flatten(2).movedim(1, 0).unsqueeze(2)  # [component, task, 1, place]
        scales = self._scale().flatten(2).movedim(1, 0).unsqueeze(2)
        weights = self.weights.T[..., None, None]
        targets = levels.double().expand(tasks, -1).unsqueeze(-1)
        most = quantiles.MAX_CPU_TERMS if self.means.device.type == "cpu" else quantiles.MAX_GPU_TERMS
        terms = components * tasks * max(1, levels.shape[1])
        found = [
            quantiles.mixture_quantiles(means[..., part], scales[..., part], weights, targets, rounds)
            for part in blocks(rows * outputs, most, terms)
        ]
        return torch.cat(found, -1).unflatten(-1, (rows, outputs))

    def interval(self, level: float) -> tuple[Moments, Moments]:
        """The central interval that holds `level` of the mixture's probability."""
        ends = self.means.new_tensor([[0.5 - level / 2, 0.5 + level / 2]], dtype=torch.float64)
        lower, upper = self.quantiles(ends).unbind(1)
        return lower, upper

    def holds(self, y: Targets, level: float) -> Bool[Tensor, "task row output"]:
        """Whether the central interval of a level holds y."""
        return (self.cdf(y) - 0.5).abs() <= level / 2

    @property
    def stds(self) -> Outputs:
        """The standard deviation of each component."""
        return self._scale()

    def covariance_root(self) -> Float[Tensor, "task row output dimension"]:
        """Rows whose inner products are the mixture's epistemic covariances, output by output.

        Bare particles give M dimensions (of rank M − 1); a factor adds its own.

        Raises:
            NoJoint: the particles have variance of their own, and there is no factor.
        """
        root = self.weights.sqrt()[..., None, None]
        between = (root * (self.means - self.mean().unsqueeze(1))).movedim(1, -1)
        if self.factor is None:
            if bool((self.within != 0).any()):
                raise NoJoint("predict with joint=True to ask for covariances between rows")
            return between
        return torch.cat([between, self.factor.expand(-1, -1, between.shape[2], -1)], -1)

    def pruned(self, negligible: float | Float[Tensor, "#task 1"]) -> "Predictive":
        """The belief without its lightest components.

        Each task drops components that together weigh no more than `negligible`, whatever the other tasks
        drop. The weights of the rest add up to one again. The factor stays that of all components.
        """
        order, logs = heaviest(self.log_weights, negligible)

        def taken(values: Tensor) -> Tensor:
            if values.shape[1] == 1:
                return values
            index = order.view(*order.shape, *[1] * (values.ndim - 2))
            whole = values.expand(len(order), *values.shape[1:])
            return whole.gather(1, index.expand(-1, -1, *values.shape[2:]))

        return Predictive(
            means=taken(self.means),
            noise=taken(self.noise),
            within=taken(self.within),
            log_weights=logs,
            factor=self.factor,
        )

    def towards(self, prior: "Predictive", share: Float[Tensor, "task row"], joint: bool) -> "Predictive":
        """The belief mixed with the prior, which has `share` of each row.

        Every component's mean moves towards the prior mixture's mean, and its epistemic variance towards the
        prior mixture's; noise stays. At share 1 each has the prior's mean and epistemic variance.

        Args:
            joint: also carry a factor: the average correlations inside the particles, at the new variances.
                Variance that bare particles gain is fully correlated between rows.
        """
        share = share.unsqueeze(1).unsqueeze(-1)  # [task, 1, row, 1]
        kept = 1 - share
        within = kept * self.within + share * prior.epistemic().unsqueeze(1)
        factor = self.factor
        if joint:
            before, after = (self._average(each.expand_as(self.means)) for each in (self.within, within))
            growth = (after / before.clamp_min(torch.finfo(before.dtype).tiny)).sqrt()
            factor = after.sqrt().unsqueeze(-1) if factor is None else factor * growth.unsqueeze(-1)
        return Predictive(
            means=kept * self.means + share * prior.mean().unsqueeze(1),
            noise=self.noise,
            within=within,
            log_weights=self.log_weights,
            factor=factor,
        )

    def with_noise_at_most(self, ceiling: Float[Tensor, " output"]) -> "Predictive":
        """The belief with each component's noise variance capped, output by output."""
        return replace(self, noise=torch.minimum(self.noise, ceiling.to(self.noise)))

    def at_rows(self, rows: Int[Tensor, "task chosen"]) -> "Predictive":
        """The belief about some rows, different ones in each task."""

        def taken(values: Tensor) -> Tensor:
            if values.shape[2] == 1:
                return values
            whole = values.expand(len(rows), *values.shape[1:])
            place = rows.view(len(rows), 1, -1, *[1] * (values.ndim - 3))
            return whole.gather(2, place.expand(-1, values.shape[1], -1, *values.shape[3:]))

        return Predictive(
            means=taken(self.means),
            noise=taken(self.noise),
            within=taken(self.within),
            log_weights=self.log_weights,
            factor=None if self.factor is None else taken(self.factor.unsqueeze(1)).squeeze(1),
        )

    def part(self, tasks: slice, rows: slice = slice(None)) -> "Predictive":
        """The belief about some rows of some tasks."""

        def taken(values: Tensor) -> Tensor:
            own = values if values.shape[0] == 1 else values[tasks]
            return own if own.shape[2] == 1 else own[:, :, rows]

        return Predictive(
            means=self.means[tasks, :, rows],
            noise=taken(self.noise),
            within=taken(self.within),
            log_weights=self.log_weights[tasks],
            factor=None if self.factor is None else self.factor[tasks, rows],
        )

    def double(self) -> "Predictive":
        """The same belief in double precision."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(self, **{name: x.double() for name, x in values.items() if isinstance(x, Tensor)})

    def rescaled(self, shift: Tensor, scale: Tensor) -> "Predictive":
        """The belief about scale · y + shift, with one number of each per output."""
        return Predictive(
            means=self.means * scale + shift,
            noise=self.noise * scale.square(),
            within=self.within * scale.square(),
            log_weights=self.log_weights,
            factor=None if self.factor is None else self.factor * scale.unsqueeze(-1),
        )

    def _average(self, values: Tensor) -> Tensor:
        return (self.weights[..., None, None] * values).sum(1)

    def _log_average(self, logs: Tensor) -> Tensor:
        return tails.logsumexp(logs + self.log_weights[..., None, None], 1)

    def _scale(self) -> Tensor:
        return (self.noise + self.within).sqrt().expand_as(self.means)


def heaviest(
    log_weights: LogWeights, negligible: float | Float[Tensor, "#task 1"]
) -> tuple[Int[Tensor, "task kept"], Float[Tensor, "task kept"]]:
    """Indices of the components of weight, heaviest first, and the logarithms of their new weights.

    Each task drops its lightest components, which together weigh no more than `negligible`. Tasks that keep
    fewer than others are filled up with copies of their heaviest, of weight zero. NaN weights stay, so that
    divergence is seen.
    """
    logs, order = log_weights.sort(dim=-1, descending=True, stable=True)
    lighter = tails.exp(logs).flip(-1).cumsum(-1).flip(-1)  # of each component and all that are lighter
    dropped = lighter <= negligible
    count = max(1, logs.shape[-1] - int(dropped.sum(-1).min()))
    dropped, logs, order = dropped[:, :count], logs[:, :count], order[:, :count]
    return torch.where(dropped, order[:, :1], order), logs.masked_fill(dropped, -math.inf).log_softmax(-1)


def _mean_absolute(mean: Tensor, scale: Tensor) -> Tensor:
    """E|X| of X ~ N(mean, scale²)."""
    standard = mean / scale
    density = tails.exp(-0.5 * standard.square()) / math.sqrt(2 * math.pi)
    return mean * (2 * tails.ndtr(standard) - 1) + 2 * scale * density
