"""A query strategy of scikit-activeml that asks the service which rows to label next."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skactiveml.base import SingleAnnotatorPoolQueryStrategy
from skactiveml.utils import MISSING_LABEL, is_labeled
from sklearn.base import clone
from sklearn.utils import check_random_state

from bmaml_client.answer_warnings import warn_caller
from bmaml_client.estimators import BMAMLClassifier, BMAMLRegressor

SEED_BOUND = 2**31 - 1
"""Upper bound, exclusive, of the seeds that are drawn."""


class ServiceQuery(SingleAnnotatorPoolQueryStrategy):
    """Selects the rows whose labels are most informative to a model.

    Rows with a label are the support set, the others the pool. The rows of a batch are selected jointly.

    Args:
        estimator: a `BMAMLRegressor` or a `BMAMLClassifier`, fitted or not; it is cloned.
        acquisition, strategy: names that the service knows; None and `auto` are its defaults.
        target: rows on which the predictions should improve.
        missing_label, random_state: as everywhere in scikit-activeml.
    """

    def __init__(
        self,
        estimator: BMAMLRegressor | BMAMLClassifier,
        acquisition: str | None = None,
        strategy: str = "auto",
        target: Any = None,
        missing_label: Any = MISSING_LABEL,
        random_state: Any = None,
    ) -> None:
        super().__init__(missing_label=missing_label, random_state=random_state)
        self.estimator = estimator
        self.acquisition = acquisition
        self.strategy = strategy
        self.target = target

    def query(
        self,
        X: Any,  # noqa: N803
        y: Any,
        candidates: Any = None,
        batch_size: int = 1,
        return_utilities: bool = False,
    ) -> Any:
        """Indices of the rows to label next, and with `return_utilities` the score of every row.

        Args:
            X, y: rows and their labels; a row without a label has `missing_label`.
            candidates: None stands for the rows without a label; or indices in X; or other rows.
            batch_size: rows to select.

        Returns:
            `[batch]` indices in X, or in `candidates` where those are rows; and `[batch, row]` utilities.
            A utility is NaN where the row is no candidate or is already selected. The service scores a
            pool once: utilities leave out the overlap with earlier picks, which the selection counts.

        Raises:
            ValueError: no row has a label, and the estimator needs one.
            ClientError: the service refuses the request, or does not answer.
        """
        rows, labels, candidates, size, return_utilities = self._validate_data(
            X, y, candidates, batch_size, return_utilities, reset=True
        )
        pool, places = self._transform_candidates(candidates, rows, labels)
        known = is_labeled(labels, self.missing_label_)
        seed = int(check_random_state(self.random_state_).randint(SEED_BOUND))
        fitted = clone(self.estimator).set_params(random_state=seed).fit(rows[known], labels[known])
        chosen = fitted.choose(
            pool, size, target=self.target, acquisition=self.acquisition, strategy=self.strategy
        )
        warn_caller(chosen.diagnostics.warnings)
        picked: NDArray[np.int64] = chosen.indices if places is None else places[chosen.indices]
        if not return_utilities:
            return picked
        scores = np.full(len(pool if places is None else rows), np.nan)
        scores[slice(None) if places is None else places] = chosen.scores
        utilities = np.tile(scores, (len(picked), 1))
        for rank, place in enumerate(picked):
            utilities[rank + 1 :, place] = np.nan
        return picked, utilities
