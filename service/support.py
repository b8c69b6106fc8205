"""The labelled rows of a request, alone or after kept ones: as they came, and as the network wants them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store import Model, OutsideDomain
from model_store.model import Single
from service.budget import Budget
from service.labels import class_labels, class_rows
from service.posteriors import Entry
from service.problems import invalid_at
from service.schemas import Support
from service.tensors import labels_of, pictures_of, rows_of
from service.wire import Values
from service.work import Array, Sent, Work

FURTHEST = np.float32(1e6)
"""Standardised inputs are this large at most: farther away the answer is the prior, and squares overflow."""


@dataclass(frozen=True)
class Rows:
    """Rows as they came, and as the network wants them."""

    raw: NDArray[Any]
    standardised: Single


@dataclass(frozen=True)
class Shown:
    """A support set: rows, targets as the network wants them, numeric labels as they came, or classes."""

    x: Rows
    y: Single
    labels: Array
    classes: tuple[str | int, ...]
    sent: Sent


def rows(values: Values, model: Model, pointer: str, most: int, budget: Budget, least: int = 0) -> Rows:
    """Unlabelled rows.

    Raises:
        RequestError: 422 for shapes, values and too many rows; 413 for pictures of too many pixels.
    """
    return _standardised(_raw(values, model, pointer, most, budget, least), model, pointer)


def support(given: Support | None, before: Entry | None, model: Model, budget: Budget) -> Shown:
    """The labelled rows of a request, after those of a kept posterior if it names one.

    Raises:
        RequestError: as `rows`; also for labels that do not fit the rows or the model.
    """
    if given is None:
        assert before is not None
        return _known(before.work)
    settings = budget.settings
    x = rows(given.x, model, "/support/x", settings.max_support_rows, budget)
    labels = labels_of(given.y, "/support/y")
    if len(labels) != len(x.raw):
        raise invalid_at("/support/y", f"{len(labels)} labels for {len(x.raw)} rows of x")
    before_it = 0 if before is None else len(before.work.sent.x)
    if before_it + len(x.raw) > settings.max_support_rows:
        detail = f"{before_it + len(x.raw)} rows with those of the posterior; this service takes at most"
        raise invalid_at("/support/x", f"{detail} {settings.max_support_rows}")
    kept = None if before is None else before.work
    if model.manifest.kind == "classification":
        return _classified(x, class_labels(labels), kept, model, settings.max_classes)
    new = _measured(x, labels, model)
    return new if kept is None else _joined(_known(kept), new)


def _known(work: Work) -> Shown:
    """The rows of a kept posterior: they have been checked and standardised before."""
    x, outputs = Rows(work.sent.x, work.support_x), len(work.model.manifest.outputs)
    labels = np.array(work.sent.labels, np.float64).reshape(-1, outputs) if outputs else np.zeros((0, 1))
    return Shown(x, work.support_y, labels, work.classes, work.sent)


def _joined(first: Shown, then: Shown) -> Shown:
    """All their rows, of measured labels."""
    x = _both(first.x, then.x)
    sent = Sent(x.raw, first.sent.labels + then.sent.labels)
    y, labels = np.concatenate([first.y, then.y]), np.concatenate([first.labels, then.labels])
    return Shown(x, y, labels, (), sent)


def _both(first: Rows, then: Rows) -> Rows:
    raw = np.concatenate([first.raw, then.raw])
    return Rows(raw, np.concatenate([first.standardised, then.standardised]))


def _classified(
    x: Rows, labels: list[str] | list[int], kept: Work | None, model: Model, most_classes: int
) -> Shown:
    said: tuple[Any, ...] = tuple(labels)
    if kept is not None:
        if labels and isinstance(labels[0], str) is not isinstance(kept.classes[0], str):
            theirs = "strings" if isinstance(kept.classes[0], str) else "integers"
            raise invalid_at("/support/y", f"the classes of the posterior are {theirs}")
        said = (*kept.sent.labels, *labels)
        x = _both(Rows(kept.sent.x, kept.support_x), x)
    classes, y = class_rows(said, model, most_classes)
    return Shown(x, y, np.zeros((0, 1)), classes, Sent(x.raw, said))


def _measured(x: Rows, labels: Sequence[Any], model: Model) -> Shown:
    """Numbers; those of a single output in one form, whether they came as `1` or as `[1.0]`."""
    if labels and isinstance(labels[0], str):
        raise invalid_at("/support/y/0", "this model predicts numbers, not classes")
    outputs = len(model.manifest.outputs)
    columns: list[Any] = [value if isinstance(value, list) else [value] for value in labels]
    raw = rows_of(columns, outputs, "/support/y", len(columns))
    targets = _finite(model.standardised_targets(raw), "/support/y")
    said = raw[:, 0].tolist() if outputs == 1 else map(tuple, raw.tolist())
    return Shown(x, targets, raw, (), Sent(x.raw, tuple(said)))


def _raw(values: Values, model: Model, pointer: str, most: int, budget: Budget, least: int) -> NDArray[Any]:
    image = model.manifest.image
    if image is not None:
        return pictures_of(values, image, pointer, most, budget, least)
    return rows_of(values, len(model.manifest.inputs), pointer, most, least)


def _standardised(raw: NDArray[Any], model: Model, pointer: str) -> Rows:
    if model.manifest.image is not None:
        return Rows(raw, raw)
    try:
        standardised = model.standardised_inputs(raw)
    except OutsideDomain as error:
        raise invalid_at(f"{pointer}/{error.row}", str(error)) from None
    if not (np.abs(standardised) <= FURTHEST).all():
        standardised = np.clip(_finite(standardised, pointer), -FURTHEST, FURTHEST)
    return Rows(raw, standardised)


def _finite(values: Single, pointer: str) -> Single:
    """Numbers that fit the network's precision."""
    if (bad := np.flatnonzero(~np.isfinite(values).all(-1))).size:
        raise invalid_at(f"{pointer}/{bad[0]}", "too large for this model's precision")
    return values
