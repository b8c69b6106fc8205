"""The outer loop's options, and the configuration of a whole run."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bmaml.embedding import ConvNet
from training.config.families import FamilyConfig, ImagesConfig, WorldConfig, family_kind, support_rows
from training.config.table import TableConfig
from training.config.values import InvalidConfig


@dataclass(frozen=True)
class Optimisation:
    """The outer loop.

    Attributes:
        meta_steps: updates of the meta-parameters.
        meta_batch: tasks per update.
        learning_rate: Adam's rate at the start.
        final_rate: the fraction of the learning rate that is left at the end.
        decay: the schedule from one to the other.
        warmup: updates over which the rate first rises from zero.
        clip: largest norm of the meta-gradient; 0 for no limit.
        evaluate_every: updates between two evaluations of the validation tasks.
        patience: evaluations without a better NLL before training stops and keeps the best parameters; 0
            runs to the end and keeps the last.
        optimiser: Adam for everything, or Muon for the matrices between hidden layers.
        matrix_rate: Muon's rate for those matrices at the start; it decays with the learning rate.
    """

    meta_steps: int = 20_000
    meta_batch: int = 16
    learning_rate: float = 1e-3
    final_rate: float = 0.13
    decay: Literal["exponential", "cosine"] = "exponential"
    warmup: int = 100
    clip: float = 10.0
    evaluate_every: int = 500
    patience: int = 10
    optimiser: Literal["adam", "muon"] = "adam"
    matrix_rate: float = 0.02

    def __post_init__(self) -> None:
        for name in ("meta_steps", "meta_batch", "evaluate_every"):
            if (value := getattr(self, name)) < 1:
                raise InvalidConfig(f"{name} must be at least 1; found {value}")
        rates = (self.learning_rate, self.matrix_rate)
        if not all(0 < rate < float("inf") for rate in rates) or not 0 < self.final_rate <= 1:
            raise InvalidConfig("the learning rates must be positive and their final fraction in (0, 1]")
        if min(self.warmup, self.patience, self.clip) < 0:
            raise InvalidConfig("warmup, patience and clip cannot be negative")


@dataclass(frozen=True)
class TrainingConfig:
    """One run, from data to published version.

    Attributes:
        settings: the learner's, its network among them.
        embedding: the settings of a `ConvNet`, for images.
        start_from: the published model whose newest parameters are the first ones.

    Raises:
        InvalidConfig: no task has a support row.
    """

    name: str
    family: FamilyConfig
    learner: str
    settings: dict[str, Any]
    optimisation: Optimisation = field(default_factory=Optimisation)
    seed: int = 0
    embedding: dict[str, Any] | None = None
    start_from: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.family, WorldConfig) and support_rows(self.family).highest < 1:
            raise InvalidConfig(
                "there is nothing to adapt to in tasks that show no row: shots of 0 are for evaluation"
            )

    @property
    def trained_embedding(self) -> ConvNet | None:
        """The embedding that is trained with the learner, if there is one."""
        taken = isinstance(self.family, ImagesConfig) and self.family.features_of is not None
        return None if self.embedding is None or taken else ConvNet(**self.embedding)

    def as_data(self) -> dict[str, Any]:
        """Plain data for the manifest and the comparison of runs; a path is reduced to the file's name."""
        data = dataclasses.asdict(self)
        if isinstance(self.family, TableConfig | ImagesConfig):
            data["family"]["path"] = Path(self.family.path).name
        if isinstance(self.family, ImagesConfig) and (self.family.backbone or "").startswith("file:"):
            data["family"]["backbone"] = f"file:{Path(self.family.backbone or '').name}"
        if not isinstance(self.family, WorldConfig):
            data["family"]["shots"] = dataclasses.asdict(support_rows(self.family))
        data["family"]["kind"] = family_kind(self.family)
        return data

    def as_flat_data(self) -> dict[str, Any]:
        """The plain data without nesting, by names such as `family.path` and `settings.network.hidden`."""
        return dict(_leaves(self.as_data()))


def _leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
