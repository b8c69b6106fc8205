"""Tasks of images whose rows are the features of a published version; every image is embedded once."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from bmaml.blocks import blocks
from bmaml.embedding import PREFIX, ConvNet
from bmaml.task import TaskBatch
from model_store.backbone import Backbone
from training.families.augmentation import rotated
from training.families.class_tasks import training_draw, training_tasks
from training.families.images import QUARTER_TURNS, Images

IMAGES_PER_BLOCK = 500
"""Images embedded at once: a bound on the memory of the feature maps."""


class ImageFeatures:
    """The tasks of `images` with features as rows, for learners that leave the embedding as it is.

    Attributes:
        frozen: the embedding's tensors, which are published with the learner's.
    """

    def __init__(self, images: Images, embedding: ConvNet, learned: Mapping[str, Tensor]) -> None:
        self.images = images
        self.frozen = {name: tensor for name, tensor in learned.items() if name.startswith(PREFIX)}
        config = images.config
        pixels, self._index = images.of_role("train")
        turns = QUARTER_TURNS if config.rotations else 1
        square = pixels.view(-1, config.channels, config.size, config.size)
        every = [rotated(square, torch.full((len(square),), turn)) for turn in range(turns)]
        self._features = torch.stack([embed(embedding, self.frozen, each.flatten(1)) for each in every])
        with torch.no_grad():
            self._validation = [
                embedding.embedded(self.frozen, batch, training=False) for batch in images.validation()
            ]

    def batch(self, tasks: int, generator: torch.Generator) -> TaskBatch:
        """Training tasks of `ways` classes (`training_tasks`)."""
        draw = training_draw(self.images.size, self._index, tasks, generator)
        turn = torch.randint(len(self._features), draw.classes.shape, generator=generator)
        return training_tasks(draw, self._features[turn.unsqueeze(-1), draw.images], generator)

    def validation(self) -> Iterator[TaskBatch]:
        """The validation tasks of `images`, embedded."""
        return iter(self._validation)

    @property
    def validation_tasks(self) -> int:
        """The number of validation tasks of `images`."""
        return self.images.validation_tasks


def embed(embedding: ConvNet | Backbone, learned: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Features `[image, feature]` of images given as bytes."""
    with torch.no_grad():
        parts = blocks(len(images), IMAGES_PER_BLOCK)
        return torch.cat([embedding(learned, images[part].float().unsqueeze(0) / 255)[0] for part in parts])
