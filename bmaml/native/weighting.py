"""The weights of a task's hypotheses, and those that are kept (see `hypothesis_weights` and `pruning`)."""

import math

import numpy as np
from numpy.typing import NDArray

from bmaml.learners.hypothesis_weights import REFERENCE_ROWS
from bmaml.learners.pruning import LIGHT
from bmaml.native.arithmetic import exp
from bmaml.native.compiling import kernel
from bmaml.native.tables import Hypotheses

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
LOG_2PI = math.log(2 * math.pi)
TINY = float(np.finfo(np.float64).tiny)
NOTHING = 80.0
"""Weights below e^−80 count as zero."""
ROUNDED = 40.0
"""Difference of logarithms from which on the sum of two numbers is the larger one."""


@kernel
def log_normaliser(logs: Array) -> float:
    """log Σ exp."""
    top = -math.inf
    for each in logs:
        if each > top or each != each:
            top = each
    if not top > -math.inf:
        return top
    total = 0.0
    for i in range(len(logs)):
        total += exp(logs[i] - top)
    return top + math.log(total)


@kernel
def weight(log_weight: float) -> float:
    """e to the power of a log weight; zero below e^−80."""
    return 0.0 if log_weight < -NOTHING else exp(log_weight)


@kernel
def weights(logs: Array) -> Array:
    """`weight` of each."""
    result = np.empty(len(logs))
    for i in range(len(logs)):
        result[i] = 0.0 if logs[i] < -NOTHING else exp(logs[i])
    return result


@kernel
def log_weights(
    hypotheses: Hypotheses, misfit: Array, log_volume: Array, rows: int, outputs: int
) -> tuple[Array, Array]:
    """Logarithms of the weights of all hypotheses, and the weights of the groups before they are softened.

    Args:
        misfit, log_volume: of each layer.
    """
    count = len(hypotheses.layer)
    logs, group_weights = np.empty(count), np.zeros(hypotheses.groups)
    exponent = hypotheses.temperature
    if hypotheses.most > 0:
        counted = min(max(rows, max(1, hypotheses.fewest)), hypotheses.most)
        exponent *= 1 + (REFERENCE_ROWS - 1) * hypotheses.correlation
        exponent /= 1 + (counted - 1) * hypotheses.correlation
    for i in range(count):
        layer, scale = hypotheses.layer[i], hypotheses.scale[i]
        volume = log_volume[layer] + rows * (LOG_2PI + 2 * hypotheses.log_scale[i])
        evidence = -0.5 * (misfit[layer] / (scale * scale) + outputs * volume)
        logs[i] = (exponent * evidence if hypotheses.weighted else 0.0) + hypotheses.log_prior[i]
    logs -= log_normaliser(logs)
    values = weights(logs)
    for i in range(count):
        group_weights[hypotheses.group[i]] += values[i]
    if hypotheses.softening > 0:
        soft = hypotheses.softening * (logs - hypotheses.log_prior) + hypotheses.log_prior
        soft -= log_normaliser(soft)
        share = hypotheses.log_softened
        rest = math.log1p(-math.exp(share))
        for i in range(count):
            high, low = logs[i] + rest, soft[i] + share
            if low > high:
                high, low = low, high
            if low > high - ROUNDED:
                high += math.log1p(math.exp(low - high))
            logs[i] = high
    return logs, group_weights


@kernel
def kept(hypotheses: Hypotheses, logs: Array, negligible: float) -> tuple[Indices, Array, Array]:
    """Layer, scale and log weight of the kept hypotheses, heaviest first.

    Light ones of a layer are merged into one of the same variance; the lightest of all, which together weigh
    no more than `negligible`, are dropped.
    """
    count, layers = len(logs), hypotheses.layers
    layer, scale, every = (
        np.empty(count + layers, np.int64),
        np.empty(count + layers),
        np.empty(count + layers),
    )
    merged, squares = np.full(layers, TINY), np.full(layers, TINY)
    values = weights(logs)
    for i in range(count):
        own, size, value = hypotheses.layer[i], hypotheses.scale[i], values[i]
        layer[i], scale[i], every[i] = own, size, logs[i]
        if value < LIGHT:
            every[i] = -math.inf
            merged[own] += value
            squares[own] += value * size * size
    for own in range(layers):
        layer[count + own], scale[count + own] = own, math.sqrt(squares[own] / merged[own])
        every[count + own] = math.log(merged[own])
    return _heaviest(layer, scale, every, negligible)


@kernel
def _heaviest(layer: Indices, scale: Array, logs: Array, negligible: float) -> tuple[Indices, Array, Array]:
    """The hypotheses, heaviest first, without the last ones, which together weigh `negligible` at most."""
    values = weights(logs)
    each, lighter = negligible / len(logs), 0.0
    for value in values:
        lighter += value if value <= each else 0.0
    candidates = np.flatnonzero(~(values <= each))  # the rest are the lightest, and few enough
    order = candidates[np.argsort(-logs[candidates], kind="mergesort")]
    length = len(order)
    while length > 1:
        lighter += values[order[length - 1]]
        if not lighter <= negligible:
            break
        length -= 1
    chosen = order[:length]
    own = logs[chosen]
    return layer[chosen], scale[chosen], own - log_normaliser(own)
