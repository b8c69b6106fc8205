"""Bare particles: points, whose differences are all of the epistemic uncertainty."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bmaml import class_densities, densities
from bmaml.categorical import Categorical, present_classes
from bmaml.conv_classifier import ConvClassifier
from bmaml.densities import PRECISIONS, Precisions, noise_variance, weights_of, with_precisions
from bmaml.laplace import log_evidence
from bmaml.learners.interface import Belief, CalibratedScalar, InvalidLearner, Kind, Learned, Learner
from bmaml.learners.posterior import Posterior
from bmaml.networks import MLP
from bmaml.predictive import Predictive
from bmaml.shapes import ChannelMoments, Inputs, Particles, PerParticle
from bmaml.task import Examples

Likelihood = Literal["gaussian", "categorical"]


@dataclass(frozen=True)
class BareParticles(Posterior):
    """Adapted particles, and the classes of each task where labels are classes.

    Attributes:
        moments: of the support set, by which a normalised `ConvClassifier` predicts. Without them it takes
            those of the query images (transductive).
    """

    particles: Particles
    present: Bool[Tensor, "task class"] | None = None
    moments: ChannelMoments | None = None


@dataclass(frozen=True)
class Bare(Learner[BareParticles]):
    """The base of learners whose posterior is a set of points.

    Particles carry log γ and log λ after their weights.

    Attributes:
        likelihood: "gaussian" for numbers, "categorical" for classes: a softmax over the outputs whose
            classes the support set names.
        fixed_classes: classes mean the same in every task: the softmax is over all outputs.
        priors: of γ and λ; their starts are those of every particle.
        evidence_weights: weight particles by (Laplace evidence)^τ instead of equally. τ is learned
            where the meta-objective sees it, and fitted on validation tasks in any case.
        mean_gradient: divide the inner rate by the number of rows, as where the likelihood is a mean over
            rows (Finn et al. 2017): one rate then suits few rows and many.

    Raises:
        InvalidLearner: an unknown likelihood, evidence weights for classes, or numbers of a `ConvClassifier`.
    """

    calibrated: ClassVar[Mapping[str, CalibratedScalar]] = {"log_temperature": CalibratedScalar(-8.0, 1.0)}

    likelihood: Likelihood = "gaussian"
    fixed_classes: bool = False
    priors: Precisions = field(default_factory=Precisions)
    evidence_weights: bool = False
    mean_gradient: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.likelihood not in get_args(Likelihood):
            choices = ", ".join(get_args(Likelihood))
            raise InvalidLearner(f"likelihood is one of {choices}; found {self.likelihood!r}")
        if self.fixed_classes and self.likelihood != "categorical":
            raise InvalidLearner("numbers have no classes of fixed meaning")
        if self.likelihood == "gaussian" and not isinstance(self.network, MLP):
            raise InvalidLearner("a convolutional classifier predicts classes; numbers need a perceptron")
        if self.evidence_weights and self.likelihood == "categorical":
            raise InvalidLearner("evidence weights are Laplace's for numbers; classes have none")

    @property
    def kind(self) -> Kind:
        """The kind that the likelihood implies."""
        return "classification" if self.likelihood == "categorical" else "regression"

    @property
    def max_classes(self) -> int | None:
        """One for each output of the network."""
        return self.network.outputs if self.likelihood == "categorical" else None

    @property
    def has_epistemic(self) -> bool:
        """True for more than one particle."""
        return self.particles > 1

    def initialise(self, generator: torch.Generator) -> dict[str, Tensor]:
        """`initial` `[particle, param]`; `log_step_size`, `log_temperature` where they are learned."""
        weights = self.network.initialise(self.particles, generator)
        initial = with_precisions(weights, *self.priors.starts())
        learned = {"initial": initial, **self._rate_start(initial.shape[-1])}
        return {**learned, "log_temperature": torch.zeros(())} if self.evidence_weights else learned

    def rates(self, learned: Learned, support: Examples) -> Float[Tensor, "task 1 #param"]:
        """As of every learner; divided by the rows of the task with `mean_gradient`."""
        rates = super().rates(learned, support)
        return rates / support.counts().clamp_min(1).view(-1, 1, 1) if self.mean_gradient else rates

    def predict(self, posterior: BareParticles, x: Inputs, joint: bool = False) -> Belief:
        """Each particle's mean and noise, or its class probabilities."""
        del joint  # the particles themselves have all covariances
        particles = posterior.particles
        if posterior.present is not None:
            logs = class_densities.class_logs(
                self.network, particles, x, posterior.present, moments=posterior.moments
            )
            return Categorical(logs, posterior.log_weights)
        means = self.network(weights_of(particles), x)
        return Predictive(
            means=means,
            noise=noise_variance(particles)[..., None, None],
            within=means.new_zeros(1, means.shape[1], 1, 1),
            log_weights=posterior.log_weights.expand(len(x), -1),
        )

    @property
    def _perceptron(self) -> MLP:
        """The network of a learner of numbers."""
        assert isinstance(self.network, MLP)
        return self.network

    def _weighted(self, learned: Learned, adapted: Particles, support: Examples) -> BareParticles:
        if self.evidence_weights:
            start = learned["initial"].unsqueeze(0)
            evidence = log_evidence(self._perceptron, adapted, start, support)
            weights = (learned["log_temperature"].exp() * evidence).log_softmax(-1)
        else:
            weights = adapted.new_zeros(len(support), adapted.shape[1]).log_softmax(-1)
        return BareParticles(weights, adapted, self._classes(support), self._moments(adapted, support))

    def _moments(self, adapted: Particles, support: Examples) -> Tensor | None:
        if not isinstance(self.network, ConvClassifier) or not self.network.normalised:
            return None
        return self.network.moments(weights_of(adapted), support.x, support.mask)

    def _classes(self, support: Examples) -> Tensor | None:
        if self.likelihood != "categorical":
            return None
        present = present_classes(support.y, support.mask)
        return torch.ones_like(present) if self.fixed_classes else present

    def _log_likelihood(self, posterior: BareParticles, examples: Examples) -> PerParticle:
        if posterior.present is not None:
            network = self.network
            own = isinstance(network, ConvClassifier) and network.normalisation == "query"
            return class_densities.log_likelihood(
                network,
                posterior.particles,
                examples,
                posterior.present,
                None if own else posterior.moments,
            )
        return densities.log_likelihood(self._perceptron, posterior.particles, examples)

    def _likelihood_scores(self, particles: Particles, examples: Examples) -> Particles:
        if (present := self._classes(examples)) is not None:
            return class_densities.likelihood_scores(self.network, particles, examples, present)
        return densities.likelihood_scores(self._perceptron, particles, examples)

    def _joint_scores(self, particles: Particles, examples: Examples) -> Particles:
        if (present := self._classes(examples)) is not None:
            return class_densities.joint_scores(self.network, particles, examples, present, self.priors)
        return densities.joint_scores(self._perceptron, particles, examples, self.priors)


def without_precisions(rates: Tensor, particles: Tensor) -> Tensor:
    """Inner rates that are zero for log γ and log λ."""
    moving = torch.ones_like(particles[:1, :1])
    moving[..., -PRECISIONS:] = 0
    return rates * moving
