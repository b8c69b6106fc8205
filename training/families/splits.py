"""Which tasks of a table train, which decide when to stop, and which give the published figures."""

import numpy as np
from numpy.typing import NDArray

from bmaml.errors import BmamlError

VALIDATION_PART, TEST_PART = 0.1, 0.2

Indices = NDArray[np.int64]

KNOWN_ROLES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}


class UnusableData(BmamlError, ValueError):
    """Data that no model can be trained on or scored against."""


class UnusableTable(UnusableData):
    """A table of that sort."""


def constant_codes(codes: Indices, starts: Indices, counts: Indices, name: str | None) -> Indices:
    """One code per task, where no task has several."""
    for start, count in zip(starts, counts, strict=True):
        if (codes[start : start + count] != codes[start]).any():
            raise UnusableTable(f"one task has several values of the group column {name!r}")
    return codes[starts]


def _seeded_part(groups: Indices, part: float, seed: int) -> NDArray[np.bool_]:
    """Tasks of about `part` of the groups, at least one group and never all of them."""
    names = np.unique(groups)
    if len(names) < 2:
        raise UnusableTable("all tasks lie in one group; there is nothing to keep apart")
    chosen = np.random.default_rng(seed).permutation(names)[: max(1, round(part * len(names)))]
    return np.asarray(np.isin(groups, chosen), dtype=bool)


def seeded_roles(groups: Indices, seed: int) -> NDArray[np.str_]:
    """One fifth of the groups for the published figures, one tenth to stop training by."""
    roles = np.full(len(groups), "train", dtype="<U10")
    roles[_seeded_part(groups, TEST_PART, seed)] = "test"
    rest = roles == "train"
    roles[np.flatnonzero(rest)[_seeded_part(groups[rest], VALIDATION_PART / (1 - TEST_PART), seed)]] = (
        "validation"
    )
    return roles


def roles_from(
    labels: list[object], starts: Indices, counts: Indices, groups: Indices, seed: int
) -> NDArray[np.str_]:
    """The split column's word per task.

    With both `validation` and `test` tasks they are what they say. With `validation` alone those
    are kept for the published figures, and a seeded tenth of the training groups decides when to
    stop, so that no figure is measured on tasks that had a say in the training.
    """
    roles = []
    for start, count in zip(starts, counts, strict=True):
        words = {str(label).lower() for label in labels[start : start + count]}
        if len(words) > 1:
            raise UnusableTable(f"one task lies in several splits: {', '.join(sorted(words))}")
        word = words.pop()
        if word not in KNOWN_ROLES:
            raise UnusableTable(f"the split column says {word!r}; it may say train, validation or test")
        roles.append(KNOWN_ROLES[word])
    return _completed(roles, groups, seed)


def roles_by_class(told: list[str] | None, classes: int, seed: int) -> NDArray[np.str_]:
    """The role of each class of pictures: as told, or by the seed; see `roles_from`."""
    own = np.arange(classes)
    if told is None:
        return seeded_roles(own, seed)
    if unknown := sorted({word for word in told if word.lower() not in KNOWN_ROLES}):
        raise UnusableData(f"the split says {unknown[0]!r}; it may say train, validation or test")
    return _completed([KNOWN_ROLES[word.lower()] for word in told], own, seed)


def _completed(roles: list[str], groups: Indices, seed: int) -> NDArray[np.str_]:
    result = np.array(roles, dtype="<U10")
    if "test" not in roles:
        result[result == "validation"] = "test"
    if "test" not in result:
        raise UnusableData("the split keeps no task for validation or test")
    if "validation" not in result:
        trained = np.flatnonzero(result == "train")
        result[trained[_seeded_part(groups[trained], VALIDATION_PART, seed)]] = "validation"
    return result
