"""Images from a folder per class, a zip of such folders, or an npz.

Classes are the folders that hold images, at any depth (alphabets of characters, for example). With
`split="folder"` the topmost folder names the role of all classes under it. An npz holds `images` and a
label for each (`labels` or `label`); there `split` names an array with one role per class. Files and
classes that cannot be used are left out and counted.
"""

import csv
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_store.images import ImageInput, Pixels, UnreadableImage, decoded_image
from training.config import ImagesConfig
from training.errors import UnusableData
from training.families.splits import ROLES, roles_of_classes

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpeg", ".jpg", ".png", ".webp"}
)
OMNIGLOT_ROLES = {"images_background": "train", "images_evaluation": "test"}
"""The roles of Omniglot's two folders."""
NUMBERED = ("train", "validation", "test")
"""The roles that numbers stand for."""
MAX_BROKEN_SHARE = 0.1
"""Files that cannot be read, as a share of all: with more of them, the collection is refused."""
MAX_NAMED = 5
"""Unreadable files that a note names, and reasons that it gives."""


Rows = Callable[[Iterator[Pixels], int], NDArray[Any]]
"""Makes rows of images, which come one by one and are so many or fewer: the pixels, or their features."""


@dataclass(frozen=True)
class LabelledImages:
    """Usable images with their classes.

    Attributes:
        pixels: every image at the model's size, or its features.
        labels: the class of each image, 0 …
        names, roles: one per class; a role is "train", "validation" or "test".
        notes: sentences that count what was left out.
    """

    pixels: NDArray[Any]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    roles: NDArray[np.str_]
    notes: tuple[str, ...]

    @property
    def summary(self) -> tuple[str, ...]:
        """The counts of what was found and of what was left out, in sentences."""
        per_role = ", ".join(f"{int((self.roles == role).sum())} {role}" for role in np.unique(self.roles))
        return (f"{len(self.labels)} images of {len(self.names)} classes ({per_role})", *self.notes)

    def of_role(self, role: str) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """A mask `[image]` of the images of a role's classes, and the classes of these, 0 …"""
        chosen = np.flatnonzero(self.roles == role)
        mine = np.isin(self.labels, chosen)
        return mine, np.searchsorted(chosen, self.labels[mine])


@dataclass(frozen=True)
class _AllImages:
    """Images by class before small classes are left out; `declared` are the roles that the data names."""

    pixels: NDArray[Any]
    labels: NDArray[np.int64]
    names: list[str]
    declared: list[str] | None
    notes: list[str]


def stacked(images: Iterator[Pixels], count: int) -> Pixels:
    """The images themselves."""
    del count
    return np.stack(list(images))


def read_images(config: ImagesConfig, seed: int, rows: Rows = stacked) -> LabelledImages:
    """The usable images that `config` describes.

    Args:
        rows: makes rows of them while they are read, which then need not be held.

    Raises:
        UnusableData: no such path, no readable image, too many broken ones, too few classes, or, with
            `strict`, anything that would be left out.
    """
    path = Path(config.path)
    if not path.exists():
        raise UnusableData(f"there is no file or folder {path}")
    image = config.image
    reader = _from_arrays if path.suffix == ".npz" else _from_files
    found = reader(path, config, image, rows)
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


def _from_files(path: Path, config: ImagesConfig, image: ImageInput, rows: Rows) -> _AllImages:
    files = _ImageFiles(path)
    classes: list[PurePosixPath] = []
    broken: dict[PurePosixPath, str] = {}
    animated = 0

    def decoded() -> Iterator[Pixels]:
        nonlocal animated
        for name in files.names:
            try:
                found = decoded_image(files.read(name), image)
            except UnreadableImage as error:
                broken[name] = str(error)
                if len(broken) > MAX_BROKEN_SHARE * len(files.names):
                    raise UnusableData(
                        f"too many files of {path} are no images that can be used: {_broken(broken, files)}"
                    ) from None
                continue
            classes.append(name.parent)
            animated += found.animated
            yield found.pixels

    if not files.names:
        raise UnusableData(f"{path} holds no readable image in a folder per class")
    _check_classes_once(path, files.names)
    with files:
        pixels = rows(decoded(), len(files.names))
    folders = sorted(set(classes))
    labels = np.array([folders.index(each) for each in classes], dtype=np.int64)
    names = [str(folder) for folder in folders]
    notes = [f"left out {_broken(broken, files)}"] if broken else []
    if animated:
        notes.append(f"took the first frame of {animated} animated files")
    declared = None
    if config.split == "folder":
        declared = [OMNIGLOT_ROLES.get(folder.parts[0], folder.parts[0]) for folder in folders]
    elif config.split is not None:
        declared = _roles_from_csv(Path(config.split), names)
    return _AllImages(pixels, labels, names, declared, notes)


def _check_classes_once(path: Path, names: Sequence[PurePosixPath]) -> None:
    """Check that no class lies under two roles, as in a data set that is split for one set of classes.

    Raises:
        UnusableData: one does.
    """
    role_of: dict[tuple[str, ...], str] = {}
    for folder in sorted({name.parent for name in names}):
        top, *rest = folder.parts
        if not rest or OMNIGLOT_ROLES.get(top, top).lower() not in ROLES:
            continue
        if (other := role_of.setdefault(tuple(rest), top)) != top:
            raise UnusableData(
                f"the class {'/'.join(rest)!r} of {path} lies under both {other!r} and {top!r}: tasks are of "
                "new classes, so put all images of a class into one folder, and each class under one role"
            )


def _broken(broken: Mapping[PurePosixPath, str], files: "_ImageFiles") -> str:
    """The number of files that cannot be read, some of their names, and the reasons."""
    names = ", ".join(str(name) for name in list(broken)[:MAX_NAMED])
    more = f" and {len(broken) - MAX_NAMED} more" if len(broken) > MAX_NAMED else ""
    reasons = "; ".join(list(dict.fromkeys(broken.values()))[:MAX_NAMED])
    return f"{len(broken)} of {len(files.names)} files ({names}{more}): {reasons}"


class _ImageFiles:
    """The image files below a folder or in a zip, in order, without hidden ones; a context.

    Raises:
        UnusableData: neither a folder nor a zip.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._archive = path, None
        if path.is_dir():
            found = (PurePosixPath(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
            self.names = self._wanted(found)
            return
        try:
            self._archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile:
            raise UnusableData(f"{path} is neither a folder, nor a zip, nor an npz") from None
        self.names = self._wanted(map(PurePosixPath, self._archive.namelist()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._archive is not None:
            self._archive.close()

    def read(self, name: PurePosixPath) -> bytes:
        """The content of a file; none where it cannot be read."""
        try:
            return (
                (self._path / name).read_bytes() if self._archive is None else self._archive.read(str(name))
            )
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError):
            return b""

    @staticmethod
    def _wanted(names: Iterable[PurePosixPath]) -> list[PurePosixPath]:
        shown = (name for name in names if not any(part.startswith((".", "__")) for part in name.parts))
        return sorted(name for name in shown if name.suffix.lower() in IMAGE_SUFFIXES and len(name.parts) > 1)


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


def _from_arrays(path: Path, config: ImagesConfig, image: ImageInput, rows: Rows) -> _AllImages:
    try:
        arrays = np.load(path, allow_pickle=False)
        key = "labels" if "labels" in arrays else "label"
        images, labels = arrays["images"], arrays[key]
        split = None if config.split is None else arrays[config.split]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UnusableData(f"{path} needs arrays images, labels and the split's: {error}") from None
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    grey = images.ndim == 3
    if images.dtype != np.uint8 or not (grey or (images.ndim == 4 and images.shape[-1] == 3)):
        raise UnusableData(
            f"{path}: images are uint8 [image, row, column], or [image, row, column, 3] in colour; found "
            f"{images.dtype} {list(images.shape)}"
        )
    if labels.size != len(images):
        raise UnusableData(
            f"{path}: every image has one label; found {len(images)} images and labels {list(labels.shape)}"
        )
    labels = labels.reshape(-1)
    classes, labels = np.unique(labels, return_inverse=True)
    if images.shape[1:] == image.shape and image.crop is None:
        pixels = rows(iter(images), len(images))
    else:
        pixels = rows((image.resize(Image.fromarray(each)) for each in images), len(images))
    declared = None
    if split is not None:
        if len(split) != len(classes):
            raise UnusableData(f"{config.split} has {len(split)} entries for {len(classes)} classes")
        if np.issubdtype(split.dtype, np.integer):
            if wrong := sorted(set(split.tolist()) - set(range(len(NUMBERED)))):
                raise UnusableData(
                    f"{config.split} of {path} says {wrong[0]}; it may say 0 (train), 1 (validation) and 2 "
                    "(test), or these words"
                )
            split = np.array(NUMBERED)[split]
        declared = [str(role) for role in split]
    return _AllImages(pixels, labels.astype(np.int64), [str(each) for each in classes], declared, [])
