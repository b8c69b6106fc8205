"""The posterior of a policy after rounds of episodes, and the actions it takes."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bmaml.learners.posterior import Posterior
from bmaml.shapes import Particles, PerParticle

Choice = Literal["best", "thompson", "mean"]
"""The rule that chooses the particle that acts; see `Policy.act`."""


@dataclass(frozen=True)
class PolicyParticles(Posterior):
    """Adapted policies.

    `log_weights` are those of `thompson`: softmax of returns ÷ temperature, over particles that have acted;
    equal before any has.

    Attributes:
        returns: the mean return of each particle's episodes in the latest round it acted in; zero before.
        episodes: the number of episodes of each particle so far.
        rounds: the number of rounds of each task so far.
    """

    per_task: ClassVar[frozenset[str]] = frozenset({"log_weights", "returns", "episodes", "rounds"})

    particles: Particles
    returns: PerParticle
    episodes: PerParticle
    rounds: Float[Tensor, " task"]

    def best(self) -> Int[Tensor, " task"]:
        """The particle with the highest return among those that have acted; 0 before any has."""
        return self._known_returns().argmax(-1)

    def next_particle(self, enough: float = 0.0) -> Int[Tensor, " task"]:
        """The particle to act next where episodes are few, so that particles search together.

        It is the best one once its return exceeds `enough`. Before, it is the one with the fewest episodes,
        as long as some have not acted or all return the same; then it is the best one again.
        """
        known = self._known_returns()
        untried = (self.episodes == 0).any(-1)
        alike = known.amax(-1) == known.amin(-1)
        searching = ~((known.amax(-1) > enough) & (self.episodes > 0).any(-1)) & (untried | alike)
        return torch.where(searching, self.episodes.argmin(-1), self.best())

    def _known_returns(self) -> PerParticle:
        """Returns with −∞ for particles that have not acted, unless none has."""
        unknown = (self.episodes == 0) & (self.episodes > 0).any(-1, keepdim=True)
        return self.returns.masked_fill(unknown, -math.inf)


@dataclass(frozen=True)
class Action:
    """An action for each row of each task.

    Attributes:
        values: the draw, to be posted back as it is; the mean of all particles for `mean`.
        particle: the particle that acts; None for `mean`, whose episodes are no particle's own.
    """

    values: Float[Tensor, "task row output"]
    particle: Int[Tensor, " task"] | None
