"""What is said of tasks of numbers, in the caller's units: on the device first, then as arrays.

The second half of a batch, after `service.adaptation`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bmaml.predictive import Predictive
from bmaml.task import Examples
from model_store import Model
from service.adaptation import array
from service.work import Array, Moments, PredictAsk, Work


@dataclass(frozen=True)
class Told:
    """Tensors with a leading axis of tasks, padding included.

    Attributes:
        belief: about the query rows.
        nll_after: of the support labels, nats per value, `[task]`; zero where none was shown.
        mean, aleatoric, epistemic: `[task, row, output]`.
        quantiles: `[task, level, row, output]`.
    """

    belief: Predictive
    nll_after: Tensor
    mean: Tensor
    aleatoric: Tensor
    epistemic: Tensor
    quantiles: Tensor

    def numbers(self) -> tuple[Tensor, ...]:
        """All but the belief, as `Said` takes them."""
        return self.nll_after, self.mean, self.aleatoric, self.epistemic, self.quantiles


@dataclass(frozen=True)
class Said:
    """The same on the CPU."""

    nll_after: Array
    mean: Array
    aleatoric: Array
    epistemic: Array
    quantiles: Array

    @classmethod
    def of(cls, told: Told) -> "Said":
        """Waits for the device."""
        return cls(*map(array, told.numbers()))

    def finite(self, place: int, work: Work) -> bool:
        """Whether all that is said of a task are numbers."""
        rows, levels = len(work.query_x), work.ask.levels if isinstance(work.ask, PredictAsk) else ()
        quantiles = self.quantiles.swapaxes(0, 1)[: len(levels)]
        numbers = (self.mean, self.aleatoric, self.epistemic, *quantiles)
        return bool(np.isfinite(self.nll_after[place])) and all(
            np.isfinite(each[place, :rows]).all() for each in numbers
        )

    def moments(self, place: int, work: Work) -> Moments:
        """Of a task's query rows."""
        rows = len(work.query_x)
        return Moments(self.mean[place, :rows], self.aleatoric[place, :rows], self.epistemic[place, :rows])

    def levels(self, place: int, work: Work) -> Array:
        """The quantiles that a task asked for."""
        assert isinstance(work.ask, PredictAsk)
        return self.quantiles[place, : len(work.ask.levels), : len(work.query_x)]


def told(
    model: Model,
    posterior: object,
    support: Examples | None,
    query_x: Tensor,
    levels: Tensor,
    joint: bool = False,
    rounds: int | None = None,
) -> Told:
    """What the posterior says.

    Args:
        support: whose labels are to be explained; None where that is known.
        query_x: standardised, `[task, row, input]`.
        levels: of the quantiles, `[task, level]`.
        joint: the belief also carries what covariances between rows need.
        rounds: of the search for quantiles; then nothing depends on a look at the numbers.
    """
    look = rounds is None
    if support is None:
        nll_after = query_x.new_zeros(len(query_x))
        belief = model.predict(posterior, query_x, joint, look)
    else:
        # The support rows ride along with the query rows: one pass says how well they are explained.
        shown = support.x.shape[1]
        belief = model.predict(posterior, torch.cat([support.x, query_x], 1), joint, look)
        nll_after = _nll(model, belief.part(slice(None), slice(shown)), support)
        belief = belief.part(slice(None), slice(shown, None))
    belief = model.in_callers_units(belief)
    return Told(
        belief=belief,
        nll_after=nll_after,
        mean=belief.mean(),
        aleatoric=belief.aleatoric(),
        epistemic=belief.epistemic(),
        quantiles=belief.quantiles(levels, rounds),
    )


def nll_before(model: Model, support: Examples) -> Tensor:
    """Mean NLL of each task's support labels before adaptation, nats per value; zero where there are none."""
    return _nll(model, model.prior(support.x), support)


def support_nll(work: Work, before: float, after: float) -> tuple[float, float] | None:
    """What is said of it; None where no rows were shown."""
    return (before, after) if len(work.support_x) else None


def levels_of(works: Sequence[Work], tasks: int = 0, most: int = 0) -> Array:
    """Each task's quantile levels, padded with medians to the longest list; to `tasks` × `most` at least."""
    wanted = [work.ask.levels if isinstance(work.ask, PredictAsk) else () for work in works]
    levels = np.full((max(tasks, len(works)), max(most, *map(len, wanted))), 0.5)
    for task, own in enumerate(wanted):
        levels[task, : len(own)] = own
    return levels


def _nll(model: Model, belief: Predictive, support: Examples) -> Tensor:
    """Of a belief in the network's units about the support rows."""
    mask = support.mask.unsqueeze(-1)
    total = torch.where(mask, -belief.log_density(support.y), 0).sum((1, 2))
    units = float(np.mean([np.log(column.std) for column in model.manifest.outputs]))
    return total / (support.counts() * support.y.shape[-1]).clamp_min(1) + units
