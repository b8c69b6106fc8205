"""Random effects of latent values, conditioned on class labels by Laplace's method.

The latent values of a row are f = g + B Wᵀ ψ, with W ~ N(0, I), R effects in its rows and K factors in its
columns. The log posterior of W is concave for the likelihoods of `bmaml.class_likelihoods`. Its gradient is
Ψᵀ S B − W, with S the slopes of the rows, and its negative Hessian

    H = I + Σ over rows of (ψψᵀ) ⊗ (Bᵀ C B),        C the curvature of a row.

Newton's method finds the mode. A step that changes a latent value by r at most is shortened to log(1 + r)/r
of it, which does not overshoot for losses like the logistic one (Sun & Tran-Dinh 2019, Theorem 2) and tends
to the whole step. The posterior is taken for a Gaussian about the mode with precision H; draws from it carry
importance weights for the difference, which matters where large effects meet few rows. Rows whose label is
all zeros, such as padding, have no slope and no curvature.

Gradients of the mode are those of the implicit function theorem: a last step whose Hessian is held constant
has them, whatever the steps before it.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bmaml.class_likelihoods import ClassLikelihood, Labels, Latent
from bmaml.shapes import PerParticle

NEWTON_STEPS = 10
"""Steps to the mode: damped at first, quadratic at the end."""

Effects = Float[Tensor, "task particle row effect"]
Loadings = Float[Tensor, "#task particle latent factor"]
Weights = Float[Tensor, "task particle effect factor"]


@dataclass(frozen=True)
class ConditionedEffects:
    """Gaussian posteriors of random effects.

    Attributes:
        mode: W at the highest posterior density.
        lower: Cholesky factor of H, effect by effect, factor by factor.
    """

    mode: Weights
    lower: Float[Tensor, "task particle weight weight"]

    def draws(
        self, noise: Float[Tensor, "draw weight"]
    ) -> tuple[Float[Tensor, "task particle draw effect factor"], Float[Tensor, "task particle draw"]]:
        """W = mode + L⁻ᵀ ε for standard normal noise ε, and log N(W; 0, I) − log N(W; mode, H⁻¹) of each."""
        noise = noise.to(self.lower)
        each = noise.mT.expand(*self.lower.shape[:2], -1, -1)
        spread = torch.linalg.solve_triangular(self.lower.mT, each, upper=True).mT
        draws = self.mode.unsqueeze(2) + spread.unflatten(-1, self.mode.shape[2:])
        log_ratios = 0.5 * (noise.square().sum(-1) - draws.square().sum((-1, -2)))
        return draws, log_ratios - _half_log_determinant(self.lower).unsqueeze(-1)


def importance_weights(
    logs: Float[Tensor, "task particle draw"],
) -> tuple[PerParticle, Float[Tensor, "task particle draw"]]:
    """The evidence of each particle, and the normalised log weights of its draws.

    The evidence is the mean of p(labels | W) N(W; 0, I) / N(W; mode, H⁻¹), whose logarithms are given. No
    weight exceeds √S times the mean of S draws (truncated importance sampling, Ionides 2008).
    """
    count = logs.shape[-1]
    evidence = logs.logsumexp(-1) - math.log(count)
    truncated = torch.minimum(logs, (evidence + 0.5 * math.log(count)).unsqueeze(-1))
    return evidence, truncated.log_softmax(-1)


def condition(
    likelihood: ClassLikelihood, offset: Latent, effects: Effects, loadings: Loadings, labels: Labels
) -> ConditionedEffects:
    """The posterior of W given one-hot labels; the prior, exactly, where no row has a label.

    Args:
        offset: g.
        effects: ψ.
        loadings: B.
    """
    shape = (*effects.shape[:2], effects.shape[-1], loadings.shape[-1])
    mode = effects.new_zeros(shape)
    with torch.no_grad():
        for _ in range(NEWTON_STEPS):
            step = _newton_step(likelihood, offset, effects, loadings, labels, mode)
            change = (effects @ step @ loadings.mT).abs().flatten(2)
            largest = torch.cat([change, change.new_full((*shape[:2], 1), 1e-6)], -1).amax(-1)
            mode = mode + step * (torch.log1p(largest) / largest)[..., None, None]
    mode = mode + _newton_step(likelihood, offset, effects, loadings, labels, mode)
    latent = offset + effects @ mode @ loadings.mT
    return ConditionedEffects(mode, _factor(likelihood, latent, effects, loadings, labels))


def _newton_step(
    likelihood: ClassLikelihood,
    offset: Latent,
    effects: Effects,
    loadings: Loadings,
    labels: Labels,
    mode: Weights,
) -> Weights:
    """H⁻¹ × the gradient; a derivative of it takes H for a constant."""
    latent = offset + effects @ mode @ loadings.mT
    gradient = effects.mT @ (likelihood.slope(latent, labels) @ loadings) - mode
    with torch.no_grad():
        lower = _factor(likelihood, latent, effects, loadings, labels)
    step = torch.cholesky_solve(gradient.flatten(2).unsqueeze(-1), lower)
    return step.squeeze(-1).unflatten(-1, mode.shape[2:])


def _factor(
    likelihood: ClassLikelihood, latent: Latent, effects: Effects, loadings: Loadings, labels: Labels
) -> Float[Tensor, "task particle weight weight"]:
    """The Cholesky factor of H."""
    curvature = loadings.mT.unsqueeze(2) @ likelihood.curvature(latent, labels) @ loadings.unsqueeze(2)
    weights = effects.shape[-1] * loadings.shape[-1]
    hessian = torch.einsum("tmsr,tmsq,tmskl->tmrkql", effects, effects, curvature)
    eye = torch.eye(weights, dtype=effects.dtype, device=effects.device)
    # cholesky_ex reports failure in its result and does not raise: a bad task must fail alone.
    return torch.linalg.cholesky_ex(hessian.flatten(4, 5).flatten(2, 3) + eye).L


def _half_log_determinant(lower: Tensor) -> PerParticle:
    """½ log |H| from its Cholesky factor."""
    return lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
