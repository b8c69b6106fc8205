"""The first step of training: tensors that are fitted to all training tasks together."""

import math
from typing import Any

import torch
from torch import Tensor

from bmaml.learners import Learner
from bmaml.learners.collapsed import Collapsed
from bmaml.learners.conjugate import Conjugate
from bmaml.learners.laplace import Laplace
from bmaml.plda import discriminants
from training.config import InvalidConfig
from training.evaluate_fixed_classes import class_frequencies
from training.families import BackboneImages, Family, FinetunedImages, Table

START_SHARPNESS = 0.2
"""Sharpness of discriminants before calibration: many features of a backbone err together."""
MAX_TASKS, MAX_ROWS = 128, 32
"""Training tasks, and rows of each, that the fit sees; it has few parameters."""


def fitted_start(learner: Learner[Any], family: Family) -> dict[str, Tensor]:
    """The learner's pooled processes, the frequencies of its classes, or discriminants of features.

    Nothing where it has none of them.

    Raises:
        InvalidConfig: the family has no fixed training tasks.
    """
    if isinstance(learner, Laplace) and isinstance(family, Table):
        return learner.start_from(class_frequencies(family))
    if isinstance(learner, Conjugate) and isinstance(family, BackboneImages):
        return _discriminant_particle(learner, family)
    if not isinstance(learner, Collapsed) or learner.pooled is None:
        return {}
    if not isinstance(family, Table):
        raise InvalidConfig("pooled processes are fitted to the tasks of a table")
    return learner.pooled.fitted(family.training_rows(MAX_TASKS, MAX_ROWS))


def _discriminant_particle(learner: Conjugate, family: BackboneImages) -> dict[str, Tensor]:
    """A particle of probabilistic discriminant analysis of the training classes.

    Nothing for several particles, or a network that is not linear.
    """
    network = learner.network
    if learner.particles > 1 or network.hidden or network.outputs > network.inputs:
        return {}
    rows, index = family.of_role("train")
    if isinstance(family, FinetunedImages):
        rows = family.opened.features_of(rows)
    found = discriminants(rows, index.labels, network.outputs)
    bias = -(found.middle @ found.axes)
    sharpness = math.log(START_SHARPNESS)
    return {
        "initial": torch.cat([found.axes.flatten(), bias]).float().unsqueeze(0),
        "log_between": 0.5 * found.between.log().float().unsqueeze(0),
        "log_within": torch.zeros(1, network.outputs),
        "log_sharpness": torch.tensor(sharpness),
    }
