"""Pictures by class, and the dealing of few-shot tasks from them."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Deal:
    """Which pictures make up some tasks.

    Attributes:
        classes: `[task, way]`, distinct within a task.
        pictures: positions in the bank, `[task, way, picture]`, distinct within a class; the first
            `shots` of a class are its support rows.
    """

    classes: Int[Tensor, "task way"]
    pictures: Int[Tensor, "task way picture"]
    shots: int

    def labels(self, rows_per_class: int) -> Tensor:
        """One-hot rows `[task, way × rows, way]`, class by class."""
        tasks, ways = self.classes.shape
        eye = torch.eye(ways).repeat_interleave(rows_per_class, 0)
        return eye.expand(tasks, -1, -1)


class Bank:
    """Where the pictures of every class lie.

    Args:
        owners: the class of each picture, 0 …; every class has at least one.
    """

    def __init__(self, owners: Tensor) -> None:
        self.counts = torch.bincount(owners)
        order = owners.argsort(stable=True)
        starts = self.counts.cumsum(0) - self.counts
        place = torch.arange(int(self.counts.max()))
        self._real = place < self.counts.unsqueeze(1)
        self._table = order[(starts.unsqueeze(1) + place).clamp_max(len(owners) - 1)]

    def __len__(self) -> int:
        """The number of classes."""
        return len(self.counts)

    def deal(self, tasks: int, ways: int, shots: int, queries: int, generator: torch.Generator) -> Deal:
        """Random tasks; classes with fewer than shots + queries pictures take no part.

        Raises:
            ValueError: fewer than `ways` classes have enough pictures.
        """
        wanted = shots + queries
        enough = (self.counts >= wanted).nonzero().squeeze(1)
        if len(enough) < ways:
            raise ValueError(f"{len(enough)} classes have {wanted} pictures; tasks of {ways} were asked for")
        order = torch.rand(tasks, len(enough), generator=generator).argsort(1)[:, :ways]
        classes = enough[order]
        key = torch.rand(tasks, ways, self._table.shape[1], generator=generator)
        key = torch.where(self._real[classes], key, 2.0)
        chosen = key.argsort(-1)[..., :wanted]
        return Deal(classes, self._table[classes].gather(-1, chosen), shots)
