"""What both estimators share: which model, which columns, and the particles adapted to the rows of `fit`."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from bmaml_client.answers import Choice, ClassPrediction, Prediction
from bmaml_client.clients import TIMEOUT_S, Client
from bmaml_client.connections import connection, disconnect
from bmaml_client.errors import InvalidInput, TooLarge
from bmaml_client.inputs import Files, Rows, are_files, order_of
from bmaml_client.model_info import VersionCard
from bmaml_client.operations import TTL_S

KEY_VARIABLE = "BMAML_CLIENT_KEY"
"""The environment variable with the service's key: a parameter would be printed and pickled."""
SAFETY = 2
"""How many times smaller than the service's bound a body is kept."""


class Estimator(BaseEstimator):
    """A published model behind scikit-learn's interface.

    Fitting adapts the model's particles to the rows and keeps them in the service; predicting asks them.
    Models are few-shot: the service bounds the rows of `fit` (`limits().support_rows`), and a model has
    the input columns it was trained with.

    Args:
        model: its name, or names by number of columns.
        service: the service's address; None answers in this process.
        store: without a service: the folder of published versions; None is the shipped one.
        version: None is the newest when `fit` is called.
        steps: inner steps; None is what the model was trained with.
        random_state: seed of learners that draw, and of ties between rows of a pool; None is 0.
        keep_s: seconds that the service keeps the particles; afterwards the rows are sent again.
        timeout: seconds.
        to_pictures: for models of pictures: makes pictures of validated rows, where X is a plain table.

    Attributes:
        model_: the card of the version that answers.
        posterior_: the kept particles; None where they do not fit into the service's cache.
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
        keep_s: float = TTL_S,
        timeout: float = TIMEOUT_S,
        to_pictures: Callable[[NDArray[Any]], Any] | None = None,
    ) -> None:
        self.model = model
        self.service = service
        self.store = store
        self.version = version
        self.steps = steps
        self.random_state = random_state
        self.keep_s = keep_s
        self.timeout = timeout
        self.to_pictures = to_pictures

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
        """Which rows of a pool to label next: their places, the most informative first.

        Args:
            X: the pool.
            n: how many.
            exclude: places that must not be chosen, such as those that have a label.
            target: rows where the predictions should get better.
            acquisition, strategy: names that the service knows; see docs/api.md.
        """
        chosen = self.choose(X, n, exclude=exclude, target=target, acquisition=acquisition, strategy=strategy)
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
        """The service's whole answer to `query`, with the score of every row."""
        check_is_fitted(self)
        return self._client().uncertainty(
            **self._shown(),
            pool=self._rows(X),
            size=n,
            exclude=[int(place) for place in exclude],
            target=None if target is None else self._rows(target),
            acquisition=acquisition,
            strategy=strategy,
        )

    def answers(self, X: Any, **options: Any) -> Iterator[Prediction | ClassPrediction]:  # noqa: N803
        """The service's whole answers about X, in as many parts as its bounds ask for.

        They have the diagnostics, its warnings among them, and what `options` of `Client.adapt_predict`
        ask for.
        """
        check_is_fitted(self)
        rows = self._rows(X)
        client, limits = self._client(), self.limits_
        most = min(limits.query_rows, int(limits.body_bytes / SAFETY / _bytes_each(rows)) or 1)
        for start in range(0, len(rows), most):
            yield client.adapt_predict(**self._shown(), query=_part(rows, start, most), **options)

    def close(self) -> None:
        """Close the connection, and end the service in this process: for all estimators that share them."""
        disconnect(self.service, self.store, os.environ.get(KEY_VARIABLE), self.timeout)

    def _adapt(self, rows: Any, labels: NDArray[Any], card: VersionCard) -> Self:
        names = getattr(self, "feature_names_in_", None)
        inputs = [column.name for column in card.inputs]
        self.model_ = card
        self.columns_ = None if names is None else order_of(list(names), inputs, "X")
        self.limits_ = self._client().limits()
        self._support = self._taken(rows), labels
        self.posterior_ = None
        try:
            self.posterior_ = self._client().keep(**self._shown(), keep_s=self.keep_s)
        except TooLarge as error:
            if error.slug != "posterior-too-large":
                raise
        return self

    def _shown(self) -> dict[str, Any]:
        """The rows of `fit`, or where their particles are kept."""
        told: dict[str, Any] = {"model": self.model_.name, "version": self.model_.version}
        told["seed"] = self.random_state or 0
        if self.posterior_ is not None:
            return told | {"posterior": self.posterior_}
        x, y = self._support
        return told | {"x": x, "y": y, "steps": self.steps}

    def _checked(self, X: Any, y: Any, **checks: Any) -> tuple[Any, Any]:  # noqa: N803
        """Rows and labels as scikit-learn wants them; files of pictures are taken as they are."""
        if are_files(X):
            for name in ("n_features_in_", "feature_names_in_"):
                if hasattr(self, name):
                    delattr(self, name)
            return Files(tuple(bytes(each) for each in X)), np.asarray(y)
        return validate_data(self, X, y, allow_nd=True, **checks)  # type: ignore[no-any-return]

    def _rows(self, X: Any) -> Rows:  # noqa: N803
        if are_files(X):
            return Files(tuple(bytes(each) for each in X))
        return self._taken(validate_data(self, X, reset=False, allow_nd=True))

    def _taken(self, rows: Any) -> Rows:
        """Validated rows as the model takes them."""
        if isinstance(rows, Files):
            return rows
        if self.to_pictures is not None:
            pictures: NDArray[Any] = np.asarray(self.to_pictures(rows))
            return pictures
        taken: NDArray[Any] = rows if self.columns_ is None else rows[:, self.columns_]
        return taken

    def _card(self, width: int) -> VersionCard:
        """Of the version that is to answer about rows of so many columns.

        Raises:
            InvalidInput: no model is named, or it is of another kind.
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


def width_of(rows: Any) -> int:
    """The number of columns; 0 for pictures."""
    return int(rows.shape[1]) if isinstance(rows, np.ndarray) and rows.ndim == 2 else 0


def _bytes_each(rows: Rows) -> float:
    """What a row is worth in a body."""
    if isinstance(rows, Files):
        return 4 / 3 * max(len(each) for each in rows.contents)
    return max(1.0, rows.nbytes / max(1, len(rows)))


def _part(rows: Rows, start: int, most: int) -> Rows:
    if isinstance(rows, Files):
        return Files(rows.contents[start : start + most])
    return rows[start : start + most]
