"""Episodes that a new task of the ring costs: particles side by side, or one at a time.

    python -m benchmarks.accuracy.policy_episodes --store models --page docs/policies.md

It needs `.[bench]`. *Side by side* is one round in which every particle acts equally often. *In turn* asks
`PolicyParticles.next_particle` each time: one episode of one particle until one is paid, then rounds of five
of the best. Returns are of fresh episodes of the particle that the posterior holds for best, on 100 tasks
that chose nothing. The version is that of `ring` in docs/training.md.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import command_line, pages
from bmaml.episodes import Episodes
from bmaml.learners import Policy
from bmaml.learners.policy_posterior import PolicyParticles
from model_store import Model, Store
from training.families.worlds import World, rollout, world_of

BUDGETS = (10, 20, 30, 50)
"""Episodes of a task."""
TASKS, SEED = 100, 4242
ROUND = 5
"""Episodes of a round of the best particle."""
FRESH = 10


@dataclass(frozen=True)
class Outcome:
    """The posteriors of tasks, and whether a reward was found in each."""

    posterior: PolicyParticles
    found: Tensor


def side_by_side(
    world: World, model: Model, policy: Policy, tasks: Tensor, budget: int, generator: torch.Generator
) -> Outcome:
    """One round of all particles."""
    each = budget // policy.particles
    prior = policy.prior(model.learned)
    episodes = rollout(world, policy, prior.particles, tasks, each, generator).episodes
    with torch.no_grad():
        posterior = policy.adapt_rounds(model.learned, prior, [episodes])
    return Outcome(posterior, _paid(episodes))


def in_turn(
    world: World, model: Model, policy: Policy, tasks: Tensor, budget: int, generator: torch.Generator
) -> Outcome:
    """One particle at a time, chosen by the returns of all."""
    posterior = policy.prior(model.learned)
    found = torch.zeros(len(tasks), dtype=torch.bool)
    left = torch.full((len(tasks),), budget)
    while bool((left > 0).any()):
        chosen = posterior.next_particle().expand(len(tasks))
        wanted = torch.where(found, ROUND, 1).minimum(left)
        own = posterior.particles.expand(len(tasks), -1, -1)[torch.arange(len(tasks)), chosen].unsqueeze(1)
        acted = rollout(world, policy, own, tasks, ROUND, generator).episodes
        episodes = _of_particle(acted, chosen, wanted, policy.particles)
        with torch.no_grad():
            posterior = policy.adapt_rounds(model.learned, posterior, [episodes])
        found, left = found | _paid(episodes), left - wanted
    return Outcome(posterior, found)


def _of_particle(episodes: Episodes, chosen: Tensor, wanted: Tensor, particles: int) -> Episodes:
    """The first `wanted` episodes, acted by the chosen particle of each task; the others have none."""
    whose = torch.arange(particles) == chosen.unsqueeze(-1)
    which = torch.arange(episodes.mask.shape[2]) < wanted.unsqueeze(-1)
    kept = (whose.unsqueeze(-1) & which.unsqueeze(1)).unsqueeze(-1)
    return Episodes(
        episodes.observations.expand(-1, particles, -1, -1, -1),
        episodes.actions.expand(-1, particles, -1, -1, -1),
        episodes.rewards.expand(-1, particles, -1, -1),
        episodes.mask & kept,
    )


def _paid(episodes: Episodes) -> Tensor:
    return ((episodes.rewards > 0) & episodes.mask).flatten(1).any(-1)


def fresh_returns(
    world: World, policy: Policy, posterior: PolicyParticles, tasks: Tensor, generator: torch.Generator
) -> Tensor:
    """The return of each task's best particle on episodes that nothing was chosen by."""
    episodes = rollout(world, policy, posterior.particles, tasks, FRESH, generator).episodes
    return episodes.returns().gather(1, posterior.best().unsqueeze(-1))[:, 0]


def main() -> None:
    """Measure and print the table."""
    arguments = command_line.parser(__doc__)
    command_line.add_page(arguments)
    arguments.add_argument("--store", type=Path, required=True, help="the store with the policy")
    arguments.add_argument("--name", default="ring", help="the policy")
    arguments.add_argument("--tasks", type=int, default=TASKS)
    options = arguments.parse_args()
    if options.page:
        pages.check(options.page, "policy-episodes")
    torch.set_num_threads(1)
    model, world = Store(options.store).load(options.name), world_of("ring")
    policy = model.learner
    assert isinstance(policy, Policy)
    lines = [
        "| episodes | found, side by side | return, side by side | found, in turn | return, in turn |",
        "|---|---|---|---|---|",
    ]
    for budget in BUDGETS:
        cells = [str(budget)]
        for way in (side_by_side, in_turn):
            generator = torch.Generator().manual_seed(SEED)
            tasks = world.tasks(options.tasks, generator)
            outcome = way(world, model, policy, tasks, budget, generator)
            returns = fresh_returns(world, policy, outcome.posterior, tasks, generator)
            error = statistics.stdev(returns.tolist()) / len(returns) ** 0.5
            cells += [
                f"{float(outcome.found.double().mean()):.2f}",
                f"{float(returns.mean()):.1f} ± {error:.1f}",
            ]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if options.page:
        pages.write(options.page, lines, "policy-episodes")


if __name__ == "__main__":
    main()
