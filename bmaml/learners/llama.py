"""LLAMA (Grant et al. 2018): MAML as hierarchical Bayes, with a Laplace approximation."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from bmaml import laplace
from bmaml.densities import PRECISIONS, log_likelihood
from bmaml.learners.bare import BareParticles
from bmaml.learners.emaml import EMAML
from bmaml.learners.interface import CalibratedScalar, InvalidLearner, Learned
from bmaml.shapes import Scalar
from bmaml.task import Examples, TaskBatch

INITIAL_WEIGHT_PRECISION = 1e3
"""λ before training."""


@dataclass(frozen=True)
class LLAMA(EMAML):
    """Adapt one θ by its gradient; the posterior is a Gaussian around it.

    Minimises −log p(query | θ̂) + η · ½ log |H| / |λI|, with H = λI + γJᵀJ at the adapted point θ̂, the
    Gauss–Newton precision; the constant P log λ is left out. The particles are M exact draws from N(θ̂, H⁻¹).
    All tasks share the standard normal vectors, so that an answer depends neither on its batch nor on chance.
    The loss says nothing about λ, the precision around the start: it is fitted to the validation tasks.

    Attributes:
        particles: M, the number of draws.
        occam: η, the weight of the log determinant in the loss.
        seed: of the draws.

    Raises:
        InvalidLearner: a negative η, or classes.
    """

    name: ClassVar[str] = "llama"
    calibrated: ClassVar[Mapping[str, CalibratedScalar]] = {
        "log_weight_precision": CalibratedScalar(-7.0, 7.0)
    }

    occam: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.occam < math.inf:
            raise InvalidLearner(f"occam cannot be negative; found {self.occam}")
        if self.likelihood == "categorical":
            raise InvalidLearner("llama predicts numbers; for classes choose another learner")
        if self.evidence_weights:
            raise InvalidLearner("draws from one Gaussian have one evidence; llama takes no evidence_weights")

    def drawing(self, seed: int) -> "LLAMA":
        """The learner whose draws have this seed."""
        return replace(self, seed=seed)

    def initialise(self, generator: torch.Generator) -> dict[str, Tensor]:
        """`initial` `[1, param]`, the scalar `log_weight_precision`, and the rate where it is learned."""
        learned = super().initialise(generator)
        start = torch.tensor(INITIAL_WEIGHT_PRECISION).log()
        return {**learned, "initial": learned["initial"][:1], "log_weight_precision": start}

    def adapt(self, learned: Learned, support: Examples, steps: int | None = None) -> BareParticles:
        """M draws around the point that `steps` gradient steps reach."""
        point = super().adapt(learned, support, steps).particles
        standard = self._standard(point)
        weights = laplace.draws(self._perceptron, point, support, learned["log_weight_precision"], standard)
        precisions = point[..., -PRECISIONS:].expand(len(weights), self.particles, -1)
        return self._weighted(learned, torch.cat([weights, precisions], -1), support)

    def loss(self, learned: Learned, batch: TaskBatch) -> Scalar:
        """The query loss of the point, and η times half the log volume of H relative to the prior."""
        point = super().adapt(learned, batch.support).particles
        loss = -log_likelihood(self._perceptron, point, batch.query).mean()
        if not self.occam:
            return loss
        log_ratio = point[..., -2] - learned["log_weight_precision"].detach()
        volume = laplace.log_volume(self._perceptron, point, batch.support, log_ratio).mean()
        return loss + self.occam * 0.5 * volume

    def _standard(self, point: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.particles, point.shape[-1] - PRECISIONS)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(point)
