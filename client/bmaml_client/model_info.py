"""Descriptions of the service's models and of its limits."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Target:
    """The values of an output, and of all answers about it.

    Attributes:
        kind: "real", "positive", "bounded" or "integer".
        low, high: the lowest and the highest value; positive numbers exclude the lowest. None is no bound.
        step: distance of neighbouring labels, over whose cells log densities are taken; None where they
            have none.
    """

    kind: str
    low: float | None = None
    high: float | None = None
    step: float | None = None


@dataclass(frozen=True)
class Column:
    """An input or output: name, transform, and the range of training in the caller's units.

    Attributes:
        target: the values of an output; None for an input.
    """

    name: str
    transform: str
    lower: float
    upper: float
    target: Target | None = None


@dataclass(frozen=True)
class ImageInput:
    """The images that a model takes: channels, pixels along a side, and whether they are drawings.

    Attributes:
        crop: part of the shorter side that the central square keeps; None squeezes the whole image.
    """

    channels: int
    size: int
    drawing: bool
    crop: float | None = None


@dataclass(frozen=True)
class ClassTarget:
    """The target of a classifier of tables.

    Attributes:
        name: of the column.
        labels: classes that mean the same in every task, in the order of the answers; None where every task
            has classes of its own.
        ordered: whether the labels stand in an order, from lowest to highest.
    """

    name: str
    labels: tuple[Any, ...] | None
    ordered: bool


@dataclass(frozen=True)
class ConformalSummary:
    """The conformal intervals of a version.

    Attributes:
        tasks: validation tasks that they are calibrated on.
        units: exchangeable units among them: the tasks, or groups of tasks that the split keeps together.
        max_level: the highest level that every request is answered at.
    """

    tasks: int
    units: int
    max_level: float


@dataclass(frozen=True)
class ConformalGroup:
    """A group of query rows with thresholds of its own.

    Attributes:
        support_rows: the fewest and the most.
        width_from, width_below: std, in standard deviations of the output in training; None is no bound.
        units: validation units with rows in the group.
    """

    output: str
    support_rows: tuple[int, ...]
    width_from: float
    width_below: float | None
    units: int
    max_level: float


@dataclass(frozen=True)
class ConformalCard(ConformalSummary):
    """The conformal intervals of a version, with its groups."""

    groups: tuple[ConformalGroup, ...]


@dataclass(frozen=True)
class ModelSummary:
    """A model by name, with its versions, oldest first.

    Attributes:
        conformal: of the newest version; None where it has no conformal intervals.
        target: of the newest version; None for models of numbers and of images.
    """

    name: str
    kind: str
    learner: str
    description: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    versions: tuple[int, ...]
    conformal: ConformalSummary | None = None
    target: ClassTarget | None = None


@dataclass(frozen=True)
class RefusedVersion:
    """A version in the store that the service cannot serve, and the reason."""

    name: str
    version: int
    reason: str


@dataclass(frozen=True)
class ModelList:
    """The models that the service serves, and the versions that it refuses."""

    models: tuple[ModelSummary, ...]
    refused: tuple[RefusedVersion, ...]


@dataclass(frozen=True)
class VersionCard:
    """The model card of one version.

    Attributes:
        conformal: None where it has no conformal intervals.
        target: None for models of numbers and of images.
    """

    name: str
    version: int
    sha256: str
    kind: str
    description: str
    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...]
    image: ImageInput | None
    classes: int | None
    learner: str
    particles: int
    steps: int
    training: dict[str, Any]
    seed: int
    code_version: str
    metrics: dict[str, float]
    conformal: ConformalCard | None = None
    target: ClassTarget | None = None


@dataclass(frozen=True)
class Limits:
    """The limits that the service enforces; acquisitions, their defaults and strategies by kind of model."""

    body_bytes: int
    header_bytes: int
    support_rows: int
    query_rows: int
    pool_rows: int
    picture_pixels: int
    request_pixels: int
    classes: int
    particles: int
    steps: int
    quantile_levels: int
    batch_size: int
    queue_work: int
    batch_work: int
    deadline_ms: int
    longest_deadline_ms: int
    ttl_s: int
    posterior_bytes: int
    acquisitions: dict[str, list[str]]
    strategies: dict[str, list[str]]
    episode_steps: int | None = None
    episodes: int | None = None
    rounds: int | None = None
    default_acquisitions: dict[str, str] = field(default_factory=dict)
