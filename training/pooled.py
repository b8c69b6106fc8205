"""The first step of training: pooled processes, fitted to all training tasks together."""

from typing import Any

from torch import Tensor

from bmaml.learners import Learner
from bmaml.learners.collapsed import Collapsed
from training.config import InvalidConfig
from training.families import Family, Table

MAX_TASKS, MAX_ROWS = 128, 32
"""Training tasks, and rows of each, that the fit sees; it has few parameters."""


def pooled_start(learner: Learner[Any], family: Family) -> dict[str, Tensor]:
    """The learned tensors of the learner's pooled processes; nothing where it has none.

    Raises:
        InvalidConfig: the family has no fixed training tasks.
    """
    if not isinstance(learner, Collapsed) or learner.pooled is None:
        return {}
    if not isinstance(family, Table):
        raise InvalidConfig("pooled processes are fitted to the tasks of a table")
    return learner.pooled.fitted(family.training_rows(MAX_TASKS, MAX_ROWS))
