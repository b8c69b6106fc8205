"""The half-cheetah that runs in a direction of the task's: learning curves of EMAML and BMAML.

    python -m benchmarks.accuracy.policy_cheetah --page docs/policies.md

It needs `.[bench,gym]`. Five particles act four episodes of 100 steps each in a round, on eight tasks a
meta-step. Returns are of ten tasks that chose nothing, five of each direction.
"""

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks import command_line, pages
from bmaml.learners import Policy, policy_from
from training.config import WorldConfig
from training.families.world_tasks import WorldTasks
from training.policy_returns import returns_by_round

PARTICLES, EPISODES, HORIZON = 5, 4, 100
TASKS, LEARNING_RATE = 8, 1e-2
LOOK = 20
"""Meta-steps between two rows of the curve."""
ROUNDS = 2
LEARNERS = {"EMAML": ("emaml", {}), "BMAML, chaser loss": ("bmaml", {"objective": "chaser", "alpha": 0.01})}


def curve(learner: str, seed: int, meta_steps: int) -> Iterator[tuple[int, float, list[float], list[float]]]:
    """Meta-steps taken, CPU seconds of training, and returns after 0 … 2 rounds: mean and chosen."""
    tasks = WorldTasks(WorldConfig("gym:HalfCheetahDir", EPISODES), seed)
    world = tasks.world
    world.horizon = HORIZON  # type: ignore[misc]
    name, settings = LEARNERS[learner]
    network = {"inputs": len(tasks.inputs), "hidden": (32, 32), "outputs": len(tasks.outputs)}
    policy = policy_from(name, {"network": network, "particles": PARTICLES, **settings})
    generator = torch.Generator().manual_seed(seed)
    learned = policy.initialise(generator)
    learned["initial"].requires_grad_()
    optimiser = torch.optim.Adam([learned["initial"]], lr=LEARNING_RATE)
    loss_of, seconds = tasks.loss_of(policy), 0.0
    for step in range(meta_steps + 1):
        if step % LOOK == 0 or step == meta_steps:
            yield (step, seconds, *_returns(tasks, policy, learned))
        started = time.process_time()
        optimiser.zero_grad()
        loss_of(learned, tasks.batch(TASKS, generator)).backward()
        optimiser.step()
        seconds += time.process_time() - started


def _returns(
    tasks: WorldTasks, policy: Policy, learned: dict[str, Tensor]
) -> tuple[list[float], list[float]]:
    directions = torch.tensor([1.0, -1.0]).repeat(5).unsqueeze(-1)
    generator = torch.Generator().manual_seed(77)
    found = returns_by_round(tasks.world, policy, learned, directions, EPISODES, ROUNDS, generator)
    return found.mean, found.chosen


def main() -> None:
    """Train and print the curves."""
    arguments = command_line.parser(__doc__)
    command_line.add_page(arguments)
    arguments.add_argument("--meta-steps", type=int, default=40)
    arguments.add_argument("--seeds", type=int, default=2)
    options = arguments.parse_args()
    if options.page:
        pages.check(options.page, "policy-cheetah")
    torch.set_num_threads(1)
    columns = [f"mean {rounds}" for rounds in range(ROUNDS + 1)]
    columns += [f"chosen {rounds}" for rounds in range(ROUNDS + 1)]
    lines = [f"| learner | seed | meta-steps | {' | '.join(columns)} | CPU, s |", "|---" * 10 + "|"]
    for learner in LEARNERS:
        for seed in range(1, options.seeds + 1):
            for step, seconds, mean, chosen in curve(learner, seed, options.meta_steps):
                figures = " | ".join(f"{value:.1f}" for value in (*mean, *chosen))
                lines.append(f"| {learner} | seed {seed} | {step} steps | {figures} | {seconds:.0f} |")
                print(lines[-1], flush=True)
    if options.page:
        pages.write(options.page, lines, "policy-cheetah")


if __name__ == "__main__":
    main()
