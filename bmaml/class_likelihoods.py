"""Likelihoods of classes given latent functions, with the derivatives that Newton's method needs.

The labels are classes of fixed order, given as one-hot rows. Both likelihoods are log-concave in the latent
values f, so that their negative Hessian is positive semi-definite and a Gaussian prior leaves one mode.

* *Nominal* classes have one latent value each and p(c) = softmax(f)_c.
* *Ordered* classes share one latent value: p(label ≤ c) = σ(b_c − f) with increasing thresholds b (the
  proportional odds model, McCullagh 1980). With u = σ(b_c − f) and l = σ(b_{c−1} − f), the slope of
  log p(c) = log(u − l) is u + l − 1 and its negative curvature is u(1 − u) + l(1 − l).
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

Latent = Float[Tensor, "#task particle row latent"]
LogProbabilities = Float[Tensor, "task particle row class"]
Labels = Float[Tensor, "#task #particle row class"]


class ClassLikelihood(ABC):
    """A log-concave likelihood of one-hot labels given latent values."""

    @abstractmethod
    def log_probabilities(self, latent: Float[Tensor, "... latent"]) -> Float[Tensor, "... class"]:
        """Log probability of every class."""

    @abstractmethod
    def slope(self, latent: Latent, labels: Labels) -> Latent:
        """Gradient of the log probability of the label; zero for a row of zeros."""

    @abstractmethod
    def curvature(self, latent: Latent, labels: Labels) -> Float[Tensor, "task particle row latent latent"]:
        """Negative Hessian of the log probability of the label; zero for a row of zeros."""


class Nominal(ClassLikelihood):
    """Classes without order: softmax of one latent value for each."""

    def log_probabilities(self, latent: Float[Tensor, "... latent"]) -> Float[Tensor, "... class"]:
        """Log softmax."""
        return latent.log_softmax(-1)

    def slope(self, latent: Latent, labels: Labels) -> Latent:
        """y − p."""
        real = labels.sum(-1, keepdim=True)
        return labels - real * latent.softmax(-1)

    def curvature(self, latent: Latent, labels: Labels) -> Float[Tensor, "task particle row latent latent"]:
        """diag p − ppᵀ."""
        p = latent.softmax(-1)
        real = labels.sum(-1)[..., None, None]
        return real * (torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2))


class Ordered(ClassLikelihood):
    """Ordered classes: cumulative logits of one latent value.

    Args:
        thresholds: b, increasing.
    """

    def __init__(self, thresholds: Float[Tensor, "#task particle threshold"]) -> None:
        self.thresholds = thresholds

    def log_probabilities(self, latent: Float[Tensor, "... latent"]) -> Float[Tensor, "... class"]:
        """log(σ(b_c − f) − σ(b_{c−1} − f)), from log σ(a) − log σ(b) without cancellation."""
        distance = self._distances(latent)
        inside = torch.log(-torch.expm1(distance[..., :-1] - distance[..., 1:]))
        below, above = logsigmoid(distance), logsigmoid(-distance)
        middle = below[..., 1:] + above[..., :-1] + inside
        return torch.cat([below[..., :1], middle, above[..., -1:]], -1)

    def slope(self, latent: Latent, labels: Labels) -> Latent:
        """u + l − 1 of the label's class."""
        lower, upper = self._ends(latent)
        return (labels * (upper + lower - 1)).sum(-1, keepdim=True)

    def curvature(self, latent: Latent, labels: Labels) -> Float[Tensor, "task particle row latent latent"]:
        """u(1 − u) + l(1 − l) of the label's class."""
        lower, upper = self._ends(latent)
        curved = upper * (1 - upper) + lower * (1 - lower)
        return (labels * curved).sum(-1)[..., None, None]

    def _distances(self, latent: Tensor) -> Tensor:
        """b − f, `[task, particle, …, row, threshold]`."""
        between = (1,) * (latent.ndim - 3)
        return self.thresholds.view(*self.thresholds.shape[:2], *between, -1) - latent

    def _ends(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """l and u of every class."""
        ends = self._distances(latent).sigmoid()
        return pad(ends, (1, 0)), pad(ends, (0, 1), value=1.0)
