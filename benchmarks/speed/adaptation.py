"""Milliseconds to adapt to a task and predict, against the number of tasks and the size of each, and a floor.

    python -m benchmarks.speed.adaptation [--repeats 9] [--page docs/performance.md]

MLP 1-40-40-40-1, ten particles, ten support rows, fifty query rows, five SVGD steps (`bfa`), and the
same network with exact last layers and no steps (`collapsed`). Beside them the straightforward form: one
task and one particle at a time, gradients by autograd. The answer is mean and variance of the mixture; the
forms must agree on it before anything is timed. One thread.

The floor is the larger of two: floating-point operations over the rate of a batch of small matrix
products of the networks' own size, and bytes (particles and scores once in and once out of memory each
step) over the rate of a copy; both rates are measured in the same run.
"""

import argparse
import platform
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import pages
from benchmarks.speed.reference_svgd import moved
from benchmarks.timing import timed
from bmaml.densities import log_joint, noise_variance, weights_of
from bmaml.learners import BFA, Collapsed, Learner
from bmaml.networks import MLP
from bmaml.task import Examples
from service.ops.memory import keep_freed_memory

NETWORK = MLP(1, (40, 40, 40), 1, "relu")
BASE = {"tasks": 16, "support": 10, "query": 50, "particles": 10, "steps": 5}
TASKS = (1, 4, 16, 64, 256)


def problem(tasks: int, support: int, query: int) -> tuple[Examples, Tensor]:
    """Sine-like rows; what they are makes no difference to the time."""
    generator = torch.Generator().manual_seed(0)
    x = 10 * torch.rand(tasks, support, 1, generator=generator) - 5
    return Examples.full(x, x.sin()), 10 * torch.rand(tasks, query, 1, generator=generator) - 5


Moments = tuple[Tensor, Tensor]


def ours(
    learner: Learner[Any], learned: dict[str, Tensor], support: Examples, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and variance of every query row."""
    belief: Any = learner.predict(learner.adapt(learned, support), x)
    return belief.mean(), belief.variance()


def loop(learner: BFA, learned: dict[str, Tensor], support: Examples, x: Tensor) -> Moments:
    """One task and one particle at a time, as the algorithm box reads."""
    network, means, variances = learner.network, [], []
    for task in range(len(support)):
        rows = support.tasks(slice(task, task + 1))
        particles = list(learned["initial"].unbind(0))
        for _ in range(learner.steps):
            scores = []
            for theta in particles:
                leaf = theta.detach().requires_grad_()
                with torch.enable_grad():
                    density = log_joint(network, leaf[None, None], rows, learner.priors).sum()
                scores.append(torch.autograd.grad(density, leaf)[0])
            particles = moved(particles, scores, learner.step_size)
        own = x[task : task + 1]
        each = torch.stack([network(weights_of(theta)[None, None], own)[0, 0] for theta in particles])
        noise = torch.stack([noise_variance(theta) for theta in particles]).mean()
        means.append(each.mean(0))
        variances.append(each.var(0, correction=0) + noise)
    return torch.stack(means), torch.stack(variances)


def milliseconds(run: Callable[[], object], repeats: int) -> float:
    """The median."""
    return statistics.median(timed(run, repeats))


def rates(particles: int, repeats: int) -> tuple[float, float]:
    """Floating-point operations and bytes a second, of small products and of a copy."""
    left, right = torch.randn(16 * particles, 10, 40), torch.randn(16 * particles, 40, 40)
    flops = 2 * left.numel() * 40 / milliseconds(lambda: torch.bmm(left, right), 20 * repeats) * 1e3
    block = torch.randn(1 << 20)
    target = torch.empty_like(block)
    return flops, 2 * 4 * block.numel() / milliseconds(lambda: target.copy_(block), 20 * repeats) * 1e3


def floor(size: dict[str, int], flops: float, bandwidth: float) -> float:
    """Milliseconds a task cannot go below: three products forward and back in every step, one at the end."""
    weights = sum(i * o for i, o in NETWORK.layers)
    row = 2 * weights * size["particles"]
    work = row * (3 * size["support"] * size["steps"] + size["query"])
    moved = 4 * NETWORK.size * size["particles"] * (1 + 4 * size["steps"])
    return 1000 * max(work / flops, moved / bandwidth)


def main() -> None:
    """Print the tables; write them into a page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--page", type=Path, help="docs/performance.md; else nothing is written")
    parser.add_argument("--machine", default=platform.machine())
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    base = BFA(NETWORK, particles=BASE["particles"], steps=BASE["steps"], step_size=1e-4)
    exact = Collapsed(NETWORK, particles=BASE["particles"], steps=0)

    def started(learner: Learner[Any]) -> dict[str, Tensor]:
        return learner.initialise(torch.Generator().manual_seed(0))

    def per_task(learner: Learner[Any], size: dict[str, int]) -> float:
        learned, (support, x) = started(learner), problem(size["tasks"], size["support"], size["query"])
        return milliseconds(lambda: ours(learner, learned, support, x), options.repeats) / size["tasks"]

    with torch.no_grad():
        support, x = problem(2, 10, 50)
        learned = started(base)
        for found, expected in zip(
            ours(base, learned, support, x), loop(base, learned, support, x), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        flops, bandwidth = rates(BASE["particles"], options.repeats)
        looped = milliseconds(lambda: loop(base, learned, support, x), 3) / 2
        lines = [
            f"Measured on {options.machine}, one thread: {flops / 1e9:.0f} GFLOP/s in small products, "
            f"{bandwidth / 1e9:.0f} GB/s in a copy. "
            f"The loop over tasks and particles takes {looped:.1f} ms a task.",
            "",
            "| tasks | `bfa`, 5 steps, ms a task | floor | `collapsed`, no steps, ms a task |",
            "|---|---|---|---|",
        ]
        for tasks in TASKS:
            size = {**BASE, "tasks": tasks}
            lowest = floor(size, flops, bandwidth)
            lines.append(
                f"| {tasks} | {per_task(base, size):.2f} | {lowest:.2f} | {per_task(exact, size):.2f} |"
            )
        lines += ["", "| doubled, at 16 tasks | from | to | ms a task | times |", "|---|---|---|---|---|"]
        reference = per_task(base, BASE)
        for name in ("tasks", "support", "query", "steps", "particles"):
            before, least = reference, BASE[name]
            for doubling in (2, 4):
                size = {**BASE, name: doubling * least}
                grown = replace(base, particles=size["particles"], steps=size["steps"])
                after = per_task(grown, size)
                total = after / before * (2 if name == "tasks" else 1)
                lines.append(
                    f"| {name} | {doubling // 2 * least} | {doubling * least} | {after:.2f} | {total:.2f} × |"
                )
                before = after
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, "adaptation")


if __name__ == "__main__":
    main()
