"""Learners by their names in the literature, and the conversion of settings to plain data and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

from bmaml.learners.bfa import BFA
from bmaml.learners.bmaml import BMAML
from bmaml.learners.collapsed import Collapsed
from bmaml.learners.conjugate import Conjugate
from bmaml.learners.emaml import EMAML
from bmaml.learners.interface import (
    MAX_STEPS,
    Belief,
    CalibratedScalar,
    Diverged,
    InvalidLearner,
    Learned,
    LearnedRate,
    Learner,
)
from bmaml.learners.laplace import Laplace
from bmaml.learners.llama import LLAMA
from bmaml.learners.maml import MAML
from bmaml.learners.policy import Policy, PolicyBMAML, PolicyEMAML, PolicyMAML

LEARNERS: dict[str, type[Learner[Any]]] = {
    kind.name: kind for kind in (MAML, EMAML, LLAMA, BFA, BMAML, Collapsed, Conjugate, Laplace)
}

POLICIES: dict[str, type[Policy]] = {kind.name: kind for kind in (PolicyMAML, PolicyEMAML, PolicyBMAML)}
"""Learners of policies, by the names of the learners whose inner step they take."""

__all__ = [
    "LEARNERS",
    "MAX_STEPS",
    "POLICIES",
    "Belief",
    "CalibratedScalar",
    "Diverged",
    "InvalidLearner",
    "Learned",
    "LearnedRate",
    "Learner",
    "Policy",
    "learner_from",
    "policy_from",
    "settings_of",
]


def settings_of(learner: Learner[Any]) -> dict[str, Any]:
    """A learner's settings as plain data, as `learner_from` takes them."""
    return dataclasses.asdict(learner)


def learner_from(name: str, settings: Mapping[str, Any]) -> Learner[Any]:
    """The learner that settings describe; nested settings are mappings as well.

    Raises:
        InvalidLearner: an unknown learner, an unknown setting, or a value it refuses.
    """
    if name not in LEARNERS:
        raise InvalidLearner(f"unknown learner {name!r}; choose one of {', '.join(LEARNERS)}")
    learner: Learner[Any] = _build(LEARNERS[name], settings)
    return learner


def policy_from(name: str, settings: Mapping[str, Any]) -> Policy:
    """The learner of policies that settings describe, as `learner_from`.

    Raises:
        InvalidLearner: an unknown learner, an unknown setting, or a value it refuses.
    """
    if name not in POLICIES:
        raise InvalidLearner(f"unknown learner of policies {name!r}; choose one of {', '.join(POLICIES)}")
    policy: Policy = _build(POLICIES[name], settings)
    return policy


def _build(kind: type[Any], settings: Mapping[str, Any]) -> Any:
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    if unknown := sorted(set(settings) - set(fields)):
        raise InvalidLearner(f"{kind.__name__} has no setting {', '.join(unknown)}")
    values: dict[str, Any] = {}
    for name, value in settings.items():
        nested = [each for each in (fields[name], *get_args(fields[name])) if _is_dataclass(each)]
        if nested and isinstance(value, Mapping):
            known = [
                each for each in nested if set(value) <= {field.name for field in dataclasses.fields(each)}
            ]
            values[name] = _build((known or nested)[0], value)
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**values)
    except TypeError as error:
        raise InvalidLearner(f"{kind.__name__}: {error}") from None


def _is_dataclass(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)
