"""A pretrained network that maps images to vectors, as a version holds it or names it by digest.

The network is one file: a program of `torch.export`, or TorchScript. A small one lies inside the version. A
large one lies in the folder `$BMAML_BACKBONES` under its digest, where training leaves it, and the version
names it. The file is believed only if it has the digest that the manifest says.
"""

import io
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from bmaml.blocks import blocks
from bmaml.errors import BmamlError
from bmaml.shapes import Inputs

BACKBONE_FILE = "backbone.pt"
"""The file of a version that holds a small backbone."""
MAX_BYTES_INSIDE = 20 << 20
"""Size of a backbone that a version holds, at most; a larger one is referenced."""
IMAGES_PER_BLOCK = 32
"""Images embedded at once on a CPU: more take more memory and are no faster."""
TORCHSCRIPT = "TorchScript"


class UnusableBackbone(BmamlError, ValueError):
    """A backbone that is absent, of another digest, or no network that maps images to vectors."""


class BackboneInfo(BaseModel):
    """The backbone of a version, and what it is done to images before it.

    Attributes:
        name: as it was asked for in training, such as `timm:NAME`, with the number of finetuned blocks.
        digest: sha256 of its file.
        size, crop: as in `ImageInput`.
        mean, std: of each channel of images in [0, 1], which are standardised by them.
        features: length of the vectors.
        bytes: size of its file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    digest: str = Field(pattern=r"[0-9a-f]{64}")
    size: int = Field(ge=1)
    crop: float | None = Field(default=None, gt=0, le=1)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    features: int = Field(ge=1)
    bytes: int = Field(ge=1)

    @property
    def inside(self) -> bool:
        """Whether versions hold the file themselves."""
        return self.bytes <= MAX_BYTES_INSIDE


@dataclass(frozen=True)
class Backbone:
    """A backbone in memory; nothing of it is learned here.

    Pickled as its file: a process that receives it builds the network anew.
    """

    info: BackboneInfo
    content: bytes = field(repr=False)
    _built: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Backbone, (self.info, self.content)

    @property
    def channels(self) -> int:
        """Channels of an image: RGB."""
        return 3

    @property
    def size(self) -> int:
        """Pixels along each side of an image."""
        return self.info.size

    @property
    def features(self) -> int:
        """Features of one image."""
        return self.info.features

    def initialise(self, generator: torch.Generator) -> dict[str, Tensor]:
        """No parameters beside the learner's."""
        del generator
        return {}

    def __call__(self, learned: Mapping[str, Tensor], images: Inputs) -> Float[Tensor, "task row feature"]:
        """Features of images `[task, row, channel × height × width]` in [0, 1]."""
        del learned
        tasks, rows, _ = images.shape
        signal = images.reshape(tasks * rows, 3, self.size, self.size)
        most = IMAGES_PER_BLOCK if images.device.type == "cpu" else None
        parts = [self.embed(signal[part]) for part in blocks(len(signal), most)] if len(signal) else []
        features = torch.cat(parts) if parts else images.new_zeros(0, self.features)
        return features.view(tasks, rows, self.features)

    def embed(self, images: Tensor) -> Tensor:
        """Features `[image, feature]` of images `[image, 3, size, size]` in [0, 1].

        Raises:
            UnusableBackbone: the network fails, or its result is not as the manifest says.
        """
        mean, std = (images.new_tensor(each).view(3, 1, 1) for each in (self.info.mean, self.info.std))
        signal = ((images - mean) / std).contiguous(memory_format=torch.channels_last)
        network = self._network(str(images.device))
        with torch.no_grad():
            try:
                result = network(signal)
            except Exception as error:  # whatever a foreign program raises
                raise UnusableBackbone(f"the backbone {self.info.name} fails: {error}") from None
        expected = (len(images), self.features)
        if not isinstance(result, Tensor) or tuple(result.shape) != expected:
            found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise UnusableBackbone(f"the backbone {self.info.name} maps images to {found}, not to {expected}")
        return result.to(images.dtype)

    def _network(self, device: str) -> Callable[[Tensor], Tensor]:
        if device not in self._built:
            self._built[device] = network_of(self.content, device)
        return self._built[device]


def network_of(content: bytes, device: str = "cpu") -> Callable[[Tensor], Tensor]:
    """The network in a file of `torch.export` or TorchScript.

    Raises:
        UnusableBackbone: the file is neither.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            scripted = any(name.endswith("constants.pkl") and "/" in name for name in archive.namelist())
            scripted = scripted and not any(name.endswith("archive_format") for name in archive.namelist())
    except zipfile.BadZipFile:
        raise UnusableBackbone("the backbone is a file of neither torch.export nor TorchScript") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, and people have files of it
            if scripted:
                return torch.jit.load(io.BytesIO(content), map_location=device).eval()  # type: ignore[no-any-return,no-untyped-call]
            program = torch.export.load(io.BytesIO(content)).module()
            return program.to(device)
    except Exception as error:  # whatever a damaged program raises
        raise UnusableBackbone(f"the backbone cannot be loaded: {error}") from None


def backbone_folder() -> Path:
    """The folder of backbones that versions refer to: `$BMAML_BACKBONES`, else in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("BMAML_BACKBONES") or Path(cache) / "bmaml" / "backbones")


def referenced_backbone(info: BackboneInfo) -> bytes:
    """The file of a backbone that no version holds.

    Raises:
        UnusableBackbone: it is not in the folder, or not the one of this digest.
    """
    path = backbone_folder() / f"{info.digest}.pt"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnusableBackbone(
            f"the backbone {info.name} ({info.bytes:,} bytes) cannot be read: {error.strerror}: {path}. "
            "Copy it there from the machine that trained this version, or name its folder in BMAML_BACKBONES"
        ) from None
    if (found := sha256(content).hexdigest()) != info.digest:
        raise UnusableBackbone(
            f"{path} hashes to {found[:12]}, and the version was trained on {info.digest[:12]}: copy it again"
        )
    return content
