"""Bayesian linear last layers: what rows say to them, in closed form, for many tasks and particles.

Weights w ~ N(0, λ⁻¹ I), residuals r = Φw + noise of variance one (rows and residuals come divided by
their noise's standard deviation; padding is zero and says nothing). With K = ΦΦᵀ/λ + I the evidence
needs the misfit rᵀK⁻¹r and log |K|; w's posterior has a mean, and a covariance with the root
λ^(−½) (I − seen spentᵀ), whose rank is that of the rows, or of the features where there are more rows. All
come from the Cholesky factor of K or from that of the information λI + ΦᵀΦ, whichever is smaller
(Rasmussen & Williams 2006, eqs 2.8 and 2.11). A root is good in single precision, where the
covariance itself, a difference of nearly equal numbers, is not.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from bmaml.shapes import PerParticle

Rows = Float[Tensor, "task particle row feature"]
Residuals = Float[Tensor, "task particle row output"]


@dataclass(frozen=True)
class Conditions(ABC):
    """Last layers that have seen some rows.

    Attributes:
        misfit: rᵀK⁻¹r, summed over outputs.
        log_volume: log |K|, the rows' noise included.
        precision: λ, as `[#task, particle, 1, 1]`.
    """

    misfit: PerParticle
    log_volume: PerParticle
    precision: Tensor

    @abstractmethod
    def last_layer(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean `[task, particle, feature, output]`, seen and spent `[task, particle, feature, rank]`."""

    def each(self, part: Callable[[Tensor], Tensor]) -> "Conditions":
        """The same for some of the particles."""
        return replace(self, **{field.name: part(getattr(self, field.name)) for field in fields(self)})


def conditioned(
    rows: Rows, residual: Residuals, precision: Float[Tensor, "#task particle"], log_noise: PerParticle
) -> Conditions:
    """What the rows say to each last layer.

    Args:
        log_noise: log of the rows' noise variances, added up: part of the volume.
    """
    form = _InRows if rows.shape[-2] <= rows.shape[-1] else _InFeatures
    return form.of(rows, residual, precision[..., None, None], log_noise)


@dataclass(frozen=True)
class _InRows(Conditions):
    """With G = Φ/√λ and K = LLᵀ a root of the covariance is λ^(−½)(I − GᵀL⁻ᵀ(L + I)⁻¹G) (Andrews 1968).

    Attributes:
        scaled: G.
        lower: L.
        whitened: L⁻¹r.
    """

    scaled: Tensor
    lower: Tensor
    whitened: Tensor

    @classmethod
    def of(cls, rows: Tensor, residual: Tensor, precision: Tensor, log_noise: Tensor) -> "_InRows":
        scaled = rows * precision.rsqrt()
        # cholesky_ex reports failure in numbers, not by raising: one bad task must fail alone.
        lower = torch.linalg.cholesky_ex(_identity(rows.shape[-2], rows) + scaled @ scaled.mT).L
        whitened = torch.linalg.solve_triangular(lower, residual, upper=False)
        misfit = whitened.square().sum((-1, -2))
        return cls(misfit, _log_determinant(lower) + log_noise, precision, scaled, lower, whitened)

    def last_layer(self) -> tuple[Tensor, Tensor, Tensor]:
        eye = _identity(self.lower.shape[-1], self.lower)
        seen = torch.linalg.solve_triangular(self.lower, self.scaled, upper=False).mT
        spent = torch.linalg.solve_triangular(self.lower + eye, self.scaled, upper=False).mT
        return self.precision.rsqrt() * (seen @ self.whitened), seen, spent


@dataclass(frozen=True)
class _InFeatures(Conditions):
    """With λI + ΦᵀΦ = LLᵀ, L⁻ᵀ is a root of the covariance.

    Attributes:
        lower: L.
        projected: L⁻¹Φᵀr.
    """

    lower: Tensor
    projected: Tensor

    @classmethod
    def of(cls, rows: Tensor, residual: Tensor, precision: Tensor, log_noise: Tensor) -> "_InFeatures":
        features = rows.shape[-1]
        lower = torch.linalg.cholesky_ex(rows.mT @ rows + precision * _identity(features, rows)).L
        projected = torch.linalg.solve_triangular(lower, rows.mT @ residual, upper=False)
        misfit = (residual.square().sum((-1, -2)) - projected.square().sum((-1, -2))).clamp_min(0)
        log_volume = _log_determinant(lower) - features * precision.log()[..., 0, 0] + log_noise
        return cls(misfit, log_volume, precision, lower, projected)

    def last_layer(self) -> tuple[Tensor, Tensor, Tensor]:
        eye = _identity(self.lower.shape[-1], self.lower).expand_as(self.lower)
        inverse = torch.linalg.solve_triangular(self.lower, eye, upper=False)
        return inverse.mT @ self.projected, eye, eye - self.precision.sqrt() * inverse


def _identity(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)


def _log_determinant(lower: Tensor) -> Tensor:
    """Of lower lowerᵀ."""
    return 2 * lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
