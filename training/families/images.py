"""Few-shot classification of pictures: classes drawn at random, a few pictures of each shown."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bmaml.task import Examples, TaskBatch
from model_store.images import ImageInput
from training.config import ImagesConfig
from training.families.augment import distorted, relit, turned
from training.families.bank import Bank, Deal
from training.families.pictures import Pictures, read_pictures
from training.families.splits import UnusableData

VALIDATION_TASKS = 200
EVALUATED_WAYS, EVALUATED_QUERIES = 5, 15
AT_ONCE = 10
TURNS = 4


class Images:
    """The tasks of a collection of pictures.

    Raises:
        UnusableData: see `pictures`; also too few training classes for the tasks asked for.
    """

    def __init__(self, config: ImagesConfig, seed: int) -> None:
        self.config, self._seed = config, seed
        self.image = ImageInput(channels=config.channels, size=config.size, drawing=config.drawing)
        self.pictures: Pictures = read_pictures(config, seed)
        self._trained = self.bank("train")
        wanted = config.shots.highest + config.queries
        there = int((self._trained[1].counts >= wanted).sum())
        if there < config.ways:
            raise UnusableData(f"{there} training classes have {wanted} pictures; tasks have {config.ways}")

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found and what was left out, in sentences with counts."""
        pictures = self.pictures
        per_role = ", ".join(
            f"{int((pictures.roles == role).sum())} {role}" for role in np.unique(pictures.roles)
        )
        return (
            f"{len(pictures.owners)} pictures of {len(pictures.names)} classes ({per_role})",
            *pictures.notes,
        )

    def bank(self, role: str) -> tuple[Tensor, Bank]:
        """Images `[picture, channel × height × width]` of a role's classes, as bytes, and whose they are."""
        chosen = np.flatnonzero(self.pictures.roles == role)
        mine = np.isin(self.pictures.owners, chosen)
        owners = np.searchsorted(chosen, self.pictures.owners[mine])
        scaled = self.image.scaled(self.pictures.pixels[mine])
        return torch.from_numpy(np.rint(255 * scaled).astype(np.uint8)), Bank(torch.from_numpy(owners))

    def batch(self, tasks: int, generator: torch.Generator) -> TaskBatch:
        """Training tasks of `ways` classes, which may be turned and distorted; shots drawn per batch."""
        config, (bytes_, bank) = self.config, self._trained
        low, high = config.shots.lowest, config.shots.highest
        shots = int(torch.randint(low, high + 1, (), generator=generator))
        deal = bank.deal(tasks, config.ways, shots, high + config.queries - shots, generator)
        images = bytes_[deal.pictures.flatten()].float() / 255
        images = images.view(-1, config.channels, config.size, config.size)
        per_class = deal.pictures.shape[-1]
        owners = torch.arange(deal.classes.numel()).repeat_interleave(per_class)
        if config.rotations:
            images = turned(
                images, torch.randint(TURNS, (deal.classes.numel(),), generator=generator)[owners]
            )
        if config.augment:
            images = distorted(images, owners, config.augment, generator)
            if not config.drawing:
                images = relit(images, config.augment, generator)
        return dealt(deal, images.flatten(1).view(*deal.pictures.shape, -1))

    def validation(self) -> Iterator[TaskBatch]:
        """Tasks of five validation classes, one picture shown of each; the same every time."""
        bytes_, bank = self.bank("validation")
        generator = torch.Generator().manual_seed(self._seed + 1_000_003)
        ways, queries = min(EVALUATED_WAYS, len(bank)), min(5, int(bank.counts.min()) - 1)
        for _ in range(VALIDATION_TASKS // AT_ONCE):
            deal = bank.deal(AT_ONCE, ways, 1, queries, generator)
            yield dealt(deal, bytes_[deal.pictures].float() / 255)

    @property
    def validation_tasks(self) -> int:
        """All are different."""
        return VALIDATION_TASKS // AT_ONCE * AT_ONCE


def dealt(deal: Deal, x: Tensor) -> TaskBatch:
    """A deal with its rows `[task, way, picture, input]`, class by class."""
    shots, asked = deal.shots, x.shape[2] - deal.shots
    return TaskBatch(
        Examples.full(x[:, :, :shots].flatten(1, 2), deal.labels(shots)),
        Examples.full(x[:, :, shots:].flatten(1, 2), deal.labels(asked)),
    )
