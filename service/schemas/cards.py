"""What the GET routes tell: models, limits, health."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from bmaml.learners import learner_from
from model_store import Manifest


class ColumnCard(BaseModel):
    """One input or output: its name, its scale, and what training saw, in the caller's units."""

    name: str
    transform: str
    lower: float
    upper: float


class ImageCard(BaseModel):
    """The pictures a model takes."""

    channels: int
    size: int
    drawing: bool


class VersionCard(BaseModel):
    """The model card of one version."""

    name: str
    version: int
    sha256: str
    kind: str
    description: str
    inputs: list[ColumnCard]
    outputs: list[ColumnCard]
    image: ImageCard | None = Field(description="what pictures are made into, where x is one")
    classes: int | None = Field(description="the most classes of a request, where y is one")
    learner: str
    particles: int
    steps: int
    training: dict[str, Any]
    seed: int
    code_version: str
    metrics: dict[str, float]

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """The card of the version that this is the manifest of.

        Raises:
            InvalidLearner: the manifest describes none.
        """
        learner, image = learner_from(manifest.learner, manifest.settings), manifest.image
        inputs, outputs = (
            [ColumnCard(name=c.name, transform=c.transform, lower=c.lower, upper=c.upper) for c in columns]
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
            classes=manifest.classes,
            learner=manifest.learner,
            particles=learner.particles,
            steps=learner.steps,
            training=manifest.training,
            seed=manifest.seed,
            code_version=manifest.code_version,
            metrics=manifest.metrics,
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


class Refused(BaseModel):
    """A version in the store that cannot be served, and why."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: int
    reason: str


class ModelList(BaseModel):
    """Everything that can be asked for by name, and what had to be refused."""

    models: list[ModelSummary]
    refused: list[Refused]


class Limits(BaseModel):
    """Every bound the service enforces."""

    body_bytes: int = Field(description="as sent and unpacked")
    header_bytes: int
    support_rows: int
    query_rows: int
    pool_rows: int
    picture_pixels: int
    request_pixels: int = Field(description="of all pictures of a request")
    classes: int = Field(description="of one support set; a model may take fewer")
    particles: int = Field(description="of a version; those with more are not served")
    steps: int
    quantile_levels: int
    batch_size: int
    queue_work: int
    batch_work: int
    deadline_ms: int = Field(description="where a request names none")
    longest_deadline_ms: int
    ttl_s: int = Field(description="the longest that a posterior is kept")
    posterior_bytes: int = Field(description="of all kept posteriors; the least recently used go first")
    acquisitions: dict[str, list[str]] = Field(description="by kind of model")
    strategies: dict[str, list[str]]


class Health(BaseModel):
    """What a probe learns."""

    status: Literal["ok"]
