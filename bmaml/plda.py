"""Probabilistic linear discriminant analysis: the projections of one conjugate particle in closed form.

Rows of a class are z ~ N(μ_c, W), class means are μ_c ~ N(m, B) (Ioffe 2006). Both covariances are estimated
from labelled rows and shrunk, since classes are few and features are many:

    W ← (1 − a) W + a · mean(diag W) · I          B ← (1 − b) B + b · mean(diag B) · I, after whitening by W

In the eigenvectors of B, whitened by W, rows have the scatter σ² = 1, and class means the variances τ² along
each axis. That is a conjugate particle, whose projection these axes are: `bmaml.learners.conjugate`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

WITHIN_SHRINKAGE, BETWEEN_SHRINKAGE = 0.4, 0.6
"""a and b; docs/classification.md says how they were chosen."""
MIN_BETWEEN = 1e-3
"""τ² over its mean, at least."""


@dataclass(frozen=True)
class Discriminants:
    """Axes in which classes are Gaussian with unit scatter: z = (x − middle) @ axes.

    Attributes:
        between: τ² along each axis, largest first.
    """

    axes: Float[Tensor, "feature dimension"]
    middle: Float[Tensor, " feature"]
    between: Float[Tensor, " dimension"]


def discriminants(
    rows: Float[Tensor, "row feature"], labels: Int[Tensor, " row"], dimensions: int
) -> Discriminants:
    """The axes of the largest variance between classes, in double precision.

    Args:
        labels: classes 0 …, each with a row at least, some with two.
        dimensions: axes that are kept, at most those of the features.
    """
    x = rows.double()
    classes = int(labels.max()) + 1
    hot = torch.nn.functional.one_hot(labels, classes).to(x)
    counts = hot.sum(0)
    means = (hot.mT @ x) / counts.unsqueeze(-1)
    middle = means.mean(0)
    residuals = x - means[labels]
    within = residuals.mT @ residuals / max(len(x) - classes, 1)
    values, vectors = torch.linalg.eigh(within)
    values = values.clamp_min(0)
    shrunk = (1 - WITHIN_SHRINKAGE) * values + WITHIN_SHRINKAGE * values.mean()
    whitening = vectors / shrunk.clamp_min(torch.finfo(x.dtype).tiny).sqrt()
    spread = (means - middle) @ whitening
    _, singular, axes = torch.linalg.svd(spread, full_matrices=True)
    found = x.new_zeros(x.shape[1])
    found[: len(singular)] = singular.square() / max(classes - 1, 1)
    mean = found.mean()
    # A class's mean of n rows varies by 1 / n more than the class does.
    between = (1 - BETWEEN_SHRINKAGE) * found + BETWEEN_SHRINKAGE * mean - (1 / counts).mean()
    between = between.clamp_min(MIN_BETWEEN * float(mean))
    kept = slice(dimensions)
    return Discriminants((whitening @ axes.mT)[:, kept], middle, between[kept])
