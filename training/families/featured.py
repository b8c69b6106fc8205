"""Pictures seen through the features of a published version: embedded once, then dealt from memory."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from bmaml.embedding import PREFIX, ConvNet
from bmaml.task import TaskBatch
from training.families.augment import turned
from training.families.images import TURNS, Images, dealt

EMBEDDED_AT_ONCE = 500


class Featured:
    """The tasks of pictures with their features as rows, for learners that leave those as they are.

    Attributes:
        frozen: the embedding's tensors, which are published with what is learned on top.
    """

    def __init__(self, images: Images, embedding: ConvNet, learned: Mapping[str, Tensor]) -> None:
        self.images = images
        self.frozen = {name: tensor for name, tensor in learned.items() if name.startswith(PREFIX)}
        config = images.config
        pictures, self._bank = images.bank("train")
        turns = TURNS if config.rotations else 1
        square = pictures.view(-1, config.channels, config.size, config.size)
        every = [turned(square, torch.full((len(square),), turn)) for turn in range(turns)]
        self._features = torch.stack([embed(embedding, self.frozen, each.flatten(1)) for each in every])
        with torch.no_grad():
            self._validation = [
                embedding.embedded(self.frozen, batch, training=False) for batch in images.validation()
            ]

    def batch(self, tasks: int, generator: torch.Generator) -> TaskBatch:
        """Training tasks of `ways` classes; shots drawn per batch."""
        config = self.images.config
        low, high = config.shots.lowest, config.shots.highest
        shots = int(torch.randint(low, high + 1, (), generator=generator))
        deal = self._bank.deal(tasks, config.ways, shots, high + config.queries - shots, generator)
        turn = torch.randint(len(self._features), deal.classes.shape, generator=generator)
        return dealt(deal, self._features[turn.unsqueeze(-1), deal.pictures])

    def validation(self) -> Iterator[TaskBatch]:
        """Those of the pictures."""
        return iter(self._validation)

    @property
    def validation_tasks(self) -> int:
        """As many."""
        return self.images.validation_tasks


def embed(embedding: ConvNet, learned: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Features `[picture, feature]` of images given as bytes."""
    with torch.no_grad():
        parts = [
            embedding(learned, part.float().unsqueeze(0) / 255)[0] for part in images.split(EMBEDDED_AT_ONCE)
        ]
    return torch.cat(parts)
