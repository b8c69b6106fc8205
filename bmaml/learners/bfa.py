"""Bayesian fast adaptation (Yoon et al. 2018, §3): SVGD particles trained on the query likelihood."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from bmaml import svgd
from bmaml.densities import (
    Precisions,
    joint_scores,
    log_likelihood,
    noise_variance,
    weights_of,
    with_precisions,
)
from bmaml.learners.interface import Learned, Learner
from bmaml.predictive import Predictive
from bmaml.shapes import Inputs, Particles, Scalar, Verdicts
from bmaml.task import Examples, TaskBatch


@dataclass(frozen=True)
class BareParticles:
    """Equally weighted adapted particles, with the predictor they parametrise."""

    particles: Particles
    tasks: int


@dataclass(frozen=True)
class BFA(Learner[BareParticles]):
    """Adapt by SVGD under log p(support, θ); minimise −log (1/M) Σₘ p(query | θₘ).

    The posterior at serving time is the set of adapted particles, equally weighted. Particles
    carry log γ and log λ after their weights and move them too.
    """

    name: ClassVar[str] = "bfa"

    priors: Precisions = field(default_factory=Precisions)

    def initialise(self, generator: torch.Generator) -> dict[str, Tensor]:
        """`initial` `[particle, param]`, and `log_step_size` where the rate is learned."""
        weights = self.network.initialise(self.particles, generator)
        return {"initial": with_precisions(weights, *self.priors.starts()), **self._rate_start()}

    def adapt(self, learned: Learned, support: Examples, steps: int | None = None) -> BareParticles:
        """`steps` SVGD steps from the shared start on each support set; none on an empty one."""
        initial = learned["initial"].unsqueeze(0)
        steps = self.steps if steps is None else steps
        return BareParticles(self._move(initial, support, steps, self.rates(learned, support)), len(support))

    def predict(self, posterior: BareParticles, x: Inputs, joint: bool = False) -> Predictive:
        """Each particle's mean and noise; all that is epistemic lies between the particles."""
        del joint  # bare particles need nothing more for it
        particles = posterior.particles
        means = self.network(weights_of(particles), x)
        return Predictive(
            means=means,
            noise=noise_variance(particles)[..., None, None],
            within=means.new_zeros(1, self.particles, 1, 1),
            log_weights=means.new_zeros(len(x), self.particles).log_softmax(-1),
        )

    def loss(self, learned: Learned, batch: TaskBatch) -> Scalar:
        """−log of the particles' mean likelihood of the query set, per task."""
        adapted = self.adapt(learned, batch.support).particles
        likelihoods = log_likelihood(self.network, adapted, batch.query)
        return (math.log(self.particles) - torch.logsumexp(likelihoods, -1)).mean()

    def finite(self, posterior: BareParticles) -> Verdicts:
        """True for each task whose particles are all finite."""
        return posterior.particles.isfinite().flatten(1).all(-1).expand(posterior.tasks)

    def _move(self, particles: Particles, examples: Examples, steps: int, rates: Tensor) -> Particles:
        def scores(particles: Tensor) -> Tensor:
            return joint_scores(self.network, particles, examples, self.priors)

        return svgd.run(particles, scores, steps, rates)
