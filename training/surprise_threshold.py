"""The threshold of the warning about unlike tasks, found on the validation tasks before publication.

Families differ in how often a task of their own looks unlike the others. A fixed threshold would warn of one
sine curve in hundreds, and of every tenth learning curve.
"""

import numpy as np
import torch

from bmaml.learners.surprise import DEFAULT_THRESHOLD, GROUPS, SURPRISING
from model_store import Model
from training.calibrate import ValidationTasks, validation_parts

FALSE_WARNINGS = 0.02
"""The part of the validation tasks that may be warned of."""
MOST = 0.5
"""The largest threshold: a task is warned of where surprising hypotheses have half of the others' weight."""


def surprise_threshold(model: Model, family: ValidationTasks) -> float | None:
    """The part of the known hypotheses' prior weight that surprising ones gain in a warned task.

    It is the least from `DEFAULT_THRESHOLD` on at which at most `FALSE_WARNINGS` of the validation tasks with
    support rows are warned of, and never above `MOST`, where more of them may be warned of. None where the
    model has no such hypotheses.
    """
    prior = model.surprising_prior
    if prior is None:
        return None
    places = [GROUPS.index(group) for group in SURPRISING]
    gained = []
    with torch.no_grad():
        for part in validation_parts(family):
            groups = model.learner.group_weights(model.learner.adapt(model.learned, part.support))
            assert groups is not None
            shown = part.support.mask.any(1)
            gained.append((groups[shown][:, places].double().sum(-1).cpu() - prior) / (1 - prior))
    gains = torch.cat(gained).numpy()
    level = float(np.quantile(gains, 1 - FALSE_WARNINGS, method="higher")) if len(gains) else 0.0
    return min(max(DEFAULT_THRESHOLD, level), MOST)
