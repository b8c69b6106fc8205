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
from bmaml.native.arithmetic import (
    LOG_ROOT_2PI,
    ROOT_2PI,
    ROOT_HALF,
    density,
    exp,
    log_ndtr,
    logistic,
    ndtr,
    tail,
)
from bmaml.native.compiling import kernel

Array = NDArray[np.float64]

NODES, NODE_WEIGHTS = np.array(HERMITE)
FEW_NODES, FEW_NODE_WEIGHTS = np.array(FEW_HERMITE)
SLOPES, SLOPE_WEIGHTS = np.array(PROBIT_SLOPES), np.array(PROBIT_WEIGHTS)
NONE, LOG, LOGIT, LOG1P = 0, 1, 2, 3
NEGLIGIBLE_SHARE = 3e-7
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
def transform(
    link: Array, highest: float, weights: Array, location: Array, noise: Array, within: Array
) -> None:
    """Replace each component's location, noise and epistemic variance by the moments of the values.

    Args:
        highest: location that counts at most, where the scale is logarithmic.
        weights: of the components. Where they are light, parts of a bounded variance need not be precise.
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
            value = math.exp(location[i] + 0.5 * (noise[i] + within[i]))
            epistemic = value * value * math.expm1(within[i])
            noise[i] = value * value * math.exp(within[i]) * math.expm1(noise[i])
            location[i], within[i] = value, epistemic
        return
    mean, total, spread = np.empty(count), np.empty(count), np.empty(count)
    if whole:
        _of_whole(link, location, noise, within, mean, total)
        _spread_of_whole(link, location, noise, within, spread)
    else:
        _of_logistic(link, location, noise, within, mean, total)
        _spread_of_logistic(link, weights, location, noise, within, mean, total, spread)
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
            standard = scale * location[i] * ROOT_HALF
            peak = exp(-standard * standard)
            below = tail(abs(standard), peak)
            mean[i] += share * (below if standard < 0 else 1 - below)
            slope[i] += share * scale * (1 / ROOT_2PI) * peak
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
def _spread_of_logistic(
    link: Array,
    weights: Array,
    location: Array,
    noise: Array,
    within: Array,
    means: Array,
    total: Array,
    spread: Array,
) -> None:
    """The variance of E(value | f) of each component.

    Components whose variances together are below `NEGLIGIBLE_SHARE` of the mixture's have it in proportion to
    the variances on the scale instead.
    """
    span, count, nodes = link[2] - link[1], len(location), len(FEW_NODES)
    middle, variance = 0.0, 0.0
    for i in range(count):
        middle += weights[i] * means[i]
    for i in range(count):
        variance += weights[i] * (total[i] + (means[i] - middle) * (means[i] - middle))
    least, chosen, length = NEGLIGIBLE_SHARE * variance / count, np.empty(count, np.int64), 0
    for i in range(count):
        spread[i] = total[i] * within[i] / max(noise[i] + within[i], LEAST_VARIANCE)
        if weights[i] * total[i] > least:
            chosen[length] = i
            length += 1
    place, root, variances = np.empty(length), np.empty(length), np.empty(length)
    for i in range(length):
        place[i], root[i] = location[chosen[i]], math.sqrt(within[chosen[i]])
        variances[i] = max(noise[chosen[i]], LEAST_VARIANCE)
    given, scale = np.zeros((nodes, length)), np.empty(length)
    for term in range(len(SLOPES)):
        each, share = SLOPES[term], SLOPE_WEIGHTS[term]
        for i in range(length):
            scale[i] = each / math.sqrt(1 + each * each * variances[i])
        for node in range(nodes):
            offset, target = FEW_NODES[node], given[node]
            for i in range(length):
                target[i] += share * ndtr((place[i] + root[i] * offset) * scale[i])
    for i in range(length):
        mean, squares = 0.0, 0.0
        for node in range(nodes):
            mean += FEW_NODE_WEIGHTS[node] * given[node, i]
        for node in range(nodes):
            difference = given[node, i] - mean
            squares += FEW_NODE_WEIGHTS[node] * difference * difference
        spread[chosen[i]] = span * span * squares


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
