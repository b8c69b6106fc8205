"""Conjugate particles: Gaussian classes with exact posterior means, on learned projections.

Particle m projects the features of a row, z = A_mᵀ f(x) + b_m (its network), and believes that a class
has mean μ_c ~ N(0, diag τ²) and rows z | c ~ N(μ_c, diag σ²), dimension by dimension. With n rows of
mean z̄ in a class the posterior of its mean has

    precision   1/v = 1/τ² + n/σ²          mean   m = v n z̄ / σ²

and the class of a query follows from Bayes' rule with z* | c about m with variances v + σ², each class as
likely as the others beforehand. A query of unknown scale, Gaussian given it, has a Student-t density,

    log p(z* | c) = −½ s [ Σ log(v + σ²) + k log(1 + D²/k) ],    D² = Σ (z* − m)² / (v + σ²)

up to a constant, with a learned knee k and sharpness s; k → ∞ is the Gaussian. Its tails are what keeps
the answer honest about a picture that is like none of the classes: far from all of them a Gaussian
is ever surer which is nearest, and this is ever less. The support's

    log p(z | c) = −½ Σ [ n log 2πσ² + log(1 + nτ²/σ²) + Σᵢ zᵢ²/σ² − m²/v ]

weighs the particles, ∝ exp(temperature · Σ_c log p). Densities of different projections are not in the
same units, so the learned temperature, which starts near zero, decides how much they count.

With τ, k → ∞ and one σ this is a prototypical network (Snell et al. 2017) in each particle; a finite τ
shrinks classes of few rows to the middle, and v tells how little is known of them. No limit on the
number of classes or of rows; nothing iterates. Padding and absent classes have no rows and are
left out of Bayes' rule.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bmaml.categorical import Categorical, classes_of, normalised
from bmaml.densities import LOG_2PI
from bmaml.learners.interface import CalibratedScalar, InvalidLearner, Kind, Learned, Learner
from bmaml.learners.posterior import Posterior
from bmaml.shapes import Inputs, Particles, Scalar
from bmaml.task import Examples, TaskBatch

FIRST_TEMPERATURE = 0.01
FIRST_KNEE = 2.0
"""Per dimension of the projection: D² is about one per dimension for a row of the class."""


@dataclass(frozen=True)
class ConjugatePosterior(Posterior):
    """What each particle believes about every class's mean.

    Attributes:
        projections: the particles, `[1, particle, param]`.
        means, variances: of a class's rows, posterior and scatter together, in z.
        present: classes that have rows.
        sharpness, knee: s and k.
    """

    projections: Particles
    means: Float[Tensor, "task particle class dimension"]
    variances: Float[Tensor, "task particle class dimension"]
    present: Bool[Tensor, "task class"]
    sharpness: Scalar
    knee: Scalar


@dataclass(frozen=True)
class Conjugate(Learner[ConjugatePosterior]):
    """Learn projections in which classes are Gaussian after a few rows.

    Minimises −log Σₘ weightₘ p(class of the query | particle m), averaged over query rows and over the
    numbers of classes in `ways`: since classes do not know of each other, a task of many is at once
    several smaller ones, at no cost but Bayes' rule.

    Attributes:
        steps: always 0, since the posterior is exact.
        ways: numbers of classes that the meta-objective also asks about, beside all of a task.

    Raises:
        InvalidLearner: inner steps, or ways below two.
    """

    name: ClassVar[str] = "conjugate"
    max_steps: ClassVar[int] = 0
    calibrated: ClassVar[Mapping[str, CalibratedScalar]] = {
        "log_knee": CalibratedScalar(-3.0, 3.0),
        "log_sharpness": CalibratedScalar(-1.5, 1.5),
    }

    steps: int = 0
    ways: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(ways < 2 for ways in self.ways):
            raise InvalidLearner(f"ways start at two classes; found {self.ways}")

    @property
    def kind(self) -> Kind:
        """Classes."""
        return "classification"

    def initialise(self, generator: torch.Generator) -> dict[str, Tensor]:
        """`initial` `[particle, param]`; log τ as `log_between` and log σ as `log_within`, `[particle, …]`.

        Also the scalars `log_temperature`, `log_sharpness` and `log_knee`.
        """
        per_dimension = (self.particles, self.network.outputs)
        return {
            "initial": self.network.initialise(self.particles, generator),
            "log_between": torch.zeros(per_dimension),
            "log_within": torch.zeros(per_dimension),
            "log_temperature": torch.tensor(math.log(FIRST_TEMPERATURE)),
            "log_sharpness": torch.zeros(()),
            "log_knee": torch.tensor(math.log(FIRST_KNEE * self.network.outputs)),
        }

    def adapt(self, learned: Learned, support: Examples, steps: int | None = None) -> ConjugatePosterior:
        """Every class's posterior in every particle; the weights from all classes together."""
        del steps
        posterior, evidence = self._condition(learned, support)
        weights = (learned["log_temperature"].exp() * evidence.sum(-1)).log_softmax(-1)
        return ConjugatePosterior(weights, *posterior, *self._tails(learned))

    def predict(self, posterior: ConjugatePosterior, x: Inputs, joint: bool = False) -> Categorical:
        """Bayes' rule in every particle, over the classes of the task."""
        del joint
        logits = self._log_densities(posterior, x)
        return Categorical(normalised(logits, posterior.present), posterior.log_weights)

    def loss(self, learned: Learned, batch: TaskBatch) -> Scalar:
        """−log probability of the true class, a mean over rows, tasks and numbers of classes."""
        (projections, means, variances, present), evidence = self._condition(learned, batch.support)
        weights = learned["log_temperature"].exp() * evidence  # [task, particle, class]
        whole = weights.sum(-1).log_softmax(-1)
        tails = self._tails(learned)
        posterior = ConjugatePosterior(whole, projections, means, variances, present, *tails)
        logits = self._log_densities(posterior, batch.query.x)
        classes = logits.shape[-1]
        mask, y = batch.query.mask, batch.query.y
        total = logits.new_zeros(())
        sizes = (classes, *(ways for ways in self.ways if ways < classes))
        for ways in sizes:
            # Classes side by side form the smaller task; labels have no meaning, so any grouping will do.
            group = torch.arange(classes, device=logits.device) // ways
            own = (y @ torch.nn.functional.one_hot(group).to(y.dtype)).argmax(-1)  # [task, row]
            among = (group == own.unsqueeze(-1)) & present.unsqueeze(1)  # [task, row, class]
            log_p = logits.masked_fill(~among.unsqueeze(1), -torch.inf).log_softmax(-1)
            truth = torch.where(y.unsqueeze(1) > 0, log_p, 0.0).sum(-1)  # [task, particle, row]
            of_groups = weights @ torch.nn.functional.one_hot(group).to(weights.dtype)
            chosen = of_groups.log_softmax(1).gather(-1, own.unsqueeze(1).expand(-1, weights.shape[1], -1))
            mixed = torch.logsumexp(truth + chosen, 1)
            total = total - torch.where(mask, mixed, 0.0).sum() / mask.sum().clamp_min(1)
        return total / len(sizes)

    def evidence(self, learned: Learned, support: Examples) -> Float[Tensor, "task particle class"]:
        """log p(z of a class's rows) of every particle; zero for a class without rows."""
        return self._condition(learned, support)[1]

    def _condition(
        self, learned: Learned, support: Examples
    ) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
        projections = learned["initial"].unsqueeze(0)
        between = (2 * learned["log_between"]).exp()[None, :, None]  # τ², [1, particle, 1, dimension]
        within = (2 * learned["log_within"]).exp()[None, :, None]
        z = self.network(projections, support.x)
        labels = (support.y * support.mask.unsqueeze(-1)).unsqueeze(1)  # [task, 1, row, class]
        counts = labels.sum(2).unsqueeze(-1)
        total, squares = labels.mT @ z, labels.mT @ z.square()
        variance = 1 / (1 / between + counts / within)
        mean = variance * total / within
        terms = counts * (LOG_2PI + within.log()) + torch.log1p(counts * between / within)
        evidence = -0.5 * (terms + squares / within - mean.square() / variance).sum(-1)
        present = classes_of(support.y, support.mask)
        return (projections, mean, variance + within, present), evidence

    def _log_densities(self, posterior: ConjugatePosterior, x: Tensor) -> Tensor:
        """log p(z* | class) up to a constant, `[task, particle, row, class]`, from two matrix products."""
        z, precision = self.network(posterior.projections, x), 1 / posterior.variances
        weighted = posterior.means * precision
        square = z.square() @ precision.mT - 2 * (z @ weighted.mT)
        square = (square + (posterior.means * weighted).sum(-1).unsqueeze(2)).clamp_min(0)
        volume = posterior.variances.log().sum(-1).unsqueeze(2)
        bent = posterior.knee * torch.log1p(square / posterior.knee)
        return -0.5 * posterior.sharpness * (volume + bent)

    def _tails(self, learned: Learned) -> tuple[Scalar, Scalar]:
        return learned["log_sharpness"].exp(), learned["log_knee"].exp()
