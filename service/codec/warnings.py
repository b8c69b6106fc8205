"""Warnings of an answer: few, no or repeated labels, rows far from training, an unlike task, a poor fit."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmaml.extrapolation import FAR_DISTANCE
from bmaml.learners.surprise import Group
from model_store import Column, Model
from model_store.columns import distance_outside
from service.codec.inputs import InputRows
from service.codec.support_set import SupportSet
from service.compute.surprise import surprising_group, total_weight
from service.job import Answer, Job

MAX_COLUMNS = 8
"""Columns that a warning names, at most."""
TO_THE_PRIOR = "there the answer returns to the model's prior"
BY_SUPPORT = "there the model is untested; the answer rests on support rows nearby and the other columns"
UNTESTED = "there the policy is untested"
WRONG_UNITS = "are their units right?"
SURPRISES: Mapping[Group, str] = {
    "wide": "its labels differ more than theirs; are their units right?",
    "noisy": "its rows are noisier than theirs; check how they were measured, or add rows",
    "broad": "no particle explains its rows, and the answer rests on these rows alone; add rows, or train on "
    "tasks like it",
}
"""The rest of the warning about a task unlike those of training, by its heaviest group of hypotheses."""


def input_warnings(model: Model, support: SupportSet, rows: Mapping[str, InputRows]) -> tuple[str, ...]:
    """Warnings about the inputs of a request, before anything is computed.

    Args:
        rows: unlabelled rows, by the part of the request that they are from.
    """
    warnings = []
    if not len(support.x.raw):
        warnings.append("the support set is empty: this is the model's prior")
    warnings += _row_count(model, len(support.x.raw))
    if len(support.classes) == 1:
        warnings.append("the support set names one class: every row is of it, whatever it shows")
    if animated := support.x.animated + sum(own.animated for own in rows.values()):
        files = "1 image is animated: its" if animated == 1 else f"{animated} images are animated: their"
        warnings.append(f"{files} first frame alone is taken")
    if not model.learner.has_epistemic:
        warnings.append("this model is a single point: its epistemic variance is zero, whatever it has seen")
    warnings += _copies(model, support)
    if model.manifest.inputs:
        inputs = model.manifest.inputs, model.input_range
        for part, own in rows.items():
            distances = _distances(*inputs, own.raw)
            if not len(distances):
                continue
            rows_far = distances.max(1, initial=0) > FAR_DISTANCE
            to_the_prior = np.zeros(len(distances), bool)
            if rows_far.any() and model.returns_to_prior:
                there = model.distance(own.standardised[rows_far], support.x.standardised)
                to_the_prior[rows_far] = there > FAR_DISTANCE
            for some, advice in ((to_the_prior, TO_THE_PRIOR), (rows_far & ~to_the_prior, BY_SUPPORT)):
                own_distances = np.where(some[:, None], distances, 0)
                warnings += _far(inputs[0], own.raw, own_distances, f"{part} rows", advice)
        distances = _distances(*inputs, support.x.raw)
        warnings += _far(inputs[0], support.x.raw, distances, "support rows", WRONG_UNITS)
    if model.manifest.outputs:
        outputs = model.manifest.outputs, model.output_range
        distances = _distances(*outputs, support.labels)
        warnings += _far(outputs[0], support.labels, distances, "labels", WRONG_UNITS)
    return tuple(warnings)


def observation_warnings(model: Model, rows: NDArray[Any], what: str) -> list[str]:
    """The sentence about a policy's observations `[row, column]` far from training; none without any."""
    columns = model.manifest.inputs
    return _far(columns, rows, _distances(columns, model.input_range, rows), what, UNTESTED)


def _row_count(model: Model, rows: int) -> list[str]:
    """The sentence about a number of support rows unlike those of training; none where there is none.

    As with inputs, so many more count as far as are a quarter of the trained range.
    """
    if model.trained_rows is None or not rows:
        return []
    lowest, highest = model.trained_rows
    if lowest <= rows <= highest + FAR_DISTANCE * (highest - lowest):
        return []
    classes = model.manifest.kind == "classification"
    if rows < lowest:
        advice = "probabilities are less certain" if classes else "widths are less certain"
    else:
        advice = "probabilities may be too sure" if classes else "widths may be too narrow"
        advice += ": give fewer, or train with more"
    return [f"the support set has {rows} rows, and training had {lowest} to {highest}; {advice}"]


def _copies(model: Model, support: SupportSet) -> list[str]:
    """Sentences about support rows that repeat an earlier one, or give its input another class.

    Nothing is said where that is natural. Whole numbers and classes of fixed meaning repeat by themselves.
    Labels in steps may agree by chance, so there at least half of the rows must be copies.
    """
    targets = [column.target for column in model.manifest.outputs]
    if model.manifest.labels is not None or any(target and target.kind == "integer" for target in targets):
        return []
    rows, labels = support.x.raw, support.y
    if _all_differ(rows):
        return []
    inputs: dict[bytes, int] = {}
    labelled: dict[tuple[int, bytes], int] = {}
    copies, contradictions = [], []
    for row, (x, y) in enumerate(zip(rows, labels, strict=True)):
        like = inputs.setdefault(x.tobytes(), row)
        first = labelled.setdefault((like, y.tobytes()), row)
        if first != row:
            copies.append((row, first))
        elif like != row:
            contradictions.append((row, like))
    warnings = []
    in_steps = any(target and target.step for target in targets)
    if copies and not (in_steps and 2 * len(copies) < len(rows)):
        warnings.append(
            f"{len(copies)} of {len(rows)} support rows repeat an earlier one, input and label: row "
            f"{copies[0][0]} is row {copies[0][1]} again; each counts as a new measurement, and a copy makes "
            "the answer too sure: leave copies out"
        )
    if contradictions and support.classes:
        row, first = contradictions[0]
        warnings.append(f"support rows {first} and {row} hold the same input under two labels; one is wrong")
    return warnings


def _all_differ(rows: NDArray[Any]) -> bool:
    """Whether no row is like another; False where rows hold nothing."""
    content, size = rows.tobytes(), rows[:1].nbytes
    return size > 0 and len({content[at : at + size] for at in range(0, len(content), size)}) == len(rows)


def fit_warnings(job: Job, support_nll: tuple[float, float] | None) -> list[str]:
    """Warnings about the fit: the NLL of the support labels before and after adaptation.

    None where the two are equal by definition: for a single class, and after no step of a learner that takes
    steps.
    """
    if support_nll is None or support_nll[1] < support_nll[0] or len(job.classes) == 1:
        return []
    if job.steps == 0 and job.model.learner.steps:
        return []
    return [
        "after adaptation the labels of the support set are no more probable than before: nothing that this "
        "model knows explains them, and its certainty means little"
    ]


def surprise_warnings(job: Job, answer: Answer) -> list[str]:
    """The warning about a task unlike those of training; none where it looks like them."""
    group = surprising_group(job, answer)
    if group is None:
        return []
    assert answer.surprise is not None
    percent = 100 * total_weight(answer.surprise)
    return [f"this task looks unlike those of training ({percent:.0f} % of the weight): {SURPRISES[group]}"]


def _distances(columns: Sequence[Column], bounds: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    """`distance_outside`; without rows where all lie inside."""
    if bool(((values >= bounds[0]) & (values <= bounds[1])).all()):
        return np.zeros((0, len(columns)))
    return distance_outside(columns, values)


def _far(
    columns: Sequence[Column], values: NDArray[Any], distances: NDArray[Any], what: str, advice: str
) -> list[str]:
    """The sentence about values `[row, column]` far outside the training range; none where there are none.

    It counts the rows, and names each column with its farthest value.

    Args:
        distances: of the values, in widths of the range.
    """
    if not len(distances):
        return []
    far = distances > FAR_DISTANCE
    rows = int(np.count_nonzero(far.any(1)))
    if not rows:
        return []
    left = np.flatnonzero(far.any(0))
    named = []
    for index in left[:MAX_COLUMNS]:
        column, row = columns[index], int(distances[:, index].argmax())
        trained = f"training: {column.lower:g} to {column.upper:g}"
        named.append(f"{column.name} is {values[row, index]:g} in row {row} ({trained})")
    if len(left) > MAX_COLUMNS:
        named.append(f"and {len(left) - MAX_COLUMNS} more columns")
    return [f"{rows} of {len(values)} {what} are far from what training saw: {', '.join(named)}; {advice}"]
