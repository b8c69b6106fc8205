"""Published models as scikit-learn estimators, served or in this process.

BMAMLRegressor("sinusoid", service="http://127.0.0.1:8000").fit(X, y).predict(X_new, return_std=True)
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from bmaml_client.answers import Array, ClassPrediction, Entropy, Prediction, Variance
from bmaml_client.base_estimator import Estimator, column_count
from bmaml_client.errors import InvalidInput
from bmaml_client.inputs import to_labels


class BMAMLRegressor(RegressorMixin, Estimator):
    """Few-shot regression with uncertainty; `Estimator` describes the parameters."""

    _kind = "regression"

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Adapt the model to labelled rows.

        Raises:
            ValueError: scikit-learn or the service refuses the rows or labels.
            ClientError: the service does not answer, or refuses for another reason.
        """
        rows, labels = self._validated(X, y, y_numeric=True, multi_output=True)
        if labels.ndim == 1 or labels.shape[1] == 1:
            labels = column_or_1d(labels, warn=True)
        return self._adapt(rows, labels, self._card(column_count(rows)))

    def predict(self, X: Any, return_std: bool = False) -> Any:  # noqa: N803
        """The mean of each row; with `return_std` also its standard deviation, noise included."""
        parts = [(answer.mean, answer.std) for answer in self._numbers(X)]
        mean, std = (np.concatenate(each) for each in zip(*parts, strict=True))
        return (mean, std) if return_std else mean

    def predict_interval(self, X: Any, level: float = 0.9, method: str = "mixture") -> Array:  # noqa: N803
        """The central interval that holds `level` of the probability, `[row, (lower, upper)]`.

        Args:
            method: `conformal` is mean ± threshold · std, whose coverage was counted on validation tasks.
        """
        asked = level if method == "mixture" else {"level": level, "method": method}
        found = [answer.interval for answer in self._numbers(X, interval=asked)]
        return np.concatenate([np.stack([each.lower, each.upper], axis=-1) for each in found])

    def predict_quantiles(self, X: Any, levels: Sequence[float]) -> Array:  # noqa: N803
        """Quantiles of the predictive mixture, `[row, level]`."""
        found = [answer.quantiles.values for answer in self._numbers(X, quantiles=list(levels))]
        return np.concatenate([np.moveaxis(each, 0, -1) for each in found])

    def predict_variance(self, X: Any) -> Variance:  # noqa: N803
        """The variance of each row: total, aleatoric (noise) and epistemic (removable by labels)."""
        found = [answer.variance for answer in self._numbers(X)]
        return Variance(
            total=np.concatenate([each.total for each in found]),
            aleatoric=np.concatenate([each.aleatoric for each in found]),
            epistemic=np.concatenate([each.epistemic for each in found]),
        )

    def log_density(self, X: Any, y: Any) -> Array:  # noqa: N803
        """The log density of y under the predictive mixture, in nats: `[row]`, or `[row, output]`.

        Raises:
            InvalidInput: y does not have one target for each row.
        """
        found = [answer.log_density for answer in self._numbers(X, query_y=y)]
        return np.concatenate([each for each in found if each is not None])

    def _numbers(self, X: Any, **options: Any) -> list[Prediction]:  # noqa: N803
        return [each for each in self._answers_with_warnings(X, **options) if isinstance(each, Prediction)]


class BMAMLClassifier(ClassifierMixin, Estimator):
    """Few-shot classification of tables or images; `Estimator` describes the parameters.

    X has the columns of the model. For a model of images it is an array of images
    `[image, height, width(, 3)]`, a list of PNG or JPEG files, or a table that `to_images` converts to
    images. Arrays of images have bytes, or numbers in [0, 1].

    Attributes:
        classes_: the labels, sorted; or those of the model, in its order, where its classes mean the same
            in every task. The labels of `fit` are then among them, and need not be all.
    """

    _kind = "classification"

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Adapt the model to labelled rows.

        Raises:
            ValueError: scikit-learn or the service refuses the rows or labels.
            ClientError: the service does not answer, or refuses for another reason.
        """
        rows, labels = self._validated(X, y)
        card = self._card(column_count(rows))
        known = None if card.target is None else card.target.labels
        if known is None:
            check_classification_targets(labels)
            # The service takes integers: labels of any type become their indices.
            self.classes_, places = np.unique(labels, return_inverse=True)
            return self._adapt(rows, places.astype(np.int64), card)
        self.classes_ = np.array(known)
        sent = column_or_1d(labels).tolist()
        self._check_known(sent, "which is no label of the model")
        return self._adapt(rows, to_labels(sent), card)

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """The most probable class of each row."""
        check_is_fitted(self)
        labels: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return labels

    def predict_proba(self, X: Any) -> Array:  # noqa: N803
        """The probability of each class, `[row, class]`, in the order of `classes_`."""
        found = np.concatenate([answer.probabilities for answer in self._classes(X)])
        probabilities: Array = found / found.sum(axis=1, keepdims=True)  # the sum is one in double precision
        return probabilities

    def predict_entropy(self, X: Any) -> Entropy:  # noqa: N803
        """The entropy of each row in nats: total, expected (aleatoric), mutual information (epistemic)."""
        found = [answer.entropy for answer in self._classes(X)]
        return Entropy(
            total=np.concatenate([each.total for each in found]),
            expected=np.concatenate([each.expected for each in found]),
            mutual_information=np.concatenate([each.mutual_information for each in found]),
        )

    def log_density(self, X: Any, y: Any) -> Array:  # noqa: N803
        """The log probability of the classes y, in nats, `[row]`.

        Raises:
            InvalidInput: y does not have one label for each row, or has one that `fit` has not seen.
        """
        check_is_fitted(self)
        labels = column_or_1d(y).tolist()
        if self.model_.target is None or self.model_.target.labels is None:
            places = self._check_known(labels, "which fit has not seen")
            labels = np.array(places, dtype=np.int64)
        else:
            self._check_known(labels, "which is no label of the model")
        found = [answer.log_density for answer in self._classes(X, query_y=labels)]
        return np.concatenate([each for each in found if each is not None])

    def _check_known(self, labels: list[Any], told: str) -> list[int]:
        """The place of each label in `classes_`.

        Raises:
            InvalidInput: it has none.
        """
        places = {(isinstance(each, bool), each): at for at, each in enumerate(self.classes_.tolist())}
        keys = [(isinstance(each, bool), each) for each in labels]
        if foreign := [key for key in keys if key not in places]:
            shown = ", ".join(map(repr, self.classes_.tolist()))
            raise InvalidInput(f"y has the class {foreign[0][1]!r}, {told}: {shown}")
        return [places[key] for key in keys]

    def _classes(self, X: Any, **options: Any) -> list[ClassPrediction]:  # noqa: N803
        found = self._answers_with_warnings(X, **options)
        return [each for each in found if isinstance(each, ClassPrediction)]
