"""Few-shot classification of images: classes drawn at random, a few images of each in the support set."""

from collections.abc import Iterator
from dataclasses import replace

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
UNEVEN_SHARE = 0.5
"""The share of batches, of training and of validation, whose classes differ in their numbers of shots."""
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
        """Training tasks of `ways` classes, rotated and distorted as configured (`training_tasks`)."""
        config, (pixels, index) = self.config, self._training
        draw = training_draw(config, index, tasks, generator)
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
        generator = torch.Generator().manual_seed(self._seed + VALIDATION_SEED_OFFSET)
        ways = min(MAX_VALIDATION_WAYS, len(index))
        least = int(index.counts.min())
        highest = max(1, min(self.config.shots.highest, least - 1))
        for number in range(VALIDATION_TASKS // TASKS_PER_BATCH):
            uneven = number % 2 == 1
            shots = highest if uneven else 1
            queries = min(MAX_VALIDATION_QUERIES, least - shots)
            draw = index.draw(TASKS_PER_BATCH, ways, shots, queries, generator)
            tasks = task_batch(draw, pixels[draw.images].float() / 255)
            yield with_uneven_shots(tasks, draw, generator) if uneven else tasks

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


def training_draw(config: ImagesConfig, index: ClassIndex, tasks: int, generator: torch.Generator) -> Draw:
    """Classes and images of training tasks; the number of shots is drawn for the batch."""
    low, high = config.shots.lowest, config.shots.highest
    shots = int(torch.randint(low, high + 1, (), generator=generator))
    return index.draw(tasks, config.ways, shots, high + config.queries - shots, generator)


def training_tasks(draw: Draw, x: Tensor, generator: torch.Generator) -> TaskBatch:
    """The training tasks of a draw, in a share of the batches with uneven shots."""
    tasks = task_batch(draw, x)
    uneven = float(torch.rand((), generator=generator)) < UNEVEN_SHARE
    return with_uneven_shots(tasks, draw, generator) if uneven else tasks


def with_uneven_shots(tasks: TaskBatch, draw: Draw, generator: torch.Generator) -> TaskBatch:
    """The tasks with one to all of the support rows of each class; the others are padding."""
    kept = torch.randint(1, draw.shots + 1, draw.classes.shape, generator=generator)
    mask = (torch.arange(draw.shots) < kept.unsqueeze(-1)).flatten(1)
    return replace(tasks, support=replace(tasks.support, mask=mask))
