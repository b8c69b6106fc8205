"""Greedy batches for regression: rows whose labels are worth most together, one row after the other.

Every pick conditions the belief about all rows on a noisy label of the picked one, Gaussian in the mixture's
first two moments. With Σ the epistemic covariance of the rows and σ² their noise, it adds a column to the
Cholesky factor of Σ + σ² (see `_LabelledVariance`), so that no rows × rows matrix is built.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bmaml.acquisition.batches import Batch, Candidates, Strategy, greedily, k_centre, power, top_k
from bmaml.acquisition.scores import MAX_CORRELATIONS, MAX_POOL_TARGETS
from bmaml.predictive import Predictive

MIN_LEFT_VARIANCE = 1e-6
"""Fraction of an output's largest epistemic variance; a pool with no more left anywhere is saturated.

In standard deviations it is a thousandth; rows rounded to float32 leave about 1e-12.
"""

MIN_RELATIVE_VARIANCE = 1e-12
"""Fraction of a row's variance that is more than float64's rounding of a variance that is gone."""

MIN_TARGETS = 32
"""Target rows that `joint_epig` keeps of many, at least, however large the pool."""


def max_determinant(candidates: Candidates, size: int) -> Batch:
    """Greedy maximisation of what the labels tell about the particles, ½ log det(I + Σ/σ²).

    Outputs are added up. Greedy selection is within a factor 1 − 1/e of the best set (Nemhauser et al. 1978).
    """
    return _greedy(candidates, size, "max_determinant", _information)


def joint_entropy(candidates: Candidates, size: int) -> Batch:
    """Greedy maximisation of the entropy of the labels together, ½ log det(2πe (Σ + σ²)).

    Maximum entropy sampling (Shewry & Wynn 1987): noisy rows count for their noise, too.
    """
    return _greedy(candidates, size, "joint_entropy", _entropy)


def joint_epig(candidates: Candidates, size: int) -> Batch:
    """Greedy maximisation of what the labels together tell about the labels of the target rows.

    The first pick is the row of the highest `epig`; every further one has the highest `epig` given the labels
    of those before it. Many targets are represented by some (`_target_rows`).
    """
    targets = _Targets(candidates)
    return _greedy(candidates, size, "joint_epig", targets.information, targets.learn)


STRATEGIES: dict[str, Strategy] = {
    "top_k": top_k,
    "power": power,
    "max_determinant": max_determinant,
    "joint_entropy": joint_entropy,
    "joint_epig": joint_epig,
    "k_centre": k_centre,
}
"""Every strategy for regression, by name."""

COVARIANCE_STRATEGIES = frozenset({"max_determinant", "joint_entropy", "joint_epig"})
"""Those that need covariances between rows, as of `predict(joint=True)`."""


class _LabelledVariance:
    """Epistemic variance of all rows given noisy labels of some, one label after the other.

    Attributes:
        variance: the variance left in each row, `[task, output, row]`.
        noise: of a label of each row, `[task, output, row]`.
    """

    def __init__(self, variance: Tensor, noise: Tensor, max_labels: int) -> None:
        self.variance, self.noise, self._prior = variance, noise, variance
        # Columns of a Cholesky factor: the squares are the variance that each label removes.
        self._columns, self._count = variance.new_empty(*variance.shape, max_labels), 0

    def learn(self, place: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Condition on a label at row `place` `[task, 1, 1]`.

        A row whose variance is gone but for rounding changes nothing.

        Args:
            covariance: of that row with all rows; zero in tasks without a label.

        Returns:
            The new column `[task, output, row]`, which is the covariance left times a factor, and this factor
            `[task, output, 1]`.
        """
        known = self._columns[..., : self._count]
        covariance = covariance - (known @ _at(known, place).unsqueeze(-1)).squeeze(-1)
        total = _at(self.variance, place) + _at(self.noise, place)
        informative = total > MIN_RELATIVE_VARIANCE * _at(self._prior, place)
        factor = torch.where(informative, total.where(informative, 1.0).rsqrt(), 0.0)
        column = covariance * factor
        self._columns[..., self._count] = column
        self._count += 1
        self.variance = (self.variance - column.square()).clamp_min(0)
        return column, factor


def _information(rows: _LabelledVariance) -> Tensor:
    """What a label of each row tells about the particles, `[task, row]`."""
    return 0.5 * torch.log1p(rows.variance / rows.noise).sum(1)


def _entropy(rows: _LabelledVariance) -> Tensor:
    """The entropy of a label of each row, `[task, row]`."""
    return 0.5 * torch.log(2 * math.pi * math.e * (rows.variance + rows.noise)).sum(1)


class _Targets:
    """Target rows, and their covariance with every row of the pool, given the labels of some of these."""

    def __init__(self, candidates: Candidates) -> None:
        predictive = candidates.predictive
        assert isinstance(predictive, Predictive)
        about, places = _target_rows(candidates)
        targets = _by_output(about.covariance_root(), places)  # [task, output, target, dimension]
        self._variance = targets.square().sum(-1)
        self._noise = _by_output(about.aleatoric(), places)
        self._covariance = _by_output(predictive.covariance_root()) @ targets.mT

    def information(self, rows: _LabelledVariance) -> Tensor:
        """−½ log(1 − ρ²) averaged over the targets, `[task, row]`, as `scores.epig` has it."""
        tiny = torch.finfo(self._covariance.dtype).tiny
        own = (rows.variance + rows.noise).clamp_min(tiny).rsqrt().unsqueeze(-1)
        theirs = (self._variance + self._noise).clamp_min(tiny).rsqrt().unsqueeze(-2)
        squares = (self._covariance * own).mul_(theirs).square_()
        squares.clamp_max_(1 - torch.finfo(squares.dtype).eps)
        return -0.5 * squares.neg_().log1p_().mean(-1).sum(1)

    def learn(self, place: Tensor, column: Tensor, factor: Tensor) -> None:
        """Condition on the label that gave this column and this factor (`_LabelledVariance.learn`)."""
        theirs = _at(self._covariance, place) * factor
        self._covariance -= column.unsqueeze(-1) * theirs.unsqueeze(-2)
        self._variance = (self._variance - theirs.square()).clamp_min(0)


def _target_rows(candidates: Candidates) -> tuple[Predictive, Tensor]:
    """The belief that holds the target rows, and their places `[task, target]` in it.

    At most `MAX_POOL_TARGETS` of them, fewer for a large pool: those of the smallest draws where the pool is
    its own target, as in `scores.epig`; else evenly spaced ones.
    """
    tasks, rows = candidates.scores.shape
    about = candidates.predictive if candidates.target is None else candidates.target
    assert isinstance(about, Predictive)
    count, outputs = about.means.shape[2:]
    pairs = MAX_CORRELATIONS // (rows * outputs)
    most = min(count, MAX_POOL_TARGETS, max(MIN_TARGETS, pairs))
    if candidates.target is None and most < count:
        return about, candidates.uniform.argsort(dim=-1, stable=True)[:, :most]
    places = torch.linspace(0, count - 1, most, device=candidates.scores.device).round().long()
    return about, places.expand(tasks, -1)


def _by_output(values: Tensor, places: Tensor | None = None) -> Tensor:
    """`[task, row, output, …]` as `[task, output, row, …]` in double precision, at some places."""
    if places is not None:
        index = places.view(*places.shape, *[1] * (values.ndim - 2))
        values = values.gather(1, index.expand(-1, -1, *values.shape[2:]))
    return values.transpose(1, 2).double()


def _greedy(
    candidates: Candidates,
    size: int,
    name: str,
    gain: Callable[[_LabelledVariance], Tensor],
    learn: Callable[[Tensor, Tensor, Tensor], None] | None = None,
) -> Batch:
    """The batch of a gain of every row `[task, row]`, given the variance that earlier labels left.

    Args:
        learn: told the place of each pick, with the column and the factor of its label.
    """
    predictive = candidates.predictive
    assert isinstance(predictive, Predictive)
    # A factor of a batch is zero for tasks whose particles have no variance.
    bare = predictive.factor is None or not bool(predictive.factor.any())
    particles = int((predictive.log_weights > -math.inf).sum(-1).max())
    joint = _JointVariance(candidates, size, gain, learn)
    return greedily(candidates, size, name, joint, float(particles - 1) if bare else None)


class _JointVariance:
    """The rows of a pool given the labels of some, with noise and without.

    What is left without noise detects saturation: nothing in which the particles differ (M bare particles
    span M − 1 dimensions). Each output is compared with its own start, so that units do not matter.
    """

    def __init__(
        self,
        candidates: Candidates,
        size: int,
        gain: Callable[[_LabelledVariance], Tensor],
        learn: Callable[[Tensor, Tensor, Tensor], None] | None,
    ) -> None:
        predictive = candidates.predictive
        assert isinstance(predictive, Predictive)
        self._rows = _by_output(predictive.covariance_root())  # [task, output, row, dimension]
        noise = _by_output(predictive.aleatoric())
        variance = self._rows.square().sum(-1)
        size = min(size, variance.shape[-1])
        self._noisy = _LabelledVariance(variance, noise, size)
        self._noiseless = _LabelledVariance(variance, torch.zeros_like(noise), size)
        self._start = _largest(variance, candidates.available)
        self._gain, self._learn = gain, learn

    def spent(self, available: Tensor) -> Tensor:
        return (_largest(self._noiseless.variance, available) <= MIN_LEFT_VARIANCE * self._start).all(-1)

    def gains(self) -> Tensor:
        return self._gain(self._noisy)

    def learn(self, index: Tensor, counted: Tensor) -> None:
        place, none = index.clamp_min(0).view(-1, 1, 1), (index < 0).view(-1, 1, 1)
        covariance = (self._rows @ _at(self._rows, place).unsqueeze(-1)).squeeze(-1).masked_fill(none, 0)
        column, factor = self._noisy.learn(place, covariance)
        self._noiseless.learn(place, covariance)
        if self._learn is not None:
            self._learn(place, column, factor.masked_fill(none, 0))


def _at(values: Tensor, place: Tensor) -> Tensor:
    """The row of `[task, output, row, …]` at `place`: `[task, output, 1]`, or `[task, output, …]`."""
    index = place.view(-1, 1, 1, *[1] * (values.ndim - 3)).expand(-1, values.shape[1], 1, *values.shape[3:])
    found = values.gather(2, index)
    return found if values.ndim == 3 else found.squeeze(2)


def _largest(variance: Tensor, available: Tensor) -> Tensor:
    """The largest variance of each output among the available rows, `[task, output]`."""
    return variance.masked_fill(~available.unsqueeze(1), 0).amax(-1)
