"""The targets of a request's query rows, whose log density under the prediction is asked for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store import Model
from model_store.class_target import Label, label_key, places_of
from model_store.columns import standardised
from service.codec.inputs import label_values
from service.codec.support_set import class_labels, known_labels, number_labels, type_of_labels
from service.errors import MAX_ERRORS, FieldError, invalid, invalid_at
from service.schemas.requests import AdaptPredictRequest

POINTER = "/query/y"


def check_scoring(request: AdaptPredictRequest) -> None:
    """Refuse targets that nothing asks to score, and a request to score that has none.

    Raises:
        RequestError: 422.
    """
    if request.query.y is not None and not request.log_density:
        raise invalid_at(POINTER, "targets are there to be scored: send log_density true, or leave them out")
    if request.query.y is None and request.log_density:
        raise invalid_at(
            "/log_density", "there is nothing to score: send query.y, a target for each row of x"
        )


def query_targets(
    request: AdaptPredictRequest, model: Model, classes: Sequence[Label], rows: int
) -> NDArray[Any] | None:
    """The targets of this number of query rows, as `Job.query_y` describes them; None without any.

    Args:
        classes: those of the model, or of the support set.

    Raises:
        RequestError: 422 for targets that do not fit the rows, the model or the classes.
    """
    if request.query.y is None:
        return None
    labels = label_values(request.query.y, POINTER)
    if len(labels) != rows:
        raise invalid_at(POINTER, f"{len(labels)} targets for {rows} rows of x")
    if model.manifest.labels is not None:
        places = places_of(model.manifest.labels)
        found = known_labels(labels, model.manifest.labels, POINTER)
        return np.array([places[label_key(each)] for each in found])
    if model.manifest.kind == "classification":
        return _class_indices(class_labels(labels, POINTER), classes)
    raw, _ = number_labels(labels, model, POINTER)
    return standardised(model.manifest.outputs, raw)


def _class_indices(labels: Sequence[Label], classes: Sequence[Label]) -> NDArray[np.int64]:
    """The index of each label among the classes of the support set."""
    if type_of_labels(labels[0]) != type_of_labels(classes[0]):
        raise invalid_at(POINTER, f"the classes of the support set are {type_of_labels(classes[0])}")
    column = {each: index for index, each in enumerate(classes)}
    if foreign := [row for row, label in enumerate(labels) if label not in column]:
        raise invalid(
            "query.y names classes that the support set does not have",
            *(
                FieldError(
                    pointer=f"{POINTER}/{row}",
                    detail=f"the class of row {row} is not in the support set: label a row of it first",
                )
                for row in foreign[:MAX_ERRORS]
            ),
        )
    return np.array([column[label] for label in labels])
