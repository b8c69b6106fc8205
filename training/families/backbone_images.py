"""Tasks of images whose rows are the features of a pretrained backbone; every image is embedded once, ever.

Where the last blocks of the backbone are learned, rows are what the blocks before them give.

Features are kept on disk by the digest of the backbone and of the pixels that it sees. A second run, another
split or a longer collection embeds what is new alone.
"""

import os
from collections.abc import Iterator, Mapping
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from bmaml.embedding import PREFIX
from bmaml.task import TaskBatch
from model_store.backbone import IMAGES_PER_BLOCK, Backbone, backbone_folder
from model_store.images import Pixels
from training.config import ImagesConfig
from training.errors import UnusableData
from training.families.class_index import ClassIndex
from training.families.class_tasks import training_draw, training_tasks
from training.families.image_collection import ImageCollection
from training.families.image_files import read_images
from training.opened_backbone import OpenedBackbone

BLOCKS_PER_SAVE = 100
"""Blocks of images after which new features are written: an interrupted run loses no more."""
MAX_BYTES = 4 << 30
"""Size of the features of a collection, at most. They are held in memory, twice while they are computed."""


class BackboneImages(ImageCollection):
    """The tasks of a collection of images, embedded by a backbone.

    Raises:
        UnusableData: as `read_images`; also too few training classes for the configured tasks.
    """

    def __init__(
        self, config: ImagesConfig, seed: int, backbone: Backbone, all_held_out: bool = False
    ) -> None:
        self.backbone = backbone
        images = read_images(config, seed, KeptFeatures(backbone, config).of)
        super().__init__(config, seed, images, all_held_out)

    def of_role(self, role: str) -> tuple[Tensor, ClassIndex]:
        """Features `[image, feature]` of a role's classes, and their classes."""
        mine, labels = self.collection.of_role(role)
        return torch.from_numpy(self.collection.pixels[mine]), ClassIndex(torch.from_numpy(labels))

    def batch(self, tasks: int, generator: torch.Generator) -> TaskBatch:
        """Training tasks of `ways` classes (`training_tasks`)."""
        features, index = self._training
        draw = training_draw(self.size, index, tasks, generator)
        return training_tasks(draw, features[draw.images], generator)


class FinetunedImages(BackboneImages):
    """The tasks of a collection of images, as what the frozen blocks of a backbone give.

    Raises:
        UnusableData: as `BackboneImages`.
    """

    def __init__(self, config: ImagesConfig, seed: int, opened: OpenedBackbone) -> None:
        self.opened = opened
        super().__init__(config, seed, opened.trunk)

    def closed(self, learned: Mapping[str, Tensor]) -> tuple[BackboneImages, dict[str, Tensor]]:
        """The same tasks on features of the whole network after training, and the tensors of the head."""
        backbone = self.opened.closed(learned)
        head = {name: tensor for name, tensor in learned.items() if not name.startswith(PREFIX)}
        return BackboneImages(self.config, self._seed, backbone), head


class KeptFeatures:
    """The features of a backbone by the digest of the pixels, on disk.

    Args:
        config: of images; whether they are inverted belongs to the key.
    """

    def __init__(self, backbone: Backbone, config: ImagesConfig) -> None:
        self._backbone, self._image = backbone, config.image
        key = sha256(f"{backbone.info.model_dump_json()} {self._image.model_dump_json()}".encode())
        self.path = backbone_folder() / "features" / f"{key.hexdigest()}.safetensors"
        self._known: dict[bytes, NDArray[np.float32]] = {}
        try:
            found = load_file(self.path)
            self._known = dict(zip(map(bytes, found["digests"]), found["features"], strict=True))
        except (OSError, SafetensorError, KeyError, ValueError):
            pass  # absent or damaged: what is not known is embedded

    def of(self, images: Iterator[Pixels], count: int) -> NDArray[np.float32]:
        """Features `[image, feature]` of `count` images; the ones that are not known are computed.

        Raises:
            UnusableData: they take more than `MAX_BYTES`.
        """
        if (size := 4 * count * self._backbone.features) > MAX_BYTES:
            raise UnusableData(
                f"the features of {count:,} images take {size / 2**30:,.1f} GiB, and at most "
                f"{MAX_BYTES >> 30} GiB are held: take a smaller --size, or open fewer blocks with --finetune"
            )
        order: list[bytes] = []
        waiting: dict[bytes, Pixels] = {}
        unsaved = 0
        try:
            with tqdm(total=count, desc=self._backbone.info.name, unit="image", disable=None) as progress:
                for pixels in images:
                    digest = sha256(pixels.tobytes()).digest()
                    order.append(digest)
                    if digest not in self._known:
                        waiting[digest] = pixels
                    progress.update()
                    if len(waiting) == IMAGES_PER_BLOCK:
                        self._embed(waiting)
                        unsaved += 1
                    if unsaved == BLOCKS_PER_SAVE:
                        self._save()
                        unsaved = 0
                if waiting:
                    self._embed(waiting)
                    unsaved += 1
        finally:
            if unsaved:
                self._save()
        return np.stack([self._known[digest] for digest in order])

    def _embed(self, waiting: dict[bytes, Pixels]) -> None:
        """Embed the waiting images, which are then known."""
        side = self._backbone.size
        values = torch.from_numpy(self._image.from_pixels(np.stack(list(waiting.values()))))
        features = self._backbone.embed(values.view(-1, 3, side, side)).numpy()
        self._known |= zip(waiting, features, strict=True)
        waiting.clear()

    def _save(self) -> None:
        digests = np.frombuffer(b"".join(self._known), np.uint8).reshape(len(self._known), -1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(f".{os.getpid()}")
        save_file({"digests": digests, "features": np.stack(list(self._known.values()))}, part)
        part.replace(self.path)
