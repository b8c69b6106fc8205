"""Moments and densities of transformed targets (see `bmaml.links`), for vectors of components.

A link is a row of numbers, as `tables.Units` has them.
"""

import math

import numpy as np
from numpy.typing import NDArray

from bmaml.links import (
    FEW_CELLS,
    FEW_HERMITE,
    HERMITE,
    LEAST_VARIANCE,
    MARGIN_ROUNDING,
    MAX_EXPONENT,
    MAX_QUADRATURE_VARIANCE,
    NARROW_CELL,
    PROBIT_SLOPES,
    PROBIT_WEIGHTS,
    SUMMED_CELLS,
)
from bmaml.native.arithmetic import LOG_ROOT_2PI, density, log_ndtr, logistic, ndtr
from bmaml.native.compiling import kernel

Array = NDArray[np.float64]

NODES, NODE_WEIGHTS = np.array(HERMITE)
FEW_NODES, FEW_NODE_WEIGHTS = np.array(FEW_HERMITE)
SLOPES, SLOPE_WEIGHTS = np.array(PROBIT_SLOPES), np.array(PROBIT_WEIGHTS)
NONE, LOG, LOGIT, LOG1P = 0, 1, 2, 3
SMALLEST = float(np.finfo(np.float64).tiny)


@kernel
def to_scale(link: Array, y: float) -> float:
    """A value on the link's scale; one outside the domain as its nearest one."""
    code, low, high, margin = int(link[0]), link[1], link[2], link[3]
    if code == LOG:
        return math.log(max(y, SMALLEST))
    if code == LOG1P:
        return math.log1p(max(y - low, -1 + 1e-9))
    if code == LOGIT:
        inside = min(max(y, low + margin), high - margin)
        return math.log((inside - low) / (high - inside))
    return y


@kernel
def to_values(link: Array, z: float) -> float:
    """The inverse of `to_scale`, not rounded to whole numbers."""
    code, low, high = int(link[0]), link[1], link[2]
    if code == LOG:
        return math.exp(min(max(z, -MAX_EXPONENT), MAX_EXPONENT))
    if code == LOG1P:
        return low + math.expm1(min(z, MAX_EXPONENT))
    if code == LOGIT:
        return min(max(low + (high - low) * logistic(z), low), high)
    return z


@kernel
def quantile_value(link: Array, z: float) -> float:
    """The quantile of the values, from that on the link's scale."""
    value = to_values(link, z)
    return max(np.ceil(value - 0.5), link[1]) if link[5] > 0 else value


@kernel
def label_at(link: Array, z: float) -> float:
    """The label at z: whole where labels are, and a bound where it is as near to it as the margin."""
    value, low, high, margin = to_values(link, z), link[1], link[2], MARGIN_ROUNDING * link[3]
    if link[5] > 0:
        return max(np.rint(value), low)
    if margin > 0:
        value = low if value <= low + margin else value
        value = high if value >= high - margin else value
    return value


@kernel
def log_slope(link: Array, y: float) -> float:
    """log dz/dy at y."""
    code, low, high, margin = int(link[0]), link[1], link[2], link[3]
    if code == LOG:
        return -to_scale(link, y)
    if code == LOG1P:
        return -math.log1p(y - low)
    if code == LOGIT:
        inside = min(max(y, low + margin), high - margin)
        return math.log((high - low) / ((inside - low) * (high - inside)))
    return 0.0


@kernel
def log_cell_probability(lower: float, upper: float, mean: float, std: float) -> float:
    """log P(lower < z < upper) for z ~ N(mean, std²), each end in the tail where it lies."""
    a, b = (lower - mean) / std, (upper - mean) / std
    if a + b > 0:
        a, b = -b, -a
    width, middle = b - a, 0.5 * (a + b)
    if width * (1 + abs(middle)) < NARROW_CELL:
        return -0.5 * middle * middle - LOG_ROOT_2PI + math.log(max(width, 1e-300))
    above, below = log_ndtr(b), log_ndtr(a)
    return above + math.log1p(-math.exp(min(below - above, -1e-300)))


@kernel
def transform(link: Array, highest: float, location: Array, noise: Array, within: Array) -> None:
    """Replace each component's location, noise and epistemic variance by the moments of the values.

    Args:
        highest: location that counts at most, where the scale is logarithmic.
    """
    code, whole, count = int(link[0]), link[5] > 0, len(location)
    if code == NONE and not whole:
        return
    if code in (LOG, LOG1P):
        for i in range(count):
            location[i] = min(location[i], highest)
    most = link[7]
    if most < math.inf:
        for i in range(count):
            kept = min(most / max(noise[i] + within[i], LEAST_VARIANCE), 1.0)
            noise[i] *= kept
            within[i] *= kept
    if code == LOG:
        for i in range(count):
            mean = math.exp(location[i] + 0.5 * (noise[i] + within[i]))
            epistemic = mean * mean * math.expm1(within[i])
            noise[i] = mean * mean * math.exp(within[i]) * math.expm1(noise[i])
            location[i], within[i] = mean, epistemic
        return
    mean, total, spread = np.empty(count), np.empty(count), np.empty(count)
    if whole:
        _of_whole(link, location, noise, within, mean, total)
        _spread_of_whole(link, location, noise, within, spread)
    else:
        _of_logistic(link, location, noise, within, mean, total)
        _spread_of_logistic(link, location, noise, within, spread)
    for i in range(count):
        epistemic = spread[i] if spread[i] < total[i] else total[i]
        location[i], noise[i], within[i] = mean[i], total[i] - epistemic, epistemic


@kernel
def _of_logistic(
    link: Array, location: Array, noise: Array, within: Array, means: Array, total: Array
) -> None:
    """Mean and variance of logistic-normal variables."""
    low, span, count = link[1], link[2] - link[1], len(location)
    variance, narrow, offsets, root = np.empty(count), np.zeros(count), np.zeros(count), np.empty(count)
    mean, slope = np.zeros(count), np.zeros(count)
    for i in range(count):
        each = noise[i] + within[i]
        variance[i] = each if each > LEAST_VARIANCE else LEAST_VARIANCE
        root[i] = math.sqrt(variance[i] if variance[i] < MAX_QUADRATURE_VARIANCE else MAX_QUADRATURE_VARIANCE)
    for term in range(len(SLOPES)):
        each, share = SLOPES[term], SLOPE_WEIGHTS[term]
        for i in range(count):
            scale = each / math.sqrt(1 + each * each * variance[i])
            mean[i] += share * ndtr(scale * location[i])
            slope[i] += share * scale * density(scale * location[i])
    for node in range(len(NODES)):
        place, share = NODES[node], NODE_WEIGHTS[node]
        for i in range(count):
            difference = logistic(location[i] + root[i] * place) - mean[i]
            offsets[i] += share * difference
            narrow[i] += share * difference * difference
    for i in range(count):
        spread = narrow[i] - offsets[i] * offsets[i]
        if variance[i] > MAX_QUADRATURE_VARIANCE:
            spread = mean[i] * (1 - mean[i]) - slope[i]
        means[i], total[i] = low + span * mean[i], span * span * (0.0 if spread < 0 else spread)


@kernel
def _spread_of_logistic(link: Array, location: Array, noise: Array, within: Array, spread: Array) -> None:
    """The variance of E(value | f)."""
    span, count, nodes = link[2] - link[1], len(location), len(FEW_NODES)
    given = np.zeros((nodes, count))
    for term in range(len(SLOPES)):
        each, share = SLOPES[term], SLOPE_WEIGHTS[term]
        for node in range(nodes):
            place, target = FEW_NODES[node], given[node]
            for i in range(count):
                variance = noise[i] if noise[i] > LEAST_VARIANCE else LEAST_VARIANCE
                scale = each / math.sqrt(1 + each * each * variance)
                target[i] += share * ndtr((location[i] + math.sqrt(within[i]) * place) * scale)
    for i in range(count):
        middle, squares = 0.0, 0.0
        for node in range(nodes):
            middle += FEW_NODE_WEIGHTS[node] * given[node, i]
        for node in range(nodes):
            offset = given[node, i] - middle
            squares += FEW_NODE_WEIGHTS[node] * offset * offset
        spread[i] = span * span * squares


@kernel
def _end_below(link: Array, k: float) -> float:
    """The lower end of the cell of the k-th number above the lowest, on the scale."""
    return math.log(k + 0.5) if int(link[0]) == LOG1P else link[1] + k - 0.5


@kernel
def _above_summed(link: Array, location: float, scale: float, cells: int) -> tuple[float, float]:
    """Mean and mean square of what the value exceeds the last of so many cells by."""
    if int(link[0]) == NONE:
        standard = (location - (link[1] + cells)) / scale
        above, peak = ndtr(standard), density(standard)
        mean = scale * (peak + standard * above)
        square = scale * scale * ((1 + standard * standard) * above + standard * peak)
        return mean - peak / (24 * scale), square + above / 12
    end = 1.0 + cells
    standard = (location - math.log(end)) / scale
    above, peak = ndtr(standard), density(standard)
    one = math.exp(location + 0.5 * scale * scale) * ndtr(standard + scale)
    two = math.exp(2 * (location + scale * scale)) * ndtr(standard + 2 * scale)
    square = two - 2 * end * one + end * end * above
    return one - end * above - peak / (24 * end * scale), square + above / 12


@kernel
def _of_whole(link: Array, location: Array, noise: Array, within: Array, means: Array, total: Array) -> None:
    """Mean and variance of rounded variables."""
    low = link[1]
    for i in range(len(location)):
        variance = max(noise[i] + within[i], LEAST_VARIANCE)
        if math.isinf(low):
            means[i], total[i] = location[i], variance + 1 / 12
            continue
        scale = math.sqrt(variance)
        first, second = _above_summed(link, location[i], scale, SUMMED_CELLS)
        second += 2 * SUMMED_CELLS * first
        for k in range(1, SUMMED_CELLS + 1):
            reached = ndtr((location[i] - _end_below(link, float(k))) / scale)
            first += reached
            second += (2 * k - 1) * reached
        means[i], total[i] = low + first, max(second - first * first, 0.0)


@kernel
def _whole_mean(link: Array, location: float, variance: float) -> float:
    """The mean of a rounded variable, with fewer cells summed."""
    if math.isinf(link[1]):
        return location
    scale = math.sqrt(variance)
    mean, _ = _above_summed(link, location, scale, FEW_CELLS)
    for k in range(1, FEW_CELLS + 1):
        mean += ndtr((location - _end_below(link, float(k))) / scale)
    return link[1] + mean


@kernel
def _spread_of_whole(link: Array, location: Array, noise: Array, within: Array, spread: Array) -> None:
    """The variance of E(value | f)."""
    for i in range(len(location)):
        given, root = max(noise[i], LEAST_VARIANCE), math.sqrt(within[i])
        middle, first, second = _whole_mean(link, location[i], given), 0.0, 0.0
        for node in range(len(FEW_NODES)):
            offset = _whole_mean(link, location[i] + FEW_NODES[node] * root, given) - middle
            first += FEW_NODE_WEIGHTS[node] * offset
            second += FEW_NODE_WEIGHTS[node] * offset * offset
        spread[i] = max(second - first * first, 0.0)
