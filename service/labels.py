"""Class labels: strings or integers outside, one-hot rows inside."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bmaml.learners.bare import Bare
from model_store import Model
from model_store.model import Single
from service.problems import FieldError, invalid, invalid_at

LARGEST = 2**53 - 1
"""Integers up to here survive JSON."""
NARROWEST = 4


def class_labels(labels: Sequence[Any]) -> list[str] | list[int]:
    """Labels as they came, in one form for each class.

    Raises:
        RequestError: 422 for what is no label.
    """
    named = [each for each in labels if isinstance(each, str)]
    numbers = [each for each in labels if isinstance(each, float | int)]
    if len(named) not in (0, len(labels)) or len(named) + len(numbers) != len(labels):
        raise invalid_at("/support/y", "class labels are strings or integers, one for each row")
    if wrong := [i for i, each in enumerate(numbers) if each != int(each) or abs(each) > LARGEST]:
        detail = "not an integer within ±(2^53 − 1); larger ones can be sent as strings"
        errors = (FieldError(pointer=f"/support/y/{i}", detail=detail) for i in wrong[:20])
        raise invalid("class labels are strings or integers", *errors)
    return named or [int(each) for each in numbers]


def class_rows(
    labels: Sequence[str] | Sequence[int], model: Model, most_classes: int
) -> tuple[tuple[str | int, ...], Single]:
    """The classes of a support set, sorted, and its one-hot rows.

    Rows are as wide as the learner's outputs where it has one for every class, else as the next
    power of two, so that tasks of about as many classes can share a batch.

    Raises:
        RequestError: 422 without rows, and for too many classes.
    """
    if not labels:
        raise invalid_at("/support/y", "the classes are those of the support rows; show at least one")
    classes: tuple[str | int, ...] = tuple(sorted(set(labels)))
    assert model.manifest.classes is not None
    most = min(model.manifest.classes, most_classes)
    if len(classes) > most:
        raise invalid_at("/support/y", f"{len(classes)} classes; at most {most} are taken")
    place = {each: index for index, each in enumerate(classes)}
    width = NARROWEST
    while width < len(classes):
        width *= 2
    if isinstance(model.learner, Bare):
        width = model.learner.network.outputs
    rows = np.zeros((len(labels), width), dtype=np.float32)
    rows[np.arange(len(labels)), [place[each] for each in labels]] = 1
    return classes, rows
