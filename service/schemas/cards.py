"""Bodies of replies to GET requests: model cards, limits, health."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from bmaml.learners import Learner, learner_from, policy_from
from model_store import Manifest
from model_store.class_target import ClassTarget, Label
from model_store.columns import Column, TargetKind
from model_store.conformal import Conformal


class TargetCard(BaseModel):
    """The values of an output, and of all answers about it."""

    kind: TargetKind = Field(description="real, positive, bounded or integer numbers")
    low: float | None = Field(description="the lowest value; positive numbers exclude it. Null: no bound")
    high: float | None = Field(description="the highest value. Null: no bound")
    step: float | None = Field(
        description="distance of neighbouring labels, over whose cells log densities are taken; null: none"
    )

    @classmethod
    def of(cls, column: Column) -> Self:
        """The card of an output."""
        if column.target is None:
            return cls(kind="real", low=None, high=None, step=None)
        return cls(**column.target.model_dump(exclude={"margin"}))


class ColumnCard(BaseModel):
    """One input or output: its name, its transform and its training range, in the caller's units."""

    name: str
    transform: str
    lower: float
    upper: float
    target: TargetCard | None = Field(default=None, description="null for inputs")

    @classmethod
    def of(cls, column: Column, output: bool) -> Self:
        """The card of an input or an output."""
        return cls(
            name=column.name,
            transform=column.transform,
            lower=column.lower,
            upper=column.upper,
            target=TargetCard.of(column) if output else None,
        )


class ImageCard(BaseModel):
    """The images that a model takes; images of other sizes and colours are converted."""

    channels: int = Field(description="1 for grey, 3 for RGB")
    size: int = Field(description="pixels along each side")
    drawing: bool = Field(description="whether images are ink on an even ground")
    crop: float | None = Field(
        None,
        description="part of the shorter side that the central square keeps; null where the whole image is "
        "squeezed to a square",
    )


class BackboneCard(BaseModel):
    """The pretrained network that embeds images for a model, and what is done to them before it."""

    name: str = Field(description="as it was named in training")
    digest: str = Field(description="sha256 of its file")
    size: int = Field(description="pixels along each side")
    crop: float | None = Field(description="part of the shorter side that the central square keeps")
    mean: list[float] = Field(description="of each channel in [0, 1], which is subtracted")
    std: list[float] = Field(description="of each channel, by which it is divided")
    features: int = Field(description="length of the vectors")
    bytes: int = Field(description="size of its file")


class ClassTargetCard(BaseModel):
    """The target of a classifier of tables."""

    name: str = Field(description="of the column")
    labels: list[Label] | None = Field(
        description="classes that mean the same in every task, in the order of the answers; null where every "
        "task has classes of its own"
    )
    ordered: bool = Field(description="whether the labels stand in an order, from lowest to highest")

    @classmethod
    def of(cls, target: ClassTarget | None) -> Self | None:
        """The card; None for numbers and for images."""
        if target is None:
            return None
        labels = None if target.labels is None else list(target.labels)
        return cls(name=target.name, labels=labels, ordered=target.ordered)


class ConformalGroupCard(BaseModel):
    """A group of query rows with thresholds of its own."""

    output: str
    support_rows: list[int] = Field(description="the fewest and the most")
    width_from: float = Field(description="std, in standard deviations of the output in training")
    width_below: float | None = Field(description="null: no bound")
    units: int = Field(description="validation units with rows in the group")
    max_level: float


class ConformalSummary(BaseModel):
    """The conformal intervals of a version."""

    tasks: int = Field(description="validation tasks that they are calibrated on")
    units: int = Field(
        description="exchangeable units: all of these tasks, or the groups that the split keeps together"
    )
    max_level: float = Field(description="the highest level that every request is answered at")

    @classmethod
    def of_calibration(cls, conformal: Conformal | None) -> Self | None:
        """The summary; None without calibration."""
        if conformal is None:
            return None
        return cls(tasks=conformal.tasks, units=conformal.units, max_level=conformal.max_level)


class ConformalCard(ConformalSummary):
    """The conformal intervals of a version, with its groups."""

    groups: list[ConformalGroupCard]

    @classmethod
    def of(cls, manifest: Manifest) -> Self | None:
        """The card; None without calibration."""
        if manifest.conformal is None:
            return None
        groups = []
        for column, of_output in zip(manifest.outputs, manifest.conformal.outputs, strict=True):
            width = 0.0
            for each in of_output:
                groups.append(
                    ConformalGroupCard(
                        output=column.name,
                        support_rows=list(each.support_rows),
                        width_from=width,
                        width_below=each.width_below,
                        units=each.units,
                        max_level=each.max_level,
                    )
                )
                width = each.width_below or 0.0
        conformal = manifest.conformal
        return cls(tasks=conformal.tasks, units=conformal.units, max_level=conformal.max_level, groups=groups)


class VersionCard(BaseModel):
    """The model card of one version."""

    name: str
    version: int
    sha256: str
    kind: str
    description: str
    inputs: list[ColumnCard]
    outputs: list[ColumnCard]
    image: ImageCard | None = Field(description="null for models of numbers")
    backbone: BackboneCard | None = Field(description="null where no pretrained network embeds the inputs")
    classes: int | None = Field(
        description="the classes of a request, at most; null for models that predict numbers"
    )
    target: ClassTargetCard | None = Field(description="of classifiers of tables; null for other models")
    learner: str
    particles: int
    steps: int
    training: dict[str, Any]
    seed: int
    code_version: str
    metrics: dict[str, float]
    conformal: ConformalCard | None = Field(description="null where it has no conformal intervals")

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """The card of the version that this manifest describes.

        Raises:
            InvalidLearner: the manifest describes no learner.
        """
        named = policy_from if manifest.kind == "policy" else learner_from
        learner: Learner[Any] = named(manifest.learner, manifest.settings)
        image = manifest.image
        inputs, outputs = (
            [ColumnCard.of(column, columns is manifest.outputs) for column in columns]
            for columns in (manifest.inputs, manifest.outputs)
        )
        return cls(
            name=manifest.name,
            version=manifest.version,
            sha256=manifest.sha256,
            kind=manifest.kind,
            description=manifest.description,
            inputs=inputs,
            outputs=outputs,
            image=None if image is None else ImageCard(**image.model_dump()),
            backbone=None if manifest.backbone is None else BackboneCard(**manifest.backbone.model_dump()),
            classes=manifest.classes,
            target=ClassTargetCard.of(manifest.target),
            learner=manifest.learner,
            particles=learner.particles,
            steps=learner.steps,
            training=manifest.training,
            seed=manifest.seed,
            code_version=manifest.code_version,
            metrics=manifest.metrics,
            conformal=ConformalCard.of(manifest),
        )


class ModelSummary(BaseModel):
    """A model and its versions, oldest first."""

    name: str
    kind: str
    learner: str
    description: str
    inputs: list[str]
    outputs: list[str]
    versions: list[int]
    target: ClassTargetCard | None = Field(
        description="of the newest version; null for models of numbers and of images"
    )
    conformal: ConformalSummary | None = Field(
        description="of the newest version; null where it has no conformal intervals"
    )


class Refused(BaseModel):
    """A version in the store that cannot be served, and why."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: int
    reason: str


class ModelList(BaseModel):
    """Every model that is served, and every version in the store that cannot be."""

    models: list[ModelSummary]
    refused: list[Refused]


class Limits(BaseModel):
    """Every bound the service enforces."""

    body_bytes: int = Field(description="bytes of a body, as sent and decompressed")
    header_bytes: int = Field(description="bytes of a request's line and headers")
    support_rows: int = Field(description="labelled rows of a request, those of its posterior included")
    query_rows: int = Field(description="rows of a query or a target")
    pool_rows: int = Field(description="rows of a pool")
    episode_steps: int = Field(
        description="steps of all episodes of a policy's task, those of its posterior included"
    )
    episodes: int = Field(description="episodes of one request")
    rounds: int = Field(description="rounds of episodes of one task")
    picture_pixels: int = Field(description="pixels of one image")
    request_pixels: int = Field(description="pixels of all images of a request")
    classes: int = Field(description="classes of a support set; a model may take fewer")
    particles: int = Field(description="particles of a version; those with more are not served")
    steps: int = Field(description="inner steps of adaptation")
    quantile_levels: int = Field(description="quantile levels of a prediction")
    batch_size: int = Field(description="rows of a batch to label")
    queue_work: int = Field(description="tasks × particles × rows × (steps + 1) that may wait")
    batch_work: int = Field(description="the same, of one fused batch")
    deadline_ms: int = Field(description="milliseconds that a request may wait, where it names none")
    longest_deadline_ms: int = Field(description="milliseconds, the longest that a request may name")
    ttl_s: int = Field(description="seconds, the longest that a posterior is kept")
    posterior_bytes: int = Field(
        description="bytes of all kept posteriors; the least recently used are dropped first"
    )
    acquisitions: dict[str, list[str]] = Field(description="by kind of model")
    default_acquisitions: dict[str, str] = Field(
        description="by kind of model: the acquisition of a request that names neither one nor a target"
    )
    strategies: dict[str, list[str]] = Field(description="by kind of model")


class Health(BaseModel):
    """The reply to a probe, where all is well."""

    status: Literal["ok"]
