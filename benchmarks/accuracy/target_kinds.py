"""Targets that are no plain real numbers: counts, positive numbers and classes of generated tables.

    python -m benchmarks.accuracy.target_kinds [--seeds 2] [--only flow] [--page docs/accuracy.md]

Each seed generates sixty tasks, on which `bmaml-train table` trains with its defaults. The version is then
asked through the path of the service about new tasks of the same law, which no split has seen. Coverage is
a mean over rows and tasks. Results are kept in `--results`, by the text of the benchmark.
"""

import csv
import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks import command_line, pages
from benchmarks.accuracy.baselines import Array
from benchmarks.accuracy.service_path import ask
from benchmarks.accuracy.target_tables import ROWS, TARGETS, Columns, Target
from model_store import Model, Store
from training.__main__ import main as bmaml_train
from training.calibration_error import expected_calibration_error

TASKS, NEW_TASKS = 60, 200
SHOTS = (1, 3, 8)
LEVEL = 0.9
NEW_SEED = 10_000
"""Added to a seed for the tasks that are asked."""

Scores = dict[str, list[float]]
"""The scores of one version at one number of support rows.

Numbers have `coverage`, truths in the 90 % interval, and `outside`, ends of intervals that are no value of
the target. Classes have `loss`, `base` (log loss of the frequencies of the training rows), and `right` and
`confidence` of each query row.
"""


def trained(target: Target, rows: Columns, seed: int, folder: Path) -> Model:
    """A version trained with the defaults of the command line."""
    name = target.table.replace(" ", "-")
    file, store = folder / f"{name}.csv", folder / "store"
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(rows)
        writer.writerows(zip(*(column.tolist() for column in rows.values()), strict=True))
    command = [*target.command(file, name), "--seed", str(seed), "--store", str(store)]
    if bmaml_train([*command, "--runs", str(folder / "runs")]):
        raise SystemExit(f"training on {target.name} failed")
    return Store(store).load(name)


def inputs_of(model: Model, rows: Columns) -> Array:
    """The rows as the model takes them, names one-hot."""
    columns = []
    for column in model.manifest.inputs:
        name, _, value = column.name.partition("=")
        columns.append(rows[name].astype(str) == value if value else rows[name])
    return np.column_stack([each.astype(float) for each in columns])


def measure(target: Target, seed: int, folder: Path) -> dict[str, Scores]:
    """Train on sixty tasks and ask about new ones: the scores by number of support rows."""
    shown_rows = target.table_of(TASKS, seed)
    new = target.table_of(NEW_TASKS, seed + NEW_SEED)
    model = trained(target, shown_rows, seed, folder)
    column = target.y.partition(":")[0]
    x = inputs_of(model, new).reshape(NEW_TASKS, ROWS, -1)
    y = new[column].reshape(NEW_TASKS, ROWS)
    found = {}
    for shots in shots_of(target):
        bodies: list[dict[str, Any]] = [
            {
                "support": {"x": own_x[:shots].tolist(), "y": own_y[:shots].tolist()},
                "query": {"x": own_x[shots:].tolist()},
            }
            for own_x, own_y in zip(x, y, strict=True)
        ]
        if model.manifest.kind == "regression":
            bodies = [{**body, "interval": LEVEL} for body in bodies]
        predictions = []
        for answer in ask(model, bodies):
            assert answer is not None
            predictions.append(answer.prediction)
        score = _of_classes if target.classes else _of_numbers
        found[str(shots)] = score(predictions, y[:, shots:], shown_rows[column])
    return found


def shots_of(target: Target) -> tuple[int, ...]:
    """The numbers of support rows: classes need none."""
    return (0, *SHOTS) if target.classes else SHOTS


def _of_classes(predictions: Sequence[Any], truths: Array, training: Array) -> Scores:
    p = np.array([each.probabilities for each in predictions])
    classes = list(predictions[0].classes)
    place = np.searchsorted(classes, truths)
    own = np.take_along_axis(p, place[..., None], -1)
    frequencies = np.array([(training == each).mean() for each in classes])
    return {
        "loss": [float(-np.log(own).mean())],
        "base": [float(-np.log(frequencies[place]).mean())],
        "right": (p.argmax(-1) == place).astype(float).ravel().tolist(),
        "confidence": p.max(-1).ravel().tolist(),
    }


def _of_numbers(predictions: Sequence[Any], truths: Array, training: Array) -> Scores:
    lower, upper = (
        np.array([getattr(each.interval, end) for each in predictions]).reshape(truths.shape)
        for end in ("lower", "upper")
    )
    whole = training.dtype.kind == "i"
    wrong = lower < 0 if whole else lower <= 0
    if whole:
        wrong |= (lower != lower.round()) | (upper != upper.round())
    held = (truths >= lower) & (truths <= upper)
    return {"coverage": [float(held.mean())], "outside": [float(wrong.mean())]}


def kept(target: Target, seed: int, results: Path) -> dict[str, Scores]:
    """The scores of a seed, from the file that has them or to be kept there."""
    here = Path(__file__)
    code = here.read_bytes() + here.with_name("target_tables.py").read_bytes()
    path = results / f"{target.name}-{seed}-{sha256(code).hexdigest()[:12]}.json"
    if not path.exists():
        with TemporaryDirectory() as folder:
            scores = measure(target, seed, Path(folder))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(scores))
    found: dict[str, Scores] = json.loads(path.read_text())
    return found


def number_lines(name: str, seeds: Sequence[dict[str, Scores]]) -> list[str]:
    """The rows of a target that is a number."""
    lines = []
    for shots in seeds[0]:
        each = 100 * np.array([found[shots]["coverage"][0] for found in seeds])
        outside = 100 * np.mean([found[shots]["outside"][0] for found in seeds])
        listed = " / ".join(f"{value:.1f}" for value in each)
        lines.append(f"| {name} | {shots} | {each.mean():.1f} | {listed} | {outside:.1f} |")
    return lines


def class_lines(name: str, seeds: Sequence[dict[str, Scores]]) -> list[str]:
    """The rows of a target of classes."""
    lines = []
    for shots in seeds[0]:
        right, confidence, loss, base = (
            np.concatenate([found[shots][part] for found in seeds])
            for part in ("right", "confidence", "loss", "base")
        )
        weights = torch.full((len(right),), 1 / len(right), dtype=torch.float64)
        error = expected_calibration_error(torch.from_numpy(right), torch.from_numpy(confidence), weights)
        lines.append(
            f"| {name} | {shots} | {loss.mean():.3f} | {base.mean():.3f} "
            f"| {100 * right.mean():.1f} | {100 * error:.1f} |"
        )
    return lines


def main() -> None:
    """Train, ask, print the tables, and write them into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=2)
    names = [target.name for target in TARGETS]
    arguments.add_argument("--only", nargs="+", default=names, choices=names)
    arguments.add_argument("--results", type=Path, default=Path("runs/target_kinds"))
    command_line.add_page(arguments)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    numbers = ["| target | rows | truths in the 90 % interval, % | each seed | ends outside the domain, % |"]
    numbers.append("|---" * 5 + "|")
    classes = ["| target | rows | log loss | of the frequencies | accuracy, % | calibration error, % |"]
    classes.append("|---" * 6 + "|")
    for target in TARGETS:
        if target.name not in options.only:
            continue
        seeds = [kept(target, seed, options.results) for seed in range(options.seeds)]
        if target.classes:
            classes += class_lines(target.name, seeds)
        else:
            numbers += number_lines(target.name, seeds)
    lines = [*numbers, "", *classes]
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, "target-kinds")


if __name__ == "__main__":
    main()
