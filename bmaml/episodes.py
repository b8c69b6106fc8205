"""Episodes: the steps that the particles of a policy took in tasks, and the rewards they received.

Two forms hold the same steps. Tensors `[task, particle, episode, time]` are for the method. Rows, one for
each step, are for support sets that are queued and padded like those of any other learner.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bmaml.errors import BmamlError
from bmaml.shapes import PerParticle
from bmaml.task import Examples

PLACES = 4
"""Columns of a row's input after the observation: round, particle, episode and time."""

Steps = Float[Tensor, "task particle episode time"]
StepMask = Bool[Tensor, "task particle episode time"]


class InvalidEpisodes(BmamlError, ValueError):
    """Steps whose places cannot be those of episodes."""


@dataclass(frozen=True)
class Episodes:
    """One round of episodes of all particles of many tasks.

    Attributes:
        mask: True where a step was taken. A particle may have fewer episodes than others, or none.
    """

    observations: Float[Tensor, "task particle episode time observation"]
    actions: Float[Tensor, "task particle episode time action"]
    rewards: Steps
    mask: StepMask

    def __len__(self) -> int:
        """The number of tasks."""
        return len(self.mask)

    def counts(self) -> PerParticle:
        """The number of episodes of each particle."""
        return self.mask.any(-1).sum(-1).to(self.rewards.dtype)

    def lengths(self) -> PerParticle:
        """The number of steps of each particle, over all its episodes."""
        return self.mask.sum((-1, -2)).to(self.rewards.dtype)

    def returns(self) -> PerParticle:
        """The mean over a particle's episodes of the sum of rewards; zero for a particle without episodes."""
        total = torch.where(self.mask, self.rewards, 0).sum((-1, -2))
        return total / self.counts().clamp_min(1)

    def rows(self, index: int = 0) -> Examples:
        """A row for each step, as the round `index`.

        The input is (observation, round, particle, episode, time), the target (action, reward).
        """
        like = self.rewards
        shape = self.mask.shape[1:]
        axes = [torch.arange(size, dtype=like.dtype, device=like.device) for size in shape]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).expand(*self.mask.shape, -1)
        rounds = like.new_full((*self.mask.shape, 1), float(index))
        x = torch.cat([self.observations, rounds, places], -1).flatten(1, 3)
        y = torch.cat([self.actions, self.rewards.unsqueeze(-1)], -1).flatten(1, 3)
        mask = self.mask.flatten(1)
        return Examples(x * mask.unsqueeze(-1), y * mask.unsqueeze(-1), mask)


def rows_of(rounds: Sequence[Episodes]) -> Examples:
    """The rows of consecutive rounds, the first of them round 0."""
    first, *others = [episodes.rows(index) for index, episodes in enumerate(rounds)]
    for other in others:
        first = first.joined(other)
    return first


def rounds_of(rows: Examples, particles: int) -> list[Episodes]:
    """The rounds that rows describe, in order: the inverse of `rows_of`, up to padding.

    A task without a row in some round has no episode there.

    Raises:
        InvalidEpisodes: a place that is no whole number, is negative, is filled twice, or names a particle
            from `particles` on.
    """
    if not bool(rows.mask.any()):
        return []
    places = rows.x[..., -PLACES:][rows.mask]
    if bool((places != places.round()).any()) or bool((places < 0).any()):
        raise InvalidEpisodes("round, particle, episode and time are whole numbers from zero on")
    task = rows.mask.nonzero()[:, 0]
    index, particle, episode, time = places.long().unbind(-1)
    if bool((particle >= particles).any()):
        raise InvalidEpisodes(
            f"there is no particle {int(particle.max())}: the particles are 0 to {particles - 1}"
        )
    x, y = rows.x[..., :-PLACES][rows.mask], rows.y[rows.mask]
    found = []
    for each in range(int(index.max()) + 1):
        own = index == each
        size = [int(axis[own].max()) + 1 if bool(own.any()) else 1 for axis in (episode, time)]
        shape = (len(rows), particles, *size)
        where = (task[own], particle[own], episode[own], time[own])
        taken = torch.zeros(shape, dtype=torch.long, device=x.device)
        taken.index_put_(where, torch.ones_like(where[0]), accumulate=True)
        if bool((taken > 1).any()):
            raise InvalidEpisodes("two steps have the same round, particle, episode and time")
        observations = x.new_zeros(*shape, x.shape[-1]).index_put_(where, x[own])
        targets = y.new_zeros(*shape, y.shape[-1]).index_put_(where, y[own])
        found.append(Episodes(observations, targets[..., :-1], targets[..., -1], taken > 0))
    return found
