"""The shipped versions on tasks like those of training and on tasks unlike them, as the service answers.

    python -m benchmarks.accuracy.shifts [--model NAME ...] [--data learning_curves.parquet] \\
        [--images omniglot28.npz grocery32.zip] [--tasks 200] [--split-half report] [--page docs/accuracy.md]

A model is left out where the file that it was trained on is not given. The scores of learning curves are
those of all validation curves with at least eight anchors, or of the curves of one half of their data sets.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from benchmarks import command_line, pages
from benchmarks.accuracy.class_scores import ClassScore, score_classes
from benchmarks.accuracy.class_shifts import (
    CLASS_SHIFTS,
    OTHER_DATA_SHIFTS,
    SHOTS,
    WAYS,
    episodes,
    other_images,
    unseen_images,
)
from benchmarks.accuracy.curve_shifts import (
    CLASSIFIER_SHIFTS,
    CURVE_SHIFTS,
    curve_tasks,
    last_value,
    mean_by_size,
)
from benchmarks.accuracy.number_scores import Panel, score_shifts
from benchmarks.accuracy.number_tasks import FAMILY
from benchmarks.accuracy.problems import (
    CURVE_SHOTS,
    MIN_ANCHORS,
    Curve,
    Half,
    training_curves,
    validation_curves,
)
from benchmarks.accuracy.shift_tables import CURVES, class_table, number_table
from benchmarks.accuracy.sine_shifts import POINTS, SINE_SHIFTS, sine_tasks
from benchmarks.accuracy.strata import strata_table
from model_store import SHIPPED, Model, Store

FEW_POINTS = (0, 1, 2)
"""Numbers of support rows at which only the family itself is scored."""


def sine_panels(model: Model, tasks: int) -> Iterator[Panel]:
    """The family from no point on, and every shift at all `POINTS`."""
    for points in FEW_POINTS:
        yield from score_shifts(model, {FAMILY: SINE_SHIFTS[FAMILY]}, sine_tasks(tasks, points), points)
    for points in POINTS:
        yield from score_shifts(model, SINE_SHIFTS, sine_tasks(tasks, points), points)


def curve_panels(model: Model, curves: Sequence[Curve]) -> Iterator[Panel]:
    """The family from no anchor on, and every shift at all `CURVE_SHOTS`."""
    shifts = CURVE_SHIFTS if len(model.manifest.inputs) == 1 else {**CURVE_SHIFTS, **CLASSIFIER_SHIFTS}
    for points in FEW_POINTS:
        tasks = curve_tasks(model, curves, points)
        yield from score_shifts(model, {FAMILY: shifts[FAMILY]}, tasks, points)
    for points in CURVE_SHOTS:
        yield from score_shifts(model, shifts, curve_tasks(model, curves, points), points)


def curve_errors(model: Model, path: Path, curves: Sequence[Curve]) -> dict[tuple[int, str], float]:
    """RMSE of two forecasts without a model, by the number of anchors that they are given."""
    tasks = {points: curve_tasks(model, curves, points) for points in (0, 1, *CURVE_SHOTS)}
    found = {(0, "the training curves' mean by size"): mean_by_size(training_curves(path), tasks.pop(0))}
    return found | {(points, "the last value stays"): last_value(tasks[points]) for points in tasks}


def class_panels(
    model: Model, path: Path, other: Path | None, tasks: int
) -> dict[tuple[int, str], list[ClassScore | None]]:
    """The scores at all `SHOTS` under every shift.

    Args:
        other: images that training did not read; without them two shifts are left out.
    """
    images = unseen_images(model, path)
    elsewhere = None if other is None else other_images(model, other)
    shifts = CLASS_SHIFTS if other is None else {**CLASS_SHIFTS, **OTHER_DATA_SHIFTS}
    found = {}
    for shots in SHOTS:
        drawn = list(episodes(images, elsewhere, tasks, shots))
        for name, shift in shifts.items():
            shifted = [shift(each, np.random.default_rng(seed)) for seed, each in enumerate(drawn)]
            found[shots, name] = score_classes(model, shifted)
    return found


def section(model: Model, options: argparse.Namespace) -> list[str]:
    """The tables of a model; none, and a sentence on standard output, where its data are not given."""
    name, family = model.manifest.name, model.manifest.training["family"]
    if family["kind"] == "sinusoid":
        panels = list(sine_panels(model, options.tasks))
        found = [f"{options.tasks} tasks a line.", "", *number_table(panels), "", *strata_table(panels)]
        return [f"### {name}", "", *found, ""]
    own = Path(family["path"]).name if "path" in family else "its data"
    files = [path for path in (options.data, *options.images) if path is not None]
    path = next((path for path in files if path.name == own), None)
    if path is None:
        print(f"{name} is left out: {own} is not given")
        return []
    if family["kind"] == "images":
        other = next((each for each in options.images if each != path), None)
        table = class_table(class_panels(model, path, other, options.tasks))
        return [f"### {name}", "", f"{options.tasks} tasks of {WAYS} classes a line.", "", *table, ""]
    curves = [each for each in validation_curves(path, options.split_half) if len(each.sizes) >= MIN_ANCHORS]
    panels, errors = list(curve_panels(model, curves)), curve_errors(model, path, curves)
    part = f"The half to {options.split_half}" if options.split_half else "All validation data sets"
    found = [f"{part}, {len(curves)} curves.", "", *number_table(panels, CURVES, errors), ""]
    return [f"### {name}", "", *found, *strata_table(panels), ""]


def main() -> None:
    """Score; print the tables or write them into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--model", nargs="+", help="by default all versions of the store that are newest")
    arguments.add_argument("--data", type=Path, help="learning_curves.parquet")
    arguments.add_argument("--images", type=Path, nargs="+", default=[])
    arguments.add_argument("--tasks", type=int, default=200, help="sine curves, and episodes of images")
    arguments.add_argument("--split-half", choices=get_args(Half), help="of the validation curves")
    arguments.add_argument("--store", type=Path, default=SHIPPED)
    command_line.add_page(arguments)
    options = arguments.parse_args()
    if options.page:
        pages.check(options.page, "trust")
    torch.set_num_threads(1)
    store = Store(options.store)
    lines = [f"Measured on {options.machine}, one thread.", ""]
    for name in options.model or store.names():
        found = section(store.load(name), options)
        print("\n".join(found), flush=True)
        lines += found
    if options.page:
        pages.write(options.page, lines, "trust")


if __name__ == "__main__":
    main()
