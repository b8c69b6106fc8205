"""Ensemble MAML: M independent networks, each adapted by plain gradient ascent."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bmaml.learners.bare import Bare, BareParticles, without_precisions
from bmaml.learners.interface import Learned
from bmaml.shapes import Particles, Scalar
from bmaml.task import Examples, TaskBatch


@dataclass(frozen=True)
class EMAML(Bare):
    """Adapt each of M starts by w ← w + ε ∇ log p(support | w); minimise −(1/M) Σₘ log p(query | wₘ).

    It is the baseline of Yoon et al. 2018: MAML (Finn et al. 2017) M times. The gradient is of the summed log
    likelihood; number and size of the steps are the only prior (Grant et al. 2018, §3.1). The precision of
    the noise is meta-learned, and fixed within a task.
    """

    name: ClassVar[str] = "emaml"

    def adapt(self, learned: Learned, support: Examples, steps: int | None = None) -> BareParticles:
        """`steps` gradient steps of every particle on each support set; none on an empty one."""
        particles: Particles = learned["initial"].unsqueeze(0)
        rates = without_precisions(self.rates(learned, support), particles)
        return self._weighted(learned, self._climb(particles, support, steps, rates), support)

    def loss(self, learned: Learned, batch: TaskBatch) -> Scalar:
        """−log p(query | particle), a mean over particles and tasks."""
        return -self._log_likelihood(self.adapt(learned, batch.support), batch.query).mean()

    def _climb(self, particles: Particles, support: Examples, steps: int | None, rates: Tensor) -> Particles:
        for _ in range(self.steps if steps is None else steps):
            particles = particles + rates * self._likelihood_scores(particles, support)
        return particles
