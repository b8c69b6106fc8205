"""Which acquisitions and strategies fit which kind of model."""

from collections.abc import Mapping
from dataclasses import dataclass

from bmaml.acquisition import ACQUISITIONS, CLASS_ACQUISITIONS, CLASS_STRATEGIES, STRATEGIES
from bmaml.learners.interface import Kind


@dataclass(frozen=True)
class Capabilities:
    """Of one kind of model.

    Attributes:
        acquisitions: by name, with the unit of the score.
        strategies: without `auto`.
        without_target: the acquisition where neither it nor a target is named.
        together: the strategy that looks at the joint information of a batch.
        redundant: acquisitions whose best rows tend to say the same thing, so that a batch needs it.
        joint: acquisitions that need covariances between rows.
    """

    acquisitions: Mapping[str, str]
    strategies: tuple[str, ...]
    without_target: str
    together: str
    redundant: frozenset[str]
    joint: frozenset[str] = frozenset()

    def resolved(self, strategy: str, acquisition: str, size: int) -> str:
        """What `auto` stands for.

        One row: the best. Several: the most information together for acquisitions that measure it,
        power sampling for those that look for a maximum, and plain top-k for random draws.
        """
        if strategy != "auto":
            return strategy
        if size == 1 or acquisition == "random":
            return "top_k"
        return self.together if acquisition in self.redundant else "power"

    def needs_joint(self, acquisition: str, strategy: str) -> bool:
        """Whether the answer needs covariances between rows."""
        return acquisition in self.joint or (strategy == self.together == "max_determinant")


CAPABILITIES: dict[Kind, Capabilities] = {
    "regression": Capabilities(
        acquisitions={name: each.units for name, each in ACQUISITIONS.items()},
        strategies=tuple(STRATEGIES),
        without_target="epistemic_variance",
        together="max_determinant",
        redundant=frozenset({"total_variance", "epistemic_variance", "entropy", "epig"}),
        joint=frozenset(name for name, each in ACQUISITIONS.items() if each.joint),
    ),
    "classification": Capabilities(
        acquisitions={name: each.units for name, each in CLASS_ACQUISITIONS.items()},
        strategies=tuple(CLASS_STRATEGIES),
        without_target="entropy",
        together="joint",
        redundant=frozenset({"bald"}),
    ),
}
