"""What an answer says beside the numbers: where they rest on little, or on rows unlike any before."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmaml.extrapolation import FAR_DISTANCE
from model_store import Column, Model
from model_store.columns import distance_outside
from service.codec.support_set import SupportSet

SHOWN = 8
"""Columns whose range is said, at most."""


def warnings_of(model: Model, shown: SupportSet, asked: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    """Before anything is computed; `asked` are rows by what they are called."""
    warnings = []
    if not len(shown.x.raw):
        warnings.append("the support set is empty: this is the model's prior")
    if len(shown.classes) == 1:
        warnings.append("the support set names one class: every row is of it, whatever it shows")
    if not model.learner.has_epistemic:
        warnings.append("this model is a single point: its epistemic variance is zero, whatever it has seen")
    if model.manifest.inputs:
        inputs = model.manifest.inputs, model.input_range
        outputs = model.manifest.outputs, model.output_range
        for what, rows in asked.items():
            if far := _far(*inputs, rows, f"{what} rows"):
                warnings.append(f"{far}; there the answer returns to the model's prior")
        if far := _far(*inputs, shown.x.raw, "support rows"):
            warnings.append(f"{far}; are their units right?")
        if far := _far(*outputs, shown.labels, "labels"):
            warnings.append(f"{far}; are their units right?")
    return tuple(warnings)


def on_the_fit(support_nll: tuple[float, float] | None) -> list[str]:
    """Once the support set has been adapted to."""
    if support_nll is None or support_nll[1] < support_nll[0]:
        return []
    return [
        "after adaptation the labels of the support set are no more probable than before: nothing that this "
        "model knows explains them, and its certainty means little"
    ]


def _far(columns: Sequence[Column], ends: NDArray[Any], values: NDArray[Any], what: str) -> str:
    if bool(((values >= ends[0]) & (values <= ends[1])).all()):
        return ""
    far = int(np.count_nonzero(distance_outside(columns, values) > FAR_DISTANCE))
    spans = ", ".join(f"{each.name} in [{each.lower:g}, {each.upper:g}]" for each in columns[:SHOWN])
    return f"{far} of {len(values)} {what} are far from what training saw ({spans})" if far else ""
