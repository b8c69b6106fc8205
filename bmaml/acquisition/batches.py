"""Batch selection: strategies that select rows of a pool to label together, for many tasks at once.

The rows of the highest scores tend to carry the same information. Every strategy returns distinct available
rows, at most as many as there are. A uniform draw per row breaks ties, never its position, so that
permuting the pool permutes the selection.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bmaml.categorical import Categorical
from bmaml.predictive import Predictive
from bmaml.shapes import Inputs, Mask, PerRow

MIN_LEFT_VARIANCE = 1e-6
"""Fraction of an output's largest epistemic variance; a pool with no more left anywhere is saturated.

In standard deviations it is a thousandth; rows rounded to float32 leave about 1e-12.
"""

MIN_RELATIVE_VARIANCE = 1e-12
"""Fraction of a row's variance that is more than float64's rounding of a variance that is gone."""


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
    """

    scores: PerRow
    available: Mask
    uniform: PerRow
    predictive: Predictive | Categorical
    x: Inputs
    labelled: Float[Tensor, "task shot input"]
    labelled_mask: Bool[Tensor, "task shot"]


@dataclass(frozen=True)
class Batch:
    """The selected rows of each task.

    Attributes:
        indices: in the order of selection; −1 where the pool is exhausted.
        gains: of each pick, by its strategy: its score, its nats of joint information, or its squared
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


def max_determinant(candidates: Candidates, size: int) -> Batch:
    """Greedy maximisation of the joint information ½ log det(I + Σ/σ²), outputs added up.

    Σ is the epistemic covariance of the selected rows and σ² their noise. Greedy selection is within a
    factor 1 − 1/e of the best set (Nemhauser et al. 1978). Every pick adds a column to the Cholesky factor
    of Σ + σ² (see `_LabelledVariance`), so that no rows × rows matrix is built.

    The same without noise detects saturation: nothing is left in which the particles differ (M bare
    particles span M − 1 dimensions). Each output is compared with its own start, so that units do not
    matter. A saturated task goes on with `k_centre`.
    """
    predictive = candidates.predictive
    assert isinstance(predictive, Predictive)
    picker = Picker(candidates)
    rows = predictive.covariance_root().transpose(1, 2).double()  # [task, output, row, dimension]
    noise = predictive.aleatoric().transpose(1, 2).double()
    variance = rows.square().sum(-1)
    size = min(size, variance.shape[-1])
    noisy = _LabelledVariance(variance, noise, size)
    noiseless = _LabelledVariance(variance, torch.zeros_like(noise), size)
    start = _largest(variance, picker.available)
    saturated_at = _never(candidates)
    for pick in range(size):
        left = picker.available
        spent = (_largest(noiseless.variance, left) <= MIN_LEFT_VARIANCE * start).all(-1) & left.any(-1)
        saturated_at = torch.where((saturated_at < 0) & spent, pick, saturated_at)
        if bool((saturated_at >= 0).all()):  # no task needs its joint information any more
            picker.take(picker.distances())
            continue
        information = 0.5 * torch.log1p(noisy.variance / noise).sum(1)
        index = picker.take(torch.where((saturated_at >= 0).unsqueeze(-1), picker.distances(), information))
        place = index.clamp_min(0).view(-1, 1, 1)
        covariance = (rows @ _at(rows, place).unsqueeze(-1)).squeeze(-1)
        covariance = covariance.masked_fill((index < 0).view(-1, 1, 1), 0)
        noisy.learn(place, covariance)
        noiseless.learn(place, covariance)
    used = ["max_determinant"] if bool((saturated_at != 0).any()) else []
    used += ["k_centre"] if bool((saturated_at >= 0).any()) else []
    # A factor of a batch is zero for tasks whose particles have no variance.
    bare = predictive.factor is None or not bool(predictive.factor.any())
    particles = int((predictive.log_weights > -math.inf).sum(-1).max())
    return picker.batch(used, saturated_at, float(particles - 1) if bare else None)


def k_centre(candidates: Candidates, size: int) -> Batch:
    """Farthest-point selection in standardised x (Sener & Savarese 2018, greedy 2-approximation).

    Each pick is the row farthest from all labelled and selected rows; where there is none, the row of the
    highest score.
    """
    picker = Picker(candidates)
    for _ in range(min(size, picker.available.shape[-1])):
        picker.take(picker.distances())
    return picker.batch(["k_centre"], _never(candidates))


STRATEGIES: dict[str, Strategy] = {
    "top_k": top_k,
    "power": power,
    "max_determinant": max_determinant,
    "k_centre": k_centre,
}


def _ranked(candidates: Candidates, values: Tensor, size: int, name: str) -> Batch:
    values = values.masked_fill(~candidates.available, -torch.inf)
    by_draw = candidates.uniform.argsort(-1, descending=True)
    by_value = values.gather(-1, by_draw).sort(stable=True, dim=-1, descending=True).indices
    indices = by_draw.gather(-1, by_value)[:, :size]
    chosen = candidates.available.gather(-1, indices)
    gains = candidates.scores.gather(-1, indices).where(chosen, 0)
    return Batch(indices.where(chosen, -1), gains, [name], _never(candidates))


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


class _LabelledVariance:
    """Epistemic variance of all rows given noisy labels of some, one label after the other.

    Attributes:
        variance: the variance left in each row, `[task, output, row]`.
    """

    def __init__(self, variance: Tensor, noise: Tensor, max_labels: int) -> None:
        self.variance, self._prior, self._noise = variance, variance, noise
        # Columns of a Cholesky factor: the squares are the variance that each label removes.
        self._columns, self._count = variance.new_empty(*variance.shape, max_labels), 0

    def learn(self, place: Tensor, covariance: Tensor) -> None:
        """Condition on a label at row `place` `[task, 1, 1]`.

        A row whose variance is gone but for rounding changes nothing.

        Args:
            covariance: of that row with all rows; zero in tasks without a label.
        """
        known = self._columns[..., : self._count]
        covariance = covariance - (known @ _at(known, place).unsqueeze(-1)).squeeze(-1)
        total = _at(self.variance, place) + _at(self._noise, place)
        informative = total > MIN_RELATIVE_VARIANCE * _at(self._prior, place)
        column = torch.where(informative, covariance * total.where(informative, 1.0).rsqrt(), 0.0)
        self._columns[..., self._count] = column
        self._count += 1
        self.variance = (self.variance - column.square()).clamp_min(0)


def _at(values: Tensor, place: Tensor) -> Tensor:
    """The row of `[task, output, row, …]` at `place`: `[task, output, 1]`, or `[task, output, …]`."""
    index = place.view(-1, 1, 1, *[1] * (values.ndim - 3)).expand(-1, values.shape[1], 1, *values.shape[3:])
    found = values.gather(2, index)
    return found if values.ndim == 3 else found.squeeze(2)


def _largest(variance: Tensor, available: Tensor) -> Tensor:
    """The largest variance of each output among the available rows, `[task, output]`."""
    return variance.masked_fill(~available.unsqueeze(1), 0).amax(-1)


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


def _never(candidates: Candidates) -> Tensor:
    return torch.full((len(candidates.scores),), -1, device=candidates.scores.device)
