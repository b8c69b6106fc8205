"""Classes of images by role, and the checks and validation tasks that all families of images share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from bmaml.task import TaskBatch
from training.config import ImagesConfig
from training.errors import UnusableData
from training.families.class_index import ClassIndex
from training.families.class_tasks import VALIDATION_TASKS, TaskSize, validation_tasks
from training.families.family import VALIDATION_SEED_OFFSET
from training.families.image_files import LabelledImages


class ImageCollection(ABC):
    """The tasks of a collection of images.

    Args:
        all_held_out: take every class for a test, whatever the split.

    Raises:
        UnusableData: too few training classes for the configured tasks.
    """

    def __init__(
        self, config: ImagesConfig, seed: int, collection: LabelledImages, all_held_out: bool = False
    ) -> None:
        self.config, self._seed = config, seed
        self.image, self.collection = config.image, collection
        if all_held_out:
            self.collection = replace(collection, roles=np.full(len(collection.names), "test"))
            return
        self._training = self.of_role("train")
        self.size = TaskSize(config.ways, config.shots, config.queries)
        there = int((self._training[1].counts >= self.size.rows).sum())
        if there < config.ways:
            raise UnusableData(
                f"{there} training classes have {self.size.rows} images; tasks have {config.ways}: take "
                "fewer --classes, --shots or --queries"
            )

    @property
    def notes(self) -> tuple[str, ...]:
        """The counts of what was found and of what was left out, in sentences."""
        return self.collection.summary

    @abstractmethod
    def of_role(self, role: str) -> tuple[Tensor, ClassIndex]:
        """Rows `[image, number]` of a role's classes, and their classes."""

    @abstractmethod
    def batch(self, tasks: int, generator: torch.Generator) -> TaskBatch:
        """Training tasks of `ways` classes."""

    def validation(self) -> Iterator[TaskBatch]:
        """Tasks of validation classes, few and many; the same every time (`validation_tasks`)."""
        rows, index = self.of_role("validation")
        return validation_tasks(rows, index, self.size, self._seed + VALIDATION_SEED_OFFSET)

    @property
    def validation_tasks(self) -> int:
        """The number of validation tasks, all different."""
        return VALIDATION_TASKS
