"""The features of rows: hidden layers of particles, and those of processes."""

import math

import numpy as np
from numpy.typing import NDArray

from bmaml.native.arithmetic import exp, hyperbolic_tangent, sines
from bmaml.native.compiling import kernel
from bmaml.native.linear_algebra import add_multiple, affine
from bmaml.native.tables import Particles, ProcessLayers

Array = NDArray[np.float64]


@kernel
def hidden_layer(
    particles: Particles, layer: int, x: Array, count: int, result: Array, scratch: Array
) -> None:
    """The last hidden layer of a particle at rows x `[row, input]`, and a constant 1, `[row, feature + 1]`.

    Args:
        scratch: `[2, row, width]`.
    """
    theta, widths = particles.thetas[layer], particles.widths
    depth, offset = len(widths) - 2, 0
    if depth == 0:
        for row in range(count):
            for i in range(widths[0]):
                result[row, i] = x[row, i]
    signal = x
    for each in range(depth):
        inputs, outputs = widths[each], widths[each + 1]
        sums = scratch[0]
        values = result if each == depth - 1 else scratch[1]
        affine(signal, count, theta[offset:], inputs, outputs, sums)
        for row in range(count):
            _activate(particles.activation, sums[row], outputs, values[row])
        signal = values
        offset += (inputs + 1) * outputs
    for row in range(count):
        result[row, widths[depth]] = 1.0


@kernel
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
def process_features(processes: ProcessLayers, one: int, x: Array, count: int, result: Array) -> None:
    """χ of one map at rows x `[row, input]`, `[row, feature]`."""
    inputs, pooled = x.shape[1], len(processes.roots)
    if one < pooled:
        frequencies, linear, first = processes.pooled_frequencies[one], 1.0, 1 + 2 * inputs
    else:
        frequencies, linear = processes.broad_frequencies[one - pooled], processes.linear
        first = 1 + inputs
    half, width = frequencies.shape[1], processes.widths[one]
    angles, raw = np.empty(2 * half), np.empty(first + 2 * half)
    norm = 1 / math.sqrt(max(1, half))
    for row in range(count):
        own = x[row]
        raw[0] = 1.0
        for i in range(inputs):
            raw[1 + i] = linear * own[i]
            if one < pooled:
                raw[1 + inputs + i] = own[i] * own[i]
        if one >= pooled or width > first:
            for j in range(half):
                angles[half + j] = 0.0
            for i in range(inputs):
                add_multiple(angles[half:], own[i], frequencies[i], half)
            for j in range(half):
                angles[j] = angles[half + j] + 0.5 * math.pi
            sines(angles, 2 * half, raw[first:])
            for j in range(first, first + 2 * half):
                raw[j] *= norm
        target = result[row]
        if one >= pooled:
            for j in range(width):
                target[j] = raw[j]
            continue
        for j in range(width):
            target[j] = 0.0
        for i in range(len(raw)):
            start, end = processes.root_ends[one, 0, i], processes.root_ends[one, 1, i]
            if end > start:
                add_multiple(target[start:end], raw[i], processes.roots[one, i, start:end], end - start)


@kernel
def process_noise(processes: ProcessLayers, layer: int, x: Array) -> float:
    """Variance of a process layer's noise at a row x `[input]`, at scale 1."""
    coefficients, change = processes.noise[layer], 0.0
    for i in range(len(x)):
        change += coefficients[1 + i] * x[i]
    change = min(max(change, -processes.max_change), processes.max_change)
    return max(math.exp(coefficients[0] + change), processes.min_noise)


@kernel
def particle_noise(particles: Particles, layer: int, features: Array) -> float:
    """Variance of a particle's noise at a row with these features `[feature + 1]`, at scale 1."""
    theta, exponent = particles.thetas[layer], 0.0
    for i in range(particles.slopes.shape[1]):
        exponent += particles.slopes[layer, i] * features[i]
    return max(exp(exponent - theta[len(theta) - 2]), particles.min_noise)


@kernel
def prior_mean(particles: Particles, layer: int, features: Array, output: int) -> float:
    """A particle's prediction without data at a row with these features."""
    theta, width = particles.thetas[layer], len(features)
    outputs = particles.widths[len(particles.widths) - 1]
    first = len(theta) - 2 - width * outputs
    total = 0.0
    for i in range(width):
        total += theta[first + i * outputs + output] * features[i]
    return total
