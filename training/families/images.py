"""Few-shot classification of images: classes drawn at random, a few images of each in the support set."""

import numpy as np
import torch
from torch import Tensor

from bmaml.task import TaskBatch
from training.config import ImagesConfig
from training.families.augmentation import distorted, relit, rotated
from training.families.class_index import ClassIndex
from training.families.class_tasks import training_draw, training_tasks
from training.families.image_collection import ImageCollection
from training.families.image_files import read_images

QUARTER_TURNS = 4


class Images(ImageCollection):
    """The tasks of a collection of images, as pixels.

    Raises:
        UnusableData: as `read_images`; also too few training classes for the configured tasks.
    """

    def __init__(self, config: ImagesConfig, seed: int, all_held_out: bool = False) -> None:
        super().__init__(config, seed, read_images(config, seed), all_held_out)

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
