"""Milliseconds to adapt to a task and predict, by the number and size of tasks, beside a lower bound.

    python -m benchmarks.speed.adaptation [--repeats 9] [--page docs/performance.md]

The network is an MLP 1-40-40-40-1 with ten particles; a task has ten support rows and fifty query rows.
`bfa` takes five SVGD steps; `collapsed` has exact last layers and takes none. The loop is the straightforward
form of `bfa`: one task and one particle at a time, gradients by autograd. Mean and variance of the two forms
must agree before anything is timed. One thread.

The floor is the larger of two times. One is floating-point operations over the rate of small matrix products
of the networks' own size. The other is bytes over the rate of a copy, with particles and scores once in and
once out of memory each step. Both rates are measured in the same run.
"""

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks import command_line, pages
from benchmarks.speed.reference_svgd import svgd_step
from benchmarks.timing import timed
from bmaml.densities import log_joint, noise_variance, weights_of
from bmaml.learners import Learned, Learner
from bmaml.learners.bfa import BFA
from bmaml.learners.collapsed import Collapsed
from bmaml.networks import MLP
from bmaml.predictive import Predictive
from bmaml.task import Examples

NETWORK = MLP(1, (40, 40, 40), 1, "relu")
BASE = {"tasks": 16, "support": 10, "query": 50, "particles": 10, "steps": 5}
TASKS = (1, 4, 16, 64, 256)
Moments = tuple[Tensor, Tensor]
"""Mean and variance of every query row, `[task, query, output]`."""


def random_tasks(tasks: int, support: int, query: int) -> tuple[Examples, Tensor]:
    """Support sets of a sine curve and query inputs; the values make no difference to the time."""
    generator = torch.Generator().manual_seed(0)
    x = 10 * torch.rand(tasks, support, 1, generator=generator) - 5
    return Examples.full(x, x.sin()), 10 * torch.rand(tasks, query, 1, generator=generator) - 5


def moments(learner: Learner[Any], learned: Learned, support: Examples, x: Tensor) -> Moments:
    """The learner's prediction, all tasks and particles at once."""
    belief = learner.predict(learner.adapt(learned, support), x)
    assert isinstance(belief, Predictive)
    return belief.mean(), belief.variance()


def looped_moments(learner: BFA, learned: Learned, support: Examples, x: Tensor) -> Moments:
    """The same, one task and one particle at a time, as the algorithm box reads."""
    network, means, variances = learner.network, [], []
    for task in range(len(support)):
        rows = support.tasks(slice(task, task + 1))
        particles = list(learned["initial"].unbind(0))
        for _ in range(learner.steps):
            scores = []
            for theta in particles:
                leaf = theta.detach().requires_grad_()
                with torch.enable_grad():
                    density = log_joint(NETWORK, leaf[None, None], rows, learner.priors).sum()
                scores.append(torch.autograd.grad(density, leaf)[0])
            particles = svgd_step(particles, scores, learner.step_size)
        own = x[task : task + 1]
        each = torch.stack([network(weights_of(theta)[None, None], own)[0, 0] for theta in particles])
        noise = torch.stack([noise_variance(theta) for theta in particles]).mean()
        means.append(each.mean(0))
        variances.append(each.var(0, correction=0) + noise)
    return torch.stack(means), torch.stack(variances)


def milliseconds(run: Callable[[], object], repeats: int) -> float:
    """The median milliseconds of a call."""
    return statistics.median(timed(run, repeats))


def rates(particles: int, repeats: int) -> tuple[float, float]:
    """Floating-point operations per second in small products, and bytes per second in a copy."""
    left, right = torch.randn(16 * particles, 10, 40), torch.randn(16 * particles, 40, 40)
    flops = 2 * left.numel() * 40 / milliseconds(lambda: torch.bmm(left, right), 20 * repeats) * 1e3
    block = torch.randn(1 << 20)
    target = torch.empty_like(block)
    return flops, 2 * 4 * block.numel() / milliseconds(lambda: target.copy_(block), 20 * repeats) * 1e3


def floor(size: dict[str, int], flops: float, bandwidth: float) -> float:
    """A lower bound, milliseconds per task: three products forward and back per step, one at the end."""
    weights = sum(i * o for i, o in NETWORK.layers)
    row = 2 * weights * size["particles"]
    work = row * (3 * size["support"] * size["steps"] + size["query"])
    bytes_moved = 4 * NETWORK.size * size["particles"] * (1 + 4 * size["steps"])
    return 1000 * max(work / flops, bytes_moved / bandwidth)


def main() -> None:
    """Print the tables; write them into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=9)
    command_line.add_page(arguments)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    base = BFA(NETWORK, particles=BASE["particles"], steps=BASE["steps"], step_size=1e-4)
    exact = Collapsed(NETWORK, particles=BASE["particles"], steps=0)

    def initialised(learner: Learner[Any]) -> Learned:
        return learner.initialise(torch.Generator().manual_seed(0))

    def per_task(learner: Learner[Any], size: dict[str, int]) -> float:
        learned = initialised(learner)
        support, x = random_tasks(size["tasks"], size["support"], size["query"])
        return milliseconds(lambda: moments(learner, learned, support, x), options.repeats) / size["tasks"]

    with torch.no_grad():
        support, x = random_tasks(2, 10, 50)
        learned = initialised(base)
        for found, expected in zip(
            moments(base, learned, support, x), looped_moments(base, learned, support, x), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        flops, bandwidth = rates(BASE["particles"], options.repeats)
        looped = milliseconds(lambda: looped_moments(base, learned, support, x), 3) / 2
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
