"""Acquisition: the unlabelled rows of a pool that are most worth a label.

An acquisition scores each row by itself; a strategy selects rows that are worth labelling together. Both
come in two kinds, for labels that are numbers and for labels that are classes.
"""

from bmaml.acquisition.batches import Batch, Candidates, Strategy
from bmaml.acquisition.class_batches import CLASS_STRATEGIES
from bmaml.acquisition.class_scores import CLASS_ACQUISITIONS, ClassPool
from bmaml.acquisition.greedy import COVARIANCE_STRATEGIES, STRATEGIES
from bmaml.acquisition.scores import (
    ACQUISITIONS,
    DEFAULT_ACQUISITION,
    MAX_POOL_TARGETS,
    Acquisition,
    NeedsTarget,
    Pool,
)

__all__ = [
    "ACQUISITIONS",
    "CLASS_ACQUISITIONS",
    "CLASS_STRATEGIES",
    "COVARIANCE_STRATEGIES",
    "DEFAULT_ACQUISITION",
    "MAX_POOL_TARGETS",
    "STRATEGIES",
    "Acquisition",
    "Batch",
    "Candidates",
    "ClassPool",
    "NeedsTarget",
    "Pool",
    "Strategy",
]
