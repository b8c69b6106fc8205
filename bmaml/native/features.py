"""The features of rows, `[feature, row]`: hidden layers of particles, and those of processes.

Rows are padded to whole blocks of `lanes.LANES`, with zeros.
"""

import math

import numpy as np
from numpy.typing import NDArray

from bmaml.native.arithmetic import hyperbolic_tangent, sines
from bmaml.native.compiling import inlined, kernel
from bmaml.native.lanes import LANES, element, fused, load, spread, store
from bmaml.native.tables import Particles, ProcessLayers

Array = NDArray[np.float64]


@inlined
def padded(rows: int) -> int:
    """The number of rows in whole blocks that hold so many."""
    return (rows + LANES - 1) // LANES * LANES


@inlined
def by_column(rows: Array) -> Array:
    """Rows `[row, column]` as `[column, row]`, padded."""
    count, columns = rows.shape
    result = np.zeros((columns, padded(count)))
    for i in range(columns):
        for row in range(count):
            result[i, row] = rows[row, i]
    return result


@inlined
def hidden_layer(particles: Particles, layer: int, x: Array, result: Array, scratch: Array) -> None:
    """The last hidden layer of a particle at rows x `[input, row]`, and a constant 1, `[feature + 1, row]`.

    Args:
        scratch: `[2, width, row]`.
    """
    theta, widths, rows = particles.thetas[layer], particles.widths, x.shape[1]
    depth, offset = len(widths) - 2, 0
    signal = x
    for each in range(depth):
        inputs, outputs = widths[each], widths[each + 1]
        sums = scratch[0]
        values = result if each == depth - 1 else scratch[1]
        bias, fours = offset + inputs * outputs, outputs // 4 * 4
        for first in range(0, rows, LANES):
            # Four at a time keep the multipliers busy, and read the inputs less often.
            for j in range(0, fours, 4):
                one, two = spread(element(theta, bias + j)), spread(element(theta, bias + j + 1))
                three, four = spread(element(theta, bias + j + 2)), spread(element(theta, bias + j + 3))
                for i in range(inputs):
                    own, at = load(signal, i, first), offset + i * outputs + j
                    one = fused(element(theta, at), own, one)
                    two = fused(element(theta, at + 1), own, two)
                    three = fused(element(theta, at + 2), own, three)
                    four = fused(element(theta, at + 3), own, four)
                store(sums, j, first, one)
                store(sums, j + 1, first, two)
                store(sums, j + 2, first, three)
                store(sums, j + 3, first, four)
            for j in range(fours, outputs):
                one = spread(element(theta, bias + j))
                for i in range(inputs):
                    one = fused(element(theta, offset + i * outputs + j), load(signal, i, first), one)
                store(sums, j, first, one)
        _activate(particles.activation, sums.reshape(-1), outputs * rows, values.reshape(-1))
        signal = values
        offset = bias + outputs
    for row in range(rows):
        if depth == 0:
            for i in range(widths[0]):
                result[i, row] = x[i, row]
        result[widths[depth], row] = 1.0


@inlined
def _activate(activation: int, sums: Array, count: int, result: Array) -> None:
    """The activation of the first numbers."""
    if activation == 2:
        sines(sums, count, result)
    elif activation == 1:
        for i in range(count):
            result[i] = hyperbolic_tangent(sums[i])
    else:
        for i in range(count):
            result[i] = 0.0 if sums[i] < 0 else sums[i]


@kernel
def process_features(processes: ProcessLayers, one: int, x: Array, result: Array) -> None:
    """χ of one map at rows x `[input, row]`, `[feature, row]`."""
    inputs, rows = x.shape
    pooled = len(processes.roots)
    if one < pooled:
        frequencies, linear, first = processes.pooled_frequencies[one], 1.0, 1 + 2 * inputs
    else:
        frequencies, linear = processes.broad_frequencies[one - pooled], processes.linear
        first = 1 + inputs
    half, width = frequencies.shape[1], processes.widths[one]
    has_waves = one >= pooled or width > first
    raw = np.empty((first + 2 * half if has_waves else first, rows))
    for row in range(rows):
        raw[0, row] = 1.0
        for i in range(inputs):
            raw[1 + i, row] = linear * x[i, row]
            if one < pooled:
                raw[1 + inputs + i, row] = x[i, row] * x[i, row]
    if has_waves:
        angles = np.empty((2 * half, rows))
        for block in range(0, rows, LANES):
            for j in range(half):
                angle = spread(0.0)
                for i in range(inputs):
                    angle = fused(frequencies[i, j], load(x, i, block), angle)
                store(angles, half + j, block, angle)
                store(angles, j, block, fused(1.0, angle, spread(0.5 * math.pi)))
        waves, norm = raw[first:].reshape(-1), 1 / math.sqrt(max(1, half))
        sines(angles.reshape(-1), 2 * half * rows, waves)
        for i in range(2 * half * rows):
            waves[i] *= norm
    if one >= pooled:
        result[:width] = raw[:width]
        return
    for block in range(0, rows, LANES):
        for j in range(width):
            total = spread(0.0)
            for i in range(processes.root_ends[one, 0, j], min(processes.root_ends[one, 1, j], len(raw))):
                total = fused(processes.roots[one, i, j], load(raw, i, block), total)
            store(result, j, block, total)


@inlined
def particle_log_noise(particles: Particles, layer: int, features: Array, result: Array) -> None:
    """Log variance of a particle's noise at rows with features `[feature + 1, row]`, at scale 1."""
    rows, slopes = features.shape[1], particles.slopes[layer]
    least = math.log(particles.min_noise)
    for row in range(rows):
        result[row] = particles.log_noise[layer]
    for i in range(len(slopes)):
        for row in range(rows):
            result[row] += slopes[i] * features[i, row]
    for row in range(rows):
        result[row] = least if result[row] < least else result[row]


@inlined
def process_log_noise(processes: ProcessLayers, layer: int, x: Array, result: Array) -> None:
    """Log variance of a process layer's noise at rows x `[input, row]`, at scale 1."""
    coefficients, most = processes.noise[layer], processes.max_change
    least = math.log(processes.min_noise)
    for row in range(x.shape[1]):
        change = 0.0
        for i in range(len(x)):
            change += coefficients[1 + i] * x[i, row]
        each = coefficients[0] + min(max(change, -most), most)
        result[row] = least if each < least else each
