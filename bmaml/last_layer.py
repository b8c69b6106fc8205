"""Bayesian linear last layers conditioned on rows in closed form, for many tasks and particles.

Weights are w ~ N(0, λ⁻¹ I), residuals r = Φw + noise of variance one: rows and residuals come divided by the
standard deviation of their noise, and padding is zero. With K = ΦΦᵀ/λ + I, the evidence needs the misfit
rᵀK⁻¹r and log |K|. The covariance of w has the root λ^(−½) (I − seen spentᵀ). The rank of its correction is
the number of rows, or of features where there are more rows. All come from the Cholesky factor of K or of
I + ΦᵀΦ/λ, whichever is smaller (Rasmussen & Williams 2006, eqs 2.8 and 2.11). The root is accurate in single
precision; the covariance itself, a difference of nearly equal numbers, is not.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from bmaml.shapes import PerParticle

JITTER = 4.0
"""Relative growth of a diagonal whose factorisation failed, in roundings for each of its entries."""

Rows = Float[Tensor, "task particle row feature"]
Residuals = Float[Tensor, "task particle row output"]


@dataclass(frozen=True)
class ConditionedLayers(ABC):
    """Last layers conditioned on the rows of a task.

    Attributes:
        misfit: rᵀK⁻¹r, summed over outputs.
        log_volume: log |K|, with the rows' noise variances.
        width: λ^(−½), as `[#task, particle, 1, 1]`.
    """

    misfit: PerParticle
    log_volume: PerParticle
    width: Tensor

    @abstractmethod
    def posterior(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean `[task, particle, feature, output]`, seen and spent `[task, particle, feature, rank]`."""

    def of_particles(self, select: Callable[[Tensor], Tensor]) -> "ConditionedLayers":
        """The last layers of some particles; `select` takes them from every tensor."""
        return replace(self, **{field.name: select(getattr(self, field.name)) for field in fields(self)})


def condition(scaled: Rows, residual: Residuals, width: Tensor, log_noise: PerParticle) -> ConditionedLayers:
    """Each last layer conditioned on its rows.

    Args:
        scaled: G = Φ/√λ.
        width: λ^(−½), as `[#task, particle, 1, 1]`.
        log_noise: sum of the logarithms of the rows' noise variances, part of the volume.
    """
    form = _RowForm if scaled.shape[-2] <= scaled.shape[-1] else _FeatureForm
    return form.of(scaled, residual, width, log_noise)


@dataclass(frozen=True)
class _RowForm(ConditionedLayers):
    """The form for few rows: K = I + GGᵀ = LLᵀ, with the root λ^(−½)(I − GᵀL⁻ᵀ(L + I)⁻¹G) (Andrews 1968).

    Attributes:
        scaled: G.
        lower: L.
        whitened: L⁻¹r.
    """

    scaled: Tensor
    lower: Tensor
    whitened: Tensor

    @classmethod
    def of(cls, scaled: Tensor, residual: Tensor, width: Tensor, log_noise: Tensor) -> "_RowForm":
        lower = _cholesky(scaled, scaled.mT)
        whitened = torch.linalg.solve_triangular(lower, residual, upper=False)
        misfit = whitened.square().sum((-1, -2))
        return cls(misfit, _log_determinant(lower) + log_noise, width, scaled, lower, whitened)

    def posterior(self) -> tuple[Tensor, Tensor, Tensor]:
        eye = _identity(self.lower)
        seen = torch.linalg.solve_triangular(self.lower, self.scaled, upper=False).mT
        spent = torch.linalg.solve_triangular(self.lower + eye, self.scaled, upper=False).mT
        return self.width * (seen @ self.whitened), seen, spent


@dataclass(frozen=True)
class _FeatureForm(ConditionedLayers):
    """The form for many rows: I + GᵀG = LLᵀ, with the root λ^(−½) L⁻ᵀ.

    Attributes:
        lower: L.
        projected: L⁻¹Gᵀr.
    """

    lower: Tensor
    projected: Tensor

    @classmethod
    def of(cls, scaled: Tensor, residual: Tensor, width: Tensor, log_noise: Tensor) -> "_FeatureForm":
        lower = _cholesky(scaled.mT, scaled)
        projected = torch.linalg.solve_triangular(lower, scaled.mT @ residual, upper=False)
        misfit = (residual.square().sum((-1, -2)) - projected.square().sum((-1, -2))).clamp_min(0)
        return cls(misfit, _log_determinant(lower) + log_noise, width, lower, projected)

    def posterior(self) -> tuple[Tensor, Tensor, Tensor]:
        eye = _identity(self.lower).expand_as(self.lower)
        inverse = torch.linalg.solve_triangular(self.lower, eye, upper=False)
        return self.width * (inverse.mT @ self.projected), eye, eye - inverse


def _cholesky(left: Tensor, right: Tensor) -> Tensor:
    """Cholesky factor of I + left right.

    Features of rows far from training may be so large that the identity is lost beside them. Where the
    factorisation of an answer fails therefore, the diagonal grows by what it rounds. Training rows are not so
    far, and have no second factorisation.
    """
    eye = torch.eye(left.shape[-2], dtype=left.dtype, device=left.device)
    inner = torch.baddbmm(eye, left.flatten(0, 1), right.flatten(0, 1)).unflatten(0, left.shape[:2])
    # cholesky_ex reports failure in its result and does not raise: a bad task must fail alone.
    lower, failed = torch.linalg.cholesky_ex(inner)
    if inner.requires_grad:
        return lower
    growth = JITTER * len(eye) * torch.finfo(inner.dtype).eps
    again = torch.linalg.cholesky_ex(inner + growth * eye * inner).L
    return torch.where((failed > 0)[..., None, None], again, lower)


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def _log_determinant(lower: Tensor) -> Tensor:
    """Log determinant of lower lowerᵀ."""
    return 2 * lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
