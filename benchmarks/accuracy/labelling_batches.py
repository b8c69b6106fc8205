"""Batches of labels: strategies beside random choice, about the whole pool and about a few target rows.

    python -m benchmarks.accuracy.labelling_batches learning_curves.parquet [--page docs/active-learning.md]

A task begins with two labelled rows, and each round buys the labels of three rows together. Where the pool is
asked about, the rounds are those of `active_learning` on sine curves and on learning curves of data sets that
nothing chose on. Where a target is posted, it is five neighbouring rows of a sine curve, and the score is
the NLL of their noiseless values after one batch.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import command_line, pages
from benchmarks.accuracy.active_learning import NEGLIGIBLE, believed, labelled_rows
from benchmarks.accuracy.labelling_problems import PoolProblem, curve_problem, sine_problem
from bmaml.acquisition import ACQUISITIONS, STRATEGIES, Candidates, Pool
from bmaml.predictive import Predictive
from bmaml.task import Examples
from model_store import SHIPPED
from model_store.model import NEGLIGIBLE_WEIGHT

BLOCK = "labelling-batches"
SIZE, ROUNDS = 3, 2
TARGETS = 5
RULES = (
    ("random", "top_k"),
    ("epig", "top_k"),
    ("epig", "power"),
    ("epig", "joint_epig"),
    ("epistemic_variance", "max_determinant"),
    ("entropy", "top_k"),
    ("entropy", "joint_entropy"),
)
"""Acquisitions and strategies; the first is the one to beat."""
Scores = NDArray[np.float64]
"""NLL `[round, task]`, after every batch."""


def played(problem: PoolProblem, rule: tuple[str, str], targeted: bool) -> Scores:
    """The NLL of the test rows after each batch; of the target rows after one, where there are some."""
    return np.array([list(_rounds(problem, task, rule, targeted)) for task in range(len(problem.rows))]).T


def _rounds(problem: PoolProblem, task: int, rule: tuple[str, str], targeted: bool) -> Iterator[float]:
    draws = torch.Generator().manual_seed(task)
    rows = int(problem.real[task].sum())
    x, y = problem.rows[task : task + 1, :rows], problem.y[task : task + 1, :rows]
    test = problem.test.tasks(slice(task, task + 1))
    if targeted:
        order = test.x[0, :, 0].argsort()
        first = int(torch.randint(len(order) - TARGETS, (), generator=draws))
        kept = order[first : first + TARGETS]
        test = Examples.full(test.x[:, kept], test.y[:, kept])
    labelled = torch.arange(rows).unsqueeze(0) < problem.start
    for _ in range(1 if targeted else ROUNDS):
        uniform = torch.rand(1, rows, generator=draws)
        indices = _batch(problem, x, y, labelled, uniform, test.x if targeted else None, rule)
        labelled = labelled.scatter(1, indices, True)
        support = labelled_rows(x, y, labelled)
        belief = believed(problem, _posterior(problem, support), test.x, support)
        yield float(problem.scores["NLL"](belief, test)[0])


def _batch(
    problem: PoolProblem,
    x: Tensor,
    y: Tensor,
    labelled: Tensor,
    uniform: Tensor,
    target_x: Tensor | None,
    rule: tuple[str, str],
) -> Tensor:
    """The rows to label next, `[1, pick]`."""
    acquisition, strategy = rule
    support = labelled_rows(x, y, labelled)
    everything = x if target_x is None else torch.cat([x, target_x], 1)
    about = believed(problem, _posterior(problem, support), everything, support, joint=True)
    assert isinstance(about, Predictive)
    about, rows = about.pruned(NEGLIGIBLE), x.shape[1]
    pool = about.part(slice(None), slice(rows))
    target = None if target_x is None else about.part(slice(None), slice(rows, None))
    offered = Candidates(
        scores=ACQUISITIONS[acquisition].score(Pool(pool, torch.zeros(1), uniform, target)).double(),
        available=~labelled,
        uniform=uniform,
        predictive=pool,
        x=x,
        labelled=support.x,
        labelled_mask=support.mask,
        target=target,
    )
    indices = STRATEGIES[strategy](offered, SIZE).indices
    return indices[indices >= 0].unsqueeze(0)


def _posterior(problem: PoolProblem, support: Examples) -> object:
    return problem.model.learner.adapt_pruned(problem.model.learned, support, NEGLIGIBLE_WEIGHT)


def table(title: str, tasks: int, found: dict[tuple[str, str], Scores]) -> Iterator[str]:
    """The rows of one problem: the NLL after each batch, less that of random choice."""
    yield f"**{title}, {tasks} tasks**"
    yield ""
    rounds = len(next(iter(found.values())))
    after = " | ".join(f"NLL after {SIZE * (each + 1)} labels" for each in range(rounds))
    less = " | ".join(f"after {SIZE * (each + 1)}, less random" for each in range(rounds))
    yield f"| acquisition | strategy | {after} | {less} |"
    yield f"|---|---|{'---|' * 2 * rounds}"
    random = found[RULES[0]]
    for rule, scores in found.items():
        gain = scores - random
        errors = gain.std(1, ddof=1) / np.sqrt(tasks)
        cells = [f"{each:.3f}" for each in scores.mean(1)]
        if rule != RULES[0]:
            cells += [f"{each:.3f} ± {error:.3f}" for each, error in zip(gain.mean(1), errors, strict=True)]
        else:
            cells += [""] * rounds
        yield f"| {' | '.join([*rule, *cells])} |"


def problems(options: argparse.Namespace) -> Iterator[tuple[str, bool, Callable[[], PoolProblem]]]:
    """Title, whether target rows are posted, and the problem."""
    for targeted in (False, True):
        title = "sinusoid, five target rows" if targeted else "sinusoid, about the pool"
        yield title, targeted, lambda: sine_problem(options.tasks, options.store)
    yield (
        "learning-curves, about the pool",
        False,
        lambda: curve_problem(options.curves, options.tasks, options.store, "learning-curves", "report"),
    )


def main() -> None:
    """Play every rule on every problem; print the tables, or write them into the page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("curves", type=Path)
    arguments.add_argument("--tasks", type=int, default=200, help="tasks of a problem at most")
    arguments.add_argument("--store", type=Path, default=SHIPPED)
    command_line.add_page(arguments)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    if options.page:
        pages.check(options.page, BLOCK)
    lines = [f"Measured on {options.machine}; ± the standard error over tasks."]
    with torch.no_grad():
        for title, targeted, make in problems(options):
            problem = make()
            found = {rule: played(problem, rule, targeted) for rule in RULES}
            lines += ["", *table(title, len(problem.rows), found)]
            print("\n".join(lines[-len(RULES) - 5 :]), flush=True)
    if options.page:
        pages.write(options.page, lines, BLOCK)


if __name__ == "__main__":
    main()
