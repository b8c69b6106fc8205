"""Which row to label next, as in Yoon et al. 2018: every acquisition against random choice, on four problems.

    python -m benchmarks.accuracy.active_learning --omniglot omniglot28.npz --grocery grocery32.zip \\
        --curves learning_curves.parquet [--tasks 200]

A task begins with few labelled rows and a pool of others. Each round the model adapts to what has
labels, scores the pool, and the best row gets its label; then it is tested on rows that are in
neither. All acquisitions see the same tasks. The models are the shipped versions, on classes,
curves and data sets they have not been trained on. Writes tables and plots into docs/.
"""

import argparse
import platform
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import pages
from benchmarks.accuracy.problems import read
from bmaml.acquisition.class_scores import CLASS_ACQUISITIONS, ClassPool
from bmaml.acquisition.scores import ACQUISITIONS, Pool
from bmaml.categorical import Categorical
from bmaml.learners import Belief
from bmaml.predictive import Predictive
from bmaml.task import Examples
from model_store import SHIPPED, Model, Store
from training.config import ImagesConfig
from training.families import Images
from training.families.featured import embed
from training.families.sinusoid import curves

mpl.use("Agg")
from matplotlib import pyplot as plt

NUMBERS = ("random", "total_variance", "epistemic_variance", "entropy", "epig")
CLASSES = tuple(sorted(CLASS_ACQUISITIONS, key=lambda name: name != "random"))
TASKS_AT_ONCE = 10
LIGHT = 1e-4


@dataclass(frozen=True)
class Arena:
    """A problem, ready to be played.

    Attributes:
        model: what adapts.
        rows, y: the pool of each task, first its labelled rows; features or standardised inputs.
        real: which rows there are.
        start: how many rows have labels at the beginning.
        test: rows that are asked, with labels.
        rounds: labels to be bought.
        score: from belief and truth, the lower the better, `[task]`.
        figure: its name.
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
    figure: str


def played(arena: Arena, acquisition: str, seed: int = 0) -> NDArray[np.float64]:
    """The score after every round, `[task, round + 1]`."""
    parts = []
    for begin in range(0, len(arena.rows), TASKS_AT_ONCE):
        some = slice(begin, begin + TASKS_AT_ONCE)
        rows, y, real, test = arena.rows[some], arena.y[some], arena.real[some], arena.test.tasks(some)
        uniform = torch.rand(real.shape, generator=torch.Generator().manual_seed(seed + begin))
        labelled = real & (torch.arange(real.shape[1]) < arena.start)
        scores = []
        for number in range(arena.rounds + 1):
            learner, learned = arena.model.learner, arena.model.learned
            posterior = learner.adapt(learned, _shown(rows, y, labelled))
            belief = learner.predict(posterior, test.x)
            scores.append(arena.score(belief, test))
            if number == arena.rounds:
                break
            joint = acquisition == "epig" and isinstance(belief, Predictive)
            about = learner.predict(posterior, rows, joint)
            values = _values(acquisition, about, uniform, real)
            best = values.masked_fill(labelled | ~real, -torch.inf).argmax(-1, keepdim=True)
            labelled = labelled | (torch.zeros_like(labelled).scatter(1, best, True) & real)
        parts.append(torch.stack(scores, -1))
    return torch.cat(parts).double().numpy()


def _shown(rows: Tensor, y: Tensor, labelled: Tensor) -> Examples:
    """The labelled rows alone: adaptation is cubic in the rows it is given, labelled or not."""
    most = int(labelled.sum(-1).max())
    order = labelled.float().argsort(dim=-1, descending=True, stable=True)[:, :most]

    def taken(values: Tensor) -> Tensor:
        return values.gather(1, order.unsqueeze(-1).expand(-1, -1, values.shape[-1]))

    return Examples(taken(rows), taken(y), labelled.gather(1, order))


def _values(acquisition: str, about: Belief, uniform: Tensor, real: Tensor) -> Tensor:
    """The acquisition of every row; EPIG is about the pool itself, task by task where it is padded."""
    if isinstance(about, Categorical):
        return CLASS_ACQUISITIONS[acquisition].score(ClassPool(about, uniform, about))
    about = about.without_negligible(LIGHT)
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
    """Of the mean."""
    assert isinstance(belief, Predictive)
    return _mean((belief.mean() - test.y).square().sum(-1), test)


def error_rate(belief: Belief, test: Examples) -> Tensor:
    """Of the most probable class."""
    assert isinstance(belief, Categorical)
    wrong = belief.log_mixture().argmax(-1) != test.y.argmax(-1)
    return _mean(wrong.to(test.x.dtype), test)


def _mean(values: Tensor, test: Examples) -> Tensor:
    return torch.where(test.mask, values, 0.0).sum(-1) / test.counts()


def of_pictures(name: str, path: Path, tasks: int, store: Path, pool: int, rounds: int) -> Arena:
    """Five test classes, one labelled picture of each, `pool` more of each to choose from."""
    model = Store(store).load(name)
    assert model.embedding is not None
    family = Images(_recalled(model, path), model.manifest.seed)
    images, bank = family.bank("test")
    features = embed(model.embedding, model.learned, images)
    asked = min(15, int(bank.counts.min()) - 1 - pool)
    deal = bank.deal(tasks, 5, 1, pool + asked, torch.Generator().manual_seed(5))
    x = features[deal.pictures]  # [task, class, picture, feature]
    eye = torch.eye(5).expand(tasks, 5, 5).unsqueeze(2)

    def flat(some: slice) -> tuple[Tensor, Tensor]:
        part = x[:, :, some]
        y = eye.expand(-1, -1, part.shape[2], -1)
        return part.transpose(1, 2).flatten(1, 2), y.transpose(1, 2).flatten(1, 2)

    rows, y = flat(slice(pool + 1))
    test = Examples.full(*flat(slice(pool + 1, None)))
    real = torch.ones(rows.shape[:2], dtype=torch.bool)
    title = f"{name}: 5 classes, 1 shown, pool of {pool} each"
    return Arena(title, model, rows, y, real, 5, test, rounds, error_rate, "error rate")


def _recalled(model: Model, path: Path) -> ImagesConfig:
    return ImagesConfig.recalled(model.manifest.training["family"], str(path))


def of_sine(tasks: int, store: Path) -> Arena:
    """Two labelled points, a hundred to choose from, twelve rounds."""
    model = Store(store).load("sinusoid")
    x, y, clean = curves(tasks, 202, torch.Generator().manual_seed(6))
    real = torch.ones(tasks, 102, dtype=torch.bool)
    test = Examples.full(x[:, 102:], clean[:, 102:])
    title = "sinusoid: 2 points shown, pool of 100"
    return Arena(title, model, x[:, :102], y[:, :102], real, 2, test, 12, squared_error, "squared error")


def of_curves(path: Path, tasks: int, store: Path) -> Arena:
    """The first two anchors of a validation curve known; any other may be bought; all are asked."""
    model = Store(store).load("learning-curves")
    long = [each for each in read(path) if len(each[0]) >= 12]
    chosen = [long[i] for i in np.random.default_rng(7).permutation(len(long))[:tasks]]
    scaled = [
        (
            torch.from_numpy(model.standardised_inputs(x[:, None])),
            torch.from_numpy(model.standardised_targets(y[:, None])),
        )
        for x, y, _ in chosen
    ]
    rows = Examples.padded(scaled)
    title = "learning-curves: 2 anchors shown, any other for sale"
    return Arena(
        title, model, rows.x, rows.y, rows.mask, 2, rows, 8, squared_error, "squared error (standardised)"
    )


def labels_needed(scores: NDArray[np.float64], goal: float) -> int | None:
    """Rounds until the mean score is as good as `goal`, or never."""
    reached = np.flatnonzero(scores.mean(0) <= goal)
    return int(reached[0]) if len(reached) else None


def table(arena: Arena, found: Mapping[str, NDArray[np.float64]]) -> list[str]:
    """Rows of Markdown: score at the start, half-way and at the end, and labels to random's final score."""
    goal = float(found["random"].mean(0)[-1])
    half = arena.rounds // 2
    lines = [
        f"### {arena.name[0].upper()}{arena.name[1:]}",
        "",
        f"{len(arena.rows)} tasks, {arena.rounds} rounds; {arena.figure}, ± half a 95 % interval of the "
        "difference to random.",
        "",
        f"| | start | after {half} | after {arena.rounds} | labels to random's end | of random's |",
        "|---|---|---|---|---|---|",
    ]
    for name, scores in sorted(found.items(), key=lambda item: item[1].mean()):
        mean, needed = scores.mean(0), labels_needed(scores, goal)
        against = scores - found["random"]
        width = 1.96 * against.std(0, ddof=1) / np.sqrt(len(scores))
        cells = [f"{mean[0]:.4g}", *(f"{mean[at]:.4g} ± {width[at]:.2g}" for at in (half, arena.rounds))]
        part = "" if needed is None else f"{100 * needed / arena.rounds:.0f} %"
        cells += ["never" if needed is None else str(needed), part]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def draw(arenas: list[tuple[Arena, Mapping[str, NDArray[np.float64]]]], path: Path) -> None:
    """The mean score by round, with a band of two standard errors of the difference to random."""
    figure, axes = plt.subplots(1, len(arenas), figsize=(5.2 * len(arenas), 4.4), squeeze=False)
    for axis, (arena, found) in zip(axes[0], arenas, strict=True):
        for number, (name, scores) in enumerate(found.items()):
            colour = "black" if name == "random" else f"C{number}"
            mean, rounds = scores.mean(0), np.arange(arena.rounds + 1)
            spread = scores if name == "random" else scores - found["random"]
            band = 2 * spread.std(0, ddof=1) / np.sqrt(len(scores))
            axis.plot(rounds, mean, color=colour, lw=2.2 if name == "random" else 1.3, label=name)
            axis.fill_between(
                rounds, np.maximum(mean - band, mean / 5), mean + band, color=colour, alpha=0.12, lw=0
            )
        axis.set(xlabel="labels bought", ylabel=arena.figure, yscale="log")
        axis.set_title(arena.name, fontsize=9)
        axis.legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Play, write, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("omniglot", "grocery", "curves"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--rounds", type=int, help="of pictures; default 30")
    parser.add_argument("--pictures-only", action="store_true", help="leave out the sine curves")
    parser.add_argument("--store", type=Path, default=SHIPPED)
    parser.add_argument("--page", type=Path, help="docs/active-learning.md; else nothing is written")
    parser.add_argument("--machine", default=platform.machine())
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds = options.rounds or 30
    makers: list[Callable[[], Arena]] = []
    if not options.pictures_only:
        makers.append(lambda: of_sine(options.tasks, options.store))
    if options.curves:
        makers.append(lambda: of_curves(options.curves, options.tasks, options.store))
    for name, pool in (("omniglot", 14), ("grocery", 20)):
        if path := getattr(options, name):
            makers.append(
                lambda name=name, path=path, pool=pool: of_pictures(
                    name, path, options.tasks, options.store, pool, rounds
                )
            )
    lines, arenas = [f"Measured on {options.machine}.", ""], []
    with torch.no_grad():
        for make in makers:
            arena = make()
            names = CLASSES if arena.model.manifest.kind == "classification" else NUMBERS
            found = {name: played(arena, name, zlib.crc32(b"draws")) for name in names}
            arenas.append((arena, found))
            lines += table(arena, found)
            print("\n".join(table(arena, found)), flush=True)
    if options.page:
        pages.write(options.page, lines, "labelling")
        draw(arenas, options.page.parent / "active-learning.png")


if __name__ == "__main__":
    main()
