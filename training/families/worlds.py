"""Worlds that policies act in: batches of tasks, stepped side by side as tensors.

A world is a few functions of tensors whose leading axes are any numbers of tasks, particles and episodes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from bmaml.episodes import Episodes
from bmaml.learners import Policy
from model_store.columns import Column
from training.config import InvalidConfig

STEP_SIZE = 0.1
"""The distance that the largest action moves a point, along each axis."""


@dataclass(frozen=True)
class Step:
    """The result of one action.

    Attributes:
        states: after the action.
        rewards: for the action.
        ended: whether the episode is over.
    """

    states: Tensor
    rewards: Tensor
    ended: Tensor


class World(Protocol):
    """A family of related tasks for policies.

    Attributes:
        observations, actions: their columns; commands are clipped to the range of an action's column.
        horizon: the number of steps of an episode, at most.
        sparse: whether most steps have a reward of zero, so that a reward has to be found first.
    """

    @property
    def observations(self) -> tuple[Column, ...]: ...

    @property
    def actions(self) -> tuple[Column, ...]: ...

    @property
    def horizon(self) -> int: ...

    @property
    def sparse(self) -> bool: ...

    def tasks(self, count: int, generator: torch.Generator) -> Tensor:
        """The parameters of random tasks, `[task, parameter]`, which no policy sees."""

    def reset(self, shape: Sequence[int], generator: torch.Generator, tasks: Tensor | None = None) -> Tensor:
        """States at the start of episodes of tasks, `[*shape, state]`."""

    def observe(self, states: Tensor) -> Tensor:
        """The observations of states, `[…, observation]`."""

    def step(self, states: Tensor, actions: Tensor, tasks: Tensor) -> Step:
        """One step of every episode; actions are clipped here."""

    def shaped(self, states: Tensor, tasks: Tensor) -> Tensor:
        """A denser reward of states, which a simulator knows and no task shows."""


@dataclass(frozen=True)
class Plane:
    """A point that starts at the origin of the plane and walks; the base of the two worlds."""

    observations = (Column(name="x", lower=-2.0, upper=2.0), Column(name="y", lower=-2.0, upper=2.0))
    actions = (Column(name="dx", lower=-1.0, upper=1.0), Column(name="dy", lower=-1.0, upper=1.0))

    def reset(self, shape: Sequence[int], generator: torch.Generator, tasks: Tensor | None = None) -> Tensor:
        """The origin."""
        return torch.zeros(*shape, 2)

    def observe(self, states: Tensor) -> Tensor:
        """The position itself."""
        return states

    def shaped(self, states: Tensor, tasks: Tensor) -> Tensor:
        """Minus the distance from the goal."""
        return -(states - tasks).norm(dim=-1)


@dataclass(frozen=True)
class Navigation(Plane):
    """Goals in a square, as in the authors' code: the reward is minus the distance from the goal.

    Goals are uniform in [−0.5, 0.5]². An episode ends within 0.01 of the goal along both axes.
    """

    horizon: int = 100
    sparse: bool = False

    def tasks(self, count: int, generator: torch.Generator) -> Tensor:
        """Goals `[task, 2]`."""
        return torch.rand(count, 2, generator=generator) - 0.5

    def step(self, states: Tensor, actions: Tensor, tasks: Tensor) -> Step:
        """A walk of 0.1 times the clipped action."""
        states = states + STEP_SIZE * actions.clamp(-1, 1)
        offset = states - tasks
        return Step(states, -offset.norm(dim=-1), (offset.abs() < 0.01).all(-1))


@dataclass(frozen=True)
class Ring(Plane):
    """Goals on a circle around the origin, with a reward near the goal alone: 1 − distance within 0.2."""

    horizon: int = 20
    sparse: bool = True
    radius: float = 1.0
    goal_radius: float = 0.2

    def tasks(self, count: int, generator: torch.Generator) -> Tensor:
        """Goals `[task, 2]`."""
        angle = 2 * math.pi * torch.rand(count, generator=generator)
        return self.radius * torch.stack([angle.cos(), angle.sin()], -1)

    def step(self, states: Tensor, actions: Tensor, tasks: Tensor) -> Step:
        """A walk of 0.1 times the clipped action; no episode ends before the horizon."""
        states = states + STEP_SIZE * actions.clamp(-1, 1)
        distance = (states - tasks).norm(dim=-1)
        rewards = torch.where(distance <= self.goal_radius, 1 - distance, 0)
        return Step(states, rewards, torch.zeros_like(distance, dtype=torch.bool))


WORLDS: dict[str, Callable[[], World]] = {"navigation": Navigation, "ring": Ring}
CHEETAHS: dict[str, Literal["direction", "velocity"]] = {
    "gym:HalfCheetahDir": "direction",
    "gym:HalfCheetahVel": "velocity",
}
"""Worlds of the extra `gym`, and the goal of their tasks."""


def world_of(name: str, vary: Sequence[str] = (), horizon: int | None = None) -> World:
    """The world of a name.

    Args:
        vary: what tasks of an environment of Gymnasium differ by.
        horizon: the steps of its episodes.

    Raises:
        InvalidConfig: there is none.
    """
    if name.startswith("gym:") and name not in CHEETAHS:
        from training.families.gym_world import GymWorld  # an extra

        return GymWorld(name.removeprefix("gym:"), vary, horizon)
    if vary or horizon is not None:
        raise InvalidConfig(f"--vary and --horizon are of environments gym:ID; {name} has its own")
    if name in CHEETAHS:
        from training.families.cheetah import HalfCheetah  # an extra

        return HalfCheetah(CHEETAHS[name])
    if name not in WORLDS:
        raise InvalidConfig(
            f"there is no world {name!r}; choose one of {', '.join([*WORLDS, *CHEETAHS])}, gym:ID"
        )
    return WORLDS[name]()


@dataclass(frozen=True)
class Rollout:
    """A round of episodes, and their shaped rewards."""

    episodes: Episodes
    shaped: Tensor


@torch.no_grad()
def rollout(
    world: World, policy: Policy, particles: Tensor, tasks: Tensor, episodes: int, generator: torch.Generator
) -> Rollout:
    """A round in which every particle acts `episodes` episodes of every task.

    Args:
        particles: those of each task, or one start for all, `[#task, particle, param]`.
    """
    shape, horizon = (len(tasks), particles.shape[1], episodes), world.horizon
    like = particles
    weights, log_std = policy.parts(particles)
    std = log_std.exp().unsqueeze(2)
    goals = tasks.to(like)[:, None, None].expand(*shape, -1)
    noise = torch.randn(horizon, *shape, len(world.actions), generator=generator).to(like)
    states = world.reset(shape, generator, goals).to(like)
    alive = torch.ones(shape, dtype=torch.bool, device=like.device)
    steps: list[tuple[Tensor, ...]] = []
    for time in range(horizon):
        seen = world.observe(states)
        actions = policy.means(weights, seen) + std * noise[time]
        after = world.step(states, actions, goals)
        shaped = world.shaped(after.states, goals)
        steps.append((seen, actions, after.rewards, shaped, alive))
        states, alive = after.states, alive & ~after.ended
    seen, actions, rewards, shaped, alive = (
        torch.stack([step[place] for step in steps], 3) for place in range(5)
    )
    return Rollout(Episodes(seen, actions, torch.where(alive, rewards, 0), alive), shaped)
