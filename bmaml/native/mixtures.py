"""Moments, log densities and quantiles of one mixture of Gaussians, from arrays `[component]`."""

import math

import numpy as np
from numpy.typing import NDArray

from bmaml.native.arithmetic import LOG_ROOT_2PI, exp, ndtri, tail
from bmaml.native.compiling import kernel
from bmaml.quantiles import MAX_MOVE_GROWTH
from bmaml.tails import MAX_ERFC_ARGUMENT

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

HALLEY_TOLERANCE, BISECTION_TOLERANCE, ROUNDING = 2e-3, 1e-8, 1e-15
"""Last move of a root that has converged, in standard deviations of the components or of the normal
distribution that is like the mixture at the root. The error of Halley's method is its cube."""
MAX_UNIT = 10.0
"""Such a standard deviation of Halley's tolerance over that of the narrowest component, at most."""
MIN_BEND, MAX_BEND = 0.5, 2.0
"""Halley's divisor of Newton's step; beyond these bounds the step is Newton's."""
MAX_ROUNDS = 200


@kernel
def moments(weights: Array, means: Array, noise: Array, within: Array) -> tuple[float, float, float]:
    """Mean, aleatoric and epistemic variance."""
    mean, aleatoric, epistemic = 0.0, 0.0, 0.0
    for i in range(len(weights)):
        mean += weights[i] * means[i]
        aleatoric += weights[i] * noise[i]
    for i in range(len(weights)):
        offset = means[i] - mean
        epistemic += weights[i] * (offset * offset + within[i])
    return mean, aleatoric, epistemic


@kernel
def log_density(log_weights: Array, means: Array, stds: Array, y: float) -> float:
    """Log density at y."""
    logs, top, total = np.empty(len(log_weights)), -math.inf, 0.0
    for i in range(len(logs)):
        standard = (y - means[i]) / stds[i]
        logs[i] = log_weights[i] - 0.5 * standard * standard
    for each in logs:
        top = each if each > top or each != each else top
    if not top > -math.inf:
        return top
    for i in range(len(logs)):
        total += exp(logs[i] - top) / stds[i]
    return top + math.log(total) - LOG_ROOT_2PI


@kernel
def quantile(weights: Array, means: Array, stds: Array, inverse_stds: Array, level: float) -> float:
    """The value at which the mixture's distribution function is `level`.

    The search is that of `bmaml.quantiles`, but for Halley's method in place of Newton's: the second
    derivative costs little beside the first, and saves one round of three or four. Levels above one half are
    solved in the mirror.

    Args:
        inverse_stds: √½ / std of each component.
    """
    mirror = -1.0 if level > 0.5 else 1.0
    target = 1 - level if level > 0.5 else level
    count, wanted = len(weights), ndtri(target)
    low, high, root, typical, least = math.inf, -math.inf, 0.0, 0.0, math.inf
    for i in range(count):
        each = mirror * means[i] + wanted * stds[i]
        low, high, least = min(low, each), max(high, each), min(least, stds[i])
        root += weights[i] * each
        typical += weights[i] * stds[i]
    if not low < high:
        return mirror * root
    root, move = min(max(root, low), high), high - low
    for _ in range(MAX_ROUNDS):
        cdf, slope, bend = 0.0, 0.0, 0.0
        for i in range(count):
            standard = (root - mirror * means[i]) * inverse_stds[i]
            standard = -MAX_ERFC_ARGUMENT if standard < -MAX_ERFC_ARGUMENT else standard
            standard = MAX_ERFC_ARGUMENT if standard > MAX_ERFC_ARGUMENT else standard
            peak = exp(-standard * standard)
            below = tail(abs(standard), peak)
            cdf += weights[i] * (below if standard < 0 else 1 - below)
            each = weights[i] * inverse_stds[i] * peak
            slope += each
            bend -= each * inverse_stds[i] * standard
        if cdf < target:
            low = root
        else:
            high = root
        reached = ndtri(cdf)
        # On the scale of Φ⁻¹, whose first derivative is the mixture's density over the normal one there.
        rescaled = math.sqrt(2) * exp(0.5 * reached * reached)
        slope, bend = slope * rescaled, 2 * bend * rescaled
        step = (wanted - reached) / slope
        divisor = 1 + 0.5 * step * (bend / slope + reached * slope)
        step /= divisor if MIN_BEND <= divisor <= MAX_BEND else 1.0
        reached_root = root + step
        good = abs(step) <= 0.5 * move and low <= reached_root <= high
        moved = reached_root
        if not good:
            moved = low + 0.5 * (high - low)
            moved = min(max(moved, root - MAX_MOVE_GROWTH * move), root + MAX_MOVE_GROWTH * move)
        move = abs(moved - root)
        root = moved
        unit = 1 / slope if 1 / slope < typical else typical
        if good and unit > MAX_UNIT * least:  # a longer step may jump over a component
            unit = MAX_UNIT * least
        near = (HALLEY_TOLERANCE if good else BISECTION_TOLERANCE) * unit
        if not move > near + ROUNDING * abs(root):
            break
    return mirror * root


@kernel
def heavy(log_weights: Array, negligible: float) -> tuple[Indices, Array]:
    """Places and new weights of the components without the lightest, together `negligible` at most."""
    order = np.argsort(-log_weights, kind="mergesort")
    length, lighter = len(order), 0.0
    while length > 1:
        lighter += exp(log_weights[order[length - 1]])
        if not lighter <= negligible:
            break
        length -= 1
    chosen = order[:length].copy()
    weights, total = np.empty(length), 0.0
    for i in range(length):
        weights[i] = exp(log_weights[chosen[i]])
        total += weights[i]
    return chosen, weights / total
