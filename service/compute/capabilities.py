"""The acquisitions and batch strategies that each kind of model supports."""

from collections.abc import Mapping
from dataclasses import dataclass

from bmaml.acquisition import (
    ACQUISITIONS,
    CLASS_ACQUISITIONS,
    CLASS_STRATEGIES,
    DEFAULT_ACQUISITION,
    STRATEGIES,
)
from bmaml.learners.interface import Kind
from model_store import Model


@dataclass(frozen=True)
class Capabilities:
    """The acquisitions and strategies of one kind of model.

    Attributes:
        acquisitions: unit of the score, by name of the acquisition.
        strategies: names of the strategies, without `auto`.
        default_acquisition: the acquisition of a request that names neither one nor a target.
        joint_strategy: the strategy that maximises the joint information of a batch.
        information_acquisitions: acquisitions that measure information. Their best rows tend to repeat each
            other, so that `auto` selects a batch by `joint_strategy`.
        covariance_acquisitions: acquisitions that need covariances between rows.
    """

    acquisitions: Mapping[str, str]
    strategies: tuple[str, ...]
    default_acquisition: str
    joint_strategy: str
    information_acquisitions: frozenset[str]
    covariance_acquisitions: frozenset[str] = frozenset()

    def resolve_strategy(self, strategy: str, acquisition: str, size: int) -> str:
        """The strategy itself, or the one that `auto` stands for.

        A single row, or rows for random labelling, are selected by top-k. A batch is selected by joint
        information if the acquisition measures information, else by power sampling.
        """
        if strategy != "auto":
            return strategy
        if size == 1 or acquisition == "random":
            return "top_k"
        return self.joint_strategy if acquisition in self.information_acquisitions else "power"

    def needs_joint(self, acquisition: str, strategy: str) -> bool:
        """Whether acquisition or strategy needs covariances between rows."""
        needs = strategy == self.joint_strategy == "max_determinant"
        return needs or acquisition in self.covariance_acquisitions


def units_of(model: Model, acquisition: str) -> str:
    """The unit of an acquisition's scores: those about numbers are of the outputs' own scales."""
    units = CAPABILITIES[model.manifest.kind].acquisitions[acquisition]
    scales = dict.fromkeys(column.transform for column in model.manifest.outputs)
    if set(scales) <= {"none"}:
        return units
    return units.replace("output units", f"units of the {' and '.join(scales)} scale")


POLICY_ACQUISITIONS = ("epistemic_variance", "total_variance", "entropy", "random")
"""Scores of observations by the belief about the action there; no action is the largest or the target."""

CAPABILITIES: dict[Kind, Capabilities] = {
    "regression": Capabilities(
        acquisitions={name: each.units for name, each in ACQUISITIONS.items()},
        strategies=tuple(STRATEGIES),
        default_acquisition=DEFAULT_ACQUISITION,
        joint_strategy="max_determinant",
        information_acquisitions=frozenset(name for name, each in ACQUISITIONS.items() if each.information),
        covariance_acquisitions=frozenset(name for name, each in ACQUISITIONS.items() if each.joint),
    ),
    "classification": Capabilities(
        acquisitions={name: each.units for name, each in CLASS_ACQUISITIONS.items()},
        strategies=tuple(CLASS_STRATEGIES),
        default_acquisition="entropy",
        joint_strategy="joint",
        information_acquisitions=frozenset(
            name for name, each in CLASS_ACQUISITIONS.items() if each.information
        ),
    ),
    "policy": Capabilities(
        acquisitions={name: ACQUISITIONS[name].units for name in POLICY_ACQUISITIONS},
        strategies=tuple(STRATEGIES),
        default_acquisition="epistemic_variance",
        joint_strategy="max_determinant",
        information_acquisitions=frozenset(POLICY_ACQUISITIONS) - {"random"},
    ),
}
"""The capabilities by kind of model."""
