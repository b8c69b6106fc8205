"""Few-shot episodes of images that training did not see, as they are and changed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.accuracy.number_tasks import FAMILY
from model_store import Model
from training.config import ImagesConfig
from training.families.class_index import ClassIndex
from training.families.image_files import LabelledImages, read_images

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
WAYS = 5
SHOTS = (1, 5)
QUERIES = 3
"""Query images of each class."""


@dataclass(frozen=True)
class ClassTask:
    """One task.

    Attributes:
        support, query: images, as the service takes them.
        labels, truth: their classes; no truth where the query rows are of none of the classes.
    """

    support: Pixels
    labels: Labels
    query: Pixels
    truth: Labels | None


@dataclass(frozen=True)
class Episode:
    """The images from which a task and its shifts are made, `[way, image, …]` each.

    Attributes:
        own: of the task's classes; the first `shots` of each are support rows.
        foreign: of other classes of the same data.
        elsewhere: of classes of other data, if there are any.
    """

    shots: int
    own: Pixels
    foreign: Pixels
    elsewhere: Pixels | None

    @property
    def task(self) -> ClassTask:
        """The task as training knows it."""
        return self.of(self.own)

    def of(self, images: Pixels) -> ClassTask:
        """The task of classifying these images."""
        shown, asked = images[:, : self.shots], images[:, self.shots :]
        return ClassTask(_flat(shown), _labels(shown), _flat(asked), _labels(asked))

    def asked_about(self, query: Pixels) -> ClassTask:
        """The task, with query images of none of its classes."""
        return replace(self.task, query=_flat(query), truth=None)


def _flat(images: Pixels) -> Pixels:
    return images.reshape(-1, *images.shape[2:])


def _labels(images: Pixels) -> Labels:
    """The class of each image, class by class."""
    return np.repeat(np.arange(len(images)), images.shape[1])


ClassShift = Callable[[Episode, np.random.Generator], ClassTask]


def _noise(like: Pixels, random: np.random.Generator) -> Pixels:
    return random.integers(0, 256, like.shape).astype(np.uint8)


def _mislabelled(episode: Episode, _: np.random.Generator) -> ClassTask:
    """One row each of the first two classes with the other's label."""
    labels = episode.task.labels.copy()
    first, second = 0, episode.shots
    labels[first], labels[second] = labels[second], labels[first]
    return replace(episode.task, labels=labels)


def _contradicting(episode: Episode, _: np.random.Generator) -> ClassTask:
    """The first class's support rows once more, as the second class."""
    task, again = episode.task, slice(episode.shots)
    labels = np.concatenate([task.labels, np.ones_like(task.labels[again])])
    return replace(task, support=np.concatenate([task.support, task.support[again]]), labels=labels)


def _duplicated(episode: Episode, _: np.random.Generator) -> ClassTask:
    task = episode.task
    return replace(
        task,
        support=np.tile(task.support, (2, *[1] * (task.support.ndim - 1))),
        labels=np.tile(task.labels, 2),
    )


def _one_class(episode: Episode, _: np.random.Generator) -> ClassTask:
    task, own = episode.asked_about(episode.foreign), slice(episode.shots)
    return replace(task, support=task.support[own], labels=task.labels[own])


def _dark(episode: Episode, _: np.random.Generator) -> ClassTask:
    task = episode.task
    return replace(task, support=task.support // 4, query=task.query // 4)


def _of_other_data(episode: Episode, _: np.random.Generator) -> ClassTask:
    assert episode.elsewhere is not None
    return episode.of(episode.elsewhere)


CLASS_SHIFTS: Mapping[str, ClassShift] = {
    FAMILY: lambda episode, _: episode.task,
    "two support rows mislabelled": _mislabelled,
    "the first class's rows also as the second's": _contradicting,
    "each row twice": _duplicated,
    "pixels ÷ 4": _dark,
    "noise images": lambda episode, random: episode.of(_noise(episode.own, random)),
    "queries of foreign classes": lambda episode, _: episode.asked_about(episode.foreign),
    "queries of noise": lambda episode, random: episode.asked_about(_noise(episode.foreign, random)),
    "one class, queries of others": _one_class,
}
OTHER_DATA_SHIFTS: Mapping[str, ClassShift] = {
    "classes of other data": _of_other_data,
    "queries of other data": lambda episode, _: episode.asked_about(
        np.asarray(episode.elsewhere)[:, episode.shots :]
    ),
}
"""Shifts that need images of other data."""


def unseen_images(model: Model, path: Path) -> LabelledImages:
    """The images of a file as the model's training reads them; the roles are those of its split."""
    config = ImagesConfig.from_manifest(model.manifest.training["family"], str(path))
    return read_images(config, model.manifest.seed)


def other_images(model: Model, path: Path) -> LabelledImages:
    """The images of a file that training did not read, at the model's size and with its channels."""
    config = ImagesConfig.from_manifest(model.manifest.training["family"], str(path))
    return read_images(replace(config, split=None), model.manifest.seed)


def episodes(
    images: LabelledImages, other: LabelledImages | None, count: int, shots: int
) -> Iterator[Episode]:
    """Random episodes of test classes, or of validation classes where the data names no test."""
    role = "test" if "test" in images.roles else "validation"
    chosen = np.flatnonzero(images.roles == role)
    mine = np.isin(images.labels, chosen)
    pixels, labels = images.pixels[mine], np.searchsorted(chosen, images.labels[mine])
    own = _draw(labels, count, 2 * WAYS, shots)
    elsewhere = None if other is None else _draw(other.labels, count, WAYS, shots)
    for index in range(count):
        yield Episode(
            shots,
            pixels[own[index, :WAYS]],
            pixels[own[index, WAYS:, shots:]],
            None if other is None or elsewhere is None else other.pixels[elsewhere[index]],
        )


def _draw(labels: Labels, count: int, ways: int, shots: int) -> NDArray[np.int64]:
    """Positions of random images, `[task, way, image]`."""
    generator = torch.Generator().manual_seed(shots)
    drawn = ClassIndex(torch.from_numpy(labels)).draw(count, ways, shots, QUERIES, generator)
    positions: NDArray[np.int64] = drawn.images.numpy()
    return positions
