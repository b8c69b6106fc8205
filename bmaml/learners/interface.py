"""What every learner of the literature can do, whatever its inner step and meta-objective."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from bmaml.errors import BmamlError
from bmaml.networks import MLP
from bmaml.predictive import Predictive
from bmaml.shapes import Inputs, Scalar, Verdicts
from bmaml.task import Examples, TaskBatch

Learned = Mapping[str, Tensor]
"""Everything meta-training changes, by name: `initial` and whatever a learner adds to it."""

MAX_STEPS = 100
"""More inner steps than any learner here profits from; a bound on the work of one request."""


class InvalidLearner(BmamlError, ValueError):
    """Settings that describe no learner."""


class Diverged(BmamlError, ArithmeticError):
    """Adaptation left the finite numbers."""


PosteriorT = TypeVar("PosteriorT")


@dataclass(frozen=True)
class Learner(ABC, Generic[PosteriorT]):
    """Settings of a learner; the functions that go with them.

    Attributes:
        network: the predictor each particle parametrises.
        particles: M.
        steps: inner steps in meta-training, and at serving time where the caller does not say.
        step_size: the inner rate ε. Fixed where `learn_step_size` is False, else its start.
        learn_step_size: meta-learn ε beside the initial particles.

    Raises:
        InvalidLearner: M < 1, steps outside 0..MAX_STEPS, or a rate that is not positive.
    """

    name: ClassVar[str]

    network: MLP
    particles: int = 10
    steps: int = 1
    step_size: float = 1e-3
    learn_step_size: bool = False

    def __post_init__(self) -> None:
        if self.particles < 1:
            raise InvalidLearner(f"a learner needs at least one particle; found {self.particles}")
        if not 0 <= self.steps <= MAX_STEPS:
            raise InvalidLearner(f"steps must lie in 0..{MAX_STEPS}; found {self.steps}")
        if not 0 < self.step_size < float("inf"):
            raise InvalidLearner(f"step_size must be positive; found {self.step_size}")

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Fresh meta-parameters, before any training."""

    @abstractmethod
    def adapt(self, learned: Learned, support: Examples, steps: int | None = None) -> PosteriorT:
        """What the particles believe about each task once they have seen its support set.

        An empty support set leaves the prior. Differentiable in `learned`.

        Args:
            steps: inner steps; by default the learner's own.
        """

    @abstractmethod
    def predict(self, posterior: PosteriorT, x: Inputs, joint: bool = False) -> Predictive:
        """The ensemble's belief about the rows x of each task.

        Args:
            joint: also carry what covariances between rows need.
        """

    @abstractmethod
    def loss(self, learned: Learned, batch: TaskBatch) -> Scalar:
        """The meta-objective, a mean over tasks, to be minimised in `learned`."""

    @abstractmethod
    def finite(self, posterior: PosteriorT) -> Verdicts:
        """True for each task whose adaptation stayed finite."""

    def rates(self, learned: Learned, support: Examples) -> Float[Tensor, "task 1 1"]:
        """The inner rate ε of each task: zero without rows, so that the start itself is the prior."""
        rate = learned["log_step_size"].exp() if self.learn_step_size else self.step_size
        seen = (support.counts() > 0).to(learned["initial"].dtype)
        return rate * seen.view(-1, 1, 1)

    def _rate_start(self) -> dict[str, Tensor]:
        return {"log_step_size": torch.tensor(self.step_size).log()} if self.learn_step_size else {}
