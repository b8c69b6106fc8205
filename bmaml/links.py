"""Links between the real line, where beliefs are mixtures of Gaussians, and the values of a target.

A value y of the target is g(z), with z on the link's scale and g increasing. Quantiles are transformed
exactly. Means and variances under z ~ N(location, variance) have closed forms or are computed by quadrature.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bmaml.device_constants import constant

Scale = Literal["none", "log", "logit", "log1p"]
"""z as a function of y: y, log y, log((y − low) / (high − y)), log(1 + y − low)."""

SUMMED_CELLS, FEW_CELLS = 32, 8
"""Whole numbers above the lowest whose probabilities are summed one by one; larger ones are integrated.

Few are summed within another integral.
"""
NODES, FEW_NODES = 16, 8
"""Nodes of Gauss-Hermite quadrature; few where each stands for a sum."""
DEGREES = 8
"""Hermite polynomials that split a narrow variable's variance into its parts."""
MAX_QUADRATURE_VARIANCE = 1.0
"""The largest variance of a logit for which quadrature alone is precise: its error is below 1e-6 of a std."""
MAX_EXPONENT = 87.0
"""Magnitude of a value's logarithm, at most: single precision holds no number beyond e^±87."""
LEAST_VARIANCE = 1e-18
"""Variance at which a Gaussian counts as a point."""
MARGIN_ROUNDING = 1.001
"""Margins that a label at a bound is away from it, at most, after rounding in single precision."""
NARROW_CELL = 0.2
"""Width of a cell times 1 + the distance of its middle from the mean, in standard deviations.

Below it the cell's probability is a series about its middle, with an error of 3e-9 at most.
"""

# σ(x) ≈ Σ weight Φ(slope x), with an error of at most 8.5e-8: a minimax fit of the scale mixture of
# Monahan & Stefanski (1992). Under a Gaussian each term has a closed form.
PROBIT_WEIGHTS = (
    0.00908161656973,
    0.108912488415,
    0.316915154886,
    0.37389612402,
    0.172733404926,
    0.0184612111835,
)
PROBIT_SLOPES = (
    0.269480530971,
    0.366706336371,
    0.495537000433,
    0.668302379109,
    0.897284972614,
    1.21117892025,
)


def _hermite(count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes and weights of a standard normal variable."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return tuple(nodes.tolist()), tuple((weights / weights.sum()).tolist())


def weighted_polynomials(count: int, degrees: int) -> NDArray[np.float64]:
    """Normalised Hermite polynomials from degree 1 on at the nodes, times their weights, `[degree, node]`."""
    nodes, weights = _hermite(count)
    basis = np.polynomial.hermite_e.HermiteE.basis
    values = [
        basis(degree)(np.array(nodes)) / math.factorial(degree) ** 0.5 for degree in range(1, degrees + 1)
    ]
    return np.array(values) * np.array(weights)


HERMITE, FEW_HERMITE = _hermite(NODES), _hermite(FEW_NODES)
POLYNOMIALS = tuple(weighted_polynomials(NODES, DEGREES).T.ravel().tolist())


@dataclass(frozen=True)
class Link:
    """The map from a link's scale to the values of one output.

    Attributes:
        scale: the link's scale.
        low, high: bounds of the values.
        margin: distance from a bound at which values nearer to it are taken, since its logit is infinite.
        step: distance of neighbouring labels, whose density is that of a cell; None for a continuum.
        whole: answers are whole numbers; the step is 1.
        max_location, max_variance: mean and variance on the scale that a component's moments count, at most,
            where the scale is logarithmic. The mean of a log-normal variable grows with the exponential of
            both, and hypotheses about unlike tasks have no other bound.
    """

    scale: Scale = "none"
    low: float = -math.inf
    high: float = math.inf
    margin: float = 0.0
    step: float | None = None
    whole: bool = False
    max_location: float = math.inf
    max_variance: float = math.inf

    @property
    def is_identity(self) -> bool:
        """Whether values are densities on the real line themselves."""
        return self.scale == "none" and self.step is None

    @property
    def is_logarithmic(self) -> bool:
        """Whether values grow exponentially on the scale."""
        return self.scale in ("log", "log1p")

    def to_scale(self, y: Tensor) -> Tensor:
        """The values y on the link's scale; values outside the domain as its nearest ones."""
        if self.scale == "log":
            return y.clamp_min(torch.finfo(y.dtype).tiny).log()
        if self.scale == "log1p":
            return (y - self.low).clamp_min(-1 + 1e-9).log1p()
        if self.scale == "logit":
            inside = y.clamp(self.low + self.margin, self.high - self.margin)
            return ((inside - self.low) / (self.high - inside)).log()
        return y

    def array_to_scale(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """`to_scale` of an array: for the few labels of a request, tensors would take ten times as long."""
        if self.scale == "log":
            return np.log(np.maximum(y, np.finfo(y.dtype).tiny))
        if self.scale == "log1p":
            return np.log1p(np.maximum(y - self.low, -1 + 1e-9))
        if self.scale == "logit":
            inside = np.clip(y, self.low + self.margin, self.high - self.margin)
            return np.log((inside - self.low) / (self.high - inside))
        return y

    def to_values(self, z: Tensor) -> Tensor:
        """The inverse of `to_scale`, not rounded to whole numbers."""
        if self.scale == "log":
            return z.clamp(-MAX_EXPONENT, MAX_EXPONENT).exp()
        if self.scale == "log1p":
            return self.low + torch.expm1(z.clamp_max(MAX_EXPONENT))
        if self.scale == "logit":
            return (self.low + (self.high - self.low) * torch.sigmoid(z)).clamp(self.low, self.high)
        return z

    def quantile(self, z: Tensor) -> Tensor:
        """The quantiles of the values, from those on the link's scale."""
        values = self.to_values(z)
        return (values - 0.5).ceil().clamp_min(self.low) if self.whole else values

    def nearest(self, z: Tensor) -> Tensor:
        """The labels at z: whole where they are, and bounds where they are as near to them as `margin`."""
        values = self.to_values(z)
        if self.whole:
            return values.round().clamp_min(self.low)
        if self.margin:
            margin = MARGIN_ROUNDING * self.margin
            values = values.masked_fill(values <= self.low + margin, self.low)
            values = values.masked_fill(values >= self.high - margin, self.high)
        return values

    def log_slope(self, y: Tensor) -> Tensor:
        """log dz/dy at y."""
        if self.scale == "log":
            return -self.to_scale(y)
        if self.scale == "log1p":
            return -(y - self.low).log1p()
        if self.scale == "logit":
            inside = y.clamp(self.low + self.margin, self.high - self.margin)
            return ((self.high - self.low) / ((inside - self.low) * (self.high - inside))).log()
        return torch.zeros_like(y)

    def cell(self, y: Tensor, half: float) -> tuple[Tensor, Tensor]:
        """Both ends of y ± half on the link's scale; infinite where the cell reaches a bound."""
        lower, upper = y - half, y + half
        return (
            self.to_scale(lower).masked_fill(lower <= self.low, -math.inf),
            self.to_scale(upper).masked_fill(upper >= self.high, math.inf),
        )

    def moments(self, location: Tensor, noise: Tensor, within: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, aleatoric and epistemic variance of g(f + e): e ~ N(0, noise), f ~ N(location, within).

        The aleatoric variance is E over f of Var(value | f), the epistemic one the variance of E(value | f).
        Where they have no closed form, the latter is integrated over f by few nodes, and their sum is more
        precise.
        """
        if self.scale == "none" and not self.whole:
            return location, noise, within
        if math.isfinite(self.max_variance):
            kept = (self.max_variance / (noise + within).clamp_min(LEAST_VARIANCE)).clamp_max(1)
            noise, within = kept * noise, kept * within
        if self.scale == "log":
            mean = (location + 0.5 * (noise + within)).exp()
            return mean, mean.square() * within.exp() * noise.expm1(), mean.square() * within.expm1()
        whole, given = ((noise + within).clamp_min(LEAST_VARIANCE), noise.clamp_min(LEAST_VARIANCE))
        if self.whole:
            mean, total = self._of_whole(location, whole)
            spread = self._spread_of_whole(location, given, within)
        else:
            mean, total, spread = self._of_logistic(location, whole, within)
            wide = self._spread_of_logistic(location, given, within)
            spread = torch.where(whole > MAX_QUADRATURE_VARIANCE, wide, spread)
        epistemic = torch.minimum(spread, total)
        return mean, total - epistemic, epistemic

    def _spread_of_whole(self, location: Tensor, noise: Tensor, within: Tensor) -> Tensor:
        """The variance of E(value | f)."""
        middle, root = self._whole_mean(location, noise), within.sqrt()
        first, second = torch.zeros_like(middle), torch.zeros_like(middle)
        for node, weight in zip(*FEW_HERMITE, strict=True):
            offset = self._whole_mean(location + node * root, noise) - middle
            first = first + weight * offset
            second = second + weight * offset.square()
        return (second - first.square()).clamp_min(0)

    def _spread_of_logistic(self, location: Tensor, noise: Tensor, within: Tensor) -> Tensor:
        """The same, of the scale mixture at all nodes, in single precision: a part of the total variance."""
        nodes, weights = (constant(each, location.float()) for each in FEW_HERMITE)
        f = torch.addcmul(location.float().unsqueeze(-1), within.sqrt().float().unsqueeze(-1), nodes)
        given = torch.zeros_like(f)
        for weight, each in zip(PROBIT_WEIGHTS, PROBIT_SLOPES, strict=True):
            scale = each / (1 + each**2 * noise).sqrt() * math.sqrt(0.5)
            given = given.add_(torch.erf(f * scale.float().unsqueeze(-1)), alpha=0.5 * weight)
        mean = given @ weights
        offset = given - mean.unsqueeze(-1)
        return (self.high - self.low) ** 2 * (offset.square() @ weights).to(location)

    def _of_logistic(
        self, location: Tensor, variance: Tensor, within: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of a logistic-normal variable: mean, variance and, where it is narrow, that of E(value | f).

        A wide variable's variance is E σ − E σ′ − (E σ)², by the scale mixture. All of a narrow one is by
        quadrature: with c_k the coefficients of σ in normalised Hermite polynomials, its variance is Σ c_k²,
        and that of E(σ | f) is Σ ρ^k c_k², where ρ is the share of f in the variance (Mehler).
        """
        span, is_wide = self.high - self.low, variance > MAX_QUADRATURE_VARIANCE
        mean = (self._logistic_mean(location, variance) - self.low) / span
        slope = torch.zeros_like(location)
        for weight, each in zip(PROBIT_WEIGHTS, PROBIT_SLOPES, strict=True):
            scale = each / (1 + each**2 * variance).sqrt()
            slope = slope + weight * scale * _density(scale * location)
        wide = mean * (1 - mean) - slope
        nodes, weights = (constant(each, location) for each in HERMITE)
        root = variance.clamp_max(MAX_QUADRATURE_VARIANCE).sqrt()
        z = torch.addcmul(location.unsqueeze(-1), root.unsqueeze(-1), nodes)
        difference = z.sigmoid_().sub_(mean.unsqueeze(-1))
        offset = difference @ weights
        difference = difference.sub_(offset.unsqueeze(-1))
        squares = (difference @ constant(POLYNOMIALS, location).view(NODES, DEGREES)).square_()
        narrow = difference.square_() @ weights
        rest, part = (narrow - squares.sum(-1)).clamp_min(0), (within / variance).clamp_max(1)
        spread = rest
        for square in reversed(squares.unbind(-1)):
            spread = torch.addcmul(square, spread, part)
        spread = spread * part
        mean = torch.where(is_wide, mean, mean + offset)
        total = torch.where(is_wide, wide, narrow).clamp_min(0)
        return self.low + span * mean, span**2 * total, span**2 * spread

    def _logistic_mean(self, location: Tensor, variance: Tensor) -> Tensor:
        mean = torch.zeros_like(location)
        for weight, each in zip(PROBIT_WEIGHTS, PROBIT_SLOPES, strict=True):
            mean = mean + weight * _ndtr(each * location / (1 + each**2 * variance).sqrt())
        return self.low + (self.high - self.low) * mean

    def _of_whole(self, location: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Of a rounded variable, as sums of P(value ≥ k) and (2k − 1) P(value ≥ k) over k above the lowest.

        From `SUMMED_CELLS` on the sums are integrals, by the Euler-Maclaurin formula with its first
        correction. Without a lowest number, all are: the error is of the order of exp(−2π² variance).
        """
        if math.isinf(self.low):
            return location, variance + 1 / 12
        scale = variance.sqrt()
        first, second = torch.zeros_like(location), torch.zeros_like(location)
        for k in range(1, SUMMED_CELLS + 1):
            reached = _ndtr((location - self._end_below(k)) / scale)
            first = first + reached
            second = second + (2 * k - 1) * reached
        tail, tail_square = self._above_summed(location, scale, SUMMED_CELLS)
        first, second = first + tail, second + tail_square + 2 * SUMMED_CELLS * tail
        return self.low + first, (second - first.square()).clamp_min(0)

    def _whole_mean(self, location: Tensor, variance: Tensor) -> Tensor:
        """The mean alone, with fewer cells summed."""
        if math.isinf(self.low):
            return location
        scale = variance.sqrt()
        mean, _ = self._above_summed(location, scale, FEW_CELLS)
        for k in range(1, FEW_CELLS + 1):
            mean = mean + _ndtr((location - self._end_below(k)) / scale)
        return self.low + mean

    def _end_below(self, k: int) -> float:
        """The lower end of the cell of the k-th number above the lowest, on the scale."""
        return math.log(k + 0.5) if self.scale == "log1p" else self.low + k - 0.5

    def _above_summed(self, location: Tensor, scale: Tensor, cells: int) -> tuple[Tensor, Tensor]:
        """Mean and mean square of what the value exceeds the last of so many cells by.

        The sum over cells becomes an integral less a correction, which is too large for components much
        narrower than a cell: the mean is no less than zero.
        """
        if self.scale == "none":
            standard = (location - (self.low + cells)) / scale
            above, density = _ndtr(standard), _density(standard)
            mean = scale * (density + standard * above)
            square = scale.square() * ((1 + standard.square()) * above + standard * density)
            return (mean - density / (24 * scale)).clamp_min(0), square + above / 12
        end = 1.0 + cells
        standard = (location - math.log(end)) / scale
        above, density = _ndtr(standard), _density(standard)
        one = (location + 0.5 * scale.square()).exp() * _ndtr(standard + scale)
        two = (2 * (location + scale.square())).exp() * _ndtr(standard + 2 * scale)
        square = two - 2 * end * one + end**2 * above
        mean = one - end * above - density / (24 * end * scale)
        return mean.clamp_min(0), square + above / 12


def log_cell_probability(lower: Tensor, upper: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """log P(lower < z < upper) for z ~ N(means, scales²), in double precision.

    Both ends are taken in the tail where they lie. A narrow cell is density × width × (1 + H₂ w² / 24 +
    H₄ w⁴ / 1920), with Hermite polynomials at its middle.
    """
    a, b = (lower - means) / scales, (upper - means) / scales
    mirrored = a + b > 0
    a, b = torch.where(mirrored, -b, a), torch.where(mirrored, -a, b)
    above, below = torch.special.log_ndtr(b), torch.special.log_ndtr(a)
    wide = above + torch.log1p(-(below - above).clamp_max(-1e-300).exp())
    width, middle = b - a, 0.5 * (a + b)
    narrow = width * (1 + middle.abs()) < NARROW_CELL
    square, half = middle.square(), 0.25 * width.square()
    product = square * half  # at most a hundredth, where the square alone may overflow
    second, fourth = (product - half) / 6, (product.square() - 6 * product * half + 3 * half.square()) / 120
    series = torch.log1p(torch.where(narrow, second + fourth, 0.0)) + width.clamp_min(1e-300).log()
    return torch.where(narrow, series - 0.5 * square - 0.5 * math.log(2 * math.pi), wide)


def _ndtr(standard: Tensor) -> Tensor:
    return torch.special.ndtr(standard)


def _density(standard: Tensor) -> Tensor:
    return (-0.5 * standard.square()).exp() / math.sqrt(2 * math.pi)


def node_levels(count: int, like: Tensor) -> Tensor:
    """The middles of `count` equal parts of (0, 1), in double precision."""
    return constant(tuple((np.arange(count) + 0.5) / count), like.double())
