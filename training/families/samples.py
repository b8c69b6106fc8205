"""Bounded random samples of tasks: what looks, widths and published figures rest on where there are many.

Both samples take all tasks where these are no more than the bound. Groups are the tasks that the split keeps
together.
"""

import numpy as np

from training.families.splits import Indices

MAX_VALIDATION_TASKS = 300
"""Validation tasks of looks, widths and conformal thresholds, at most."""
MAX_TEST_TASKS = 1000
"""Test tasks of the published figures, at most."""


def even_sample(tasks: Indices, groups: Indices, most: int, seed: int) -> Indices:
    """At most `most` of the tasks, from all groups in turn.

    Groups are taken at random where they are more than `most`. The groups of the sample are then as
    exchangeable with a new one as all groups are, which conformal thresholds rely on.

    Args:
        groups: the group of each of the tasks.
    """
    if len(tasks) <= most:
        return tasks
    order, places = _by_group(groups, np.random.default_rng(seed))
    turns = np.arange(len(order)) - np.searchsorted(places, places)
    return np.asarray(tasks[np.sort(order[np.lexsort((places, turns))[:most]])])


def proportional_sample(tasks: Indices, groups: Indices, most: int, seed: int) -> Indices:
    """At most `most` of the tasks, each with the same probability, and from every group in proportion.

    A systematic sample of the tasks in the order of their groups (Cochran, Sampling Techniques, 1977, ch. 8).
    Means over it are unbiased for the means over all tasks.

    Args:
        groups: the group of each of the tasks.
    """
    if len(tasks) <= most:
        return tasks
    generator = np.random.default_rng(seed)
    order, _ = _by_group(groups, generator)
    places = ((np.arange(most) + generator.uniform()) * (len(tasks) / most)).astype(np.int64)
    return np.asarray(tasks[np.sort(order[places])])


def _by_group(groups: Indices, generator: np.random.Generator) -> tuple[Indices, Indices]:
    """The places of all tasks by group, in a random order of both, and the rank of the group at each."""
    names, codes = np.unique(groups, return_inverse=True)
    ranks = generator.permutation(len(names))[codes]
    order = generator.permutation(len(groups))
    order = order[np.argsort(ranks[order], kind="stable")]
    return order, ranks[order]
