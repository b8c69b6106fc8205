"""scikit-learn's own checks, on small untrained models of every width that they use.

Every check that cannot hold is named with the reason. For a model of images a table of numbers becomes images
of bars.
"""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from bmaml_client.connections import disconnect
from bmaml_client.estimators import BMAMLClassifier, BMAMLRegressor
from model_store import Column
from tests.class_tables import publish_class_table
from tests.images import SIZE, publish_classifier
from tests.published import publish

WIDTHS = range(1, 31)
STORE = "BMAML_STORE"

FAILS = {
    "check_methods_subset_invariance": "the service computes in single precision: rows asked alone or "
    "together agree to 1e-4, and to 1e-7 on some processors only"
}


class Bars:
    """Images of rows: a bar a column, as long as its number is large.

    An object and no function: the names of tests hold its `repr`, which must be the same in every process.
    """

    def __call__(self, rows):
        columns = np.asarray(rows, np.float64)[:, np.arange(SIZE) * np.shape(rows)[1] // SIZE]
        levels = np.linspace(-2, 2, SIZE)
        return 1 / (1 + np.exp(-np.clip(4 * (columns[:, None, :] - levels[:, None]), -50, 50)))

    def __repr__(self):
        return "Bars()"


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory):
    """The models, where `BMAML_STORE` says: the checks build estimators before any fixture runs."""
    root = tmp_path_factory.mktemp("checks")
    y = Column(name="y", std=2.0, lower=-1000.0, upper=1000.0)
    for width in WIDTHS:
        inputs = tuple(Column(name=f"x{i}", lower=-1000.0, upper=1000.0) for i in range(width))
        publish(root, f"of-{width}", inputs=inputs, outputs=(y,), hidden=(64,))
        publish_class_table(root, f"classes-of-{width}", None, learner="conjugate", inputs=inputs)
    publish_classifier(root, "bars")
    patch = pytest.MonkeyPatch()
    patch.setenv(STORE, str(root))
    disconnect(None, None, None, 30.0)  # another module's service has another store
    yield root
    disconnect(None, None, None, 30.0)
    patch.undo()


def expected(_):
    return FAILS


@pytest.mark.filterwarnings("ignore::bmaml_client.AnswerWarning")  # rows far from any training
@parametrize_with_checks(
    [
        BMAMLRegressor({width: f"of-{width}" for width in WIDTHS}),
        BMAMLClassifier("bars", to_images=Bars()),
        BMAMLClassifier({width: f"classes-of-{width}" for width in WIDTHS}),
    ],
    expected_failed_checks=expected,
)
def test_the_estimators_keep_scikit_learns_conventions(estimator, check):
    check(estimator)
