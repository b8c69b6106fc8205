"""The interface of all learners, whatever their inner step and meta-objective."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from bmaml.categorical import Categorical
from bmaml.conv_classifier import Network
from bmaml.errors import BmamlError
from bmaml.learners.posterior import PosteriorT
from bmaml.predictive import Predictive
from bmaml.shapes import Inputs, PerTask, Scalar
from bmaml.task import Examples, TaskBatch

Learned = Mapping[str, Tensor]
"""The meta-learned tensors by name: `initial`, and those that a learner adds to it."""

MAX_STEPS = 100
"""Inner steps of a learner or a request, at most; no learner here profits from so many."""


class InvalidLearner(BmamlError, ValueError):
    """Settings that describe no learner."""


class Diverged(BmamlError, ArithmeticError):
    """Adaptation with a result that is not finite."""


Belief = Predictive | Categorical
"""The belief about numbers or about classes; both have a `log_density` of the truth."""

Kind = Literal["regression", "classification", "policy"]

LearnedRate = Literal["none", "scalar", "parameter"]
"""The meta-learned part of the inner rate: nothing, one number, or one number per parameter."""


@dataclass(frozen=True)
class CalibratedScalar:
    """A learned scalar that is fitted to the validation tasks after training.

    Attributes:
        low, high: bounds of the search, relative to the value that training left.
        trained: whether training moves it; if not, every run starts it anew.
        prior_std: standard deviation of a normal prior of the difference, by which few tasks move it little.
    """

    low: float
    high: float
    trained: bool = True
    prior_std: float = math.inf


@dataclass(frozen=True)
class Learner(ABC, Generic[PosteriorT]):
    """A learner: its settings, and the functions that depend on them.

    Attributes:
        network: the predictor each particle parametrises.
        particles: M, the number of particles.
        steps: inner steps in training, and in serving unless a request names others.
        step_size: the inner rate ε; its start where the rate is learned.
        learn_step_size: meta-learn ε, as one number or as one per parameter (Meta-SGD, Li et al. 2017).

    Raises:
        InvalidLearner: M < 1, steps outside 0..MAX_STEPS, a rate that is not positive, or an
            unknown choice.
    """

    name: ClassVar[str]
    max_steps: ClassVar[int] = MAX_STEPS
    """Inner steps, at most; 0 where adaptation is exact."""
    calibrated: ClassVar[Mapping[str, CalibratedScalar]] = {}
    """Scalars among the learned tensors that are fitted after training, by name."""

    network: Network
    particles: int = 10
    steps: int = 1
    step_size: float = 1e-3
    learn_step_size: LearnedRate = "none"

    def __post_init__(self) -> None:
        if self.particles < 1:
            raise InvalidLearner(f"a learner needs at least one particle; found {self.particles}")
        if not 0 <= self.steps <= self.max_steps:
            raise InvalidLearner(f"{self.name} takes {_range_of(self.max_steps)}; found {self.steps}")
        if not 0 < self.step_size < float("inf"):
            raise InvalidLearner(f"step_size must be positive; found {self.step_size}")
        if self.learn_step_size not in get_args(LearnedRate):
            choices = ", ".join(get_args(LearnedRate))
            raise InvalidLearner(f"learn_step_size is one of {choices}; found {self.learn_step_size!r}")

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Fresh meta-parameters, before any training."""

    @abstractmethod
    def adapt(self, learned: Learned, support: Examples, steps: int | None = None) -> PosteriorT:
        """The posterior of each task given its support set; the prior for an empty one.

        Differentiable in `learned`.

        Args:
            steps: inner steps; by default the learner's own.
        """

    def adapt_pruned(
        self, learned: Learned, support: Examples, negligible: float, steps: int | None = None
    ) -> PosteriorT:
        """The posterior without hypotheses of a task that together weigh no more than `negligible`.

        Most learners drop none, for it would save them no work. The number that stays differs from task to
        task; padding has weight zero.
        """
        return self.adapt(learned, support, steps)

    def drawing(self, seed: int) -> "Learner[PosteriorT]":
        """The learner whose posterior is drawn with this seed; itself where nothing is drawn."""
        return self

    @property
    def known(self) -> "Learner[PosteriorT]":
        """The learner without hypotheses about tasks unlike those of training; itself where it has none."""
        return self

    @property
    def seed(self) -> int:
        """The seed of the posterior's draws; 0 where nothing is drawn."""
        return 0

    def trains(self, name: str) -> bool:
        """Whether training moves this learned tensor."""
        return name not in self.calibrated or self.calibrated[name].trained

    @abstractmethod
    def predict(self, posterior: PosteriorT, x: Inputs, joint: bool = False) -> Belief:
        """The belief about the rows x of each task.

        Args:
            joint: also carry what covariances between rows need.
        """

    def looks(self, learned: Learned, support: Examples, x: Inputs) -> Callable[[Learned], Belief]:
        """The belief about the rows x as a function of the learned tensors, for searches after training.

        Only those in `calibrated`, and the shares of hypotheses, may differ from `learned`: a learner may
        compute once what they leave alone.
        """
        return lambda trial: self.predict(self.adapt(trial, support), x)

    def effective_particles(self, posterior: PosteriorT) -> PerTask:
        """1 / Σ weight²: M for equal weights, 1 where one particle has all the weight.

        The hypotheses of a particle lie side by side and count together.
        """
        logs = posterior.log_weights.unflatten(1, (self.particles, -1)).logsumexp(-1)
        return torch.exp(-torch.logsumexp(2 * logs, -1))

    def group_weights(self, posterior: PosteriorT) -> Float[Tensor, "task group"] | None:
        """The weights of the groups of hypotheses (`surprise.GROUPS`); None where none is surprising."""
        return None

    def group_prior(self, learned: Learned) -> Float[Tensor, " group"] | None:
        """The same before any row."""
        return None

    @abstractmethod
    def loss(self, learned: Learned, batch: TaskBatch) -> Scalar:
        """The meta-objective, a mean over tasks, to be minimised in `learned`."""

    @property
    def hypotheses(self) -> int:
        """Components of its belief about a task, at most."""
        return self.particles

    @property
    def kind(self) -> Kind:
        """The kind of its predictions: numbers, classes or actions."""
        return "regression"

    @property
    def max_classes(self) -> int | None:
        """The most classes of a task, where each has an output of the network; else None."""
        return None

    @property
    def fixed_classes(self) -> bool:
        """Whether each class has one meaning in all tasks, and is possible where no support row has it."""
        return False

    @property
    def has_epistemic(self) -> bool:
        """False where the posterior is a single point, whose epistemic variance is zero."""
        return True

    def rates(self, learned: Learned, support: Examples) -> Float[Tensor, "task 1 #param"]:
        """The inner rate ε of each task; zero for an empty support set, whose posterior is the start."""
        fixed = self.learn_step_size == "none"
        rate = learned["initial"].new_full((), self.step_size) if fixed else learned["log_step_size"].exp()
        seen = (support.counts() > 0).to(rate.dtype)
        return rate.view(1, 1, -1) * seen.view(-1, 1, 1)

    def _rate_start(self, parameters: int) -> dict[str, Tensor]:
        """The start of `log_step_size`: a scalar or `[param]`; nothing where the rate is fixed."""
        if self.learn_step_size == "none":
            return {}
        shape = () if self.learn_step_size == "scalar" else (parameters,)
        return {"log_step_size": torch.full(shape, math.log(self.step_size))}


def _range_of(max_steps: int) -> str:
    return f"0 to {max_steps} inner steps" if max_steps else "no inner steps: it is exact"
