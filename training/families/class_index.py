"""Images by class, and few-shot tasks drawn from them."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """The classes and images of some random tasks.

    Attributes:
        classes: `[task, way]`, distinct within a task.
        images: positions in the collection, `[task, way, image]`, distinct within a class; the first
            `shots` of a class are its support rows.
    """

    classes: Int[Tensor, "task way"]
    images: Int[Tensor, "task way image"]
    shots: int

    def labels(self, rows_per_class: int) -> Tensor:
        """One-hot rows `[task, way × rows, way]`, class by class."""
        tasks, ways = self.classes.shape
        eye = torch.eye(ways).repeat_interleave(rows_per_class, 0)
        return eye.expand(tasks, -1, -1)


class ClassIndex:
    """The positions of each class's images in a collection.

    Args:
        labels: the class of each image, 0 …; every class has at least one image.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels, self.counts = labels, torch.bincount(labels)
        order = labels.argsort(stable=True)
        starts = self.counts.cumsum(0) - self.counts
        place = torch.arange(int(self.counts.max()))
        self._real = place < self.counts.unsqueeze(1)
        self._positions = order[(starts.unsqueeze(1) + place).clamp_max(len(labels) - 1)]

    def __len__(self) -> int:
        """The number of classes."""
        return len(self.counts)

    def queries(self, ways: int, shots: int, most: int, share: float = 1.0) -> int:
        """Rows, at most `most`, that a class can be asked about beside its `shots` support rows.

        Classes with no more than `shots` rows cannot be asked about. Of the others at least this share has so
        many rows left, and at least `ways` of them; 0 where there are fewer.
        """
        counts = self.counts[self.counts > shots].sort(descending=True).values
        if len(counts) < ways:
            return 0
        part = max(ways, math.ceil(share * len(counts)))
        return min(most, int(counts[part - 1]) - shots)

    def draw(self, tasks: int, ways: int, shots: int, queries: int, generator: torch.Generator) -> Draw:
        """Random tasks; classes with fewer than shots + queries images take no part.

        Raises:
            ValueError: fewer than `ways` classes have enough images.
        """
        wanted = shots + queries
        enough = (self.counts >= wanted).nonzero().squeeze(1)
        if len(enough) < ways:
            raise ValueError(f"{len(enough)} classes have {wanted} images; tasks of {ways} were asked for")
        order = torch.rand(tasks, len(enough), generator=generator).argsort(1)[:, :ways]
        classes = enough[order]
        key = torch.rand(tasks, ways, self._positions.shape[1], generator=generator)
        key = torch.where(self._real[classes], key, 2.0)
        chosen = key.argsort(-1)[..., :wanted]
        return Draw(classes, self._positions[classes].gather(-1, chosen), shots)
