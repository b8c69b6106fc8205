"""The labelled rows of a request, alone or after kept ones: as they came, and as the network wants them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store import Model, OutsideDomain
from model_store.model import Single
from service.budget import Budget
from service.labels import class_rows
from service.posteriors import Entry
from service.problems import invalid_at
from service.schemas import Support
from service.tensors import labels_of, pictures_of, rows_of
from service.wire import Values
from service.work import Array, Sent, Work


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
    x = _raw(given.x, model, "/support/x", budget.settings.max_support_rows, budget, 0)
    labels = labels_of(given.y, "/support/y")
    if len(labels) != len(x):
        raise invalid_at("/support/y", f"{len(labels)} labels for {len(x)} rows of x")
    if before is not None:
        x = np.concatenate([before.work.sent.x, x])
        labels = [*before.work.sent.labels, *labels]  # type: ignore[list-item]
        if len(x) > budget.settings.max_support_rows:
            detail = f"{len(x)} rows with those of the posterior; this service takes at most"
            raise invalid_at("/support/x", f"{detail} {budget.settings.max_support_rows}")
    sent = Sent(x, tuple(tuple(y) if isinstance(y, list) else y for y in labels))
    return _shown(sent, model, budget.settings.max_classes)


def _known(work: Work) -> Shown:
    """The rows of a kept posterior: they have been checked and standardised before."""
    numbers = work.model.manifest.kind == "regression"
    labels = np.array(work.sent.labels, np.float64) if numbers else np.zeros((0, 1))
    if labels.ndim == 1:
        labels = labels.reshape(len(labels), 1)
    return Shown(Rows(work.sent.x, work.support_x), work.support_y, labels, work.classes, work.sent)


def _shown(sent: Sent, model: Model, most_classes: int) -> Shown:
    labels, x = sent.labels, _standardised(sent.x, model, "/support/x")
    if model.manifest.kind == "classification":
        classes, y = class_rows(labels, model, most_classes)  # type: ignore[arg-type]
        return Shown(x, y, np.zeros((0, 1)), classes, sent)
    if labels and isinstance(labels[0], str):
        raise invalid_at("/support/y/0", "this model predicts numbers, not classes")
    columns: list[Any] = [list(value) if isinstance(value, tuple) else [value] for value in labels]
    raw = rows_of(columns, len(model.manifest.outputs), "/support/y", len(columns))
    targets = _finite(model.standardised_targets(raw), "/support/y")
    return Shown(x, targets, raw, (), sent)


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
    return Rows(raw, _finite(standardised, pointer))


def _finite(values: Single, pointer: str) -> Single:
    """Numbers that fit the network's precision."""
    if (bad := np.flatnonzero(~np.isfinite(values).all(-1))).size:
        raise invalid_at(f"{pointer}/{bad[0]}", "too large for this model's precision")
    return values
