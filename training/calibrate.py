"""The last step of training: how wide the predictions of `collapsed` should be on unseen tasks."""

from typing import Any

import torch
from torch import Tensor

from bmaml.learners import Learner
from training.families import Family
from training.loop import validation_nll

WIDENING = "log_widening"
SEARCH = (-1.0, 1.0)
REFINEMENTS = 12


def calibrated(learner: Learner[Any], learned: dict[str, Tensor], family: Family) -> dict[str, Tensor]:
    """`learned` with the widening that has the lowest NLL on the validation tasks.

    Golden-section search over the logarithm, within a factor e of the learned one. Learners
    without a widening come back as they are.
    """
    if WIDENING not in learned:
        return learned
    start, ratio = learned[WIDENING], (5**0.5 - 1) / 2

    def nll(shift: float) -> float:
        return validation_nll(learner, {**learned, WIDENING: start + shift}, family)

    low, high = SEARCH
    inner = [high - ratio * (high - low), low + ratio * (high - low)]
    found = [nll(shift) for shift in inner]
    for _ in range(REFINEMENTS):
        if found[0] < found[1]:
            high, inner[1], found[1] = inner[1], inner[0], found[0]
            inner[0] = high - ratio * (high - low)
            found[0] = nll(inner[0])
        else:
            low, inner[0], found[0] = inner[0], inner[1], found[1]
            inner[1] = low + ratio * (high - low)
            found[1] = nll(inner[1])
    return {**learned, WIDENING: start + torch.tensor((low + high) / 2, dtype=start.dtype)}
