"""Conjugate particles: Gaussian classes with exact posterior means, on learned projections.

Particle m projects the features of a row, z = A_mᵀ f(x) + b_m (its network). In its model a class has mean
μ_c ~ N(0, diag τ²) and rows z | c ~ N(μ_c, diag σ²), dimension by dimension. With n rows of mean z̄ in a
class, the posterior of its mean has

    precision   1/v = 1/τ² + n/σ²          mean   m = v n z̄ / σ²

and the class of a query follows from Bayes' rule with equal priors: z* | c has mean m and variances v + σ².
A query of unknown scale, Gaussian given the scale, has a Student-t density,

    log p(z* | c) = −½ s [ Σ log(v + σ²) + k log(1 + D²/k) ],    D² = Σ (z* − m)² / (v + σ²)

up to a constant, with a learned knee k and sharpness s; k → ∞ is the Gaussian. The tails matter for an image
that is like none of the classes: far from all of them, a Gaussian is ever more certain of the nearest, and a
Student-t ever less. The support's

    log p(z | c) = −½ Σ [ n log 2πσ² + log(1 + nτ²/σ²) + Σᵢ zᵢ²/σ² − m²/v ]

weighs the particles with `evidence_weights`, ∝ exp(temperature · Σ_c log p). Densities of different
projections have different units, so that the temperature, which starts near zero, is learned. One particle
wins every task all the same, with many rows perhaps the wrong one. Otherwise their weights are equal.

With `own_scatter` a task whitens its projection by the scatter of its own rows within classes. The scatter of
r = n − C residuals of n rows in C classes is shrunk towards σ² as by ν rows, per unit of σ²:

    W = (ν I + Rᵀ R) / (ν + r)          z ← W^(−½) z

with rows of R the residuals over σ. It is I where every class has one row. The rows of a class may vary in
other directions than those of the training classes do. Gradients do not pass through W. Σ log(v + σ²) then
counts with a calibrated part, the volume. It alone differs between classes of few and of many rows wherever
the query is. Over many dimensions it outgrows the distances, and answers to uneven shots are too sure.

With τ, k → ∞ and one σ, each particle is a prototypical network (Snell et al. 2017). A finite τ shrinks
classes of few rows towards the middle, and v is the uncertainty of their means. Neither the number of classes
nor that of rows is bounded, and nothing iterates. Absent classes have no rows, and no place in Bayes' rule.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bmaml.categorical import normalised, present_classes
from bmaml.densities import LOG_2PI
from bmaml.learners.conjugate_belief import ConjugateBelief
from bmaml.learners.interface import CalibratedScalar, InvalidLearner, Kind, Learned, Learner
from bmaml.learners.posterior import Posterior
from bmaml.networks import MLP
from bmaml.shapes import Inputs, Particles, Scalar
from bmaml.task import Examples, TaskBatch

INITIAL_TEMPERATURE = 0.01
"""The temperature of the evidence before training."""
INITIAL_ROWS = 30.0
"""ν before calibration: rows of the task that count as much as training's scatter."""
MIN_SCATTER = 1e-6
"""Squared residuals, over σ², below which a direction is that of no residual."""
INITIAL_KNEE = 2.0
"""k before training, per dimension of the projection: a row of the class has D² of about one for each."""


@dataclass(frozen=True)
class ConjugatePosterior(Posterior):
    """The posterior of every class's mean in every particle.

    Attributes:
        projections: the particles, `[1, particle, param]`.
        means, variances: m and v, of each class's mean in z.
        scatter: σ².
        present: classes that have rows.
        sharpness, knee: s and k.
        volume: the part of Σ log(v + σ²) that counts.
        directions: W^(−½) = stretch · (I − Pᵀ P), with these rows of P; none without an own scatter.
        stretch: the other part of it.
    """

    projections: Particles
    means: Float[Tensor, "task particle class dimension"]
    variances: Float[Tensor, "task particle class dimension"]
    scatter: Float[Tensor, "#task particle 1 dimension"]
    present: Bool[Tensor, "task class"]
    sharpness: Scalar
    knee: Scalar
    volume: Scalar
    directions: Float[Tensor, "#task #particle row dimension"]
    stretch: Float[Tensor, "#task 1 1 1"]


@dataclass(frozen=True)
class Conjugate(Learner[ConjugatePosterior]):
    """Learn projections in which classes are Gaussian after a few rows.

    Minimises −log Σₘ weightₘ p(class of the query | particle m), averaged over query rows and over the
    numbers of classes in `ways`. Classes are independent given the projections, so that a task of many
    classes contains several smaller tasks at the cost of Bayes' rule alone.

    Attributes:
        steps: always 0, since the posterior is exact.
        ways: numbers of classes that the meta-objective also asks about, beside all of a task.
        evidence_weights: weigh the particles by the evidence of the support set, to a learned power.
        own_scatter: whiten a task by the scatter of its own rows, shrunk towards the learned one, and
            calibrate the volume's part.

    Raises:
        InvalidLearner: inner steps, ways below two, or evidence weights beside an own scatter.
    """

    name: ClassVar[str] = "conjugate"
    max_steps: ClassVar[int] = 0
    calibrated: ClassVar[Mapping[str, CalibratedScalar]] = {
        "log_knee": CalibratedScalar(-3.0, 3.0),
        "log_sharpness": CalibratedScalar(-1.5, 1.5),
        "log_rows": CalibratedScalar(-3.0, 3.0, trained=False),
        "volume": CalibratedScalar(-1.0, 0.5, trained=False),
    }

    network: MLP
    steps: int = 0
    ways: tuple[int, ...] = ()
    evidence_weights: bool = True
    own_scatter: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(ways < 2 for ways in self.ways):
            raise InvalidLearner(f"ways start at two classes; found {self.ways}")
        if self.evidence_weights and self.own_scatter:
            raise InvalidLearner(
                "evidence_weights compare densities of one scatter: leave them out with own_scatter"
            )

    @property
    def kind(self) -> Kind:
        """Always classification."""
        return "classification"

    def initialise(self, generator: torch.Generator) -> dict[str, Tensor]:
        """`initial` `[particle, param]`; log τ as `log_between` and log σ as `log_within`, `[particle, …]`.

        Also the scalars `log_sharpness`, `log_knee` and, with evidence weights, `log_temperature`.
        """
        per_dimension = (self.particles, self.network.outputs)
        learned = {
            "initial": self.network.initialise(self.particles, generator),
            "log_between": torch.zeros(per_dimension),
            "log_within": torch.zeros(per_dimension),
            "log_sharpness": torch.zeros(()),
            "log_knee": torch.tensor(math.log(INITIAL_KNEE * self.network.outputs)),
        }
        if self.own_scatter:
            learned["log_rows"] = torch.tensor(math.log(INITIAL_ROWS))
            learned["volume"] = torch.ones(())
        temperature = {"log_temperature": torch.tensor(math.log(INITIAL_TEMPERATURE))}
        return {**learned, **temperature} if self.evidence_weights else learned

    def adapt(self, learned: Learned, support: Examples, steps: int | None = None) -> ConjugatePosterior:
        """The posterior of every class in every particle, and the particles' weights."""
        del steps
        return self._posterior(learned, support, self._projected(learned, support.x))

    def predict(self, posterior: ConjugatePosterior, x: Inputs, joint: bool = False) -> ConjugateBelief:
        """Bayes' rule in every particle, over the classes of the task."""
        del joint
        return self._belief(posterior, self.network(posterior.projections, x))

    def looks(self, learned: Learned, support: Examples, x: Inputs) -> Callable[[Learned], ConjugateBelief]:
        """The belief as a function of the calibrated scalars; rows are projected once."""
        shown, asked = self._projected(learned, support.x), self._projected(learned, x)
        return lambda trial: self._belief(self._posterior(trial, support, shown), asked)

    def _projected(self, learned: Learned, x: Inputs) -> Tensor:
        return self.network(learned["initial"].unsqueeze(0), x)

    def _posterior(self, learned: Learned, support: Examples, z: Tensor) -> ConjugatePosterior:
        """The posterior from the projected support rows."""
        posterior, own, evidence = self._condition(learned, support, z)
        weights = self._votes(learned, evidence).sum(-1).log_softmax(-1)
        return ConjugatePosterior(weights, *posterior, *self._tails(learned), *own)

    def _belief(self, posterior: ConjugatePosterior, z: Tensor) -> ConjugateBelief:
        """The belief about projected rows."""
        z = _whitened(z, posterior)
        return ConjugateBelief(
            normalised(_log_densities(posterior, z), posterior.present),
            posterior.log_weights,
            z,
            posterior.means,
            posterior.variances,
            posterior.scatter,
            posterior.present,
            posterior.sharpness,
            posterior.knee,
        )

    def loss(self, learned: Learned, batch: TaskBatch) -> Scalar:
        """−log probability of the true class, a mean over rows, tasks and numbers of classes."""
        shown = self._projected(learned, batch.support.x)
        conditioned, scatter, evidence = self._condition(learned, batch.support, shown)
        votes = self._votes(learned, evidence)
        whole = votes.sum(-1).log_softmax(-1)
        posterior = ConjugatePosterior(whole, *conditioned, *self._tails(learned), *scatter)
        z = _whitened(self.network(posterior.projections, batch.query.x), posterior)
        logits = _log_densities(posterior, z)
        classes = logits.shape[-1]
        mask, y = batch.query.mask, batch.query.y
        total = logits.new_zeros(())
        sizes = (classes, *(ways for ways in self.ways if ways < classes))
        for ways in sizes:
            # Neighbouring classes form the smaller tasks: labels have no meaning, so any grouping will do.
            group = torch.arange(classes, device=logits.device) // ways
            own = (y @ torch.nn.functional.one_hot(group).to(y.dtype)).argmax(-1)  # [task, row]
            among = (group == own.unsqueeze(-1)) & posterior.present.unsqueeze(1)  # [task, row, class]
            log_p = logits.masked_fill(~among.unsqueeze(1), -torch.inf).log_softmax(-1)
            truth = torch.where(y.unsqueeze(1) > 0, log_p, 0.0).sum(-1)  # [task, particle, row]
            of_groups = (votes @ torch.nn.functional.one_hot(group).to(votes.dtype)).log_softmax(1)
            chosen = of_groups.gather(-1, own.unsqueeze(1).expand(-1, votes.shape[1], -1))
            mixed = torch.logsumexp(truth + chosen, 1)
            total = total - torch.where(mask, mixed, 0.0).sum() / mask.sum().clamp_min(1)
        return total / len(sizes)

    def evidence(self, learned: Learned, support: Examples) -> Float[Tensor, "task particle class"]:
        """log p(z of a class's rows) of every particle; zero for a class without rows."""
        return self._condition(learned, support, self._projected(learned, support.x))[2]

    def _condition(
        self, learned: Learned, support: Examples, z: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
        """The posterior's tensors from the projections on, those of the own scatter, and the evidence."""
        projections = learned["initial"].unsqueeze(0)
        between = (2 * learned["log_between"]).exp()[None, :, None]  # τ², [1, particle, 1, dimension]
        within = (2 * learned["log_within"]).exp()[None, :, None]
        labels = (support.y * support.mask.unsqueeze(-1)).unsqueeze(1)  # [task, 1, row, class]
        counts = labels.sum(2).unsqueeze(-1)
        own = self._own_scatter(learned, z, labels, counts, within)
        z = _transformed(z, within, *own)
        total, squares = labels.mT @ z, labels.mT @ z.square()
        variance = 1 / (1 / between + counts / within)
        mean = variance * total / within
        terms = counts * (LOG_2PI + within.log()) + torch.log1p(counts * between / within)
        evidence = -0.5 * (terms + squares / within - mean.square() / variance).sum(-1)
        present = present_classes(support.y, support.mask)
        return (projections, mean, variance, within, present), own, evidence

    @torch.no_grad()
    def _own_scatter(
        self, learned: Learned, z: Tensor, labels: Tensor, counts: Tensor, within: Tensor
    ) -> tuple[Tensor, Tensor]:
        """P and the stretch of W^(−½), from the eigenvectors of the residuals' Gram matrix."""
        if not self.own_scatter:
            return z.new_zeros(1, 1, 0, z.shape[-1]), z.new_ones(1, 1, 1, 1)
        middle = (labels.mT @ z) / counts.clamp_min(1)
        residuals = (z - labels @ middle) * labels.sum(-1, keepdim=True) / within.sqrt()
        degrees = (counts.sum(2, keepdim=True) - (counts > 0).sum(2, keepdim=True)).clamp_min(0)
        rows = learned["log_rows"].exp()
        kept = rows / (rows + degrees)  # the share of training's scatter
        squares, vectors = torch.linalg.eigh(residuals @ residuals.mT)
        there = squares > MIN_SCATTER
        directions = (vectors / squares.clamp_min(MIN_SCATTER).sqrt().unsqueeze(-2)).mT @ residuals
        scaled = torch.where(there, squares, 0.0).unsqueeze(-1) / (rows + degrees)
        gain = 1 - (kept / (kept + scaled)).sqrt()
        return directions * gain.sqrt(), kept.rsqrt()

    def _votes(self, learned: Learned, evidence: Tensor) -> Float[Tensor, "task particle class"]:
        """The part of each class in a particle's log weight."""
        if not self.evidence_weights:
            return torch.zeros_like(evidence)
        return learned["log_temperature"].exp() * evidence

    def _tails(self, learned: Learned) -> tuple[Scalar, Scalar, Scalar]:
        """s, k and the volume's part, which training does not move."""
        sharpness = learned["log_sharpness"].exp()
        volume = learned["volume"].detach() if self.own_scatter else torch.ones_like(sharpness)
        return sharpness, learned["log_knee"].exp(), volume


def _whitened(z: Tensor, posterior: ConjugatePosterior) -> Tensor:
    """Projected rows in the task's own scatter."""
    return _transformed(z, posterior.scatter, posterior.directions, posterior.stretch)


def _transformed(z: Tensor, within: Tensor, directions: Tensor, stretch: Tensor) -> Tensor:
    """W^(−½) z, in units of the scatter `within`."""
    if not directions.shape[2]:
        return z
    scale = within.sqrt()
    unit = z / scale
    return scale * stretch * (unit - (unit @ directions.mT) @ directions)


def _log_densities(posterior: ConjugatePosterior, z: Tensor) -> Tensor:
    """log p(z* | class) up to a constant, `[task, particle, row, class]`, from two matrix products."""
    spread = posterior.variances + posterior.scatter
    precision = 1 / spread
    weighted = posterior.means * precision
    square = z.square() @ precision.mT - 2 * (z @ weighted.mT)
    square = (square + (posterior.means * weighted).sum(-1).unsqueeze(2)).clamp_min(0)
    bent = posterior.knee * torch.log1p(square / posterior.knee)
    volume = posterior.volume * spread.log().sum(-1).unsqueeze(2)
    return -0.5 * posterior.sharpness * (volume + bent)
