"""The service's choice of what to label next, as a query strategy of scikit-activeml."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skactiveml.base import SingleAnnotatorPoolQueryStrategy
from skactiveml.utils import MISSING_LABEL, is_labeled
from sklearn.base import clone
from sklearn.utils import check_random_state

from bmaml_client.estimators import BMAMLClassifier, BMAMLRegressor

SEEDS = 2**31 - 1


class ServiceQuery(SingleAnnotatorPoolQueryStrategy):
    """Asks a model for the rows whose labels would teach it most.

    Rows with a label are what the model is adapted to, the others its pool. A batch is chosen together:
    its rows do not say the same thing twice.

    Args:
        estimator: a `BMAMLRegressor` or a `BMAMLClassifier`, fitted or not; it is cloned.
        acquisition, strategy: names that the service knows; None and `auto` leave them to it.
        target: rows where the predictions should get better.
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
        """The places of the rows to label next, and with `return_utilities` every row's score.

        Args:
            X, y: rows, and their labels where they have one; else `missing_label`.
            candidates: None are the rows without a label; or places in X; or rows of their own.
            batch_size: how many.

        Returns:
            `[batch]` places in X, or among `candidates` where those are rows; and
            `[batch, row]` utilities, which are NaN where a row is no candidate or is chosen before. The
            service scores a pool once: a batch's later picks also weigh what the earlier ones tell.

        Raises:
            ValueError: no row has a label, where the estimator needs one.
            ClientError: the service refuses, or cannot be asked.
        """
        rows, labels, candidates, size, return_utilities = self._validate_data(
            X, y, candidates, batch_size, return_utilities, reset=True
        )
        pool, places = self._transform_candidates(candidates, rows, labels)
        known = is_labeled(labels, self.missing_label_)
        seed = int(check_random_state(self.random_state_).randint(SEEDS))
        fitted = clone(self.estimator).set_params(random_state=seed).fit(rows[known], labels[known])
        chosen = fitted.choose(
            pool, size, target=self.target, acquisition=self.acquisition, strategy=self.strategy
        )
        picked: NDArray[np.int64] = chosen.indices if places is None else places[chosen.indices]
        if not return_utilities:
            return picked
        scores = np.full(len(pool if places is None else rows), np.nan)
        scores[slice(None) if places is None else places] = chosen.scores
        utilities = np.tile(scores, (len(picked), 1))
        for turn, place in enumerate(picked):
            utilities[turn + 1 :, place] = np.nan
        return picked, utilities
