"""The roles of tasks: training, validation (when to stop) and test (the published metrics)."""

import numpy as np
from numpy.typing import NDArray

from training.errors import UnusableData, UnusableTable

VALIDATION_FRACTION, TEST_FRACTION = 0.1, 0.2
VALIDATION_CLASSES = 12
"""Classes of images that validate, where there are four times as many to train on."""

Indices = NDArray[np.int64]

ROLES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}


def group_of_tasks(codes: Indices, starts: Indices, counts: Indices, name: str | None) -> Indices:
    """The code of each task in the group column.

    Raises:
        UnusableTable: a task with several codes.
    """
    for start, count in zip(starts, counts, strict=True):
        if (codes[start : start + count] != codes[start]).any():
            raise UnusableTable(f"one task has several values of the group column {name!r}")
    return codes[starts]


def _random_groups(groups: Indices, fraction: float, seed: int, least: int = 1) -> NDArray[np.bool_]:
    """A mask of the tasks in a random fraction of the groups: at least `least`, never all.

    Raises:
        UnusableTable: all tasks lie in one group, or there is only one.
    """
    names = np.unique(groups)
    if len(names) < 2:
        what = f"{len(groups)} task{'s' * (len(groups) != 1)} of one group"
        raise UnusableTable(
            f"{what} cannot be split: training, validation and test need tasks of three groups"
        )
    wanted = min(max(least, round(fraction * len(names))), len(names) - 1)
    chosen = np.random.default_rng(seed).permutation(names)[:wanted]
    return np.asarray(np.isin(groups, chosen), dtype=bool)


def seeded_roles(groups: Indices, seed: int, least: int = 1, validating: int = 1) -> NDArray[np.str_]:
    """Random roles: one fifth of the groups for the test, one tenth for validation.

    Args:
        least: groups of either, at least, where there are enough.
        validating: groups of validation, at least.
    """
    roles = np.full(len(groups), "train", dtype="<U10")
    roles[_random_groups(groups, TEST_FRACTION, seed, least)] = "test"
    rest = roles == "train"
    fraction = VALIDATION_FRACTION / (1 - TEST_FRACTION)
    roles[np.flatnonzero(rest)[_random_groups(groups[rest], fraction, seed, max(least, validating))]] = (
        "validation"
    )
    return roles


def roles_from_column(
    labels: list[object], starts: Indices, counts: Indices, groups: Indices, seed: int
) -> NDArray[np.str_]:
    """The role that the split column names for each task.

    Without tasks for the test, those for validation become the test, and a random tenth of the training
    groups validates. No metric is then measured on tasks that decided when to stop.

    Raises:
        UnusableTable: a task in several splits, or an unknown role.
    """
    roles = []
    for start, count in zip(starts, counts, strict=True):
        words = {str(label).strip().lower() for label in labels[start : start + count]}
        if len(words) > 1:
            raise UnusableTable(f"one task lies in several splits: {', '.join(sorted(words))}")
        word = words.pop()
        if word not in ROLES:
            raise UnusableTable(f"the split column says {word!r}; it may say train, validation or test")
        roles.append(ROLES[word])
    return _with_all_roles(roles, groups, seed)


def roles_of_classes(declared: list[str] | None, classes: int, seed: int) -> NDArray[np.str_]:
    """The role of each class of images: as declared, or by the seed; see `roles_from_column`.

    Raises:
        UnusableData: an unknown role.
    """
    own = np.arange(classes)
    if declared is None:
        tested = max(1, round(TEST_FRACTION * classes))
        return seeded_roles(own, seed, validating=_validation_classes(classes - tested))
    if unknown := sorted({word for word in declared if word.lower() not in ROLES}):
        raise UnusableData(f"the split says {unknown[0]!r}; it may say train, validation or test")
    roles = [ROLES[word.lower()] for word in declared]
    return _with_all_roles(roles, own, seed, _validation_classes(roles.count("train")))


def _validation_classes(training: int) -> int:
    """Validation classes to take from so many training classes, at least.

    Calibration on tasks of few classes says little about tasks of many.
    """
    return max(1, min(VALIDATION_CLASSES, training // 4))


def _with_all_roles(roles: list[str], groups: Indices, seed: int, least: int = 1) -> NDArray[np.str_]:
    result = np.array(roles, dtype="<U10")
    if "test" not in roles:
        result[result == "validation"] = "test"
    if "test" not in result:
        raise UnusableData("the split keeps no task for validation or test")
    return with_validation(result, groups, seed, least)


def with_validation(roles: NDArray[np.str_], groups: Indices, seed: int, least: int = 1) -> NDArray[np.str_]:
    """The roles; where none is for validation, a random tenth of the training groups is, `least` at least.

    Raises:
        UnusableTable: all training tasks lie in one group.
    """
    if "validation" in roles or "train" not in roles:
        return roles
    result, trained = roles.copy(), np.flatnonzero(roles == "train")
    result[trained[_random_groups(groups[trained], VALIDATION_FRACTION, seed, least)]] = "validation"
    return result
