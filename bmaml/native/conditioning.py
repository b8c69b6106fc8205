"""Last layers conditioned on rows in closed form (see `bmaml.last_layer`), one layer at a time.

G are the rows' features `[feature, row]` over √λ, and r their residuals `[output, row]`, both divided by the
standard deviation of the noise; padded rows are zeros. With as many features as rows, or more, the factor is
that of I + GᵀG over rows (the *row form*), else that of I + GGᵀ over features (the *feature form*).
"""

import math

import numpy as np
from numpy.typing import NDArray

from bmaml.last_layer import JITTER
from bmaml.native.compiling import inlined
from bmaml.native.lanes import LANES, element, fused, lane_sum, load, spread, store
from bmaml.native.linear_algebra import add_multiple, dot, factorise, solve_lower

Array = NDArray[np.float64]
EPSILON = float(np.finfo(np.float64).eps)


@inlined
def standardise(
    features: Array,
    width: int,
    head: Array,
    factor: float,
    inverse_stds: Array,
    y: Array,
    scaled: Array,
    residual: Array,
) -> None:
    """Write G and r of rows with these features and labels y `[output, row]`.

    Args:
        head: the layer's weights without data, `[output, feature]`.
        factor: λ^(−½) per feature.
        inverse_stds: of the rows' noise; zero of padded rows, `[1, row]`.
    """
    nothing = spread(0.0)
    for first in range(0, features.shape[1], LANES):
        inverse = load(inverse_stds, 0, first)
        for j in range(width):
            store(scaled, j, first, fused(inverse, fused(factor, load(features, j, first), nothing), nothing))
        for output in range(len(y)):
            rest = load(y, output, first)
            for j in range(width):
                rest = fused(-element(head, output, j), load(features, j, first), rest)
            store(residual, output, first, fused(inverse, rest, nothing))


@inlined
def _products(scaled: Array, rows: int, width: int, by_row: bool, lower: Array) -> None:
    """Write the lower triangle of GᵀG or of GGᵀ."""
    if by_row:
        for i in range(rows):
            for first in range(0, i + 1, LANES):
                total = spread(0.0)
                for j in range(width):
                    total = fused(element(scaled, j, i), load(scaled, j, first), total)
                store(lower, i, first, total)
    else:
        for i in range(width):
            for j in range(i + 1):
                lower[i, j] = _inner(scaled, i, scaled, j)


@inlined
def condition(
    scaled: Array, residual: Array, rows: int, width: int, lower: Array, projected: Array
) -> tuple[float, float]:
    """Condition a layer; return its misfit, summed over outputs, and log |K| without the rows' noise.

    Args:
        scaled: G.
        residual: r.
        lower: becomes the Cholesky factor, `[rank, rank]`, its columns padded.
        projected: becomes L⁻¹r or L⁻¹Gr, `[output, rank]`.
    """
    misfit, by_row = 0.0, rows <= width
    size = rows if by_row else width
    log_determinant, growth = math.nan, 0.0
    for _ in range(2):
        _products(scaled, rows, width, by_row, lower)
        for i in range(size):
            lower[i, i] = (1.0 + lower[i, i]) * (1.0 + growth)
        log_determinant = factorise(lower, size)
        if math.isfinite(log_determinant):
            break
        growth = JITTER * size * EPSILON  # the identity is lost beside large features
    for output in range(len(residual)):
        target = projected[output]
        for i in range(size):
            known = residual[output, i] if by_row else _inner(scaled, i, residual, output)
            target[i] = (known - dot(lower[i], target, i)) / lower[i, i]
        squares = dot(target, target, size)
        misfit += squares if by_row else _inner(residual, output, residual, output) - squares
    return (0.0 if misfit < 0 else misfit), log_determinant


@inlined
def _inner(left: Array, i: int, right: Array, j: int) -> float:
    """The inner product of two features over all rows."""
    total = spread(0.0)
    for first in range(0, left.shape[1], LANES):
        total = fused(load(left, i, first), load(right, j, first), total)
    return lane_sum(total)


@inlined
def posterior(
    scaled: Array,
    lower: Array,
    projected: Array,
    rows: int,
    width: int,
    scale: float,
    heads: Array,
    seen: Array,
    spent: Array,
) -> None:
    """Add a conditioned layer's mean to `heads` `[output, feature]`, and find its covariance's root.

    Args:
        scale: factor of the mean.
        seen, spent: factors of the root, `[rank, feature]`.
    """
    by_row = rows <= width
    size = rows if by_row else width
    for i in range(size):
        for j in range(width):
            seen[i, j] = spent[i, j] = scaled[j, i] if by_row else (1.0 if i == j else 0.0)
    if by_row:
        solve_lower(lower, size, 0.0, seen, width)
        solve_lower(lower, size, 1.0, spent, width)
        for output in range(len(heads)):
            for i in range(size):
                add_multiple(heads[output], scale * projected[output, i], seen[i], width)
        return
    inverse = np.zeros((width, width))
    for i in range(width):
        inverse[i, i] = 1.0
    solve_lower(lower, size, 0.0, inverse, width)
    for output in range(len(heads)):
        for i in range(size):
            add_multiple(heads[output], scale * projected[output, i], inverse[i], width)
    for i in range(size):
        for j in range(width):
            spent[i, j] -= inverse[j, i]
