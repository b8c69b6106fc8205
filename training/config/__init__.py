"""The configuration of a training run: one frozen tree, saved whole in the manifest of what it publishes.

These dataclasses are also the options of `bmaml-train`: names, types, defaults and help come from them.
"""

from training.config.families import (
    FamilyConfig,
    FamilyKind,
    ImagesConfig,
    RecipeKind,
    SinusoidConfig,
    SupervisedConfig,
    WorldConfig,
    family_kind,
    recipe_kind,
    support_rows,
)
from training.config.run import Optimisation, TrainingConfig
from training.config.table import ELAPSED, TRANSFORMS, TableConfig, TargetChoice, UpTo, UpToOption, origin_of
from training.config.values import InvalidConfig, MissingOption, Shots, ShotsOption, Switch

__all__ = [
    "ELAPSED",
    "TRANSFORMS",
    "FamilyConfig",
    "FamilyKind",
    "ImagesConfig",
    "InvalidConfig",
    "MissingOption",
    "Optimisation",
    "RecipeKind",
    "Shots",
    "ShotsOption",
    "SinusoidConfig",
    "SupervisedConfig",
    "Switch",
    "TableConfig",
    "TargetChoice",
    "TrainingConfig",
    "UpTo",
    "UpToOption",
    "WorldConfig",
    "family_kind",
    "origin_of",
    "recipe_kind",
    "support_rows",
]
