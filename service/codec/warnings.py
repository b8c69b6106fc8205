"""Warnings of an answer: few or no labels, rows far from the training range, a fit that did not improve."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmaml.extrapolation import FAR_DISTANCE
from model_store import Column, Model
from model_store.columns import distance_outside
from service.codec.support_set import SupportSet

MAX_RANGES = 8
"""Columns whose training range a warning lists, at most."""


def input_warnings(model: Model, support: SupportSet, rows: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    """Warnings about the inputs of a request, before anything is computed.

    Args:
        rows: unlabelled rows in the caller's units, by the part of the request that they are from.
    """
    warnings = []
    if not len(support.x.raw):
        warnings.append("the support set is empty: this is the model's prior")
    if len(support.classes) == 1:
        warnings.append("the support set names one class: every row is of it, whatever it shows")
    if not model.learner.has_epistemic:
        warnings.append("this model is a single point: its epistemic variance is zero, whatever it has seen")
    if model.manifest.inputs:
        inputs = model.manifest.inputs, model.input_range
        outputs = model.manifest.outputs, model.output_range
        for part, values in rows.items():
            if far := _far(*inputs, values, f"{part} rows"):
                warnings.append(f"{far}; there the answer returns to the model's prior")
        if far := _far(*inputs, support.x.raw, "support rows"):
            warnings.append(f"{far}; are their units right?")
        if far := _far(*outputs, support.labels, "labels"):
            warnings.append(f"{far}; are their units right?")
    return tuple(warnings)


def fit_warnings(support_nll: tuple[float, float] | None) -> list[str]:
    """Warnings about the fit: the NLL of the support labels before and after adaptation."""
    if support_nll is None or support_nll[1] < support_nll[0]:
        return []
    return [
        "after adaptation the labels of the support set are no more probable than before: nothing that this "
        "model knows explains them, and its certainty means little"
    ]


def _far(columns: Sequence[Column], bounds: NDArray[Any], values: NDArray[Any], what: str) -> str:
    """The sentence that counts values `[row, column]` far outside the training range; empty for none."""
    if bool(((values >= bounds[0]) & (values <= bounds[1])).all()):
        return ""
    far = int(np.count_nonzero(distance_outside(columns, values) > FAR_DISTANCE))
    ranges = ", ".join(f"{each.name} in [{each.lower:g}, {each.upper:g}]" for each in columns[:MAX_RANGES])
    return f"{far} of {len(values)} {what} are far from what training saw ({ranges})" if far else ""
