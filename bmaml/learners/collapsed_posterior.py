"""The posterior of collapsed particles: their last layers, and the hypotheses that use them.

A hypothesis is a layer at one scale: a particle at one noise level, or a process; see `hypotheses.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bmaml import tails
from bmaml.learners.posterior import Posterior
from bmaml.learners.processes import Processes
from bmaml.learners.pruning import gathered
from bmaml.predictive import Predictive
from bmaml.shapes import Inputs, Particles, Scalar, Verdicts


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

    def widened(self, remaining: Tensor, log_widening: Tensor, log_prior_widening: Tensor) -> "LayerMoments":
        """The moments with standard deviations times ω^(1 − v/v₀), the epistemic ones also times ω₀^(v/v₀).

        Args:
            remaining: v/v₀, `[task, layer, row, 1]`.
        """
        widening = ((1 - remaining) * log_widening).exp()
        epistemic_widening = widening * (remaining * log_prior_widening).exp()
        return LayerMoments(
            self.means,
            widening.square() * self.noise,
            epistemic_widening.square() * self.within,
            None if self.root is None else self.root * epistemic_widening,
        )

    def scaled(self, factor: Tensor) -> "LayerMoments":
        """The moments with all standard deviations times a factor, `[task, layer, 1, 1]`."""
        square = factor.square()
        root = None if self.root is None else self.root * factor
        return LayerMoments(self.means, self.noise * square, self.within * square, root)


@dataclass(frozen=True)
class CollapsedPosterior(Posterior):
    """Last layers with their exact posteriors, and the hypotheses that use them.

    With u = √(H + 1) φ, the hidden layer and a constant 1, a particle predicts headᵀu. Its epistemic standard
    deviation is ‖u − spent seenᵀu‖ / √(λ (H + 1)) at scale 1. A process with features χ predicts
    headᵀχ, with the epistemic standard deviation ‖χ − spent seenᵀχ‖.

    Attributes:
        owner: the layer of each hypothesis; those of processes follow those of particles.
        scales: s of each hypothesis.
        group_weights: weight of each group of hypotheses (see `surprise.GROUPS`).
        particles: adapted parameters, the noise level included; `[1, …]` for zero steps with all kept.
        head: mean of the last layer, prior mean included.
        seen, spent: factors in the root of its covariance (see `bmaml.last_layer`).
        noise_slopes: a, where the noise depends on x.
        process_layers: index of each kept process; this and the next are None without any.
        process_head, process_seen, process_spent: the same of processes.
        processes: their features and noise, which all tasks share.
        log_widening: log ω, for standard deviations where the support rows determine a prediction.
        log_prior_widening: log ω₀, for epistemic standard deviations where they do not.
    """

    fill: ClassVar[Mapping[str, float]] = {**Posterior.fill, "scales": 1.0}
    per_task: ClassVar[frozenset[str]] = Posterior.per_task | {"owner", "group_weights"}

    owner: Int[Tensor, "#task hypothesis"]
    scales: Float[Tensor, "#task hypothesis"]
    group_weights: Float[Tensor, "task group"]
    particles: Particles
    head: Float[Tensor, "#task particle unit output"]
    seen: Float[Tensor, "#task particle unit rank"]
    spent: Float[Tensor, "#task particle unit rank"]
    noise_slopes: Float[Tensor, "#task particle unit"] | None
    process_layers: Int[Tensor, "#task process"] | None
    process_head: Float[Tensor, "#task process feature output"] | None
    process_seen: Float[Tensor, "#task process feature process_rank"] | None
    process_spent: Float[Tensor, "#task process feature process_rank"] | None
    processes: Processes | None
    log_widening: Scalar
    log_prior_widening: Scalar

    def finite(self) -> Verdicts:
        """True for each task whose adaptation stayed finite; the heads show a failed Cholesky factor."""
        finite = ~self.log_weights.isnan().any(-1) & self.head.isfinite().flatten(1).all(-1)
        if self.process_head is not None:
            finite = finite & self.process_head.isfinite().flatten(1).all(-1)
        return finite

    def at(self, tasks: Tensor) -> "CollapsedPosterior":
        """The posterior of some tasks, without hypotheses that have weight in none of them."""
        part = super().at(tasks)
        if len(part.owner) < len(part.log_weights):
            return part
        hypotheses = slice(max(1, int((part.log_weights > -torch.inf).sum(-1).max())))
        owner, own = part.owner[:, hypotheses], part.head.shape[1]
        particles = 1 + int(owner.masked_fill(owner >= own, -1).max())
        processes = 1 + int((owner - own).max())
        part = replace(
            part, log_weights=part.log_weights[:, hypotheses], owner=owner, scales=part.scales[:, hypotheses]
        )
        return part._with_layers(max(1, particles), max(0, processes))

    @classmethod
    def joined(cls, parts: Sequence["CollapsedPosterior"]) -> "CollapsedPosterior":
        """The posteriors of single tasks side by side, padded where they differ in size."""
        own = max(part.head.shape[1] for part in parts)
        moved = [replace(part, owner=part._place(own)) for part in parts]
        return super().joined(moved)

    def mixture(self, own: LayerMoments, processes: LayerMoments | None, x: Inputs) -> Predictive:
        """The mixture of all hypotheses at rows x, given the predictions of particles and processes."""
        layers = [own] if processes is None else [own, processes]
        variances = self._per_hypothesis([torch.cat([each.noise, each.within], -1) for each in layers])
        variances = variances * self.scales.square()[..., None, None]
        return Predictive(
            means=self._per_hypothesis([each.means for each in layers]),
            noise=variances[..., :1],
            within=variances[..., 1:],
            log_weights=self.log_weights.expand(len(x), -1),
            factor=self._factor([each.root for each in layers if each.root is not None]),
        )

    def sum_per_layer(self, values: Tensor) -> Tensor:
        """Values `[task, hypothesis]` added up over the hypotheses of each layer, `[task, layer]`."""
        processes = 0 if self.process_head is None else self.process_head.shape[1]
        total = values.new_zeros(len(values), self.head.shape[1] + processes)
        return total.scatter_add(1, self.owner.expand(len(values), -1), values)

    def process_moments(self, x: Inputs, joint: bool, widen: bool = True) -> LayerMoments | None:
        """The predictions of the processes; None where none has weight.

        Args:
            widen: multiply their standard deviations by the factor that calibration found.
        """
        if self.process_head is None or not self.process_head.shape[1]:
            return None
        assert self.processes is not None
        assert self.process_layers is not None
        assert self.process_seen is not None
        assert self.process_spent is not None
        layers = self.process_layers
        maps = gathered(self.processes.map_of_layers(x).unsqueeze(0), layers)
        features = gathered(self.processes.features(x), maps)
        left = features - (features @ self.process_seen) @ self.process_spent.mT
        noise = gathered(self.processes.noise(x), layers).unsqueeze(-1)
        within = left.square().sum(-1, keepdim=True)
        moments = LayerMoments(features @ self.process_head, noise, within, left if joint else None)
        return self.widened_processes(moments, x) if widen else moments

    def widened_processes(self, moments: LayerMoments | None, x: Inputs) -> LayerMoments | None:
        """The predictions of the processes with the factor of their standard deviations."""
        if moments is None:
            return None
        assert self.processes is not None
        assert self.process_layers is not None
        widening = gathered(self.processes.log_widening(x).unsqueeze(0), self.process_layers).exp()
        return moments.scaled(widening[..., None, None])

    def _per_hypothesis(self, values: Sequence[Tensor]) -> Tensor:
        """Values of particles and of processes, `[task, layer, …]`, as `[task, hypothesis, …]`."""
        tasks = max(len(each) for each in values)
        layers = (
            values[0]
            if len(values) == 1
            else torch.cat([each.expand(tasks, *each.shape[1:]) for each in values], 1)
        )
        return gathered(layers, self.owner)

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
        """The layer of each hypothesis, where processes follow `own` particles."""
        present = self.head.shape[1]
        return torch.where(self.owner < present, self.owner, self.owner + own - present)

    def _with_layers(self, particles: int, processes: int) -> "CollapsedPosterior":
        """The posterior with the first of the particles and the first of the processes alone."""

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
            process_layers=first(self.process_layers, processes),
            process_head=first(self.process_head, processes),
            process_seen=first(self.process_seen, processes),
            process_spent=first(self.process_spent, processes),
        )
