"""`learning-curves` and a transformer trained on the same curves, on curves of unseen data sets.

    python -m benchmarks.accuracy.transformer_on_curves learning_curves.parquet \\
        [--kept FOLDER] [--steps 6000] [--deep-set 6000] [--page docs/accuracy.md]

One transformer is trained for each number of `--steps`, and one network without attention for each of
`--deep-set`. All are scored on the half of the validation data sets that choices were made on, and on the
half that nothing was chosen on. A folder of `--kept` holds what was trained, so that another run compares a
new version of the model in seconds.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from benchmarks import command_line, pages
from benchmarks.accuracy.baselines import Array
from benchmarks.accuracy.curve_shifts import DATASET, curve_tasks
from benchmarks.accuracy.number_scores import HALF_CELL, LEVEL, log_cell_density, score_numbers
from benchmarks.accuracy.number_tasks import NumberTask
from benchmarks.accuracy.problems import MIN_ANCHORS, Half, validation_curves
from benchmarks.accuracy.scoring import served_forecaster
from benchmarks.context_transformer import (
    Architecture,
    ContextTransformer,
    Look,
    Recipe,
    belief,
    load,
    save,
    train,
)
from bmaml.blocks import blocks
from bmaml.predictive import Predictive
from bmaml.task import Examples
from bmaml.transformed import Transformed
from model_store import SHIPPED, Model, Store
from model_store.columns import standardised
from training.config import Shots, TableConfig
from training.families import Table

ANCHORS = (3, 5, 8, 12)
STEPS = (6000,)
TASKS_PER_BLOCK = 64
TIMED_ANCHORS, TIMED_ROWS, TIMED_RUNS = 5, 50, 11
SHOWN_LOOKS = 8
METRICS = ("squared_error", "mixture_nll", "cell_nll", "normal_nll", "inside")
HEADS = ("RMSE", "NLL", "cell NLL", "normal NLL", "in 90 %")

Scores = Mapping[str, Sequence[float]]
"""Means over the query rows of each task, by metric, and the tasks' data sets."""
Answer = Callable[[Examples, torch.Tensor], Predictive | Transformed]


@dataclass(frozen=True)
class Peer:
    """A trained transformer, and the family whose columns standardise its rows."""

    network: ContextTransformer
    recipe: Recipe
    looks: Sequence[Look]
    family: Table

    @property
    def name(self) -> str:
        """Its name in the tables."""
        return f"{_kind(self.network.architecture)}, {self.recipe.steps:,} steps"

    def standardised(self, rows: Sequence[tuple[Array, Array]]) -> Examples:
        """Inputs `[row, input]` and targets `[row]` of each task in the network's units."""
        return Examples.padded(
            [
                (
                    torch.from_numpy(standardised(self.family.inputs, x)).float(),
                    torch.from_numpy(standardised(self.family.outputs, y[:, None])).float(),
                )
                for x, y in rows
            ]
        )

    def answers(self, tasks: Sequence[NumberTask]) -> Iterator[Predictive]:
        """The belief about each task's query rows, a task of its own for each row, in the caller's units."""
        (column,) = self.family.outputs
        shift, scale = (torch.tensor([each]) for each in (column.mean, column.std))
        for some in blocks(len(tasks), TASKS_PER_BLOCK):
            part = tasks[some]
            support = self.standardised([(task.x, task.y) for task in part])
            query = self.standardised([(task.query, task.truth) for task in part])
            with torch.no_grad():
                logs, means, std = (each.double() for each in self.network(support, query.x))
            for index, task in enumerate(part):
                own = slice(index, index + 1), slice(len(task.truth))
                yield belief((logs[own], means[own], std[own])).rescaled(shift, scale)


def curve_family(path: Path) -> Table:
    """The tasks that `learning-curves` is trained on; see `docs/training.md`."""
    config = TableConfig(
        path=str(path),
        task="curve",
        x=(("train_size", "log2"),),
        y=("accuracy",),
        split="split",
        group="dataset",
        order="train_size",
        shots=Shots(0, 10),
        queries=64,
        drop=0.2,
    )
    return Table(config, 0)


def peer(family: Table, steps: int, kept: Path | None, attention: bool = True) -> Peer:
    """The network of that many steps: from the folder where it is there, else trained and kept there."""
    architecture, recipe = (
        Architecture(inputs=len(family.inputs), attention=attention),
        Recipe(steps),
    )
    file = None if kept is None else kept / f"{_kind(architecture).replace(' ', '-')}-{steps}.pt"
    if file is not None and file.exists():
        return Peer(*load(file), family)
    network, looks = train(family.batch, family.validation, architecture, recipe, 0)
    if file is not None:
        save(file, network, recipe, looks)
    return Peer(network, recipe, looks, family)


def _kind(architecture: Architecture) -> str:
    return "transformer" if architecture.attention else "deep set"


def model_scores(model: Model, tasks: Sequence[NumberTask]) -> Scores:
    """The scores of the service's answers."""
    found = [score for score in score_numbers(model, tasks) if score is not None]
    assert len(found) == len(tasks)
    return {name: [float(np.mean(getattr(score, name))) for score in found] for name in METRICS}


def peer_scores(own: Peer, tasks: Sequence[NumberTask]) -> Scores:
    """The same scores of the transformer."""
    found: dict[str, list[float]] = {name: [] for name in METRICS}
    for task, answer in zip(tasks, own.answers(tasks), strict=True):
        for name, value in answer_scores(answer, torch.from_numpy(task.truth)[:, None, None]).items():
            found[name].append(float(value.mean()))
    return found


def answer_scores(answer: Predictive | Transformed, truth: torch.Tensor) -> dict[str, torch.Tensor]:
    """The scores of every value, by metric."""
    mean, variance = answer.mean(), answer.variance()
    lower, upper = answer.interval(LEVEL)
    normal = 0.5 * (truth - mean).square() / variance + 0.5 * (2 * math.pi * variance).log()
    return {
        "squared_error": (truth - mean).square(),
        "mixture_nll": -answer.log_density(truth),
        "cell_nll": -log_cell_density(answer, truth, HALF_CELL),
        "normal_nll": normal,
        "inside": ((lower <= truth) & (truth <= upper)).double(),
    }


def milliseconds(answer: Answer, support: Examples, x: torch.Tensor) -> tuple[float, float]:
    """Median CPU time of the first task alone, and of each of all at once, from support rows to means."""
    found = []
    for part in (slice(1), slice(len(x))):
        times = []
        for _ in range(TIMED_RUNS):
            started = time.process_time()
            with torch.no_grad():
                answer(support.tasks(part), x[part]).mean()
            times.append(1000 * (time.process_time() - started) / len(x[part]))
        found.append(statistics.median(times))
    return found[0], found[1]


def cost_lines(model: Model, peers: Sequence[Peer], path: Path) -> Iterator[str]:
    """The table of parameters, training and time per answer."""
    curves = [curve for curve in validation_curves(path) if len(curve.sizes) >= MIN_ANCHORS]
    tasks = curve_tasks(model, curves, TIMED_ANCHORS)[:TASKS_PER_BLOCK]
    support = peers[0].standardised([(task.x, task.y) for task in tasks])
    x = peers[0].standardised([(task.query, task.truth) for task in tasks]).x
    x = x[:, :1].expand(-1, TIMED_ROWS, -1)
    yield f"### Cost, from {TIMED_ANCHORS} anchors to the means of {TIMED_ROWS} rows"
    yield ""
    yield f"| | parameters | training, CPU-minutes | CPU-ms, one task | each of {len(tasks)} at once |"
    yield "|---|---|---|---|---|"
    count = sum(each.numel() for each in model.learned.values())
    alone, together = milliseconds(served_forecaster(model, peers[0].family.outputs[0]), support, x)
    yield f"| `{model.manifest.name}` | {count:,} | | {alone:.2f} | {together:.2f} |"
    for each in peers:
        count, minutes = each.network.parameters_count, each.looks[-1].cpu_minutes
        alone, together = milliseconds(each.network.belief, support, x)
        yield f"| {each.name} | {count:,} | {minutes:.1f} | {alone:.2f} | {together:.2f} |"
    yield ""


def training_lines(peers: Sequence[Peer]) -> Iterator[str]:
    """The looks at the validation tasks, and which was the best."""
    yield "### Training"
    yield ""
    yield "| | step | CPU-minutes | training NLL | validation NLL | best so far |"
    yield "|---|---|---|---|---|---|"
    for each in peers:
        shown = np.unique(np.linspace(0, len(each.looks) - 1, SHOWN_LOOKS).round().astype(int))
        for place in shown:
            look = each.looks[place]
            best = min(other.validation_nll for other in each.looks[: place + 1])
            cells = (
                f"{look.cpu_minutes:.1f} | {look.training_nll:.3f} | {look.validation_nll:.3f} | {best:.3f}"
            )
            yield f"| {each.name} | {look.step} | {cells} |"
    yield ""


def score_lines(model: Model, peers: Sequence[Peer], path: Path) -> Iterator[str]:
    """The tables of scores, one for each half."""
    for half, title in zip(get_args(Half), ("choices were made on", "nothing was chosen on"), strict=True):
        curves = [curve for curve in validation_curves(path, half) if len(curve.sizes) >= MIN_ANCHORS]
        yield from (f"### The half that {title}", "")
        yield f"| anchors | curves | | {' | '.join(HEADS)} |"
        yield "|---" * (len(HEADS) + 3) + "|"
        for anchors in ANCHORS:
            if not (tasks := curve_tasks(model, curves, anchors)):
                continue
            ours = model_scores(model, tasks)
            yield _score_line(anchors, tasks, f"`{model.manifest.name}`", ours)
            for each in peers:
                theirs = peer_scores(each, tasks)
                yield _score_line(anchors, tasks, each.name, theirs)
                yield _difference_line(
                    anchors, tasks, f"{each.name}, less `{model.manifest.name}`", theirs, ours
                )
        yield ""


def _score_line(anchors: int, tasks: Sequence[NumberTask], name: str, scores: Scores) -> str:
    means = {metric: float(np.mean(values)) for metric, values in scores.items()}
    cells = [f"{math.sqrt(means['squared_error']):.4f}"]
    cells += [f"{means[metric]:.2f}" for metric in METRICS[1:4]]
    return f"| {anchors} | {len(tasks)} | {name} | {' | '.join(cells)} | {100 * means['inside']:.0f} % |"


def _difference_line(
    anchors: int, tasks: Sequence[NumberTask], name: str, theirs: Scores, ours: Scores
) -> str:
    """Differences ± standard errors over data sets; that of the RMSE by the delta method."""
    groups = [task.groups[DATASET] for task in tasks]
    roots = [math.sqrt(float(np.mean(each["squared_error"]))) for each in (theirs, ours)]
    cells = []
    for metric in METRICS[:4]:
        values = [np.array(each[metric]) for each in (theirs, ours)]
        if metric == "squared_error":
            values = [each / (2 * root) for each, root in zip(values, roots, strict=True)]
            mean, form = roots[0] - roots[1], "{:.4f} ± {:.4f}"
        else:
            mean, form = float(np.mean(values[0] - values[1])), "{:.2f} ± {:.2f}"
        cells.append(form.format(mean, clustered_error(values[0] - values[1], groups)))
    return f"| {anchors} | {len(tasks)} | {name} | {' | '.join(cells)} | |"


def clustered_error(values: Array, groups: Sequence[str]) -> float:
    """The standard error of a mean whose values are alike within groups."""
    offsets = values - values.mean()
    sums = [offsets[np.array(groups) == group].sum() for group in dict.fromkeys(groups)]
    count = len(sums)
    return math.sqrt(count / (count - 1) * float(np.square(sums).sum())) / len(values)


def main() -> None:
    """Train what is not kept, score; print the tables or write them into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("file", type=Path)
    arguments.add_argument("--kept", type=Path, help="folder of trained transformers")
    arguments.add_argument("--steps", type=int, nargs="+", default=STEPS)
    arguments.add_argument("--deep-set", type=int, nargs="*", default=(), help="steps without attention")
    arguments.add_argument("--model", default="learning-curves")
    arguments.add_argument("--store", type=Path, default=SHIPPED)
    command_line.add_page(arguments)
    options = arguments.parse_args()
    if options.page:
        pages.check(options.page, "transformer")
    torch.set_num_threads(1)
    model, family = Store(options.store).load(options.model), curve_family(options.file)
    peers = [peer(family, steps, options.kept) for steps in options.steps]
    peers += [peer(family, steps, options.kept, attention=False) for steps in options.deep_set]
    version = f"`{model.manifest.name}` is version {model.manifest.version}."
    lines = [f"Measured on {options.machine}, one thread. {version}", ""]
    lines += [*score_lines(model, peers, options.file), *cost_lines(model, peers, options.file)]
    lines += training_lines(peers)
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, "transformer")


if __name__ == "__main__":
    main()
