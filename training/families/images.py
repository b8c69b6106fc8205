"""Few-shot classification of images: classes drawn at random, a few images of each in the support set."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bmaml.task import Examples, TaskBatch
from model_store.images import ImageInput
from training.config import ImagesConfig
from training.errors import UnusableData
from training.families.augmentation import distorted, relit, rotated
from training.families.class_index import ClassIndex, Draw
from training.families.family import VALIDATION_SEED_OFFSET
from training.families.image_files import LabelledImages, read_images

VALIDATION_TASKS = 200
TASKS_PER_BATCH = 10
"""Tasks in one batch of validation."""
MAX_VALIDATION_WAYS, MAX_VALIDATION_QUERIES = 5, 5
QUARTER_TURNS = 4


class Images:
    """The tasks of a collection of images.

    Raises:
        UnusableData: as `read_images`; also too few training classes for the configured tasks.
    """

    def __init__(self, config: ImagesConfig, seed: int) -> None:
        self.config, self._seed = config, seed
        self.image = ImageInput(channels=config.channels, size=config.size, drawing=config.drawing)
        self.collection: LabelledImages = read_images(config, seed)
        self._training = self.of_role("train")
        wanted = config.shots.highest + config.queries
        there = int((self._training[1].counts >= wanted).sum())
        if there < config.ways:
            raise UnusableData(f"{there} training classes have {wanted} images; tasks have {config.ways}")

    @property
    def notes(self) -> tuple[str, ...]:
        """The counts of what was found and of what was left out, in sentences."""
        found = self.collection
        per_role = ", ".join(f"{int((found.roles == role).sum())} {role}" for role in np.unique(found.roles))
        return (f"{len(found.labels)} images of {len(found.names)} classes ({per_role})", *found.notes)

    def of_role(self, role: str) -> tuple[Tensor, ClassIndex]:
        """Images `[image, channel × height × width]` of a role's classes, as bytes, and their classes."""
        chosen = np.flatnonzero(self.collection.roles == role)
        mine = np.isin(self.collection.labels, chosen)
        labels = np.searchsorted(chosen, self.collection.labels[mine])
        scaled = self.image.from_pixels(self.collection.pixels[mine])
        return torch.from_numpy(np.rint(255 * scaled).astype(np.uint8)), ClassIndex(torch.from_numpy(labels))

    def batch(self, tasks: int, generator: torch.Generator) -> TaskBatch:
        """Training tasks of `ways` classes, rotated and distorted as configured.

        The number of shots is drawn for the batch.
        """
        config, (pixels, index) = self.config, self._training
        low, high = config.shots.lowest, config.shots.highest
        shots = int(torch.randint(low, high + 1, (), generator=generator))
        draw = index.draw(tasks, config.ways, shots, high + config.queries - shots, generator)
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
        return task_batch(draw, images.flatten(1).view(*draw.images.shape, -1))

    def validation(self) -> Iterator[TaskBatch]:
        """One-shot tasks of up to five validation classes; the same every time."""
        pixels, index = self.of_role("validation")
        generator = torch.Generator().manual_seed(self._seed + VALIDATION_SEED_OFFSET)
        ways = min(MAX_VALIDATION_WAYS, len(index))
        queries = min(MAX_VALIDATION_QUERIES, int(index.counts.min()) - 1)
        for _ in range(VALIDATION_TASKS // TASKS_PER_BATCH):
            draw = index.draw(TASKS_PER_BATCH, ways, 1, queries, generator)
            yield task_batch(draw, pixels[draw.images].float() / 255)

    @property
    def validation_tasks(self) -> int:
        """The number of validation tasks, all different."""
        return VALIDATION_TASKS // TASKS_PER_BATCH * TASKS_PER_BATCH


def task_batch(draw: Draw, x: Tensor) -> TaskBatch:
    """The tasks of a draw with its rows `[task, way, image, input]`, class by class."""
    shots, asked = draw.shots, x.shape[2] - draw.shots
    return TaskBatch(
        Examples.full(x[:, :, :shots].flatten(1, 2), draw.labels(shots)),
        Examples.full(x[:, :, shots:].flatten(1, 2), draw.labels(asked)),
    )
