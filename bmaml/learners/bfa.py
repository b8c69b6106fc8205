"""Bayesian fast adaptation (Yoon et al. 2018, §3): SVGD particles trained on the query likelihood."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bmaml import fused_svgd, svgd
from bmaml.learners.bare import Bare, BareParticles, without_precisions
from bmaml.learners.interface import Learned
from bmaml.shapes import Particles, Scalar
from bmaml.task import Examples, TaskBatch


@dataclass(frozen=True)
class BFA(Bare):
    """Adapt by SVGD under log p(support, θ); minimise −log Σₘ weightₘ p(query | θₘ).

    The weights are 1/M, as published, unless `evidence_weights` is set. The precisions that particles carry
    after their weights move with them, unless they are fixed.

    Attributes:
        fixed_precisions: leave the precisions where they are meta-learned. The second derivative of the log
            joint in log λ is about half the number of weights: for the heads of images no inner rate that
            moves the weights is stable.
    """

    name: ClassVar[str] = "bfa"

    fixed_precisions: bool = False

    def adapt(self, learned: Learned, support: Examples, steps: int | None = None) -> BareParticles:
        """`steps` SVGD steps from the shared start on each support set; none on an empty one."""
        initial = learned["initial"].unsqueeze(0)
        steps = self.steps if steps is None else steps
        adapted = self._move(initial, support, steps, self._rates(learned, support))
        return self._weighted(learned, adapted, support)

    def loss(self, learned: Learned, batch: TaskBatch) -> Scalar:
        """−log likelihood of the query set under the weighted particles, a mean over tasks."""
        posterior = self.adapt(learned, batch.support)
        likelihoods = self._log_likelihood(posterior, batch.query)
        return -torch.logsumexp(likelihoods + posterior.log_weights, -1).mean()

    def _rates(self, learned: Learned, examples: Examples) -> Tensor:
        rates = self.rates(learned, examples)
        return without_precisions(rates, learned["initial"].unsqueeze(0)) if self.fixed_precisions else rates

    def _move(self, particles: Particles, examples: Examples, steps: int, rates: Tensor) -> Particles:
        no_gradient = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if no_gradient and steps and self.likelihood == "gaussian":
            return fused_svgd.run(self._perceptron, particles, examples, self.priors, steps, rates)

        def scores(particles: Tensor) -> Tensor:
            return self._joint_scores(particles, examples)

        return svgd.run(particles, scores, steps, rates)
