"""Few-shot classification of images: classes drawn at random, a few images of each in the support set."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bmaml.task import TaskBatch
from training.config import ImagesConfig
from training.errors import UnusableData
from training.families.augmentation import distorted, relit, rotated
from training.families.class_index import ClassIndex
from training.families.class_tasks import (
    VALIDATION_TASKS,
    TaskSize,
    training_draw,
    training_tasks,
    validation_tasks,
)
from training.families.family import VALIDATION_SEED_OFFSET
from training.families.image_files import LabelledImages, read_images

QUARTER_TURNS = 4


class Images:
    """The tasks of a collection of images.

    Raises:
        UnusableData: as `read_images`; also too few training classes for the configured tasks.
    """

    def __init__(self, config: ImagesConfig, seed: int) -> None:
        self.config, self._seed = config, seed
        self.image = config.image
        self.collection: LabelledImages = read_images(config, seed)
        self._training = self.of_role("train")
        self.size = TaskSize(config.ways, config.shots, config.queries)
        there = int((self._training[1].counts >= self.size.rows).sum())
        if there < config.ways:
            raise UnusableData(
                f"{there} training classes have {self.size.rows} images; tasks have {config.ways}"
            )

    @property
    def notes(self) -> tuple[str, ...]:
        """The counts of what was found and of what was left out, in sentences."""
        return self.collection.summary

    def of_role(self, role: str) -> tuple[Tensor, ClassIndex]:
        """Images `[image, channel × height × width]` of a role's classes, as bytes, and their classes."""
        mine, labels = self.collection.of_role(role)
        scaled = self.image.from_pixels(self.collection.pixels[mine])
        return torch.from_numpy(np.rint(255 * scaled).astype(np.uint8)), ClassIndex(torch.from_numpy(labels))

    def batch(self, tasks: int, generator: torch.Generator) -> TaskBatch:
        """Training tasks of `ways` classes, rotated and distorted as configured (`training_tasks`)."""
        config, (pixels, index) = self.config, self._training
        draw = training_draw(self.size, index, tasks, generator)
        images = pixels[draw.images.flatten()].float() / 255
        images = images.view(-1, config.channels, config.size, config.size)
        per_class = draw.images.shape[-1]
        labels = torch.arange(draw.classes.numel()).repeat_interleave(per_class)
        if config.rotations:
            turns = torch.randint(QUARTER_TURNS, (draw.classes.numel(),), generator=generator)
            images = rotated(images, turns[labels])
        if config.augment:
            images = distorted(images, labels, config.augment, generator)
            if not config.drawing:
                images = relit(images, config.augment, generator)
        return training_tasks(draw, images.flatten(1).view(*draw.images.shape, -1), generator)

    def validation(self) -> Iterator[TaskBatch]:
        """Tasks of up to five validation classes: one-shot, and of uneven shots; the same every time."""
        pixels, index = self.of_role("validation")
        return validation_tasks(pixels, index, self.config.shots, self._seed + VALIDATION_SEED_OFFSET)

    @property
    def validation_tasks(self) -> int:
        """The number of validation tasks, all different."""
        return VALIDATION_TASKS
