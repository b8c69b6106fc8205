"""Sums, triangular solves and Cholesky factors of small matrices, row by row."""

import math

import numpy as np
from numpy.typing import NDArray

from bmaml.native.compiling import kernel

Array = NDArray[np.float64]


@kernel
def dot(left: Array, right: Array, count: int) -> float:
    """The inner product of the first numbers of two vectors."""
    total = 0.0
    for i in range(count):
        total += left[i] * right[i]
    return total


@kernel
def add_multiple(target: Array, factor: float, values: Array, count: int) -> None:
    """Add factor × values to the first numbers of a vector."""
    for i in range(count):
        target[i] += factor * values[i]


@kernel
def affine(rows: Array, count: int, weights: Array, inputs: int, outputs: int, result: Array) -> None:
    """`rows` `[row, input]` times a layer's weights, plus its bias, `[row, output]`.

    Args:
        weights: `[input × output + output]`, weights and then bias.
    """
    bias = weights[inputs * outputs : (inputs + 1) * outputs]
    for row in range(count):
        values, target = rows[row], result[row]
        for j in range(outputs):
            target[j] = bias[j]
        i = 0
        while i + 4 <= inputs:  # four at a time: the result is loaded and stored less often
            one, two = (
                weights[i * outputs : (i + 1) * outputs],
                weights[(i + 1) * outputs : (i + 2) * outputs],
            )
            three = weights[(i + 2) * outputs : (i + 3) * outputs]
            four = weights[(i + 3) * outputs : (i + 4) * outputs]
            a, b, c, d = values[i], values[i + 1], values[i + 2], values[i + 3]
            for j in range(outputs):
                target[j] += a * one[j] + b * two[j] + c * three[j] + d * four[j]
            i += 4
        while i < inputs:
            add_multiple(target, values[i], weights[i * outputs : (i + 1) * outputs], outputs)
            i += 1


@kernel
def factorise(matrix: Array, size: int) -> float:
    """Replace the lower triangle of a symmetric matrix by its Cholesky factor; return the log determinant.

    NaN where it is not positive definite.
    """
    log_determinant = 0.0
    for i in range(size):
        own = matrix[i]
        for j in range(i):
            own[j] = (own[j] - dot(own, matrix[j], j)) / matrix[j, j]
        own[i] = math.sqrt(own[i] - dot(own, own, i))
        log_determinant += math.log(own[i])
    return 2 * log_determinant


@kernel
def solve_lower(lower: Array, size: int, extra: float, rows: Array, columns: int) -> None:
    """Replace rows `[size, column]` by (L + extra I)⁻¹ rows."""
    for i in range(size):
        target = rows[i]
        for k in range(i):
            add_multiple(target, -lower[i, k], rows[k], columns)
        inverse = 1 / (lower[i, i] + extra)
        for j in range(columns):
            target[j] *= inverse
