"""The support set of a request: its labelled rows, after those of the kept posterior that it names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from model_store import Model, OutsideDomain
from model_store.class_target import Label, label_key, places_of
from model_store.model import Single
from service.codec.budget import Budget
from service.codec.inputs import InputRows, check_precision, input_rows, label_values, number_rows
from service.engine.posterior_cache import Entry
from service.errors import MAX_ERRORS, FieldError, invalid, invalid_at
from service.job import Array, Job, PostedSupport
from service.schemas.policies import EpisodeSupport
from service.schemas.requests import Support

MAX_INTEGER_LABEL = 2**53 - 1
"""Magnitude of the largest integer label: JSON's numbers, which are doubles, hold no larger one exactly."""
MAX_LISTED = 10
"""Labels that an error lists, at most."""
KINDS_OF_LABELS = {"str": "string", "bool": "truth value", "number": "number"}
"""The types that `label_key` tells apart, in the words of an error."""
MIN_CLASS_COLUMNS = 4
"""Columns of one-hot labels, at least, where the learner has no output for each class."""


@dataclass(frozen=True)
class SupportSet:
    """A support set as the network takes it and as the caller sent it.

    Attributes:
        y: standardised targets `[row, output]`, or one-hot classes `[row, class]`.
        labels: numeric labels `[row, output]` in the caller's units; no rows for classes.
        classes: in the order of the columns of `y`: the model's, or those of the rows, sorted; empty for
            numbers.
        posted: rows and labels as they were sent, from which the posterior's id is made.
    """

    x: InputRows
    y: Single
    labels: Array
    classes: tuple[Label, ...]
    posted: PostedSupport


def support_set(
    posted: Support | EpisodeSupport | None, entry: Entry | None, model: Model, budget: Budget
) -> SupportSet:
    """The labelled rows of a request, after those of a kept posterior if it names one.

    Raises:
        RequestError: as `input_rows`; 422 for labels that do not fit the rows or the model, and for more
            rows than the limit, those of the posterior included.
    """
    if posted is None:
        assert entry is not None
        return _kept_support(entry.job)
    if isinstance(posted, EpisodeSupport):
        raise invalid_at("/support", "this model adapts to labelled rows, x and y, not to episodes")
    settings = budget.settings
    x = input_rows(posted.x, model, "/support/x", settings.max_support_rows, budget)
    labels = label_values(posted.y, "/support/y")
    if len(labels) != len(x.raw):
        raise invalid_at("/support/y", f"{len(labels)} labels for {len(x.raw)} rows of x")
    rows = len(x.raw) + (0 if entry is None else len(entry.job.posted.x))
    if rows > settings.max_support_rows:
        detail = f"{rows} rows with those of the posterior; this service takes at most"
        raise invalid_at("/support/x", f"{detail} {settings.max_support_rows}")
    kept = None if entry is None else entry.job
    if model.manifest.labels is not None:
        return _fixed_support(x, known_labels(labels, model.manifest.labels, "/support/y"), kept, model)
    if model.manifest.kind == "classification":
        new_labels = class_labels(labels, "/support/y")
        return _class_support(x, new_labels, kept, model, settings.max_classes)
    new = _number_support(x, labels, model)
    return new if kept is None else _joined_support(_kept_support(kept), new)


def known_labels(labels: Sequence[Any], known: Sequence[Label], pointer: str) -> list[Label]:
    """The class labels at `pointer`, all of them labels that the model knows.

    Raises:
        RequestError: 422 that lists the model's labels.
    """
    places = places_of(known)
    found = [None if isinstance(each, list) else places.get(label_key(each)) for each in labels]
    if unknown := [row for row, place in enumerate(found) if place is None]:
        errors = (
            FieldError(pointer=f"{pointer}/{row}", detail=_no_label(labels[row], known))
            for row in unknown[:MAX_ERRORS]
        )
        raise invalid(f"this model's labels are {_listed(known)}", *errors)
    return [known[place] for place in found if place is not None]


def _listed(known: Sequence[Label]) -> str:
    """The first labels, and how many there are besides."""
    listed = orjson.dumps(list(known[:MAX_LISTED])).decode()
    more = len(known) - MAX_LISTED
    return listed if more <= 0 else f"{listed} and {more} more"


def _no_label(found: Any, known: Sequence[Label]) -> str:
    """The sentence about an unknown label, which is not repeated: an error does not echo its input."""
    if isinstance(found, list):
        return f"no label of this model: a list of {len(found)}; a label is one value"
    (kind, _), (expected, _) = label_key(found), label_key(known[0])
    if kind != expected:
        kind, expected = KINDS_OF_LABELS[kind], KINDS_OF_LABELS[expected]
        return f"no label of this model: a {kind}, where labels are {expected}s"
    alike = [each for each in known if str(each).strip().casefold() == str(found).strip().casefold()]
    return "no label of this model" + "".join(f"; do you mean {each!r}?" for each in alike[:1])


def class_labels(labels: Sequence[Any], pointer: str) -> list[str] | list[int] | list[bool]:
    """The class labels at `pointer`, of one type; a float that is an integer becomes one.

    Raises:
        RequestError: 422 for other values, and for strings beside integers.
    """
    strings = [each for each in labels if isinstance(each, str)]
    truths = [each for each in labels if isinstance(each, bool)]
    numbers = [each for each in labels if isinstance(each, float | int) and not isinstance(each, bool)]
    if not any(len(each) == len(labels) for each in (strings, truths, numbers)):
        raise invalid_at(pointer, "class labels are strings, integers or truth values, one for each row")
    if wrong := [i for i, each in enumerate(numbers) if each != int(each) or abs(each) > MAX_INTEGER_LABEL]:
        detail = "not an integer within ±(2^53 − 1); larger ones can be sent as strings"
        errors = (FieldError(pointer=f"{pointer}/{i}", detail=detail) for i in wrong[:MAX_ERRORS])
        raise invalid("class labels are strings or integers", *errors)
    return strings or truths or [int(each) for each in numbers]


def one_hot(
    labels: Sequence[str] | Sequence[int], model: Model, max_classes: int
) -> tuple[tuple[Label, ...], Single]:
    """The classes of a support set, sorted, and its one-hot labels `[row, column]`.

    There is a column for each output of a learner that has one for every class. Otherwise their number
    is a power of two, so that tasks of about as many classes can share a batch.

    Raises:
        RequestError: 422 without rows, and for too many classes.
    """
    if not labels:
        raise invalid_at("/support/y", "the classes are those of the support rows; show at least one")
    classes: tuple[Label, ...] = tuple(sorted(set(labels)))
    assert model.manifest.classes is not None
    most = min(model.manifest.classes, max_classes)
    if len(classes) > most:
        raise invalid_at("/support/y", f"{len(classes)} classes; at most {most} are taken")
    column = {each: index for index, each in enumerate(classes)}
    columns = model.learner.max_classes or max(MIN_CLASS_COLUMNS, 1 << (len(classes) - 1).bit_length())
    rows = np.zeros((len(labels), columns), dtype=np.float32)
    rows[np.arange(len(labels)), [column[each] for each in labels]] = 1
    return classes, rows


def _fixed_support(x: InputRows, labels: list[Label], kept: Job | None, model: Model) -> SupportSet:
    """Labels of the model, one-hot; there may be none."""
    known = model.manifest.labels
    assert known is not None
    if kept is not None:
        labels = [*kept.posted.labels, *labels]  # type: ignore[list-item]
        x = _joined_rows(InputRows(kept.posted.x, kept.support_x), x)
    places = places_of(known)
    y = np.zeros((len(labels), len(known)), dtype=np.float32)
    y[np.arange(len(labels)), [places[label_key(each)] for each in labels]] = 1
    return SupportSet(x, y, np.zeros((0, 1)), known, PostedSupport(x.raw, tuple(labels)))


def type_of_labels(label: Label) -> str:
    """The type of a class label, in the plural."""
    if isinstance(label, bool):
        return "truth values"
    return "strings" if isinstance(label, str) else "integers"


def _class_support(
    x: InputRows,
    labels: list[str] | list[int] | list[bool],
    kept: Job | None,
    model: Model,
    max_classes: int,
) -> SupportSet:
    all_labels: tuple[Any, ...] = tuple(labels)
    if kept is not None:
        if labels and type_of_labels(labels[0]) != type_of_labels(kept.classes[0]):
            kept_type = type_of_labels(kept.classes[0])
            raise invalid_at("/support/y", f"the classes of the posterior are {kept_type}")
        all_labels = (*kept.posted.labels, *labels)
        x = _joined_rows(InputRows(kept.posted.x, kept.support_x), x)
    classes, y = one_hot(all_labels, model, max_classes)
    return SupportSet(x, y, np.zeros((0, 1)), classes, PostedSupport(x.raw, all_labels))


def number_labels(labels: Sequence[Any], model: Model, pointer: str) -> tuple[Array, Single]:
    """The numeric labels at `pointer`, `[row, output]`: in the caller's units and standardised.

    Raises:
        RequestError: 422 for strings, another number of outputs, numbers outside the target's domain, and
            numbers beyond single precision.
    """
    if labels and isinstance(labels[0], str | bool):
        raise invalid_at(f"{pointer}/0", "this model predicts numbers, not classes")
    columns: list[Any] = [value if isinstance(value, list) else [value] for value in labels]
    raw = number_rows(columns, len(model.manifest.outputs), pointer, len(columns))
    try:
        targets = model.standardised_targets(raw)
    except OutsideDomain as error:
        raise invalid_at(f"{pointer}/{error.row}", str(error)) from None
    check_precision(targets, pointer)
    return raw, targets


def _number_support(x: InputRows, labels: Sequence[Any], model: Model) -> SupportSet:
    """Numeric labels; those of a single output are posted alike, whether sent as `1` or as `[1.0]`."""
    raw, targets = number_labels(labels, model, "/support/y")
    posted = raw[:, 0].tolist() if raw.shape[1] == 1 else map(tuple, raw.tolist())
    return SupportSet(x, targets, raw, (), PostedSupport(x.raw, tuple(posted)))


def _kept_support(job: Job) -> SupportSet:
    """The support set of a kept posterior, which was checked and standardised when it was sent."""
    x, outputs = InputRows(job.posted.x, job.support_x), len(job.model.manifest.outputs)
    labels = np.array(job.posted.labels, np.float64).reshape(-1, outputs) if outputs else np.zeros((0, 1))
    return SupportSet(x, job.support_y, labels, job.classes, job.posted)


def _joined_support(first: SupportSet, second: SupportSet) -> SupportSet:
    """The rows of two support sets with numeric labels."""
    x = _joined_rows(first.x, second.x)
    posted = PostedSupport(x.raw, first.posted.labels + second.posted.labels)
    y, labels = np.concatenate([first.y, second.y]), np.concatenate([first.labels, second.labels])
    return SupportSet(x, y, labels, (), posted)


def _joined_rows(first: InputRows, second: InputRows) -> InputRows:
    raw = np.concatenate([first.raw, second.raw])
    standardised = np.concatenate([first.standardised, second.standardised])
    return InputRows(raw, standardised, first.animated + second.animated)
