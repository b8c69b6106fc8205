"""The posterior of collapsed particles, and the hypotheses of weight in it.

A hypothesis is a layer at one scale: a particle at one noise level, or a broad process; see `surprise.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bmaml import tails
from bmaml.last_layer import ConditionedLayers
from bmaml.learners.posterior import Posterior
from bmaml.learners.surprise import Layout, broad_features
from bmaml.predictive import Predictive, heaviest_first, kept_components
from bmaml.shapes import Inputs, Particles, Scalar, Verdicts

LIGHT = 1e-4
"""Weight below which the hypotheses of a layer are merged."""


@dataclass(frozen=True)
class LayerMoments:
    """The predictions of layers at scale 1.

    Attributes:
        means: `[task, layer, row, output]`.
        noise, within: variance of the noise and epistemic variance, `[task, layer, row, 1]`.
        root: rows whose inner products are the epistemic covariances; None where it was not asked for.
    """

    means: Tensor
    noise: Tensor
    within: Tensor
    root: Float[Tensor, "task layer row rank"] | None


@dataclass(frozen=True)
class CollapsedPosterior(Posterior):
    """Last layers with their exact posteriors, and the hypotheses that use them.

    With u = √(H + 1) φ, the hidden layer and a constant 1, a particle predicts headᵀu. Its epistemic standard
    deviation is ‖u − spent seenᵀu‖ / √(λ (H + 1)) at scale 1. A broad process with features φ predicts
    headᵀφ, with the epistemic standard deviation ‖φ − spent seenᵀφ‖.

    Attributes:
        owner: the layer of each hypothesis; those of broad processes follow those of particles.
        scales: s of each hypothesis.
        surprise: weight of each group of hypotheses (see `surprise.GROUPS`).
        particles: adapted parameters, the noise level included; `[1, …]` for zero steps with all kept.
        head: mean of the last layer, prior mean included.
        seen, spent: factors in the root of its covariance (see `bmaml.last_layer`).
        noise_slopes: a, where the noise depends on x.
        broad_layers: length and noise of the broad processes; this and the following are None without them.
        broad_head, broad_seen, broad_spent: the same of broad processes.
        frequencies: of their features.
        longest: the longest of their lengths.
        log_widening: log ω, for standard deviations where the support rows determine a prediction.
        log_prior_widening: log ω₀, for epistemic standard deviations where they do not.
    """

    fill: ClassVar[Mapping[str, float]] = {**Posterior.fill, "scales": 1.0, "broad_layers": 1.0}
    per_task: ClassVar[frozenset[str]] = Posterior.per_task | {"owner", "surprise"}

    owner: Int[Tensor, "#task hypothesis"]
    scales: Float[Tensor, "#task hypothesis"]
    surprise: Float[Tensor, "task group"]
    particles: Particles
    head: Float[Tensor, "#task particle unit output"]
    seen: Float[Tensor, "#task particle unit rank"]
    spent: Float[Tensor, "#task particle unit rank"]
    noise_slopes: Float[Tensor, "#task particle unit"] | None
    broad_layers: Float[Tensor, "#task broad 2"] | None
    broad_head: Float[Tensor, "#task broad feature output"] | None
    broad_seen: Float[Tensor, "#task broad feature broad_rank"] | None
    broad_spent: Float[Tensor, "#task broad feature broad_rank"] | None
    frequencies: Float[Tensor, "1 input frequency"] | None
    longest: float
    log_widening: Scalar
    log_prior_widening: Scalar

    def finite(self) -> Verdicts:
        """True for each task whose adaptation stayed finite; the heads show a failed Cholesky factor."""
        finite = ~self.log_weights.isnan().any(-1) & self.head.isfinite().flatten(1).all(-1)
        return finite if self.broad_head is None else finite & self.broad_head.isfinite().flatten(1).all(-1)

    def at(self, tasks: Tensor) -> "CollapsedPosterior":
        """The posterior of some tasks, without hypotheses that have weight in none of them."""
        part = super().at(tasks)
        if len(part.owner) < len(part.log_weights):
            return part
        hypotheses = slice(max(1, int((part.log_weights > -math.inf).sum(-1).max())))
        owner, own = part.owner[:, hypotheses], part.head.shape[1]
        particles = 1 + int(owner.masked_fill(owner >= own, -1).max())
        broad = 1 + int((owner - own).max())
        part = replace(
            part, log_weights=part.log_weights[:, hypotheses], owner=owner, scales=part.scales[:, hypotheses]
        )
        return part._with_layers(max(1, particles), max(0, broad))

    @classmethod
    def joined(cls, parts: Sequence["CollapsedPosterior"]) -> "CollapsedPosterior":
        """The posteriors of single tasks side by side, padded where they differ in size."""
        own = max(part.head.shape[1] for part in parts)
        moved = [replace(part, owner=part._place(own)) for part in parts]
        return super().joined(moved)

    def mixture(self, own: LayerMoments, x: Inputs) -> Predictive:
        """The mixture of all hypotheses at rows x, given the predictions of the particles."""
        layers = [own, *([] if (broad := self._predict_broad(x, own.root is not None)) is None else [broad])]
        return Predictive(
            means=self._per_hypothesis([each.means for each in layers], 0),
            noise=self._per_hypothesis([each.noise for each in layers], 2),
            within=self._per_hypothesis([each.within for each in layers], 2),
            log_weights=self.log_weights.expand(len(x), -1),
            factor=self._factor([each.root for each in layers if each.root is not None]),
        )

    def sum_per_layer(self, values: Tensor) -> Tensor:
        """Values `[task, hypothesis]` added up over the hypotheses of each layer, `[task, layer]`."""
        broad = 0 if self.broad_head is None else self.broad_head.shape[1]
        total = values.new_zeros(len(values), self.head.shape[1] + broad)
        return total.scatter_add(1, self.owner.expand(len(values), -1), values)

    def _predict_broad(self, x: Inputs, joint: bool) -> LayerMoments | None:
        """The predictions of the broad processes; None where none has weight."""
        if self.broad_head is None or not self.broad_head.shape[1]:
            return None
        assert self.broad_layers is not None
        assert self.frequencies is not None
        assert self.broad_seen is not None
        assert self.broad_spent is not None
        lengths, noise = self.broad_layers.unbind(-1)
        features = broad_features(self.frequencies[0], x, lengths, self.longest)
        left = features - (features @ self.broad_seen) @ self.broad_spent.mT
        within = left.square().sum(-1, keepdim=True)
        noise = noise[..., None, None].expand(*within.shape)
        return LayerMoments(features @ self.broad_head, noise, within, left if joint else None)

    def _per_hypothesis(self, values: Sequence[Tensor], power: int) -> Tensor:
        """Values of layers, `[task, layer, …]`, as `[task, hypothesis, …]`, times a power of each scale."""
        tasks = max(len(each) for each in values)
        layers = (
            values[0]
            if len(values) == 1
            else torch.cat([each.expand(tasks, *each.shape[1:]) for each in values], 1)
        )
        chosen = gathered(layers, self.owner)
        if not power:
            return chosen
        return chosen * (self.scales**power).view(*self.scales.shape, *[1] * (chosen.ndim - 2))

    def _factor(self, roots: Sequence[Tensor]) -> Tensor | None:
        """The roots of the layers side by side, each with its layer's part of the weight, for covariances."""
        if not roots:
            return None
        share = self.sum_per_layer(tails.exp(self.log_weights) * self.scales.square()).sqrt()
        parts = share.split([self.head.shape[1], share.shape[1] - self.head.shape[1]], 1)
        weighted = [
            (root * part[..., None, None]).movedim(1, 2).flatten(2)
            for root, part in zip(roots, parts, strict=False)
        ]
        return torch.cat(weighted, -1).unsqueeze(2)

    def _place(self, own: int) -> Tensor:
        """The layer of each hypothesis, where broad processes follow `own` particles."""
        present = self.head.shape[1]
        return torch.where(self.owner < present, self.owner, self.owner + own - present)

    def _with_layers(self, particles: int, broad: int) -> "CollapsedPosterior":
        """The posterior with the first of the particles and the first of the broad processes alone."""

        def first(values: Tensor | None, count: int) -> Tensor | None:
            return None if values is None else values[:, :count]

        return replace(
            self,
            owner=self._place(particles),
            particles=self.particles[:, :particles],
            head=self.head[:, :particles],
            seen=self.seen[:, :particles],
            spent=self.spent[:, :particles],
            noise_slopes=first(self.noise_slopes, particles),
            broad_layers=first(self.broad_layers, broad),
            broad_head=first(self.broad_head, broad),
            broad_seen=first(self.broad_seen, broad),
            broad_spent=first(self.broad_spent, broad),
        )


@dataclass(frozen=True)
class KeptLayers:
    """The layers of each task that are kept.

    Attributes:
        index: the kept layers; None where most are kept, so that all stay.
        real: False for padding among the kept layers.
        place: the place of each layer among the kept ones.
        count: the number of kept layers, padding included.
    """

    index: Int[Tensor, "task kept"] | None
    real: Bool[Tensor, "task kept"] | None
    place: Int[Tensor, "#task layer"]
    count: int

    @classmethod
    def every(cls, layers: int, like: Tensor) -> "KeptLayers":
        """All layers of all tasks."""
        return cls(None, None, torch.arange(layers, device=like.device).unsqueeze(0), layers)

    @classmethod
    def of(cls, wanted: Bool[Tensor, "task layer"]) -> "KeptLayers":
        """Keep the wanted layers, in their order."""
        counts, layers = wanted.sum(-1), wanted.shape[1]
        if 2 * int(counts.sum()) > wanted.numel():
            return cls.every(layers, wanted)
        count = int(counts.max()) if layers else 0
        index = wanted.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[:, :count]
        place = torch.zeros_like(wanted, dtype=index.dtype)
        place.scatter_(1, index, torch.arange(count, device=place.device).expand_as(index))
        real = torch.arange(count, device=counts.device) < counts.unsqueeze(-1)
        return cls(index, real, place, count)

    def posterior(self, layers: ConditionedLayers) -> tuple[Tensor, Tensor, Tensor]:
        """The posterior of the kept layers; zero for padding."""
        if self.index is None or self.real is None:
            return layers.posterior()
        task, place = self.real.nonzero(as_tuple=True)
        index = self.index[task, place]
        each = layers.of_particles(lambda values: values[task if len(values) > 1 else 0, index].unsqueeze(0))
        shape = self.real.shape

        def padded(values: Tensor) -> Tensor:
            whole = values.new_zeros(*shape, *values.shape[2:])
            whole[task, place] = values[0]
            return whole

        mean, seen, spent = each.posterior()
        return padded(mean), padded(seen), padded(spent)

    def taken(self, values: Tensor) -> Tensor:
        """The values `[#task, layer, …]` of the kept layers."""
        return values if self.index is None else gathered(values, self.index)


@dataclass(frozen=True)
class KeptHypotheses:
    """The hypotheses of each task that are kept, heaviest first, and their layers.

    Attributes:
        own, broad: the kept layers of particles and of broad processes.
        owner, scales, log_weights: of the kept hypotheses, as in `CollapsedPosterior`; −∞ for padding.
    """

    own: KeptLayers
    broad: KeptLayers
    owner: Int[Tensor, "#task hypothesis"]
    scales: Float[Tensor, "#task hypothesis"]
    log_weights: Float[Tensor, "task hypothesis"]

    @classmethod
    def of(cls, layout: Layout, log_weights: Tensor, negligible: float) -> "KeptHypotheses":
        """Keep all but the lightest, which together weigh `negligible` at most; all where that is zero."""
        layer, scales = layout.table(log_weights).layer, layout.table(log_weights).scale
        own, broad = layout.own_layers, layout.broad_layers
        if not negligible:
            every = KeptLayers.every(own, layer), KeptLayers.every(broad, layer)
            return cls(*every, layer.unsqueeze(0), scales.unsqueeze(0), log_weights)
        log_weights, layer, scales = _with_light_merged(log_weights, layer, scales, own + broad)
        kept = kept_components(log_weights, negligible)
        hypothesis, logs = heaviest_first(log_weights, kept)
        wanted = torch.zeros(len(kept), own + broad, dtype=torch.int32, device=kept.device)
        wanted = wanted.index_add(1, layer, kept.to(torch.int32)) > 0
        own_kept, broad_kept = KeptLayers.of(wanted[:, :own]), KeptLayers.of(wanted[:, own:])
        own_place = own_kept.place.expand(len(kept), -1)
        broad_place = broad_kept.place.expand(len(kept), -1) + own_kept.count
        places = torch.cat([own_place, broad_place], 1)
        return cls(
            own_kept, broad_kept, gathered(places, layer[hypothesis]), scales.gather(1, hypothesis), logs
        )


def _with_light_merged(
    log_weights: Tensor, layer: Tensor, scales: Tensor, layers: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The hypotheses, of which each layer's light ones are one, with the same mean and variance.

    The hypotheses of a layer differ in scale alone. Merging those that weigh less than `LIGHT` changes the
    shape of the mixture's far tails, but no moment.

    Returns:
        Log weights and scales `[task, hypothesis + layer]`, −∞ for what was merged; and their layers.
    """
    weights = tails.exp(log_weights)
    light = torch.where(weights < LIGHT, weights, 0)
    both = torch.stack([light, light * scales.square()], 1)
    total = both.new_zeros(len(weights), 2, layers).index_add(2, layer, both)
    merged, squares = total.unbind(1)
    heavy = log_weights.masked_fill(weights < LIGHT, -math.inf)
    merged_scales = (squares / merged.clamp_min(torch.finfo(merged.dtype).tiny)).sqrt()
    return (
        torch.cat([heavy, merged.log()], 1),
        torch.cat([layer, torch.arange(layers, device=layer.device)]),
        torch.cat([scales.expand(len(weights), -1), merged_scales], 1),
    )


def gathered(values: Tensor, index: Tensor) -> Tensor:
    """`values[task, index[task, …], …]`; either may have a task axis of length one.

    Unlike indexing with brackets, which may look at a mask's numbers, it can be recorded in a CUDA graph.
    """
    if values.shape[0] == 1:
        return values[0].index_select(0, index.flatten()).unflatten(0, index.shape)
    if index.shape[0] == 1:
        return values.index_select(1, index[0])
    first = torch.arange(len(index), device=index.device).unsqueeze(-1) * values.shape[1]
    return values.flatten(0, 1).index_select(0, (index + first).flatten()).unflatten(0, index.shape)
