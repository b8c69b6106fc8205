"""The acquisitions and batch strategies that each kind of model supports."""

from collections.abc import Mapping
from dataclasses import dataclass

from bmaml.acquisition import (
    ACQUISITIONS,
    CLASS_ACQUISITIONS,
    CLASS_STRATEGIES,
    COVARIANCE_STRATEGIES,
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
        batch_strategies: the strategy of a batch by each acquisition, for which `auto` stands.
        covariance_acquisitions: acquisitions that need covariances between rows.
    """

    acquisitions: Mapping[str, str]
    strategies: tuple[str, ...]
    default_acquisition: str
    batch_strategies: Mapping[str, str]
    covariance_acquisitions: frozenset[str] = frozenset()

    def resolve_strategy(self, strategy: str, acquisition: str, size: int) -> str:
        """The strategy itself, or the one that `auto` stands for.

        A single row is the one of the highest score.
        """
        if strategy != "auto":
            return strategy
        return "top_k" if size == 1 else self.batch_strategies[acquisition]

    def needs_joint(self, acquisition: str, strategy: str) -> bool:
        """Whether acquisition or strategy needs covariances between rows."""
        return strategy in COVARIANCE_STRATEGIES or acquisition in self.covariance_acquisitions


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
        batch_strategies={name: each.batch for name, each in ACQUISITIONS.items()},
        covariance_acquisitions=frozenset(name for name, each in ACQUISITIONS.items() if each.joint),
    ),
    "classification": Capabilities(
        acquisitions={name: each.units for name, each in CLASS_ACQUISITIONS.items()},
        strategies=tuple(CLASS_STRATEGIES),
        default_acquisition="entropy",
        batch_strategies={name: each.batch for name, each in CLASS_ACQUISITIONS.items()},
    ),
    "policy": Capabilities(
        acquisitions={name: ACQUISITIONS[name].units for name in POLICY_ACQUISITIONS},
        strategies=tuple(STRATEGIES),
        default_acquisition="epistemic_variance",
        batch_strategies={name: ACQUISITIONS[name].batch for name in POLICY_ACQUISITIONS},
    ),
}
"""The capabilities by kind of model."""
