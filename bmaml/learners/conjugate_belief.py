"""The belief of conjugate particles: Bayes' rule in closed form, and in draws of the class means.

A particle is uncertain of its class means, μ_c ~ N(m_c, v_c), and labels remove just that. The epistemic part
of an answer is the mutual information of the label and (particle, class means). A hypothesis is therefore a
particle with a draw of all its means, under which a row has D² = Σ (z − μ_c)² / σ², with the scatter alone.

All rows of a request see the same draws. They come in pairs m ± √v ε, which share most of their work and have
the exact mean. A particle has pairs in proportion to its weight, so that their number is the same for every
task. The noise ε belongs to the place of a class in an order that its name does not affect, and to the
number of the pair within its particle. No task, padding or order of classes or particles changes an answer.
"""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bmaml import tails
from bmaml.blocks import blocks
from bmaml.categorical import Categorical
from bmaml.normal_draws import orthogonal_normals
from bmaml.shapes import LogWeights, PerRow, Scalar

PAIRS = 32
"""Pairs of draws of a task's class means; docs/classification.md has their error and their cost."""
MAX_DRAWN_VALUES = 4_000_000
"""Projected values or probabilities of draws that are computed together."""


@dataclass(frozen=True)
class ConjugateBelief(Categorical):
    """Class probabilities of every particle, and all that draws of its class means need.

    Attributes:
        z: the rows in the projection of every particle.
        means, variances: m and v, of the posterior of every class's mean.
        scatter: σ².
        present: classes of the task.
        sharpness, knee: s and k of the Student-t density.
        pairs: pairs of draws, all particles together.
    """

    z: Float[Tensor, "task particle row dimension"]
    means: Float[Tensor, "task particle class dimension"]
    variances: Float[Tensor, "task particle class dimension"]
    scatter: Float[Tensor, "#task particle 1 dimension"]
    present: Bool[Tensor, "task class"]
    sharpness: Scalar
    knee: Scalar
    pairs: int = PAIRS

    @cached_property
    def hypotheses(self) -> Categorical:
        """The class probabilities in every draw of the class means, with the draws' weights."""
        pairs = _Pairs.of(self.log_weights, self.pairs)
        values = 2 * self.pairs * max(self.z.shape[-1] // 2, self.present.shape[-1])
        parts = [
            self._log_probabilities(pairs, rows)
            for rows in blocks(self.z.shape[2], MAX_DRAWN_VALUES, len(self.z) * values)
        ]
        logs = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
        return Categorical(logs, torch.cat([pairs.log_weights] * 2, 1))

    def expected_entropy(self) -> PerRow:
        """The part of the entropy that labels do not remove, in nats (aleatoric): all but the epistemic."""
        return self.entropy() - self.mutual_information()

    def mutual_information(self) -> PerRow:
        """Mutual information of the label and (particle, class means), in nats (epistemic).

        At most the entropy, which is that of the closed form.
        """
        return self._epistemic

    @cached_property
    def _epistemic(self) -> PerRow:
        return torch.minimum(self.hypotheses.mutual_information(), self.entropy())

    def variation_ratio(self) -> PerRow:
        """The weight of the draws whose most probable class is not the one that most of them name."""
        return self.hypotheses.variation_ratio()

    def part(self, tasks: slice, rows: slice = slice(None)) -> "ConjugateBelief":
        """The belief about some rows of some tasks."""
        return replace(
            self,
            log_probabilities=self.log_probabilities[tasks, :, rows],
            log_weights=self.log_weights[tasks],
            z=self.z[tasks, :, rows],
            means=self.means[tasks],
            variances=self.variances[tasks],
            scatter=self.scatter[tasks] if len(self.scatter) > 1 else self.scatter,
            present=self.present[tasks],
        )

    def _log_probabilities(self, pairs: "_Pairs", rows: slice) -> Float[Tensor, "task draw row class"]:
        """Bayes' rule in every draw: all first members of the pairs, then all second ones.

        Rows lie side by side in memory: a softmax over few classes side by side costs three times as much.
        """
        z, precision = self.z[:, :, rows], 1 / self.scatter
        weighted = self.means * precision
        base = (z.square() @ precision.mT).mT - 2 * (weighted @ z.mT)
        base = base + (self.means * weighted).sum(-1, keepdim=True)  # Σ (z − m)² / σ², by class and row
        offsets = pairs.taken(self.variances).sqrt() * self._noise(pairs)
        scaled = offsets * pairs.taken(precision.expand(len(z), -1, -1, -1))
        # Σ (z − m ∓ √v ε)² / σ² = Σ (z − m)² / σ² + Σ v ε² / σ² ∓ 2 Σ (z − m) √v ε / σ²
        even = pairs.taken(base) + (offsets * scaled).sum(-1, keepdim=True)
        shift = (pairs.taken(self.means) * scaled).sum(-1, keepdim=True)
        odd = 2 * (scaled @ pairs.taken(z).mT - shift)
        square = torch.cat([even - odd, even + odd], 1).clamp_min_(0)
        bent = square.div_(self.knee).log1p_().mul_(-0.5 * self.sharpness * self.knee)
        among = self.present | ~self.present.any(-1, keepdim=True)  # a softmax over nothing is NaN
        return bent.masked_fill_(~among[:, None, :, None], -torch.inf).log_softmax(-2).mT

    def _noise(self, pairs: "_Pairs") -> Float[Tensor, "task pair class dimension"]:
        """ε of every pair and class: standard normal values, the same for every particle."""
        classes, dimensions = self.means.shape[2:]
        place = self.means.sum((1, 3)).masked_fill(~self.present, torch.inf)
        rank = place.argsort(dim=-1, stable=True).argsort(-1)  # [task, class]
        table = _normal_values(classes, self.pairs, dimensions).to(self.z)
        return table[rank.unsqueeze(1), pairs.numbers.unsqueeze(-1)]


@dataclass(frozen=True)
class _Pairs:
    """The pairs of draws of each task.

    Attributes:
        particles: the particle of each pair.
        numbers: 0, 1, … within the pairs of a particle.
        log_weights: of each member of a pair, so that all pairs of a particle have its weight together.
    """

    particles: Int[Tensor, "task pair"]
    numbers: Int[Tensor, "task pair"]
    log_weights: Float[Tensor, "task pair"]

    @classmethod
    def of(cls, log_weights: LogWeights, pairs: int) -> "_Pairs":
        """Pairs in proportion to the weights, by systematic sampling from the heaviest particle on."""
        order = log_weights.argsort(dim=-1, descending=True, stable=True)
        shares = tails.exp(log_weights.gather(-1, order)).cumsum(-1)
        middles = (torch.arange(pairs, device=shares.device, dtype=shares.dtype) + 0.5) / pairs
        places = torch.searchsorted(shares, middles.expand(len(shares), -1).contiguous())
        places = places.clamp_max(shares.shape[-1] - 1)
        first = torch.searchsorted(places, places)
        counts = torch.searchsorted(places, places, right=True) - first
        particles = order.gather(-1, places)
        each = log_weights.gather(-1, particles) - (2 * counts).log()
        numbers = torch.arange(pairs, device=shares.device) - first
        total = each.logsumexp(-1, keepdim=True) + torch.log(each.new_tensor(2.0))
        return cls(particles, numbers, each - total)

    def taken(self, values: Tensor) -> Tensor:
        """The values `[task, particle, …]` of each pair's particle."""
        if values.shape[1] == 1:
            return values.expand(-1, self.particles.shape[1], *values.shape[2:])
        tasks = torch.arange(len(values), device=values.device).unsqueeze(-1)
        return values[tasks, self.particles]


@lru_cache(maxsize=16)
def _normal_values(classes: int, pairs: int, dimensions: int) -> Float[Tensor, "class pair dimension"]:
    """Standard normal vectors; those of a class are the same however many classes there are."""
    generators = (torch.Generator().manual_seed(number) for number in range(classes))
    return torch.stack([orthogonal_normals(pairs, dimensions, generator) for generator in generators])
