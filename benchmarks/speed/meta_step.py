"""Milliseconds of one meta-step of the chaser loss in the paper's setting, four implementations in one run.

    python -m benchmarks.speed.meta_step [--repeats 200] [--threads 2] [--device cpu] [--eager]

1-40-40-40-1 ReLU networks, 10 particles, 10 tasks with 10 + 10 points, one chaser and one leader step, Adam.
*Ours* is `training.loop.meta_step`, with and without `bmaml-train --compile`. *Autograd* is the same batched
algebra with scores by double differentiation. The *loop* is the straightforward form, one task and one
particle at a time. `--eager` leaves the compiled one
out. All start from the same parameters. Their gradients must agree before anything is timed.
"""

import platform
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import command_line
from benchmarks.speed.reference_svgd import svgd_step
from benchmarks.timing import timed
from bmaml import svgd
from bmaml.densities import log_joint, weights_of
from bmaml.learners.bmaml import BMAML
from bmaml.networks import MLP
from bmaml.task import Examples, TaskBatch
from training.checkpoint import TrainingState
from training.compiled import objective
from training.config import Optimisation, Shots, SinusoidConfig
from training.families import Sinusoid
from training.loop import meta_step

NETWORK = MLP(1, (40, 40, 40), 1, "relu")
LEARNER = BMAML(NETWORK, particles=10, steps=1, step_size=1e-3)


def autograd_loss(initial: Tensor, batch: TaskBatch) -> Tensor:
    """The chaser loss, batched over tasks and particles; second order by differentiating a gradient."""

    def step(particles: Tensor, examples: Examples, create_graph: bool) -> Tensor:
        density = log_joint(NETWORK, particles, examples, LEARNER.priors).sum()
        (scores,) = torch.autograd.grad(density, particles, create_graph=create_graph)
        offsets = particles.unsqueeze(2) - particles.unsqueeze(1)
        squared = offsets.square().sum(-1)
        width = svgd.median_bandwidth(squared.detach()).view(-1, 1, 1)
        gram = torch.exp(-squared / width)
        repulsion = (gram.unsqueeze(-1) * offsets).sum(2) * 2 / width
        return particles + LEARNER.step_size * (gram @ scores + repulsion) / LEARNER.particles

    chaser = step(initial.expand(len(batch), -1, -1), batch.support, True)
    leader = step(chaser.detach().requires_grad_(), batch.all_examples(), False).detach()
    return (weights_of(chaser) - weights_of(leader)).square().sum() / len(batch)


def loop_loss(initial: Tensor, batch: TaskBatch) -> Tensor:
    """The chaser loss, one task and one particle at a time, as the algorithm box reads."""

    def step(particles: list[Tensor], x: Tensor, y: Tensor, create_graph: bool) -> list[Tensor]:
        examples = Examples.full(x[None], y[None])
        scores = []
        for theta in particles:
            density = log_joint(NETWORK, theta[None, None], examples, LEARNER.priors).sum()
            scores.append(torch.autograd.grad(density, theta, create_graph=create_graph)[0])
        return svgd_step(particles, scores, LEARNER.step_size)

    losses = []
    for task in range(len(batch)):
        x, y = batch.support.x[task], batch.support.y[task]
        chaser = step(list(initial.unbind(0)), x, y, True)
        both = torch.cat([x, batch.query.x[task]]), torch.cat([y, batch.query.y[task]])
        leader = step([theta.detach().requires_grad_() for theta in chaser], *both, False)
        losses += [
            (weights_of(c) - weights_of(goal.detach())).square().sum()
            for c, goal in zip(chaser, leader, strict=True)
        ]
    return torch.stack(losses).sum() / len(batch)


def main() -> None:
    """Print a Markdown table."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=200)
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments.add_argument("--eager", action="store_true", help="leave out the compiled meta-step")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    family = Sinusoid(SinusoidConfig(Shots(10, 10), 10, tasks=1000), seed=0)
    batch = family.batch(10, torch.Generator().manual_seed(0)).to(device)
    start = LEARNER.initialise(torch.Generator().manual_seed(0))["initial"].to(device)

    def gradient(loss: Callable[[Tensor, TaskBatch], Tensor]) -> Tensor:
        initial = start.clone().requires_grad_()
        return torch.autograd.grad(loss(initial, batch), initial)[0]

    def our_loss(initial: Tensor, batch: TaskBatch) -> Tensor:
        return LEARNER.loss({"initial": initial}, batch)

    reference = gradient(our_loss)
    others: list[Callable[[Tensor, TaskBatch], Tensor]] = [autograd_loss, loop_loss]
    if not options.eager:
        compiled = objective(LEARNER, compile_it=True)

        def compiled_loss(initial: Tensor, batch: TaskBatch) -> Tensor:
            return compiled({"initial": initial}, batch)

        others.append(compiled_loss)

    for other in others:
        difference = (gradient(other) - reference).norm() / reference.norm()
        if difference > 1e-3:
            raise SystemExit(f"{other.__name__} disagrees with ours by {difference:.2g}; nothing was timed")

    plan = Optimisation(meta_batch=10, clip=0)

    def ours(compile_it: bool) -> Callable[[], object]:
        learned = {"initial": start.clone().requires_grad_()}
        state = TrainingState(learned, torch.optim.Adam(learned.values(), lr=1e-3), device)
        loss_of = objective(LEARNER, compile_it)
        return lambda: meta_step(state, loss_of, batch, plan)

    def eager(loss: Callable[[Tensor, TaskBatch], Tensor]) -> Callable[[], None]:
        initial = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([initial], lr=1e-3)

        def step() -> None:
            optimiser.zero_grad()
            loss(initial, batch).backward()
            optimiser.step()

        return step

    def clocked(step: Callable[[], object], repeats: int) -> list[float]:
        def whole() -> None:
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return timed(whole, repeats)

    rows = [] if options.eager else [("ours, compiled", clocked(ours(True), options.repeats))]
    rows += [
        ("ours", clocked(ours(False), options.repeats)),
        ("autograd, batched", clocked(eager(autograd_loss), max(3, options.repeats // 5))),
        ("loop over tasks and particles", clocked(eager(loop_loss), max(3, options.repeats // 50))),
    ]
    where = (
        torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    )
    print(f"{where}, {torch.get_num_threads()} threads\n")
    print("| meta-step | median ms | min | max | times the first |")
    print("|---|---|---|---|---|")
    fastest = statistics.median(rows[0][1])
    for name, each in rows:
        median = statistics.median(each)
        print(f"| {name} | {median:.1f} | {min(each):.1f} | {max(each):.1f} | {median / fastest:.1f} × |")


if __name__ == "__main__":
    main()
