"""The first step of training: tensors that are fitted to all training tasks together."""

from typing import Any

from torch import Tensor

from bmaml.learners import Learner
from bmaml.learners.collapsed import Collapsed
from bmaml.learners.laplace import Laplace
from training.config import InvalidConfig
from training.evaluate_fixed_classes import class_frequencies
from training.families import Family, Table

MAX_TASKS, MAX_ROWS = 128, 32
"""Training tasks, and rows of each, that the fit sees; it has few parameters."""


def fitted_start(learner: Learner[Any], family: Family) -> dict[str, Tensor]:
    """The learner's pooled processes, or the frequencies of its classes; nothing where it has neither.

    Raises:
        InvalidConfig: the family has no fixed training tasks.
    """
    if isinstance(learner, Laplace) and isinstance(family, Table):
        return learner.start_from(class_frequencies(family))
    if not isinstance(learner, Collapsed) or learner.pooled is None:
        return {}
    if not isinstance(family, Table):
        raise InvalidConfig("pooled processes are fitted to the tasks of a table")
    return learner.pooled.fitted(family.training_rows(MAX_TASKS, MAX_ROWS))
