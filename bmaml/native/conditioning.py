"""Last layers conditioned on rows in closed form (see `bmaml.last_layer`), one layer at a time.

G are the rows' features `[row, feature]` over √λ, and r their residuals `[output, row]`, both divided by the
standard deviation of the noise. With as many features as rows, or more, the factor is that of I + GGᵀ (the
*row form*), else of I + GᵀG (the *feature form*).
"""

import numpy as np
from numpy.typing import NDArray

from bmaml.native.compiling import kernel
from bmaml.native.linear_algebra import add_multiple, dot, factorise, solve_lower

Array = NDArray[np.float64]


@kernel
def condition(
    scaled: Array, residual: Array, rows: int, width: int, lower: Array, projected: Array
) -> tuple[float, float]:
    """Condition a layer; return its misfit, summed over outputs, and log |K| without the rows' noise.

    Args:
        scaled: G.
        residual: r.
        lower: becomes the Cholesky factor, `[rank, rank]`.
        projected: becomes L⁻¹r or L⁻¹Gᵀr, `[output, rank]`.
    """
    outputs, misfit = len(residual), 0.0
    by_row = rows <= width
    size = rows if by_row else width
    if by_row:
        for i in range(rows):
            for j in range(i + 1):
                lower[i, j] = dot(scaled[i], scaled[j], width)
    else:
        for i in range(width):
            for j in range(i + 1):
                lower[i, j] = 0.0
        for row in range(rows):
            own = scaled[row]
            for i in range(width):
                add_multiple(lower[i], own[i], own, i + 1)
    for i in range(size):
        lower[i, i] += 1.0
    log_determinant = factorise(lower, size)
    for output in range(outputs):
        target, own = projected[output], residual[output]
        if by_row:
            for i in range(size):
                target[i] = own[i]
        else:
            for i in range(size):
                target[i] = 0.0
            for row in range(rows):
                add_multiple(target, own[row], scaled[row], size)
                misfit += own[row] * own[row]
        for i in range(size):
            target[i] = (target[i] - dot(lower[i], target, i)) / lower[i, i]
        squares = dot(target, target, size)
        misfit += squares if by_row else -squares
    return (0.0 if misfit < 0 else misfit), log_determinant


@kernel
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
            seen[i, j] = spent[i, j] = scaled[i, j] if by_row else (1.0 if i == j else 0.0)
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
