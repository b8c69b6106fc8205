"""Active learning as in Yoon et al. 2018: every acquisition beside random choice, on four problems.

    python -m benchmarks.accuracy.active_learning --omniglot omniglot28.npz --grocery grocery32.zip \\
        --curves learning_curves.parquet [--tasks 200]

A task begins with few labelled rows and a pool. Each round the model adapts to the labelled rows and scores
the pool, and the best row gets its label; the test rows are in neither. All acquisitions see the same tasks.
The models are the shipped versions, on classes, curves and data sets that they were not trained on.
`--page docs/active-learning.md` writes the tables into the page and the plot beside it.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import command_line, pages
from benchmarks.accuracy.problems import validation_curves
from bmaml.acquisition import ACQUISITIONS, CLASS_ACQUISITIONS, ClassPool, Pool
from bmaml.blocks import blocks
from bmaml.categorical import Categorical
from bmaml.learners import Belief
from bmaml.predictive import Predictive
from bmaml.task import Examples
from model_store import SHIPPED, Model, Store
from training.config import ImagesConfig
from training.families import Images
from training.families.image_features import embed
from training.families.sinusoid import curves

mpl.use("Agg")
from matplotlib import pyplot as plt

REGRESSION = ("random", "total_variance", "epistemic_variance", "entropy", "epig")
CLASSIFICATION = tuple(sorted(CLASS_ACQUISITIONS, key=lambda name: name != "random"))
TASKS_PER_BLOCK = 10
NEGLIGIBLE = 1e-4
"""Hypotheses that together weigh less are left out of scores."""
Scores = NDArray[np.float64]
"""`[task, round + 1]`, the lower the better."""


@dataclass(frozen=True)
class PoolProblem:
    """Tasks with a pool to label from.

    Attributes:
        rows, y: the rows of each task, `[task, row, …]`, those labelled at the start first; features or
            standardised inputs.
        real: False where a task has no such row.
        start: rows labelled at the start.
        test: rows that are predicted, with their labels.
        rounds: labels to buy.
        score: `[task]` from belief and truth, the lower the better.
        score_name: for tables and plots.
    """

    name: str
    model: Model
    rows: Tensor
    y: Tensor
    real: Tensor
    start: int
    test: Examples
    rounds: int
    score: Callable[[Belief, Examples], Tensor]
    score_name: str


def run(problem: PoolProblem, acquisition: str, seed: int = 0) -> Scores:
    """The scores before the first and after every round of buying the best row's label."""
    parts = []
    for some in blocks(len(problem.rows), TASKS_PER_BLOCK):
        rows, y, real = problem.rows[some], problem.y[some], problem.real[some]
        test = problem.test.tasks(some)
        uniform = torch.rand(real.shape, generator=torch.Generator().manual_seed(seed + some.start))
        labelled = real & (torch.arange(real.shape[1]) < problem.start)
        scores = []
        for number in range(problem.rounds + 1):
            learner, learned = problem.model.learner, problem.model.learned
            posterior = learner.adapt(learned, _labelled(rows, y, labelled))
            belief = learner.predict(posterior, test.x)
            scores.append(problem.score(belief, test))
            if number == problem.rounds:
                break
            joint = acquisition == "epig" and isinstance(belief, Predictive)
            about = learner.predict(posterior, rows, joint)
            values = _acquisition_values(acquisition, about, uniform, real)
            best = values.masked_fill(labelled | ~real, -torch.inf).argmax(-1, keepdim=True)
            labelled = labelled | (torch.zeros_like(labelled).scatter(1, best, True) & real)
        parts.append(torch.stack(scores, -1))
    return torch.cat(parts).double().numpy()


def _labelled(rows: Tensor, y: Tensor, labelled: Tensor) -> Examples:
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
    about = about.pruned(NEGLIGIBLE)
    if acquisition != "epig" or bool(real.all()):
        pool = Pool(about, torch.zeros(len(uniform)), uniform, about)
        return ACQUISITIONS[acquisition].score(pool).to(uniform.dtype)
    values = torch.zeros_like(uniform)
    for task, present in enumerate(real):
        own = about.part(slice(task, task + 1), slice(int(present.sum())))
        pool = Pool(own, torch.zeros(1), uniform[task : task + 1, : int(present.sum())], own)
        values[task, : int(present.sum())] = ACQUISITIONS[acquisition].score(pool)[0].to(uniform.dtype)
    return values


def squared_error(belief: Belief, test: Examples) -> Tensor:
    """The mean squared error of the predicted mean."""
    assert isinstance(belief, Predictive)
    return _mean((belief.mean() - test.y).square().sum(-1), test)


def error_rate(belief: Belief, test: Examples) -> Tensor:
    """The error rate of the most probable class."""
    assert isinstance(belief, Categorical)
    wrong = belief.log_mixture().argmax(-1) != test.y.argmax(-1)
    return _mean(wrong.to(test.x.dtype), test)


def _mean(values: Tensor, test: Examples) -> Tensor:
    return torch.where(test.mask, values, 0.0).sum(-1) / test.counts()


def image_problem(name: str, path: Path, tasks: int, store: Path, pool: int, rounds: int) -> PoolProblem:
    """Five test classes with one labelled image each, and `pool` more of each to choose from."""
    model = Store(store).load(name)
    assert model.embedding is not None
    config = ImagesConfig.from_manifest(model.manifest.training["family"], str(path))
    family = Images(config, model.manifest.seed)
    images, index = family.of_role("test")
    features = embed(model.embedding, model.learned, images)
    tested = min(15, int(index.counts.min()) - 1 - pool)
    chosen = index.draw(tasks, 5, 1, pool + tested, torch.Generator().manual_seed(5))
    x = features[chosen.images]  # [task, class, image, feature]
    eye = torch.eye(5).expand(tasks, 5, 5).unsqueeze(2)

    def flat(some: slice) -> tuple[Tensor, Tensor]:
        part = x[:, :, some]
        y = eye.expand(-1, -1, part.shape[2], -1)
        return part.transpose(1, 2).flatten(1, 2), y.transpose(1, 2).flatten(1, 2)

    rows, y = flat(slice(pool + 1))
    test = Examples.full(*flat(slice(pool + 1, None)))
    real = torch.ones(rows.shape[:2], dtype=torch.bool)
    title = f"{name}: 5 classes, 1 shown, pool of {pool} each"
    return PoolProblem(title, model, rows, y, real, 5, test, rounds, error_rate, "error rate")


def sine_problem(tasks: int, store: Path) -> PoolProblem:
    """Sine curves with two labelled points and a hundred to choose from, twelve rounds."""
    model = Store(store).load("sinusoid")
    x, y, clean = curves(tasks, 202, torch.Generator().manual_seed(6))
    real = torch.ones(tasks, 102, dtype=torch.bool)
    test = Examples.full(x[:, 102:], clean[:, 102:])
    title = "sinusoid: 2 points shown, pool of 100"
    return PoolProblem(
        title, model, x[:, :102], y[:, :102], real, 2, test, 12, squared_error, "squared error"
    )


def curve_problem(path: Path, tasks: int, store: Path) -> PoolProblem:
    """Validation curves with two labelled anchors; any other may be bought, and all are predicted."""
    model = Store(store).load("learning-curves")
    long = [each for each in validation_curves(path) if len(each.sizes) >= 12]
    chosen = [long[i] for i in np.random.default_rng(7).permutation(len(long))[:tasks]]
    scaled = [
        (
            torch.from_numpy(model.standardised_inputs(curve.sizes[:, None])),
            torch.from_numpy(model.standardised_targets(curve.accuracies[:, None])),
        )
        for curve in chosen
    ]
    rows = Examples.padded(scaled)
    title = "learning-curves: 2 anchors shown, any other for sale"
    return PoolProblem(
        title, model, rows.x, rows.y, rows.mask, 2, rows, 8, squared_error, "squared error (standardised)"
    )


def labels_needed(scores: Scores, goal: float) -> int | None:
    """Rounds until the mean score reaches `goal`; None if it never does."""
    reached = np.flatnonzero(scores.mean(0) <= goal)
    return int(reached[0]) if len(reached) else None


def table(problem: PoolProblem, found: Mapping[str, Scores]) -> list[str]:
    """A Markdown table: scores at the start, half-way and at the end, and labels to random's final score."""
    goal = float(found["random"].mean(0)[-1])
    half = problem.rounds // 2
    lines = [
        f"### {problem.name[0].upper()}{problem.name[1:]}",
        "",
        f"{len(problem.rows)} tasks, {problem.rounds} rounds; {problem.score_name}, ± half a 95 % interval "
        "of the difference to random.",
        "",
        f"| | start | after {half} | after {problem.rounds} | labels to random's end | of random's |",
        "|---|---|---|---|---|---|",
    ]
    for name, scores in sorted(found.items(), key=lambda item: item[1].mean()):
        mean, needed = scores.mean(0), labels_needed(scores, goal)
        against = scores - found["random"]
        width = 1.96 * against.std(0, ddof=1) / np.sqrt(len(scores))
        cells = [f"{mean[0]:.4g}", *(f"{mean[at]:.4g} ± {width[at]:.2g}" for at in (half, problem.rounds))]
        part = "" if needed is None else f"{100 * needed / problem.rounds:.0f} %"
        cells += ["never" if needed is None else str(needed), part]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def draw(problems: Sequence[tuple[PoolProblem, Mapping[str, Scores]]], path: Path) -> None:
    """Plot the mean score by round, with a band of two standard errors of the difference to random."""
    figure, axes = plt.subplots(1, len(problems), figsize=(5.2 * len(problems), 4.4), squeeze=False)
    for axis, (problem, found) in zip(axes[0], problems, strict=True):
        for number, (name, scores) in enumerate(found.items()):
            colour = "black" if name == "random" else f"C{number}"
            mean, rounds = scores.mean(0), np.arange(problem.rounds + 1)
            spread = scores if name == "random" else scores - found["random"]
            band = 2 * spread.std(0, ddof=1) / np.sqrt(len(scores))
            axis.plot(rounds, mean, color=colour, lw=2.2 if name == "random" else 1.3, label=name)
            axis.fill_between(
                rounds, np.maximum(mean - band, mean / 5), mean + band, color=colour, alpha=0.12, lw=0
            )
        axis.set(xlabel="labels bought", ylabel=problem.score_name, yscale="log")
        axis.set_title(problem.name, fontsize=9)
        axis.legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Run every acquisition on every problem; print the tables, or write page and plot."""
    arguments = command_line.parser(__doc__)
    for name in ("omniglot", "grocery", "curves"):
        arguments.add_argument(f"--{name}", type=Path)
    arguments.add_argument("--tasks", type=int, default=200)
    arguments.add_argument("--rounds", type=int, help="of the image problems; default 30")
    arguments.add_argument("--images-only", action="store_true", help="leave out the sine curves")
    arguments.add_argument("--store", type=Path, default=SHIPPED)
    command_line.add_page(arguments)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    rounds = options.rounds or 30
    makers: list[Callable[[], PoolProblem]] = []
    if not options.images_only:
        makers.append(partial(sine_problem, options.tasks, options.store))
    if options.curves:
        makers.append(partial(curve_problem, options.curves, options.tasks, options.store))
    for name, pool in (("omniglot", 14), ("grocery", 20)):
        if path := getattr(options, name):
            makers.append(partial(image_problem, name, path, options.tasks, options.store, pool, rounds))
    lines, played = [f"Measured on {options.machine}.", ""], []
    with torch.no_grad():
        for make in makers:
            problem = make()
            names = CLASSIFICATION if problem.model.manifest.kind == "classification" else REGRESSION
            found = {name: run(problem, name, zlib.crc32(b"draws")) for name in names}
            played.append((problem, found))
            lines += table(problem, found)
            print("\n".join(table(problem, found)), flush=True)
    if options.page:
        pages.write(options.page, lines, "labelling")
        draw(played, options.page.parent / "active-learning.png")


if __name__ == "__main__":
    main()
