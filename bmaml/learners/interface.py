"""What every learner of the literature can do, whatever its inner step and meta-objective."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from bmaml.categorical import Categorical
from bmaml.errors import BmamlError
from bmaml.learners.posterior import PosteriorT
from bmaml.networks import MLP
from bmaml.predictive import Predictive
from bmaml.shapes import Inputs, PerTask, Scalar
from bmaml.task import Examples, TaskBatch

Learned = Mapping[str, Tensor]
"""Everything meta-training changes, by name: `initial` and whatever a learner adds to it."""

MAX_STEPS = 100
"""More inner steps than any learner here profits from; a bound on the work of one request."""


class InvalidLearner(BmamlError, ValueError):
    """Settings that describe no learner."""


class Diverged(BmamlError, ArithmeticError):
    """Adaptation left the finite numbers."""


Belief = Predictive | Categorical
"""About numbers, or about classes; either way with `log_density` of the truth."""


Kind = Literal["regression", "classification"]

LearnedRate = Literal["none", "scalar", "parameter"]
"""What is meta-learned of the inner rate: nothing, one number, or one for every parameter."""


@dataclass(frozen=True)
class Learner(ABC, Generic[PosteriorT]):
    """Settings of a learner; the functions that go with them.

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
    iterates: ClassVar[bool] = True
    """Whether there is such a thing as an inner step."""
    draws: ClassVar[bool] = False
    """Whether the posterior is a random draw, with a setting `seed`."""
    calibrated: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Learned scalars that are fitted to the validation tasks after training, and how far from
    where training left them the search may go."""
    untrained: ClassVar[frozenset[str]] = frozenset()
    """Those of them that training leaves as they begin, whatever a run starts from."""

    network: MLP
    particles: int = 10
    steps: int = 1
    step_size: float = 1e-3
    learn_step_size: LearnedRate = "none"

    def __post_init__(self) -> None:
        if self.particles < 1:
            raise InvalidLearner(f"a learner needs at least one particle; found {self.particles}")
        if not 0 <= self.steps <= MAX_STEPS:
            raise InvalidLearner(f"steps must lie in 0..{MAX_STEPS}; found {self.steps}")
        if not 0 < self.step_size < float("inf"):
            raise InvalidLearner(f"step_size must be positive; found {self.step_size}")
        if self.learn_step_size not in get_args(LearnedRate):
            choices = ", ".join(get_args(LearnedRate))
            raise InvalidLearner(f"learn_step_size is one of {choices}; found {self.learn_step_size!r}")

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Fresh meta-parameters, before any training."""

    @abstractmethod
    def adapt(
        self, learned: Learned, support: Examples, steps: int | None = None, lost: float = 0.0
    ) -> PosteriorT:
        """What the particles believe about each task once they have seen its support set.

        An empty support set leaves the prior. Differentiable in `learned`.

        Args:
            steps: inner steps; by default the learner's own.
            lost: hypotheses that together weigh no more than this may be left out. How many remain
                differs from task to task; missing ones have weight zero.
        """

    @abstractmethod
    def predict(self, posterior: PosteriorT, x: Inputs, joint: bool = False) -> Belief:
        """The ensemble's belief about the rows x of each task.

        Args:
            joint: also carry what covariances between rows need.
        """

    def effective_particles(self, posterior: PosteriorT) -> PerTask:
        """1 / Σ weight²: M when all particles count alike, 1 when one decides.

        Where each stands for several hypotheses, those lie side by side and count as one.
        """
        logs = posterior.log_weights.unflatten(1, (self.particles, -1)).logsumexp(-1)
        return torch.exp(-torch.logsumexp(2 * logs, -1))

    @abstractmethod
    def loss(self, learned: Learned, batch: TaskBatch) -> Scalar:
        """The meta-objective, a mean over tasks, to be minimised in `learned`."""

    @property
    def hypotheses(self) -> int:
        """How many components its belief about a task has, at most."""
        return self.particles

    @property
    def kind(self) -> Kind:
        """What it predicts: numbers or classes."""
        return "regression"

    @property
    def has_epistemic(self) -> bool:
        """False where the posterior is a single point: its epistemic variance is zero, for want of others."""
        return True

    def rates(self, learned: Learned, support: Examples) -> Float[Tensor, "task 1 #param"]:
        """The inner rate ε of each task: zero without rows, so that the start itself is the prior."""
        fixed = self.learn_step_size == "none"
        rate = learned["initial"].new_full((), self.step_size) if fixed else learned["log_step_size"].exp()
        seen = (support.counts() > 0).to(rate.dtype)
        return rate.view(1, 1, -1) * seen.view(-1, 1, 1)

    def _rate_start(self, parameters: int) -> dict[str, Tensor]:
        """`log_step_size`: nothing, a scalar, or `[param]`."""
        if self.learn_step_size == "none":
            return {}
        shape = () if self.learn_step_size == "scalar" else (parameters,)
        return {"log_step_size": torch.full(shape, math.log(self.step_size))}
