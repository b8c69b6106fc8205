"""The base class of both estimators: its model, its columns, and its kept posterior."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from bmaml_client.answer_warnings import merged_warnings, warn_caller
from bmaml_client.answers import Choice, ClassPrediction, Prediction
from bmaml_client.clients import DEFAULT_TIMEOUT_S, Client
from bmaml_client.connections import connection, disconnect
from bmaml_client.errors import InvalidInput, TooLarge
from bmaml_client.inputs import (
    ImageFiles,
    Labels,
    Rows,
    check_case,
    column_names,
    column_order,
    is_image_files,
    to_labels,
)
from bmaml_client.model_info import VersionCard
from bmaml_client.operations import DEFAULT_TTL_S

KEY_VARIABLE = "BMAML_CLIENT_KEY"
"""The environment variable with the service's key; a parameter would be printed and pickled."""
BODY_MARGIN = 2
"""Ratio of the service's limit of a body to the largest body that is sent."""


class Estimator(BaseEstimator):
    """A published model with scikit-learn's interface.

    `fit` adapts the model's particles to the rows and keeps them in the service; predictions use them.
    Each warning of the service is an `AnswerWarning`, once for each call of `fit`, `predict…` and `query`.
    Models are few-shot: the service limits the rows of `fit` (`limits().support_rows`). A model has the
    input columns of its training.

    Args:
        model: its name, or names by number of columns.
        service: the service's address; None answers in this process.
        store: the folder of published versions, without a service; None is the shipped one.
        version: None is the newest version at the time of `fit`.
        steps: inner steps; None is the number that the model was trained with.
        random_state: seed of learners that draw, and of ties between rows of a pool; None is 0.
        keep_s: seconds that the service keeps the particles; afterwards the rows are sent again.
        timeout: seconds.
        to_images: for models of images, where X is a table: converts validated rows to images.

    Attributes:
        model_: the card of the version that answers.
        posterior_: the kept particles; None where the service's cache cannot hold them.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.
    """

    _kind = ""

    def __init__(
        self,
        model: str | Mapping[int, str] | None = None,
        *,
        service: str | None = None,
        store: str | Path | None = None,
        version: int | None = None,
        steps: int | None = None,
        random_state: int | None = 0,
        keep_s: float = DEFAULT_TTL_S,
        timeout: float = DEFAULT_TIMEOUT_S,
        to_images: Callable[[NDArray[Any]], Any] | None = None,
    ) -> None:
        self.model = model
        self.service = service
        self.store = store
        self.version = version
        self.steps = steps
        self.random_state = random_state
        self.keep_s = keep_s
        self.timeout = timeout
        self.to_images = to_images

    def query(
        self,
        X: Any,  # noqa: N803
        n: int = 1,
        *,
        exclude: Iterable[int] = (),
        target: Any = None,
        acquisition: str | None = None,
        strategy: str = "auto",
    ) -> NDArray[np.int64]:
        """Indices of the rows of a pool to label next, the most informative first.

        Args:
            X: the pool.
            n: rows to select.
            exclude: indices that are not selected, such as those of labelled rows.
            target: rows on which the predictions should improve.
            acquisition, strategy: names that the service knows; see docs/api.md.

        Raises:
            ClientError: the service refuses the request, or does not answer.
        """
        chosen = self.choose(X, n, exclude=exclude, target=target, acquisition=acquisition, strategy=strategy)
        warn_caller(chosen.diagnostics.warnings)
        return chosen.indices

    def choose(
        self,
        X: Any,  # noqa: N803
        n: int = 1,
        *,
        exclude: Iterable[int] = (),
        target: Any = None,
        acquisition: str | None = None,
        strategy: str = "auto",
    ) -> Choice:
        """The service's full answer to `query`, with the score of every row; the arguments are the same.

        Warnings are in its `diagnostics` alone.

        Raises:
            ClientError: the service refuses the request, or does not answer.
        """
        check_is_fitted(self)
        return self._client().uncertainty(
            **self._support_arguments(),
            pool=self._rows(X),
            size=n,
            exclude=[int(index) for index in exclude],
            target=None if target is None else self._rows(target),
            acquisition=acquisition,
            strategy=strategy,
        )

    def answers(
        self,
        X: Any,  # noqa: N803
        query_y: Any = None,
        **options: Any,
    ) -> Iterator[Prediction | ClassPrediction]:
        """The service's full answers for X, with diagnostics and warnings, in parts within its limits.

        Warnings are in the answers' `diagnostics` alone.

        Args:
            X: rows.
            query_y: a target for each row, in the service's form: classes are indices of `classes_`.
            options: of `Client.adapt_predict`.

        Raises:
            ClientError: the service refuses the request, or does not answer.
        """
        check_is_fitted(self)
        rows = self._rows(X)
        client, limits = self._client(), self.limits_
        size = min(limits.query_rows, int(limits.body_bytes / BODY_MARGIN / _bytes_per_row(rows)) or 1)
        targets = None if query_y is None else to_labels(query_y, "query_y")
        if targets is not None and len(targets) != len(rows):
            raise InvalidInput(f"{len(targets)} targets for {len(rows)} rows of X")
        for start in range(0, len(rows), size):
            query = _slice(rows, start, start + size)
            own = None if targets is None else targets[start : start + size]
            yield client.adapt_predict(**self._support_arguments(), query=query, query_y=own, **options)

    def _answers_with_warnings(
        self,
        X: Any,  # noqa: N803
        **options: Any,
    ) -> list[Prediction | ClassPrediction]:
        """All answers for X, after a Python warning for each warning of theirs."""
        found = list(self.answers(X, **options))
        rows = (len(each.mean if isinstance(each, Prediction) else each.label) for each in found)
        warn_caller(merged_warnings(zip(rows, (each.diagnostics.warnings for each in found), strict=True)))
        return found

    def close(self) -> None:
        """Close the connection and stop the service in this process, for all estimators that share them."""
        disconnect(self.service, self.store, os.environ.get(KEY_VARIABLE), self.timeout)

    def _adapt(self, rows: Any, labels: Labels, card: VersionCard) -> Self:
        names = getattr(self, "feature_names_in_", None)
        inputs = [column.name for column in card.inputs]
        self.model_ = card
        self.columns_ = None if names is None else column_order(list(names), inputs, "X")
        self.limits_ = self._client().limits()
        self._support = self._model_rows(rows), labels
        self.posterior_ = None
        try:
            self.posterior_ = self._client().keep(**self._support_arguments(), keep_s=self.keep_s)
        except TooLarge as error:
            if error.slug != "posterior-too-large":
                raise
        else:
            warn_caller(self.posterior_.warnings)
        return self

    def _support_arguments(self) -> dict[str, Any]:
        """Arguments of the client's methods: the kept posterior, or the rows of `fit`."""
        arguments: dict[str, Any] = {"model": self.model_.name, "version": self.model_.version}
        arguments["seed"] = self.random_state or 0
        if self.posterior_ is not None:
            return arguments | {"posterior": self.posterior_}
        x, y = self._support
        return arguments | {"x": x, "y": y, "steps": self.steps}

    def _validated(self, X: Any, y: Any, **checks: Any) -> tuple[Any, Any]:  # noqa: N803
        """Rows and labels after scikit-learn's validation; image files pass through."""
        if is_image_files(X):
            for name in ("n_features_in_", "feature_names_in_"):
                if hasattr(self, name):
                    delattr(self, name)
            return ImageFiles(tuple(bytes(each) for each in X)), np.asarray(y)
        rows, labels = validate_data(self, X, y, allow_nd=True, **checks)
        if column_names(X) and not hasattr(self, "feature_names_in_"):
            raise InvalidInput(
                f"scikit-learn does not read the column names of a {type(X).__name__}: "
                "convert it to a pyarrow.Table, or to a frame of pandas or polars"
            )
        return rows, labels

    def _rows(self, X: Any) -> Rows:  # noqa: N803
        if is_image_files(X):
            return ImageFiles(tuple(bytes(each) for each in X))
        check_case(column_names(X), list(getattr(self, "feature_names_in_", ())), "X")
        return self._model_rows(validate_data(self, X, reset=False, allow_nd=True))

    def _model_rows(self, rows: Any) -> Rows:
        """Validated rows as the model takes them: images, or its input columns."""
        if isinstance(rows, ImageFiles):
            return rows
        if self.to_images is not None:
            images: NDArray[Any] = np.asarray(self.to_images(rows))
            return images
        inputs: NDArray[Any] = rows if self.columns_ is None else rows[:, self.columns_]
        return inputs

    def _card(self, width: int) -> VersionCard:
        """The card of the version for rows of `width` columns.

        Raises:
            InvalidInput: no model is named, or the model is of another kind.
        """
        client = self._client()
        name = self.model.get(width) if isinstance(self.model, Mapping) else self.model
        if name is None:
            known = [each.name for each in client.models().models if each.kind == self._kind]
            wanted = f"for {width} columns" if isinstance(self.model, Mapping) else "with `model`"
            raise InvalidInput(f"name a {self._kind} model {wanted}; there are {', '.join(known) or 'none'}")
        number = client.model(name).versions[-1] if self.version is None else self.version
        card = client.version(name, number)
        if card.kind != self._kind:
            raise InvalidInput(
                f"{name} is a {card.kind} model; {type(self).__name__} takes a {self._kind} model"
            )
        return card

    def _client(self) -> Client:
        return connection(self.service, self.store, os.environ.get(KEY_VARIABLE), self.timeout)


def column_count(rows: Any) -> int:
    """The number of columns; 0 for images."""
    return int(rows.shape[1]) if isinstance(rows, np.ndarray) and rows.ndim == 2 else 0


def _bytes_per_row(rows: Rows) -> float:
    """An upper estimate of a row's bytes in a body."""
    if isinstance(rows, ImageFiles):
        return 4 / 3 * max(len(each) for each in rows.contents)
    return max(1.0, rows.nbytes / max(1, len(rows)))


def _slice(rows: Rows, start: int, stop: int) -> Rows:
    if isinstance(rows, ImageFiles):
        return ImageFiles(rows.contents[start:stop])
    return rows[start:stop]
