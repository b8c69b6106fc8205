"""The tasks of a world as the training loop takes them: batches, meta-objective, validation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from bmaml.learners import Learned, Policy
from model_store.columns import Column
from training.config import InvalidConfig, WorldConfig
from training.families.family import HELD_OUT_SEED, VALIDATION_SEED_OFFSET
from training.families.gym_world import GymWorld
from training.families.worlds import Rollout, World, rollout, world_of
from training.policy_returns import Returns, returns_by_round

VALIDATION_TASKS, HELD_OUT_TASKS = 40, 100
ROUNDS = 3
"""Rounds after which validation and held-out returns are measured."""


@dataclass(frozen=True)
class WorldBatch:
    """Tasks of one meta-step.

    Attributes:
        parameters: of the tasks, `[task, parameter]`.
        seed: of their episodes.
    """

    parameters: Tensor
    seed: int

    def __len__(self) -> int:
        """The number of tasks."""
        return len(self.parameters)

    def tasks(self, chosen: slice) -> Self:
        """The chosen tasks alone, with episodes of their own."""
        return replace(self, parameters=self.parameters[chosen], seed=self.seed + (chosen.start or 0))

    def to(self, target: torch.device) -> Self:
        """The same tasks on another device."""
        return replace(self, parameters=self.parameters.to(target))


class WorldTasks:
    """Random tasks of a world."""

    def __init__(self, config: WorldConfig, seed: int) -> None:
        self.config = config
        self.world: World = world_of(config.world, config.vary, config.horizon)
        if config.shaped and isinstance(self.world, GymWorld):
            raise InvalidConfig("an environment of Gymnasium knows no denser reward: leave --shaped out")
        self._seed = seed

    @property
    def inputs(self) -> tuple[Column, ...]:
        """The columns of observations."""
        return self.world.observations

    @property
    def outputs(self) -> tuple[Column, ...]:
        """The columns of actions."""
        return self.world.actions

    @property
    def note(self) -> str:
        """What tasks of an environment of Gymnasium differ by; nothing for other worlds."""
        return self.world.told if isinstance(self.world, GymWorld) else ""

    def seen(self, policy: Policy, learned: Mapping[str, Tensor]) -> tuple[Column, ...]:
        """The columns of observations; an environment's have the range of the trained policy's episodes.

        They are of tasks of training, a round before each update.
        """
        if not isinstance(self.world, GymWorld):
            return self.inputs
        generator = torch.Generator().manual_seed(self._seed)
        batch, posterior = self.batch(VALIDATION_TASKS, generator), policy.prior(learned)
        ranges: list[tuple[Tensor, Tensor]] = []
        with torch.no_grad():
            for _ in range(ROUNDS):
                acted = self._acted(policy, posterior.particles, batch, generator).episodes
                met = acted.observations[acted.mask]
                ranges.append((met.amin(0), met.amax(0)))
                posterior = policy.adapt_rounds(learned, posterior, [acted])
        low = torch.stack([low for low, _ in ranges]).amin(0).tolist()
        high = torch.stack([high for _, high in ranges]).amax(0).tolist()
        return tuple(
            Column(name=column.name, lower=least, upper=most if most > least else least + 1)
            for column, least, most in zip(self.inputs, low, high, strict=True)
        )

    def batch(self, tasks: int, generator: torch.Generator) -> WorldBatch:
        """Training tasks, and the seed of their episodes."""
        parameters = self.world.tasks(tasks, generator)
        return WorldBatch(parameters, int(torch.randint(2**62, (), generator=generator)))

    def loss_of(self, policy: Policy) -> Callable[[Learned, WorldBatch], Tensor]:
        """The meta-objective: rounds of episodes from the start on, then fresh ones for the loss.

        The environment steps of one call are tasks × particles × episodes × horizon × (rounds + 1).
        """

        def loss(learned: Learned, batch: WorldBatch) -> Tensor:
            generator = torch.Generator().manual_seed(batch.seed)
            posterior = policy.prior(learned)
            for _ in range(policy.steps):
                acted = self._acted(policy, posterior.particles, batch, generator)
                posterior = policy.adapt_rounds(learned, posterior, [acted.episodes])
            query = self._acted(policy, posterior.particles, batch, generator)
            judged = query.episodes
            if self.config.shaped:
                judged = replace(judged, rewards=torch.where(judged.mask, query.shaped, 0))
            return policy.adapted_loss(learned, posterior.particles, judged)

        return loss

    def validation_loss(self, policy: Policy, learned: Mapping[str, Tensor]) -> float:
        """Minus the return of the chosen particle on the validation tasks, a mean over 1 … 3 rounds."""
        generator = torch.Generator().manual_seed(self._seed + VALIDATION_SEED_OFFSET)
        found = self._returns(policy, learned, VALIDATION_TASKS, generator)
        return -sum(found.chosen[1:]) / ROUNDS

    def held_out_returns(self, policy: Policy, learned: Mapping[str, Tensor]) -> Returns:
        """Returns on tasks that no part of training sees; they do not depend on the run's seed."""
        generator = torch.Generator().manual_seed(HELD_OUT_SEED)
        return self._returns(policy, learned, HELD_OUT_TASKS, generator)

    def _returns(
        self, policy: Policy, learned: Mapping[str, Tensor], tasks: int, generator: torch.Generator
    ) -> Returns:
        parameters = self.world.tasks(tasks, generator)
        return returns_by_round(
            self.world, policy, learned, parameters, self.config.episodes, ROUNDS, generator
        )

    def _acted(
        self, policy: Policy, particles: Tensor, batch: WorldBatch, generator: torch.Generator
    ) -> Rollout:
        return rollout(self.world, policy, particles, batch.parameters, self.config.episodes, generator)
