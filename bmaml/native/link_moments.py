"""Moments and densities of transformed targets (see `bmaml.links`), for vectors of components.

A link is a row of numbers, as `tables.Units` has them.
"""

import math

import numpy as np
from numpy.typing import NDArray

from bmaml.links import (
    DEGREES,
    FEW_CELLS,
    FEW_HERMITE,
    LEAST_VARIANCE,
    MARGIN_ROUNDING,
    MAX_EXPONENT,
    MAX_QUADRATURE_VARIANCE,
    NARROW_CELL,
    NODES,
    PROBIT_SLOPES,
    PROBIT_WEIGHTS,
    SUMMED_CELLS,
    weighted_polynomials,
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
Indices = NDArray[np.int64]


def _with_polynomials(count: int, degrees: int) -> tuple[Array, Array, Array]:
    """Nodes and weights of a standard normal variable, and polynomials as `_by_nodes` takes them."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights / weights.sum(), weighted_polynomials(count, degrees)


FEW_NODES, FEW_NODE_WEIGHTS = np.array(FEW_HERMITE)
SLOPES, SLOPE_WEIGHTS = np.array(PROBIT_SLOPES), np.array(PROBIT_WEIGHTS)
NONE, LOG, LOGIT, LOG1P = 0, 1, 2, 3
FEWEST, MORE, MOST = _with_polynomials(5, 4), _with_polynomials(8, 4), _with_polynomials(NODES, DEGREES)
FEWEST_ERROR, MORE_ERROR, MOST_ERROR = 3e-2, 3.2e-4, 4e-7
"""Relative errors of variances by so many nodes at variance v: at most these times v⁴, v⁵ and v⁶."""
MEAN_ERROR = 0.1
"""Errors of means by the same nodes, in standard deviations, over the relative errors of variances."""
TOLERANCE = 5e-6
"""Relative error of the mixture's variance that is left to quadrature by few nodes."""
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
        square, half = middle * middle, 0.25 * width * width
        product = square * half  # at most a hundredth, where the square alone may overflow
        second, fourth = (
            (product - half) / 6,
            (product * product - 6 * product * half + 3 * half * half) / 120,
        )
        return math.log(max(width, 1e-300) * (1 + second + fourth)) - 0.5 * square - LOG_ROOT_2PI
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
        _of_logistic(link, weights, location, noise, within, mean, total, spread)
    for i in range(count):
        epistemic = spread[i] if spread[i] < total[i] else total[i]
        location[i], noise[i], within[i] = mean[i], total[i] - epistemic, epistemic


@kernel
def _of_logistic(
    link: Array,
    weights: Array,
    location: Array,
    noise: Array,
    within: Array,
    means: Array,
    total: Array,
    spread: Array,
) -> None:
    """Mean and variance of logistic-normal variables, and the variance of E(value | f), of components.

    All are computed by few nodes; a component whose error could matter in the mixture then by more, or as
    tensor code does.
    """
    low, span, count = link[1], link[2] - link[1], len(location)
    variance = np.empty(count)
    for i in range(count):
        variance[i] = max(noise[i] + within[i], LEAST_VARIANCE)
    _by_nodes(*FEWEST, np.arange(count), location, variance, within, means, total, spread)
    middle, both = 0.0, 0.0
    for i in range(count):
        middle += weights[i] * means[i]
    for i in range(count):
        both += weights[i] * (total[i] + (means[i] - middle) * (means[i] - middle))
    lists, lengths = np.empty((3, count), np.int64), np.zeros(3, np.int64)
    most, inverse = TOLERANCE / count, 1 / max(both, SMALLEST)
    for i in range(count):
        share = total[i] * inverse
        share = weights[i] * (share + MEAN_ERROR * math.sqrt(share))
        each, known = variance[i], within[i]
        square = each * each
        if share * FEWEST_ERROR * square * square <= most:
            continue
        of_more = MORE_ERROR * square * square * each
        of_most = MOST_ERROR * square * square * square + MORE_ERROR * known * known * known * known * known
        place = 0 if share * of_more <= most else 1
        if each > MAX_QUADRATURE_VARIANCE and share * of_most > most:
            place = 2
        lists[place, lengths[place]] = i
        lengths[place] += 1
    _by_nodes(*MORE, lists[0, : lengths[0]], location, variance, within, means, total, spread)
    _by_nodes(*MOST, lists[1, : lengths[1]], location, variance, within, means, total, spread)
    _by_scale_mixture(lists[2, : lengths[2]], location, variance, noise, within, means, total, spread)
    for i in range(count):
        means[i], total[i], spread[i] = low + span * means[i], span * span * total[i], span * span * spread[i]


@kernel
def _by_nodes(
    nodes: Array,
    node_weights: Array,
    polynomials: Array,
    chosen: Indices,
    location: Array,
    variance: Array,
    within: Array,
    means: Array,
    total: Array,
    spread: Array,
) -> None:
    """Moments of σ(z) of the chosen components, by quadrature.

    With c_k the coefficients of σ(z) in normalised Hermite polynomials of the standardised z, the variance is
    Σ c_k², and that of E(σ(z) | f) is Σ ρ^k c_k², where ρ is the share of f in the variance of z (Mehler).

    Args:
        polynomials: of degrees 1, 2, …, times the nodes' weights, `[degree, node]`.
    """
    count = len(chosen)
    place, root, part = np.empty(count), np.empty(count), np.empty(count)
    values, mean, whole = np.empty((len(nodes), count)), np.zeros(count), np.zeros(count)
    known, power = np.zeros(count), np.ones(count)
    for i in range(count):
        each = chosen[i]
        place[i], root[i], part[i] = location[each], math.sqrt(variance[each]), within[each] / variance[each]
    for node in range(len(nodes)):
        offset, share, own = nodes[node], node_weights[node], values[node]
        for i in range(count):
            own[i] = logistic(place[i] + root[i] * offset)
            mean[i] += share * own[i]
    for node in range(len(nodes)):
        share, own = node_weights[node], values[node]
        for i in range(count):
            own[i] -= mean[i]
            whole[i] += share * own[i] * own[i]
    rest = whole.copy()
    for degree in range(len(polynomials)):
        coefficient = np.zeros(count)
        for node in range(len(nodes)):
            factor, own = polynomials[degree, node], values[node]
            for i in range(count):
                coefficient[i] += factor * own[i]
        for i in range(count):
            square = coefficient[i] * coefficient[i]
            power[i] *= part[i]
            known[i] += power[i] * square
            rest[i] -= square
    for i in range(count):
        each = chosen[i]
        further = rest[i] if rest[i] > 0 else 0.0
        means[each], total[each] = mean[i], whole[i]
        spread[each] = known[i] + power[i] * part[i] * further


@kernel
def _by_scale_mixture(
    chosen: Indices,
    location: Array,
    variance: Array,
    noise: Array,
    within: Array,
    means: Array,
    total: Array,
    spread: Array,
) -> None:
    """Moments of σ(z) of the chosen components, which are wide, as `bmaml.links` has them."""
    count, nodes = len(chosen), len(FEW_NODES)
    place, both, root, given = np.empty(count), np.empty(count), np.empty(count), np.empty(count)
    mean, slope, scale, expected = np.zeros(count), np.zeros(count), np.empty(count), np.zeros((nodes, count))
    for i in range(count):
        each = chosen[i]
        place[i], both[i], root[i] = location[each], variance[each], math.sqrt(within[each])
        given[i] = max(noise[each], LEAST_VARIANCE)
    for term in range(len(SLOPES)):
        each, share = SLOPES[term], SLOPE_WEIGHTS[term]
        for i in range(count):
            own = each / math.sqrt(1 + each * each * both[i])
            standard = own * place[i] * ROOT_HALF
            peak = exp(-standard * standard)
            below = tail(abs(standard), peak)
            mean[i] += share * (below if standard < 0 else 1 - below)
            slope[i] += share * own * (1 / ROOT_2PI) * peak
        for i in range(count):
            scale[i] = each / math.sqrt(1 + each * each * given[i])
        for node in range(nodes):
            offset, target = FEW_NODES[node], expected[node]
            for i in range(count):
                target[i] += share * ndtr((place[i] + root[i] * offset) * scale[i])
    for i in range(count):
        whole = mean[i] * (1 - mean[i]) - slope[i]
        middle, squares = 0.0, 0.0
        for node in range(nodes):
            middle += FEW_NODE_WEIGHTS[node] * expected[node, i]
        for node in range(nodes):
            difference = expected[node, i] - middle
            squares += FEW_NODE_WEIGHTS[node] * difference * difference
        means[chosen[i]], total[chosen[i]], spread[chosen[i]] = mean[i], max(whole, 0.0), squares


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
        return max(mean - peak / (24 * scale), 0.0), square + above / 12
    end = 1.0 + cells
    standard = (location - math.log(end)) / scale
    above, peak = ndtr(standard), density(standard)
    one = math.exp(location + 0.5 * scale * scale) * ndtr(standard + scale)
    two = math.exp(2 * (location + scale * scale)) * ndtr(standard + 2 * scale)
    square = two - 2 * end * one + end * end * above
    return max(one - end * above - peak / (24 * end * scale), 0.0), square + above / 12


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
