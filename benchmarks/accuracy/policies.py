"""Policies: MAML, EMAML and BMAML on worlds of dense, sparse and shaped rewards, at equal environment steps.

    python -m benchmarks.accuracy.policies --results runs/policies.json --page docs/policies.md

    python -m benchmarks.accuracy.policies --crossed --results runs/policies.json --page docs/policies.md

The second command measures the other combinations of inner step and objective, for a table of their own.
It needs `.[bench]`. Every learner sees 50 episodes of a task in a round, M particles × 50/M, and takes as
many meta-steps. A training is 40 seconds of CPU time or less. Results are kept in the file of `--results`, so
that an interrupted benchmark goes on where it was. Returns are of 100 held-out tasks that chose nothing.
"""

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks import command_line, pages
from bmaml.learners import Policy, policy_from
from training.config import Optimisation, TrainingConfig, WorldConfig
from training.families.family import HELD_OUT_SEED
from training.families.world_tasks import HELD_OUT_TASKS, ROUNDS, WorldTasks
from training.families.worlds import STEP_SIZE, world_of
from training.loop import train

EPISODES = 50
"""Episodes of a task in a round, over all particles."""
Results = dict[str, dict[str, list[float]]]
"""By the name of a run: the columns of `training.policy_returns.Returns`, and the CPU seconds."""


@dataclass(frozen=True)
class Problem:
    """A world, and what is the same for all learners on it.

    Attributes:
        final_rate: the fraction of the learning rate that a cosine leaves at the end.
        without: names of the contenders that are not measured.
        crossed: names of those in the table of other combinations.
    """

    name: str
    world: str
    shaped: bool
    particles: int
    alpha: float
    meta_steps: int
    learning_rate: float
    final_rate: float = 1.0
    without: tuple[str, ...] = ()
    crossed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contender:
    """A learner and the objective that its start is trained for."""

    name: str
    learner: str
    objective: str


CONTENDERS = (
    Contender("MAML", "maml", "mean"),
    Contender("EMAML", "emaml", "mean"),
    Contender("EMAML with Stein steps", "bmaml", "mean"),
    Contender("BMAML, chaser loss", "bmaml", "chaser"),
    Contender("mixture, plain steps", "emaml", "mixture"),
    Contender("mixture, Stein steps", "bmaml", "mixture"),
)
STEIN_MEAN, PLAIN_MIXTURE = CONTENDERS[2].name, CONTENDERS[4].name
PROBLEMS = (
    Problem("dense", "navigation", False, 5, 0.01, 80, 1e-2, crossed=(PLAIN_MIXTURE,)),
    Problem("shaped", "ring", True, 10, 0.001, 100, 1e-2, crossed=(STEIN_MEAN,)),
    Problem("long", "ring", True, 10, 0.001, 450, 5e-3, 0.1, tuple(each.name for each in CONTENDERS[:-1])),
    Problem("sparse", "ring", False, 10, 0.001, 100, 1e-2, crossed=(STEIN_MEAN, PLAIN_MIXTURE)),
)
HEADINGS = {
    "dense": "Dense: navigation, {particles} particles",
    "shaped": "Shaped: ring, {particles} particles, judged by the distance",
    "long": "Shaped, 450 meta-steps at a falling rate",
    "sparse": "Sparse: ring, {particles} particles, judged by its own reward",
}


def contenders(problem: Problem, crossed: bool = False) -> list[Contender]:
    """Those that are measured on a problem, in the first table or in that of other combinations."""
    known = [each for each in CONTENDERS if each.name not in problem.without]
    return [each for each in known if (each.name in problem.crossed) == crossed]


def learner_of(problem: Problem, contender: Contender) -> Policy:
    """The contender with the problem's settings."""
    settings: dict[str, Any] = {
        "network": {"inputs": 2, "hidden": (32, 32), "outputs": 2, "activation": "relu"},
        "particles": 1 if contender.learner == "maml" else problem.particles,
        "objective": contender.objective,
    }
    if contender.learner == "bmaml":
        settings["alpha"] = problem.alpha
    return policy_from(contender.learner, settings)


def measured(problem: Problem, contender: Contender, seed: int, share: float) -> dict[str, list[float]]:
    """Train on one thread, then measure on the held-out tasks."""
    torch.set_num_threads(1)
    started = time.process_time()
    policy = learner_of(problem, contender)
    steps = max(1, round(share * problem.meta_steps))
    plan = Optimisation(
        meta_steps=steps,
        meta_batch=20,
        learning_rate=problem.learning_rate,
        final_rate=problem.final_rate,
        decay="cosine",
        warmup=0,
        clip=0.0,
        evaluate_every=steps,
        patience=0,
    )
    family = WorldConfig(problem.world, EPISODES // policy.particles, problem.shaped)
    config = TrainingConfig("benchmark", family, policy.name, {}, plan, seed)
    tasks = WorldTasks(family, seed)
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        learned = train(config, tasks, policy, Path(folder)).learned
    seconds = time.process_time() - started
    return {**asdict(tasks.held_out_returns(policy, learned)), "seconds": [seconds]}


def runs(seeds: int, crossed: bool = False) -> Iterator[tuple[str, Problem, Contender, int]]:
    """All runs by name, problem by problem."""
    for problem in PROBLEMS:
        for contender in contenders(problem, crossed):
            for seed in range(1, seeds + 1):
                yield f"{problem.name}/{contender.name}/{seed}", problem, contender, seed


def table(problem: Problem, results: Results, seeds: int, crossed: bool = False) -> list[str]:
    """The returns on one problem, means over seeds ± their standard deviation."""
    after = [f"mean {rounds}" for rounds in range(1, ROUNDS + 1)]
    after += [f"chosen {rounds}" for rounds in range(ROUNDS + 1)]
    found = ["found"] if problem.world == "ring" else []
    lines = [
        f"#### {HEADINGS[problem.name].format(particles=problem.particles)}",
        "",
        f"| learner | {' | '.join(after + found)} |",
        "|---" * (1 + len(after) + len(found)) + "|",
    ]
    for contender in contenders(problem, crossed):
        own = [results[f"{problem.name}/{contender.name}/{seed}"] for seed in range(1, seeds + 1)]
        cells = [_spread([each["mean"][rounds] for each in own]) for rounds in range(1, ROUNDS + 1)]
        cells += [_spread([each["chosen"][rounds] for each in own]) for rounds in range(ROUNDS + 1)]
        if found:
            cells.append(f"{statistics.mean(each['found'][0] for each in own):.2f}")
        lines.append(f"| {contender.name} | {' | '.join(cells)} |")
    for name, speed in (
        () if crossed else (("standing still", 0.0), ("an oracle, which walks to the goal", 1.0))
    ):
        gained, paid = reference(problem, speed)
        cells = [f"{gained:.2f}"] * len(after) + [f"{paid:.2f}"] * len(found)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def reference(problem: Problem, speed: float) -> tuple[float, float]:
    """The return on the held-out tasks of a walk to the goal, and the part of tasks in which it is paid."""
    world = world_of(problem.world)
    generator = torch.Generator().manual_seed(HELD_OUT_SEED)
    goals = world.tasks(HELD_OUT_TASKS, generator)
    states, total = world.reset((len(goals),), generator), torch.zeros(len(goals))
    alive, paid = (torch.full((len(goals),), each) for each in (True, False))
    for _ in range(world.horizon):
        after = world.step(states, speed * (goals - states) / STEP_SIZE, goals)
        total, paid = total + after.rewards * alive, paid | (after.rewards > 0)
        states, alive = after.states, alive & ~after.ended
    return float(total.mean()), float(paid.double().mean())


def _spread(values: Sequence[float]) -> str:
    text = f"{statistics.mean(values):.2f}"
    return f"{text} ± {statistics.stdev(values):.2f}" if len(values) > 1 else text


def main() -> None:
    """Run what is missing and print the tables."""
    arguments = command_line.parser(__doc__)
    command_line.add_page(arguments)
    arguments.add_argument("--results", type=Path, required=True, help="file of the results so far")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--share", type=float, default=1.0, help="part of the meta-steps")
    arguments.add_argument("--crossed", action="store_true", help="the other steps and objectives")
    options = arguments.parse_args()
    block = "policies-crossed" if options.crossed else "policies"
    if options.page:
        pages.check(options.page, block)
    results: Results = json.loads(options.results.read_text()) if options.results.exists() else {}
    for name, problem, contender, seed in runs(options.seeds, options.crossed):
        if name not in results:
            results[name] = measured(problem, contender, seed, options.share)
            options.results.parent.mkdir(parents=True, exist_ok=True)
            options.results.write_text(json.dumps(results, indent=1))
            print(name, *(f"{value:.2f}" for value in results[name]["chosen"]), flush=True)
    lines = [
        line
        for problem in PROBLEMS
        if contenders(problem, options.crossed)
        for line in table(problem, results, options.seeds, options.crossed)
    ]
    measured_here = [name for name, *_ in runs(options.seeds, options.crossed)]
    seconds = max(results[name]["seconds"][0] for name in measured_here)
    lines.append(f"The longest training took {seconds:.0f} seconds of CPU time on a {options.machine}.")
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, block)


if __name__ == "__main__":
    main()
