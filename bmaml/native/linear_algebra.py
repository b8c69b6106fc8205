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
