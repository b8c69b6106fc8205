"""Images from a folder per class, a zip of such folders, or an npz.

Classes are the folders that hold images, at any depth (alphabets of characters, for example). With
`split="folder"` the topmost folder names the role of all classes under it. An npz holds `images` and a
label for each (`labels` or `label`); there `split` names an array with one role per class. Files and
classes that cannot be used are left out and counted.
"""

import csv
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_store.images import ImageInput, Pixels, UnreadableImage, decoded_image
from training.config import ImagesConfig
from training.errors import UnusableData
from training.families.splits import roles_of_classes

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpeg", ".jpg", ".png", ".webp"}
)
OMNIGLOT_ROLES = {"images_background": "train", "images_evaluation": "test"}
"""The roles of Omniglot's two folders."""
MAX_BROKEN_SHARE = 0.1
"""Files that cannot be read, as a share of all: with more of them, the collection is refused."""
MAX_NAMED = 5
"""Unreadable files that a note names, and reasons that it gives."""


@dataclass(frozen=True)
class LabelledImages:
    """Usable images with their classes.

    Attributes:
        pixels: every image at the model's size.
        labels: the class of each image, 0 …
        names, roles: one per class; a role is "train", "validation" or "test".
        notes: sentences that count what was left out.
    """

    pixels: Pixels
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    roles: NDArray[np.str_]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _AllImages:
    """Images by class before small classes are left out; `declared` are the roles that the data names."""

    pixels: Pixels
    labels: NDArray[np.int64]
    names: list[str]
    declared: list[str] | None
    notes: list[str]


def read_images(config: ImagesConfig, seed: int) -> LabelledImages:
    """The usable images that `config` describes.

    Raises:
        UnusableData: no such path, no readable image, too many broken ones, too few classes, or, with
            `strict`, anything that would be left out.
    """
    path = Path(config.path)
    if not path.exists():
        raise UnusableData(f"there is no file or folder {path}")
    image = config.image
    found = _from_arrays(path, config, image) if path.suffix == ".npz" else _from_files(path, config, image)
    counts = np.bincount(found.labels, minlength=len(found.names))
    notes, enough = found.notes, counts >= config.least
    if not enough.all():
        notes.append(
            f"left out {int((~enough).sum())} of {len(counts)} classes with under {config.least} images"
        )
    if config.strict and notes:
        raise UnusableData("; ".join(notes))
    kept = np.flatnonzero(enough)
    if len(kept) < 2:
        raise UnusableData("; ".join(["fewer than two classes can be used", *notes]))
    declared = None if found.declared is None else [found.declared[index] for index in kept]
    roles = roles_of_classes(declared, len(kept), seed)
    renumbered = np.full(len(counts), -1)
    renumbered[kept] = np.arange(len(kept))
    labels = renumbered[found.labels]
    names = tuple(found.names[index] for index in kept)
    return LabelledImages(found.pixels[labels >= 0], labels[labels >= 0], names, roles, tuple(notes))


def _from_files(path: Path, config: ImagesConfig, image: ImageInput) -> _AllImages:
    pixels, classes = [], []
    broken: dict[PurePosixPath, str] = {}
    animated = 0
    for name, content in _files(path):
        try:
            decoded = decoded_image(content, image)
        except UnreadableImage as error:
            broken[name] = str(error)
            continue
        pixels.append(decoded.pixels)
        animated += decoded.animated
        classes.append(name.parent)
    if broken and len(broken) > MAX_BROKEN_SHARE * (len(broken) + len(pixels)):
        raise UnusableData(
            f"too many files of {path} are no images that can be used: {_broken(broken, pixels)}"
        )
    if not pixels:
        raise UnusableData(f"{path} holds no readable image in a folder per class")
    folders = sorted(set(classes))
    labels = np.array([folders.index(each) for each in classes], dtype=np.int64)
    names = [str(folder) for folder in folders]
    notes = [f"left out {_broken(broken, pixels)}"] if broken else []
    if animated:
        notes.append(f"took the first frame of {animated} animated files")
    declared = None
    if config.split == "folder":
        declared = [OMNIGLOT_ROLES.get(folder.parts[0], folder.parts[0]) for folder in folders]
    elif config.split is not None:
        declared = _roles_from_csv(Path(config.split), names)
    return _AllImages(np.stack(pixels), labels, names, declared, notes)


def _broken(broken: Mapping[PurePosixPath, str], pixels: Sequence[Pixels]) -> str:
    """The number of files that cannot be read, some of their names, and the reasons."""
    names = ", ".join(str(name) for name in list(broken)[:MAX_NAMED])
    more = f" and {len(broken) - MAX_NAMED} more" if len(broken) > MAX_NAMED else ""
    reasons = "; ".join(list(dict.fromkeys(broken.values()))[:MAX_NAMED])
    return f"{len(broken)} of {len(broken) + len(pixels)} files ({names}{more}): {reasons}"


def _files(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Name and content of every image file below `path`, in order, without hidden files."""

    def wanted(names: Iterable[PurePosixPath]) -> list[PurePosixPath]:
        shown = (name for name in names if not any(part.startswith((".", "__")) for part in name.parts))
        return sorted(name for name in shown if name.suffix.lower() in IMAGE_SUFFIXES and len(name.parts) > 1)

    if path.is_dir():
        for name in wanted(
            PurePosixPath(file.relative_to(path)) for file in path.rglob("*") if file.is_file()
        ):
            yield name, (path / name).read_bytes()
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for name in wanted(PurePosixPath(entry) for entry in archive.namelist()):
                yield name, archive.read(str(name))
    except zipfile.BadZipFile:
        raise UnusableData(f"{path} is neither a folder, nor a zip, nor an npz") from None


def _roles_from_csv(path: Path, names: list[str]) -> list[str]:
    """The role of each class from a CSV of class and role."""
    try:
        with path.open(newline="") as file:
            declared = {row[0]: row[1] for row in csv.reader(file) if len(row) >= 2}
    except OSError as error:
        raise UnusableData(f"the split file cannot be read: {error}") from None
    if missing := [name for name in names if name not in declared]:
        raise UnusableData(f"{path} gives no role to {len(missing)} classes, {missing[0]!r} among them")
    return [declared[name] for name in names]


def _from_arrays(path: Path, config: ImagesConfig, image: ImageInput) -> _AllImages:
    try:
        arrays = np.load(path, allow_pickle=False)
        key = "labels" if "labels" in arrays else "label"
        images, labels = arrays["images"], arrays[key]
        split = None if config.split is None else arrays[config.split]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UnusableData(f"{path} needs arrays images, labels and the split's: {error}") from None
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or len(images) != len(labels):
        raise UnusableData(f"{path}: images are uint8, one label each; found {images.dtype} {images.shape}")
    classes, labels = np.unique(labels, return_inverse=True)
    if images.shape[1:] != image.shape:
        images = np.stack([image.resize(Image.fromarray(each)) for each in images])
    declared = None
    if split is not None:
        if len(split) != len(classes):
            raise UnusableData(f"{config.split} has {len(split)} entries for {len(classes)} classes")
        declared = [
            ("train", "validation", "test")[int(r)] if isinstance(r, np.integer) else str(r) for r in split
        ]
    return _AllImages(images, labels.astype(np.int64), [str(each) for each in classes], declared, [])
