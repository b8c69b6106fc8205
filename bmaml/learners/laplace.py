"""Laplace particles: classes of fixed meaning, known before the first row and adjusted by the rows of a task.

In every task of a family the same classes occur, *fails* and *passes* for instance. Particle m holds the
latent values g(x) of a task without rows, and how tasks differ:

    f(x) = g(x) + B Wᵀ ψ(x),        W ~ N(0, I)

with R effects ψ(x) = Aᵀ (1, x, φ(x)) and K factors of the classes, the columns of B. φ is the last hidden
layer of the particle's network; g is the network's output plus a linear function of x. This is the
generalised linear mixed model (Breslow & Clayton 1993) on learned features: g has the fixed effects, W the
random ones, and a constant ψ alone is the random intercept. Classes without order have a latent value each;
ordered ones share one and have thresholds (`bmaml.class_likelihoods`).

Each particle is held at several scales s, which multiply ψ: some tasks differ little from the family, others
much. The mixture over scales has heavier tails than a normal W. The posterior of W given the support set is
Gaussian by Laplace's method, corrected by importance weights of draws from it (`bmaml.random_effects`), whose
mean is the evidence of a (particle, scale) pair. Its weight is ∝ π(s) exp(τ · evidence), with learned π and
τ. The class probabilities of a query are weighted means over the draws of W, the same for all rows. A pair
with a draw is a hypothesis: the epistemic part of an answer is the mutual information of the label and the
hypothesis, which labels remove. An empty support set leaves the prior and its equally weighted draws, so that
it has an answer.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from bmaml.categorical import Categorical
from bmaml.class_likelihoods import ClassLikelihood, Nominal, Ordered
from bmaml.learners.interface import InvalidLearner, Kind, Learned, Learner
from bmaml.learners.posterior import Posterior
from bmaml.networks import MLP
from bmaml.normal_draws import orthogonal_normals
from bmaml.random_effects import condition, importance_weights
from bmaml.shapes import Inputs, Particles, PerRow, Scalar
from bmaml.task import Examples, TaskBatch

PAIRS = 16
"""Antithetic pairs of draws of a particle's random effects."""
INITIAL_INTERCEPT = 0.7
"""Standard deviation of the random intercept before training, in logits."""
INITIAL_EFFECT = 0.1
"""Standard deviation of the other random effects before training, in logits, for a row of unit variance."""
MIN_GAP = 0.05
"""The smallest distance of neighbouring thresholds before training."""


@dataclass(frozen=True)
class DrawnBelief(Categorical):
    """Class probabilities of every particle, and those in every draw of its random effects.

    Attributes:
        drawn: log probabilities in every draw.
        draw_weights: logarithms of the weights of a particle's draws, normalised.
    """

    drawn: Float[Tensor, "task particle draw row class"]
    draw_weights: Float[Tensor, "task particle draw"]

    @property
    def hypotheses(self) -> Categorical:
        """The class probabilities in every draw of every particle."""
        each = self.log_weights.unsqueeze(-1) + self.draw_weights
        return Categorical(self.drawn.flatten(1, 2), each.flatten(1))

    def expected_entropy(self) -> PerRow:
        """The part of the entropy that labels do not remove, in nats (aleatoric)."""
        return self.hypotheses.expected_entropy()

    def mutual_information(self) -> PerRow:
        """Mutual information of the label and (particle, random effects), in nats (epistemic)."""
        return self.hypotheses.mutual_information()

    def votes(self) -> Float[Tensor, "task row class"]:
        """The weight of the draws that name each class the most probable one."""
        return self.hypotheses.votes()

    def part(self, tasks: slice, rows: slice = slice(None)) -> "DrawnBelief":
        """The belief about some rows of some tasks."""
        return replace(
            self,
            log_probabilities=self.log_probabilities[tasks, :, rows],
            log_weights=self.log_weights[tasks],
            drawn=self.drawn[tasks, :, :, rows],
            draw_weights=self.draw_weights[tasks],
        )


@dataclass(frozen=True)
class LaplacePosterior(Posterior):
    """The posterior of every particle's random effects, and the learned tensors that a prediction needs.

    Attributes:
        particles: of the network.
        fixed: the linear part of g; the first row belongs to the constant.
        random: A; the first row belongs to the constant.
        loadings: B.
        thresholds: b of ordered classes; of length zero for others.
        draws: of W.
        draw_weights: logarithms of their weights within a hypothesis, normalised.
    """

    per_task = frozenset({"log_weights", "draws", "draw_weights"})

    particles: Particles
    fixed: Float[Tensor, "1 particle term latent"]
    random: Float[Tensor, "1 particle feature effect"]
    loadings: Float[Tensor, "1 hypothesis latent factor"]
    thresholds: Float[Tensor, "1 hypothesis threshold"]
    draws: Float[Tensor, "#task hypothesis draw effect factor"]
    draw_weights: Float[Tensor, "#task hypothesis draw"]


@dataclass(frozen=True)
class Laplace(Learner[LaplacePosterior]):
    """Learn a mixed-effects model of classes whose features are a network's.

    Minimises −log p(class of the query), a mean over rows and tasks, plus `shrinkage` times half the squares
    of the network's weights, of the fixed and of the random effects, intercepts apart, a mean over particles.

    Attributes:
        network: gives one output for each class; a single one for ordered classes.
        classes: C, the number of classes.
        ordered: whether the classes have an order.
        scales: s, the sizes of the random effects at which each particle is held.
        effects: R, the number of random effects.
        factors: K, the number of directions in which a random effect moves the classes; at most C − 1.
        shrinkage: the penalty's factor; the command divides it by the number of training tasks.

    Raises:
        InvalidLearner: fewer than two classes, or a number of outputs, effects or factors that does not fit.
    """

    name: ClassVar[str] = "laplace"
    max_steps: ClassVar[int] = 0

    network: MLP
    steps: int = 0
    classes: int = 2
    ordered: bool = False
    scales: tuple[float, ...] = (1.0,)
    effects: int = 4
    factors: int = 1
    shrinkage: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes < 2:
            raise InvalidLearner(f"a classifier needs two classes; found {self.classes}")
        if self.network.outputs != self.latents:
            raise InvalidLearner(f"the network needs {self.latents} outputs; found {self.network.outputs}")
        most = 1 if self.ordered else self.classes - 1
        if self.effects < 1 or not 1 <= self.factors <= most:
            raise InvalidLearner(
                f"there are one or more effects and 1 to {most} factors; found {self.effects}, {self.factors}"
            )
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise InvalidLearner(f"scales must be positive numbers; found {self.scales}")
        if not 0 <= self.shrinkage < math.inf:
            raise InvalidLearner(f"shrinkage cannot be negative; found {self.shrinkage}")

    @property
    def kind(self) -> Kind:
        """Always classification."""
        return "classification"

    @property
    def fixed_classes(self) -> bool:
        """Always."""
        return True

    @property
    def max_classes(self) -> int:
        """C, the number of classes of every task."""
        return self.classes

    @property
    def hypotheses(self) -> int:
        """Pairs of a particle and a scale."""
        return self.particles * len(self.scales)

    @property
    def latents(self) -> int:
        """The number of latent values of a row."""
        return 1 if self.ordered else self.classes

    def initialise(self, generator: torch.Generator) -> dict[str, Tensor]:
        """`initial` `[particle, param]`, `fixed_effects`, `random_effects`, `loadings` and the scalars.

        g starts near zero, the classes equally probable. Ordered classes have `first_threshold` and
        `log_gaps`, `[particle, …]`, instead of `loadings`.
        """
        network, particles = self.network, self.particles
        initial = network.initialise(particles, generator)
        initial[:, -network.head_size :] *= 0.01
        features = 1 + network.inputs + network.feature_size
        effects = torch.randn(particles, features, self.effects, generator=generator)
        effects *= INITIAL_EFFECT / math.sqrt(features - 1)
        effects[:, 0], effects[:, 0, 0] = 0.0, INITIAL_INTERCEPT
        learned = {
            "initial": initial,
            "fixed_effects": torch.zeros(particles, 1 + network.inputs, self.latents),
            "random_effects": effects,
            "log_temperature": torch.zeros(()),
            "log_shares": torch.zeros(len(self.scales)),
        }
        learned |= self.start_from(torch.full((self.classes,), 1 / self.classes))
        if self.ordered:
            return learned
        contrasts = torch.linalg.qr(torch.eye(self.classes) - 1 / self.classes).Q[:, : self.factors]
        return {**learned, "loadings": math.sqrt(2) * contrasts.repeat(particles, 1, 1)}

    def start_from(self, frequencies: Float[Tensor, " class"]) -> dict[str, Tensor]:
        """The tensors with which a task without rows, before training, has these class probabilities."""
        if self.ordered:
            thresholds = torch.logit(frequencies.cumsum(0)[:-1].clamp(1e-4, 1 - 1e-4)).float()
            gaps = thresholds.diff().clamp_min(MIN_GAP).log()
            each = {"first_threshold": thresholds[:1], "log_gaps": gaps}
            return {name: value.repeat(self.particles, 1) for name, value in each.items()}
        fixed = torch.zeros(self.particles, 1 + self.network.inputs, self.classes)
        fixed[:, 0] = (frequencies.log() - frequencies.log().mean()).float()
        return {"fixed_effects": fixed}

    def adapt(self, learned: Learned, support: Examples, steps: int | None = None) -> LaplacePosterior:
        """The posterior of the random effects in every particle, and the particles' weights."""
        del steps
        start = self._without_draws(learned)
        functions = self._functions(start, support.x)
        labels = (support.y * support.mask.unsqueeze(-1)).unsqueeze(1)
        conditioned = condition(self._likelihood(start), *functions, start.loadings, labels)
        draws, log_ratios = conditioned.draws(_antithetic_normals(self.effects * self.factors))
        logs = self._log_probabilities(start, draws, *functions)
        fit = torch.where(labels.unsqueeze(2) > 0, logs, 0.0).sum((-1, -2))
        evidence, draw_weights = importance_weights(fit + log_ratios)
        prior = learned["log_shares"].repeat(self.particles)
        weights = (prior + learned["log_temperature"].exp() * evidence).log_softmax(-1)
        return replace(start, log_weights=weights, draws=draws, draw_weights=draw_weights)

    def predict(self, posterior: LaplacePosterior, x: Inputs, joint: bool = False) -> DrawnBelief:
        """The class probabilities in every draw of the random effects."""
        del joint
        drawn = self._log_probabilities(posterior, posterior.draws, *self._functions(posterior, x))
        mixed = (drawn + posterior.draw_weights[..., None, None]).logsumexp(2)
        tasks = len(mixed)
        weights = posterior.log_weights.expand(tasks, -1), posterior.draw_weights.expand(tasks, -1, -1)
        return DrawnBelief(mixed, weights[0], drawn, weights[1])

    def loss(self, learned: Learned, batch: TaskBatch) -> Scalar:
        """−log probability of the true class, a mean over rows and tasks, and the penalty."""
        belief = self.predict(self.adapt(learned, batch.support), batch.query.x)
        truth = belief.log_density(batch.query.y).squeeze(-1)
        rows = batch.query.mask.sum(-1).clamp_min(1)
        nll = -(torch.where(batch.query.mask, truth, 0.0).sum(-1) / rows).mean()
        if not self.shrinkage:
            return nll
        penalised = learned["initial"], learned["fixed_effects"][:, 1:], learned["random_effects"][:, 1:]
        squares = sum((each.square().sum() for each in penalised), nll.new_zeros(()))
        return nll + 0.5 * self.shrinkage * squares / self.particles

    def _without_draws(self, learned: Learned) -> LaplacePosterior:
        """The learned tensors in the form of a posterior, with nothing drawn."""
        fixed, random = learned["fixed_effects"].unsqueeze(0), learned["random_effects"].unsqueeze(0)
        if self.ordered:
            first = learned["first_threshold"]
            rest = first + learned["log_gaps"].exp().cumsum(-1)
            thresholds = torch.cat([first, rest], -1).unsqueeze(0)
            loadings = thresholds.new_ones(1, self.particles, 1, 1)
        else:
            loadings = learned["loadings"].unsqueeze(0)
            thresholds = loadings.new_zeros(1, self.particles, 0)
        every, particles = len(self.scales), learned["initial"].unsqueeze(0)
        loadings, thresholds = (each.repeat_interleave(every, 1) for each in (loadings, thresholds))
        nothing = random.new_zeros(1, self.hypotheses, 0, self.effects, self.factors)
        weights = nothing.new_zeros(1, self.hypotheses), nothing.new_zeros(1, self.hypotheses, 0)
        return LaplacePosterior(
            weights[0], particles, fixed, random, loadings, thresholds, nothing, weights[1]
        )

    def _functions(self, posterior: LaplacePosterior, x: Inputs) -> tuple[Tensor, Tensor]:
        """g and sψ at the rows x, `[task, hypothesis, row, …]`."""
        hidden, offset = self.network.features_and_outputs(posterior.particles, x)
        rows = x.unsqueeze(1)
        offset = offset + posterior.fixed[:, :, :1] + rows @ posterior.fixed[:, :, 1:]
        constant, linear, learned = posterior.random.split([1, x.shape[-1], hidden.shape[-1]], 2)
        effects = constant + rows @ linear + hidden @ learned
        scales = effects.new_tensor(self.scales)[:, None, None]
        return offset.repeat_interleave(len(scales), 1), (effects.unsqueeze(2) * scales).flatten(1, 2)

    def _log_probabilities(
        self, posterior: LaplacePosterior, draws: Tensor, offset: Tensor, effects: Tensor
    ) -> Tensor:
        """Of every class in every draw, from g and sψ of the rows, `[task, hypothesis, draw, row, class]`."""
        latent = effects.unsqueeze(2) @ draws @ posterior.loadings.mT.unsqueeze(2)
        return self._likelihood(posterior).log_probabilities(offset.unsqueeze(2) + latent)

    def _likelihood(self, posterior: LaplacePosterior) -> ClassLikelihood:
        return Ordered(posterior.thresholds) if self.ordered else Nominal()


@lru_cache(maxsize=16)
def _antithetic_normals(weights: int) -> Float[Tensor, "draw weight"]:
    """Standard normal noise of the draws: orthogonal vectors and their opposites."""
    half = orthogonal_normals(PAIRS, weights, torch.Generator().manual_seed(0))
    return torch.cat([half, -half])
