"""Batch selection: strategies that select rows of a pool to label together, for many tasks at once.

The rows of the highest scores tend to carry the same information. Every strategy returns distinct available
rows, at most as many as there are. A uniform draw per row breaks ties, never its position, so that
permuting the pool permutes the selection.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bmaml.categorical import Categorical
from bmaml.predictive import Predictive
from bmaml.shapes import Inputs, Mask, PerRow


@dataclass(frozen=True)
class Candidates:
    """The pool rows of many tasks, and all that strategies compare them by.

    Attributes:
        scores: of an acquisition; higher is better.
        available: False for rows that must not be selected, and for padding.
        uniform: one draw in (0, 1) per row, which breaks ties and drives power sampling.
        predictive: the belief about the pool rows, with its factor where particles have variance.
        x: the pool rows, standardised.
        labelled, labelled_mask: rows that have labels already, standardised.
        target: the belief about the target rows of EPIG, with its factor; None: the pool's own rows.
    """

    scores: PerRow
    available: Mask
    uniform: PerRow
    predictive: Predictive | Categorical
    x: Inputs
    labelled: Float[Tensor, "task shot input"]
    labelled_mask: Bool[Tensor, "task shot"]
    target: Predictive | None = None


@dataclass(frozen=True)
class Batch:
    """The selected rows of each task.

    Attributes:
        indices: in the order of selection; −1 where the pool is exhausted.
        gains: of each pick, by its strategy: its score, the nats that it adds to the batch, or its squared
            distance to the nearest labelled or selected row; zero beside a −1.
        strategies: the strategies used, in order.
        saturated_at: the number of picks after which no label tells the particles apart any more; −1 where
            some label still does.
        ceiling: the most picks that can be informative together, M − 1 for bare particles; for classes the
            most nats, at most log M.
    """

    indices: Int[Tensor, "task pick"]
    gains: Float[Tensor, "task pick"]
    strategies: list[str]
    saturated_at: Int[Tensor, " task"]
    ceiling: float | None = None


Strategy = Callable[[Candidates, int], Batch]
"""Selects at most so many rows of each task."""


class Picker:
    """Picks one row of each task after the other, and keeps every row's distance to the nearest labelled one.

    Attributes:
        available: rows that may still be picked.
    """

    def __init__(self, candidates: Candidates) -> None:
        self._candidates = candidates
        self._distance, self.available = _distance(candidates), candidates.available
        self._indices: list[Tensor] = []
        self._gains: list[Tensor] = []

    def distances(self) -> Tensor:
        """Squared distance to the nearest labelled or picked row; the scores in tasks without any."""
        return _distances_or_scores(self._distance, self._candidates)

    def take(self, values: Tensor) -> Tensor:
        """Pick the available row of the largest value in each task; −1 where none is left."""
        index, gain = _best(values, self.available, self._candidates.uniform)
        self._indices.append(index)
        self._gains.append(gain)
        self.available = _without(self.available, index)
        self._distance = torch.minimum(self._distance, _distance_to(self._candidates.x, index))
        return index

    def batch(self, strategies: list[str], saturated_at: Tensor, ceiling: float | None = None) -> Batch:
        """All picks so far."""
        indices, gains = torch.stack(self._indices, -1), torch.stack(self._gains, -1)
        return Batch(indices, gains, strategies, saturated_at, ceiling)


@runtime_checkable
class JointGain(Protocol):
    """What further labels add to those of the rows picked so far, for many tasks.

    For every pick that goes by gains, `spent`, `gains` and `learn` are called in this order.
    """

    def spent(self, available: Mask) -> Bool[Tensor, " task"]:
        """Whether no label of an available row tells the particles apart any more."""
        ...

    def gains(self) -> PerRow:
        """What a label of each row would add."""
        ...

    def learn(self, index: Int[Tensor, " task"], counted: Bool[Tensor, " task"]) -> None:
        """Take the label of a picked row as known.

        Args:
            index: of the row; −1 where none was left.
            counted: False for tasks that are saturated, whose picks no longer go by their gains.
        """
        ...


def greedily(candidates: Candidates, size: int, name: str, joint: JointGain, ceiling: float | None) -> Batch:
    """Pick rows of the highest gain, given earlier labels; a saturated task goes on with `k_centre`.

    Args:
        name: of the strategy, for the answer.
        ceiling: as in `Batch`.
    """
    picker, saturated_at = Picker(candidates), never(candidates)
    for pick in range(min(size, picker.available.shape[-1])):
        spent = joint.spent(picker.available) & picker.available.any(-1)
        saturated_at = torch.where((saturated_at < 0) & spent, pick, saturated_at)
        counted = saturated_at < 0
        if not bool(counted.any()):  # no task needs its gain any more
            picker.take(picker.distances())
            continue
        index = picker.take(torch.where(counted.unsqueeze(-1), joint.gains(), picker.distances()))
        joint.learn(index, counted)
    used = [name] if bool((saturated_at != 0).any()) else []
    used += ["k_centre"] if bool((saturated_at >= 0).any()) else []
    return picker.batch(used, saturated_at, ceiling)


def top_k(candidates: Candidates, size: int) -> Batch:
    """The rows of the highest scores."""
    return _ranked(candidates, candidates.scores, size, "top_k")


def power(candidates: Candidates, size: int) -> Batch:
    """Power sampling (Kirsch et al. 2023): draws without replacement with probability ∝ score.

    By the Gumbel trick the draw is a top-k of log score + Gumbel noise. Where a task has a negative score
    (an entropy, a bound), all are measured from the lowest available one.
    """
    lowest = candidates.scores.masked_fill(~candidates.available, torch.inf).amin(-1, keepdim=True)
    positive = candidates.scores - lowest.clamp_max(0).nan_to_num(posinf=0.0)
    noise = -torch.log(-torch.log(candidates.uniform))
    floor = torch.finfo(positive.dtype).tiny
    return _ranked(candidates, positive.clamp_min(floor).log() + noise, size, "power")


def k_centre(candidates: Candidates, size: int) -> Batch:
    """Farthest-point selection in standardised x (Sener & Savarese 2018, greedy 2-approximation).

    Each pick is the row farthest from all labelled and selected rows; where there is none, the row of the
    highest score.
    """
    picker = Picker(candidates)
    for _ in range(min(size, picker.available.shape[-1])):
        picker.take(picker.distances())
    return picker.batch(["k_centre"], never(candidates))


def _ranked(candidates: Candidates, values: Tensor, size: int, name: str) -> Batch:
    values = values.masked_fill(~candidates.available, -torch.inf)
    by_draw = candidates.uniform.argsort(-1, descending=True)
    by_value = values.gather(-1, by_draw).sort(stable=True, dim=-1, descending=True).indices
    indices = by_draw.gather(-1, by_value)[:, :size]
    chosen = candidates.available.gather(-1, indices)
    gains = candidates.scores.gather(-1, indices).where(chosen, 0)
    return Batch(indices.where(chosen, -1), gains, [name], never(candidates))


def _best(values: Tensor, available: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Index and value of each task's largest available value; the draw decides between equals."""
    values = values.masked_fill(~available, -torch.inf)
    gain = values.amax(-1)
    equals = available & (values == gain.unsqueeze(-1))
    index = torch.where(equals, uniform, -1.0).argmax(-1)
    some = available.any(-1)
    return index.where(some, -1), gain.where(some, 0)


def _without(available: Tensor, index: Tensor) -> Tensor:
    place = torch.arange(available.shape[-1], device=available.device)
    return available & (place != index.unsqueeze(-1))


def _distance(candidates: Candidates) -> Tensor:
    """Squared distance of every row to the nearest labelled one; ∞ without any."""
    if candidates.labelled.shape[1] == 0:
        return torch.full_like(candidates.scores, torch.inf)
    # By differences: the faster matrix product cancels where rows lie close together.
    distance = torch.cdist(candidates.x, candidates.labelled, compute_mode="donot_use_mm_for_euclid_dist")
    squared = distance.square().to(candidates.scores.dtype)
    return squared.masked_fill(~candidates.labelled_mask.unsqueeze(1), torch.inf).amin(-1)


def _distance_to(x: Tensor, index: Tensor) -> Tensor:
    chosen = x.gather(1, index.clamp_min(0).view(-1, 1, 1).expand(-1, 1, x.shape[-1]))
    return (x - chosen).square().sum(-1).masked_fill((index < 0).unsqueeze(-1), torch.inf)


def _distances_or_scores(distance: Tensor, candidates: Candidates) -> Tensor:
    """Distances; the scores in tasks where all are infinite."""
    nowhere = distance.isinf().all(-1, keepdim=True)
    return torch.where(nowhere, candidates.scores, distance)


def never(candidates: Candidates) -> Tensor:
    """The `saturated_at` of tasks that are not saturated."""
    return torch.full((len(candidates.scores),), -1, device=candidates.scores.device)
