"""Gaussians around adapted networks, with the generalised Gauss–Newton precision.

The posterior of the weights around a point is approximately N(point, H⁻¹) with H = λ I + γ JᵀJ (MacKay 1992).
J is the Jacobian of the outputs at the support rows; Grant et al. 2018 take Kronecker factors for JᵀJ. H is
the prior plus a term of rank S, so that its determinant and its inverse root come exactly from the S × S
matrix J Jᵀ. Padded rows of J are zero and add nothing.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from bmaml.densities import log_likelihood, weights_of
from bmaml.networks import MLP
from bmaml.shapes import Particles, PerParticle
from bmaml.task import Examples


def log_evidence(network: MLP, particles: Particles, start: Particles, support: Examples) -> PerParticle:
    """Laplace's estimate of log p(support | particle's neighbourhood).

    log p(S | θ) + log N(w | w_start, λ⁻¹ I) − ½ log |H / 2π|: the fit, the distance from the start, and the
    volume of the posterior relative to the prior. It is zero at the start for an empty support set.
    """
    travel = (weights_of(particles) - weights_of(start)).square().sum(-1)
    log_noise, log_weight = particles[..., -2], particles[..., -1]
    occam = log_volume(network, particles, support, log_noise - log_weight)
    return log_likelihood(network, particles, support) - 0.5 * log_weight.exp() * travel - 0.5 * occam


def log_volume(
    network: MLP, particles: Particles, support: Examples, log_ratio: Float[Tensor, "#task #particle"]
) -> PerParticle:
    """log |I + (γ/λ) J Jᵀ|: the log determinant of H relative to the prior's. Differentiable.

    Args:
        log_ratio: log γ − log λ.
    """
    gram = network.tangent_gram(weights_of(particles), support.x)
    mask = support.mask.repeat_interleave(network.outputs, 1).unsqueeze(1).to(gram.dtype)
    ratio = log_ratio.exp()[..., None, None].double()
    inner = (gram * mask.unsqueeze(-1) * mask.unsqueeze(-2)).double() * ratio
    identity = torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device)
    # cholesky_ex reports failure in its result and does not raise: a bad task must fail alone.
    diagonal = torch.linalg.cholesky_ex(identity + inner).L.diagonal(dim1=-2, dim2=-1)
    return (2 * diagonal.log().sum(-1)).to(particles.dtype)


def draws(
    network: MLP,
    point: Float[Tensor, "#task 1 param"],
    support: Examples,
    log_weight: Float[Tensor, ""],
    standard: Float[Tensor, "draw weight"],
) -> Float[Tensor, "task draw weight"]:
    """Exact draws of weights from N(point, H⁻¹), one for each standard normal vector ε.

    H^(−½) ε = λ^(−½) [ε + Jᵀ U g(d) Uᵀ J ε] with J Jᵀ = U diag(d) Uᵀ and
    g(d) = ((1 + γd/λ)^(−½) − 1) / d, in a form that is regular at d = 0.
    """
    weights = weights_of(point)
    jacobian = network.jacobian(weights, support.x).squeeze(1) * support.mask[..., None, None]
    rows = jacobian.flatten(1, 2)
    gram = (rows @ rows.mT).double()
    # eigh raises for the whole batch where one task has diverged, which must fail alone.
    finite = gram.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    eigenvalues, vectors = torch.linalg.eigh(torch.where(finite, gram, torch.zeros_like(gram)))
    ratio = (point[..., -2] - log_weight).exp().double()  # γ/λ, [#task, 1]
    root = (1 + ratio * eigenvalues.clamp_min(0)).sqrt()
    gain = -ratio / (root * (1 + root))
    inner = (vectors * gain.unsqueeze(-2) @ vectors.mT).to(rows.dtype)
    moved = standard + standard @ rows.mT @ inner @ rows
    return weights + torch.exp(-0.5 * log_weight) * moved
