"""The two problems of the accuracy benchmark: a family to train on, and held-out tasks to score."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow.parquet
import torch

from benchmarks.accuracy.baselines import Array
from bmaml.predictive import Predictive
from bmaml.task import Examples, TaskBatch
from bmaml.transformed import Transformed
from model_store.columns import Column
from training.config import Shots, SinusoidConfig, TableConfig
from training.families import Family, Sinusoid, Table

SINE_SHOTS = (5, 10, 20)
CURVE_SHOTS = (3, 5, 8)
MIN_ANCHORS = 8
Half = Literal["choose", "report"]
"""A half of the validation data: one to make choices on, one whose figures nothing has chosen."""
HALVES_SEED = 2024


@dataclass(frozen=True)
class Problem:
    """A family to train on, and held-out tasks by the number of support rows.

    Attributes:
        held_out: tasks in the network's units; targets without noise where the family knows them.
        output: the column whose units the scores are in.
        smallest_std: a floor under the standard deviation of forecasts from one task alone, in those units.
    """

    name: str
    family: Family
    held_out: Mapping[int, TaskBatch]
    output: Column
    smallest_std: float

    def in_units(self, belief: Predictive | Transformed) -> Predictive | Transformed:
        """A belief in the units of the output; that of bounded values is in them already."""
        if isinstance(belief, Transformed):
            return belief
        return belief.rescaled(torch.tensor([self.output.mean]), torch.tensor([self.output.std]))

    def query_rows(self, shots: int) -> Examples:
        """The query rows, with targets in the units of the output."""
        query = self.held_out[shots].query
        return Examples(query.x, query.y * self.output.std + self.output.mean, query.mask)

    def training_tasks(self, count: int, seed: int) -> list[tuple[Array, Array]]:
        """All rows of some training tasks: inputs `[row, input]` and targets `[row]` of each."""
        return list(_ordered_rows(self.family.batch(count, torch.Generator().manual_seed(seed))))

    def validation_tasks(self) -> list[tuple[Array, Array]]:
        """All rows of the validation tasks, in the same form."""
        return [task for batch in self.family.validation() for task in _ordered_rows(batch)]


def _ordered_rows(batch: TaskBatch) -> Iterator[tuple[Array, Array]]:
    """All rows of each task, in the order of the first input."""
    rows = batch.all_examples()
    for x, y, mask in zip(rows.x, rows.y, rows.mask, strict=True):
        order = x[mask, 0].argsort()
        yield x[mask][order].double().numpy(), y[mask, 0][order].double().numpy()


def sine_curves(tasks: int | None, shots: Shots, queries: int, seed: int, held_out: int = 500) -> Problem:
    """The paper's sine curves, with a number of training tasks whose points are drawn once.

    Args:
        tasks: training tasks; None for unlimited.
        shots, queries: support and query rows of a training task. With a range of shots, a task's fixed
            points are split anew at every visit.
        held_out: scored tasks.
    """
    resplit = tasks is not None and shots.lowest < shots.highest
    family = Sinusoid(SinusoidConfig(shots, queries, tasks, resplit), seed)
    given = {
        k: next(iter(Sinusoid(SinusoidConfig(Shots(k, k)), 0).held_out())).tasks(slice(held_out))
        for k in SINE_SHOTS
    }
    return Problem("sine", family, given, family.outputs[0], 0.0)


def learning_curves(
    path: Path,
    seed: int,
    held_out: int | None = None,
    with_classifier: bool = False,
    min_anchors: int = MIN_ANCHORS,
) -> Problem:
    """Real learning curves of validation data sets: support is the first anchors, query all later ones.

    Args:
        held_out: scored curves; None for all.
        with_classifier: inputs include the classifier, one-hot.
        min_anchors: shorter curves are not scored.
    """
    config = TableConfig(
        path=str(path),
        task="curve",
        x=(("train_size", "log2"), *((("learner", "none"),) if with_classifier else ())),
        y=("accuracy",),
        split="split",
        group="dataset",
        order="train_size",
        shots=Shots(3, 10),
        queries=64,
        drop=0.2,
    )
    family = Table(config, seed)
    curves = [curve for curve in validation_curves(path) if len(curve.sizes) >= min_anchors][:held_out]
    x_column, y_column = family.inputs[0], family.outputs[0]

    def rows(curve: Curve, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        x = (np.log2(curve.sizes[part]) - x_column.mean) / x_column.std
        y = (curve.accuracies[part] - y_column.mean) / y_column.std
        names = [float(each.name == f"learner={curve.classifier}") for each in family.inputs[1:]]
        inputs = np.column_stack([x, np.tile(names, (len(x), 1))])
        return torch.tensor(inputs).float(), torch.tensor(y[:, None]).float()

    given = {}
    for k in CURVE_SHOTS:
        longer = [curve for curve in curves if len(curve.sizes) > k]
        given[k] = TaskBatch(
            Examples.padded([rows(curve, slice(k)) for curve in longer]),
            Examples.padded([rows(curve, slice(k, None)) for curve in longer]),
        )
    return Problem("curves", family, given, y_column, 0.01)


class Curve(NamedTuple):
    """Training sizes and accuracies `[anchor]` of a classifier on a data set, in order of size."""

    sizes: Array
    accuracies: Array
    classifier: str
    dataset: str


def half_of(groups: Iterable[str], half: Half) -> frozenset[str]:
    """The groups of one half of a random split, the same at every call; an odd group is reported on."""
    names = np.array(sorted(set(groups)))
    order = np.random.default_rng(HALVES_SEED).permutation(len(names))
    cut = len(names) // 2
    return frozenset(names[order[:cut] if half == "choose" else order[cut:]].tolist())


def validation_curves(path: Path, half: Half | None = None) -> list[Curve]:
    """The curves of the validation data sets in a Parquet file, one row per anchor.

    Args:
        half: the half of the data sets to take; None takes all.
    """
    curves = _curves(path, "validation")
    if half is None:
        return curves
    kept = half_of((curve.dataset for curve in curves), half)
    return [curve for curve in curves if curve.dataset in kept]


def training_curves(path: Path) -> list[Curve]:
    """The curves of the training data sets, in the same form."""
    return _curves(path, "train")


def _curves(path: Path, split: str) -> list[Curve]:
    columns = ["curve", "train_size", "accuracy", "learner", "dataset", "split"]
    table = pyarrow.parquet.read_table(path, columns=columns)
    table = table.filter(pyarrow.compute.equal(table["split"], split))
    table = table.sort_by([("curve", "ascending"), ("train_size", "ascending")])
    names = np.array(table["curve"].to_pylist())
    cuts = np.flatnonzero(names[1:] != names[:-1]) + 1
    sizes = np.split(table["train_size"].to_numpy().astype(np.float64), cuts)
    values = np.split(table["accuracy"].to_numpy().astype(np.float64), cuts)
    first = np.r_[0, cuts]
    classifiers, datasets = (
        np.array(table[name].to_pylist()).astype(str)[first].tolist() for name in ("learner", "dataset")
    )
    return [Curve(*each) for each in zip(sizes, values, classifiers, datasets, strict=True)]
