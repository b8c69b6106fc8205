"""Returns of policies after each round, measured on episodes that no choice or update has seen."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bmaml.learners import Policy
from bmaml.learners.policy_posterior import PolicyParticles
from training.families.worlds import World, rollout

FRESH_EPISODES = 10
"""Episodes of every particle that measure its return."""


@dataclass(frozen=True)
class Returns:
    """Returns after 0, 1, 2, … rounds, a mean over tasks.

    Attributes:
        mean: of all particles.
        chosen: of the particle whose episodes of the following round return most.
        served: of the particle that the posterior holds for best, by the round that it has last seen.
        found: the fraction of tasks in which an episode of the following round has a reward above zero.
    """

    mean: list[float]
    chosen: list[float]
    served: list[float]
    found: list[float]

    def metrics(self, sparse: bool) -> dict[str, float]:
        """The figures by name and number of rounds; `found_…` for worlds of sparse rewards."""
        columns = {"return": self.mean, "chosen": self.chosen, "served": self.served}
        if sparse:
            columns["found"] = self.found
        return {
            f"{name}_{rounds}": value
            for name, values in columns.items()
            for rounds, value in enumerate(values)
        }


def returns_by_round(
    world: World,
    policy: Policy,
    learned: Mapping[str, Tensor],
    tasks: Tensor,
    episodes: int,
    rounds: int,
    generator: torch.Generator,
) -> Returns:
    """Returns on tasks after 0 … `rounds` rounds of `episodes` episodes of every particle."""
    posterior: PolicyParticles | None = None
    rows: list[tuple[float, float, float, float]] = []
    with torch.no_grad():
        for after in range(rounds + 1):
            posterior = policy.prior(learned) if posterior is None else posterior
            support = rollout(world, policy, posterior.particles, tasks, episodes, generator).episodes
            fresh = rollout(world, policy, posterior.particles, tasks, FRESH_EPISODES, generator).episodes
            gained = fresh.returns()
            best = support.returns().argmax(-1, keepdim=True)
            held = posterior.best().expand(len(tasks)).unsqueeze(-1)
            found = (support.rewards > 0).flatten(1).any(-1)
            rows.append(
                (
                    float(gained.mean()),
                    float(gained.gather(1, best).mean()),
                    float(gained.gather(1, held).mean()),
                    float(found.to(gained.dtype).mean()),
                )
            )
            if after < rounds:
                posterior = policy.adapt_rounds(learned, posterior, [support])
    return Returns(*map(list, zip(*rows, strict=True)))
