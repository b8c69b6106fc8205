"""The hypotheses of weight: those that a posterior keeps, and their layers.

Last layers are computed for the kept hypotheses alone. Which a task keeps depends on its own rows, whatever
the other tasks of the batch.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bmaml import tails
from bmaml.last_layer import ConditionedLayers
from bmaml.learners.hypotheses import Layout
from bmaml.predictive import heaviest

LIGHT = 1e-5
"""Weight below which the hypotheses of a layer are merged."""


@dataclass(frozen=True)
class KeptLayers:
    """The layers of each task that are kept.

    Attributes:
        index: the kept layers; None where most are kept, so that all stay.
        real: False for padding among the kept layers.
        place: the place of each kept layer among them.
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
        counts = wanted.sum(-1)
        each = counts.tolist()
        count = max(each)
        if 2 * sum(each) > wanted.numel():
            return cls.every(wanted.shape[1], wanted)
        index = wanted.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[:, :count]
        real = torch.arange(count, device=counts.device) < counts.unsqueeze(-1)
        return cls(index, real, wanted.cumsum(-1) - 1, count)

    def posterior(self, layers: ConditionedLayers) -> tuple[Tensor, Tensor, Tensor]:
        """The posterior of the kept layers; zero for padding."""
        if self.index is None or self.real is None:
            return layers.posterior()
        if len(self.index) == 1:
            alone = self.index[0]
            return layers.of_particles(lambda values: values.index_select(1, alone)).posterior()
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
        own, processes: the kept layers of particles and of processes.
        owner, scales, log_weights: of the kept hypotheses, as in `CollapsedPosterior`; −∞ for padding.
    """

    own: KeptLayers
    processes: KeptLayers
    owner: Int[Tensor, "#task hypothesis"]
    scales: Float[Tensor, "#task hypothesis"]
    log_weights: Float[Tensor, "task hypothesis"]

    @classmethod
    def of(cls, layout: Layout, log_weights: Tensor, negligible: float) -> "KeptHypotheses":
        """Keep all but the lightest, which together weigh `negligible` at most; all where that is zero."""
        table = layout.table(log_weights)
        own, processes = layout.own_layers, layout.process_layers
        if not negligible:
            every = KeptLayers.every(own, table.layer), KeptLayers.every(processes, table.layer)
            return cls(*every, table.layer.unsqueeze(0), table.scale.unsqueeze(0), log_weights)
        log_weights, scales = _with_light_merged(layout, log_weights)
        hypothesis, logs = heaviest(log_weights, negligible)
        layer = table.layer_or_merged[hypothesis]
        wanted = torch.zeros(len(layer), own + processes, dtype=torch.bool, device=layer.device)
        wanted.scatter_(1, layer, True)
        kept_own = KeptLayers.of(wanted[:, :own])
        kept = KeptLayers.of(wanted[:, own:]) if processes else KeptLayers.every(0, layer)
        places = kept_own.place
        if kept.count:
            tasks = max(len(places), len(kept.place))
            parts = places, kept.place + kept_own.count
            places = torch.cat([part.expand(tasks, -1) for part in parts], 1)
        owner = gathered(places, layer)
        return cls(kept_own, kept, owner, scales.gather(1, hypothesis), logs)


def _with_light_merged(layout: Layout, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Log weights and scales of the hypotheses, and after them of each layer's light ones merged into one.

    The hypotheses of a layer differ in scale alone. The merged one has the same mean and variance as those
    that weigh less than `LIGHT`, so that no moment changes (but where a caller caps the noise afterwards).
    Levels between 5 and 95 % move by less than a thousandth of themselves or their complement. Hypotheses
    that were merged, and layers without light ones, have no weight.
    """
    table, weights = layout.table(log_weights), tails.exp(log_weights)
    is_light = weights < LIGHT
    light = torch.where(is_light, weights, 0)
    both = torch.stack([light, light * table.square_scale], 1)
    least = torch.finfo(both.dtype).tiny  # an empty sum: weight zero, scale 1
    total = both.new_full((len(both), 2, layout.own_layers + layout.process_layers), least)
    merged, squares = total.index_add_(2, table.layer, both).unbind(1)
    scales = torch.cat([table.scale.expand_as(weights), (squares / merged).sqrt()], 1)
    return torch.cat([log_weights.masked_fill(is_light, -torch.inf), merged.log()], 1), scales


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
