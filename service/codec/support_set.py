"""The labelled rows of a request, alone or after kept ones: as they came, and as the network wants them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bmaml.learners.bare import Bare
from model_store import Model
from model_store.model import Single
from service.codec.budget import Budget
from service.codec.inputs import Rows, _finite, labels_of, rows, rows_of
from service.engine.posterior_cache import Entry
from service.errors import FieldError, invalid, invalid_at
from service.job import Array, Job, PostedSupport
from service.schemas.requests import Support


@dataclass(frozen=True)
class SupportSet:
    """A support set: rows, targets as the network wants them, numeric labels as they came, or classes."""

    x: Rows
    y: Single
    labels: Array
    classes: tuple[str | int, ...]
    posted: PostedSupport


def support(given: Support | None, before: Entry | None, model: Model, budget: Budget) -> SupportSet:
    """The labelled rows of a request, after those of a kept posterior if it names one.

    Raises:
        RequestError: as `rows`; also for labels that do not fit the rows or the model.
    """
    if given is None:
        assert before is not None
        return _known(before.job)
    settings = budget.settings
    x = rows(given.x, model, "/support/x", settings.max_support_rows, budget)
    labels = labels_of(given.y, "/support/y")
    if len(labels) != len(x.raw):
        raise invalid_at("/support/y", f"{len(labels)} labels for {len(x.raw)} rows of x")
    before_it = 0 if before is None else len(before.job.posted.x)
    if before_it + len(x.raw) > settings.max_support_rows:
        detail = f"{before_it + len(x.raw)} rows with those of the posterior; this service takes at most"
        raise invalid_at("/support/x", f"{detail} {settings.max_support_rows}")
    kept = None if before is None else before.job
    if model.manifest.kind == "classification":
        return _classified(x, class_labels(labels), kept, model, settings.max_classes)
    new = _measured(x, labels, model)
    return new if kept is None else _joined(_known(kept), new)


def _known(job: Job) -> SupportSet:
    """The rows of a kept posterior: they have been checked and standardised before."""
    x, outputs = Rows(job.posted.x, job.support_x), len(job.model.manifest.outputs)
    labels = np.array(job.posted.labels, np.float64).reshape(-1, outputs) if outputs else np.zeros((0, 1))
    return SupportSet(x, job.support_y, labels, job.classes, job.posted)


def _joined(first: SupportSet, then: SupportSet) -> SupportSet:
    """All their rows, of measured labels."""
    x = _both(first.x, then.x)
    posted = PostedSupport(x.raw, first.posted.labels + then.posted.labels)
    y, labels = np.concatenate([first.y, then.y]), np.concatenate([first.labels, then.labels])
    return SupportSet(x, y, labels, (), posted)


def _both(first: Rows, then: Rows) -> Rows:
    raw = np.concatenate([first.raw, then.raw])
    return Rows(raw, np.concatenate([first.standardised, then.standardised]))


def _classified(
    x: Rows, labels: list[str] | list[int], kept: Job | None, model: Model, most_classes: int
) -> SupportSet:
    said: tuple[Any, ...] = tuple(labels)
    if kept is not None:
        if labels and isinstance(labels[0], str) is not isinstance(kept.classes[0], str):
            theirs = "strings" if isinstance(kept.classes[0], str) else "integers"
            raise invalid_at("/support/y", f"the classes of the posterior are {theirs}")
        said = (*kept.posted.labels, *labels)
        x = _both(Rows(kept.posted.x, kept.support_x), x)
    classes, y = class_rows(said, model, most_classes)
    return SupportSet(x, y, np.zeros((0, 1)), classes, PostedSupport(x.raw, said))


def _measured(x: Rows, labels: Sequence[Any], model: Model) -> SupportSet:
    """Numbers; those of a single output in one form, whether they came as `1` or as `[1.0]`."""
    if labels and isinstance(labels[0], str):
        raise invalid_at("/support/y/0", "this model predicts numbers, not classes")
    outputs = len(model.manifest.outputs)
    columns: list[Any] = [value if isinstance(value, list) else [value] for value in labels]
    raw = rows_of(columns, outputs, "/support/y", len(columns))
    targets = _finite(model.standardised_targets(raw), "/support/y")
    said = raw[:, 0].tolist() if outputs == 1 else map(tuple, raw.tolist())
    return SupportSet(x, targets, raw, (), PostedSupport(x.raw, tuple(said)))


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
