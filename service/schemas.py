"""What is posted and what it is answered with, in JSON; `cards.py` has what GET routes tell."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bmaml.learners import MAX_STEPS
from service.wire import Labels, X

MAX_LEVELS, MAX_BATCH, MAX_TTL_S = 100, 1000, 86_400
"""Quantile levels of one prediction; rows of one batch to label; seconds that a posterior may be kept."""

Identifier = Annotated[str, Field(strict=True, max_length=200)] | Annotated[int, Field(strict=True)]
Name = Annotated[str, Field(strict=True, max_length=200)]
Level = Annotated[float, Field(strict=True, gt=0, lt=1, allow_inf_nan=False)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Support(_Request):
    """What the task shows. Both lists may be empty: the answer then comes from the prior."""

    x: X = Field(description="rows × features, in the caller's units; or pictures")
    y: Labels = Field(
        description="one number per row (rows × outputs for models with several outputs); "
        "for classification one string or integer per row"
    )


class Query(_Request):
    """Rows to predict."""

    x: X


class Pool(_Request):
    """Unlabelled rows to choose from, with the caller's names for them."""

    x: X
    ids: list[Identifier] | None = Field(default=None, description="unique; by default the row's index")


class Adapt(_Request):
    """How to adapt: inner steps (null: as trained) and the seed of learners that draw."""

    steps: Annotated[int, Field(strict=True, ge=0, le=MAX_STEPS)] | None = None
    seed: Seed = 0


class Keep(_Request):
    """Keep what adaptation gave, to be asked again under the id in the answer."""

    ttl_s: Annotated[float, Field(strict=True, gt=0, le=MAX_TTL_S, allow_inf_nan=False)] = 600.0


class _Adapting(_Request):
    model: Name
    version: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        default=None, description="null: the newest"
    )
    support: Support | None = Field(
        default=None, description="with a posterior: rows to be added to those it has seen"
    )
    posterior: Annotated[str, Field(strict=True, max_length=200)] | None = Field(
        default=None, description="the id of a kept posterior"
    )
    adapt: Adapt = Adapt()
    keep: Keep | None = Field(default=None, description="null: forget the posterior after the answer")
    deadline_ms: Annotated[int, Field(strict=True, ge=1, le=600_000)] | None = Field(
        default=None, description="how long the request may wait for the device"
    )


class PosteriorRequest(_Adapting):
    """Adapt a model to the support set and keep what comes of it, without asking anything yet."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "sinusoid",
                    "support": {"x": [[-2.0], [0.5], [3.1]], "y": [0.9, -1.1, 0.4]},
                    "keep": {"ttl_s": 600},
                }
            ]
        }
    )

    keep: Keep = Keep()


class AdaptPredictRequest(_Adapting):
    """Adapt a model to the support set, then predict the query rows."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "sinusoid",
                    "support": {"x": [[-2.0], [0.5], [3.1]], "y": [0.9, -1.1, 0.4]},
                    "query": {"x": [[0.0], [1.0]]},
                    "quantiles": [0.05, 0.5, 0.95],
                    "interval": 0.9,
                }
            ]
        }
    )

    query: Query
    quantiles: list[Level] = Field(default=[], max_length=MAX_LEVELS)
    interval: Level = 0.9
    particles: bool = Field(default=False, strict=True, description="also answer each particle's moments")


class BatchChoice(_Request):
    """How many rows to choose, and how to keep them from saying the same thing."""

    size: Annotated[int, Field(strict=True, ge=1, le=MAX_BATCH)] = 1
    strategy: Name = "auto"
    seed: Seed = 0


class UncertaintyRequest(_Adapting):
    """Adapt a model to the support set, then say which pool rows to label next."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "sinusoid",
                    "support": {"x": [[-2.0], [0.5]], "y": [0.9, -1.1]},
                    "pool": {"ids": ["a", "b", "c"], "x": [[0.1], [3.0], [4.5]]},
                    "target": {"x": [[0.0], [1.0]]},
                    "acquisition": "epig",
                    "batch": {"size": 2},
                    "exclude": ["b"],
                }
            ]
        }
    )

    pool: Pool
    target: Query | None = None
    acquisition: Name | None = Field(
        default=None, description="null: epig with a target, else epistemic_variance"
    )
    batch: BatchChoice = BatchChoice()
    exclude: list[Identifier] = Field(default=[], description="ids that must not be chosen")


# Parts that the examples of both answers share.
_MODEL: dict[str, Any] = {"name": "sinusoid", "version": 1, "sha256": "9f2c…", "learner": "collapsed"}
_POSTERIOR: dict[str, Any] = {
    "id": "post_6c1f…",
    "rows": 3,
    "expires_at": "2026-01-01T12:00:00Z",
    "cache": "miss",
}
_DIAGNOSTICS: dict[str, Any] = {
    "particles": 16,
    "effective_particles": 3.2,
    "steps": 0,
    "support_nll": {"before": 2.1, "after": -1.9},
    "warnings": [],
}
_TIMING: dict[str, Any] = {
    "decode": 0.2,
    "queue": 0.1,
    "embed": 0.0,
    "adapt": 0.9,
    "predict": 0.8,
    "total": 2.2,
    "batched_tasks": 1,
}


class ModelRef(BaseModel):
    """Which version answered."""

    name: str
    version: int
    sha256: str = Field(description="of the version's manifest")
    learner: str


class PosteriorRef(BaseModel):
    """Where the adapted particles are kept, and whether they were there before (`hit`)."""

    id: str
    rows: int = Field(description="labelled rows it has seen")
    expires_at: datetime
    cache: Literal["hit", "miss"]


class PosteriorCard(BaseModel):
    """A kept posterior."""

    id: str
    model: ModelRef
    rows: int
    steps: int
    classes: list[str | int] | None = Field(description="that its rows have, where they have any")
    bytes: int
    expires_at: datetime


class Variance(BaseModel):
    """Total is aleatoric plus epistemic."""

    total: list[Any]
    aleatoric: list[Any]
    epistemic: list[Any]


class Quantiles(BaseModel):
    """values[i][row] is the quantile at levels[i]."""

    levels: list[float]
    values: list[list[Any]]


class Interval(BaseModel):
    """The central interval that holds `level` of the probability."""

    level: float
    lower: list[Any]
    upper: list[Any]


class ParticleMoments(BaseModel):
    """Each particle's own prediction: mean[particle][row], std with its noise, weight[particle]."""

    mean: list[list[Any]]
    std: list[list[Any]]
    weight: list[float]


class Prediction(BaseModel):
    """One entry per query row; for models with several outputs each entry is a list."""

    mean: list[Any]
    std: list[Any]
    variance: Variance
    quantiles: Quantiles
    interval: Interval
    particles: ParticleMoments | None


class Entropy(BaseModel):
    """In nats, per query row: total is expected (aleatoric) plus mutual information (epistemic)."""

    total: list[float]
    expected: list[float]
    mutual_information: list[float]


class ParticleProbabilities(BaseModel):
    """Each particle's own answer: probabilities[particle][row][class], weight[particle]."""

    probabilities: list[list[list[float]]]
    weight: list[float]


class ClassPrediction(BaseModel):
    """One entry per query row; the classes are those of the support set, as they were sent."""

    classes: list[str | int]
    probabilities: list[list[float]] = Field(description="rows × classes")
    label: list[str | int] = Field(description="the most probable class")
    entropy: Entropy
    margin: list[float] = Field(description="the most probable class's lead over the next")
    variation_ratio: list[float] = Field(description="the weight of particles that name another class")
    particles: ParticleProbabilities | None


class SupportNll(BaseModel):
    """NLL of the support labels in nats per value, before and after adaptation."""

    before: float
    after: float


class Diagnostics(BaseModel):
    """How the answer came about."""

    particles: int
    effective_particles: float = Field(description="1 / Σ weight²")
    steps: int
    support_nll: SupportNll | None = Field(description="null without support rows")
    warnings: list[str]


class Timing(BaseModel):
    """Milliseconds from acceptance to answer; from embed to predict they are those of the whole fused batch.

    `decode` is the time from bytes to arrays, `embed` from pictures to features.
    """

    decode: float
    queue: float
    embed: float
    adapt: float
    predict: float
    total: float
    batched_tasks: int


class AdaptPredictResponse(BaseModel):
    """The ensemble's belief about the query rows, in the caller's units."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "request_id": "5f0c",
                    "model": _MODEL,
                    "posterior": _POSTERIOR,
                    "prediction": {
                        "mean": [0.1, -1.4],
                        "std": [0.3, 0.2],
                        "variance": {
                            "total": [0.09, 0.04],
                            "aleatoric": [0.01, 0.01],
                            "epistemic": [0.08, 0.03],
                        },
                        "quantiles": {"levels": [0.5], "values": [[0.11, -1.41]]},
                        "interval": {"level": 0.9, "lower": [-0.4, -1.7], "upper": [0.6, -1.1]},
                        "particles": None,
                    },
                    "diagnostics": _DIAGNOSTICS,
                    "timing_ms": _TIMING,
                }
            ]
        }
    )

    request_id: str
    model: ModelRef
    posterior: PosteriorRef | None = Field(description="null unless it is kept")
    prediction: Prediction | ClassPrediction
    diagnostics: Diagnostics
    timing_ms: Timing


class Selected(BaseModel):
    """A row to label; `gain` is what it adds to those chosen before it, in nats where joint."""

    rank: int
    id: str | int
    index: int
    score: float
    gain: float
    total: float
    aleatoric: float
    epistemic: float


class BatchReport(BaseModel):
    """How the batch was chosen.

    A set of M bare particles can tell at most M − 1 rows apart, and inform about classes by at most
    log M nats (`ceiling`); from `saturated_at` picks on the rest are chosen for diversity alone.
    """

    strategies_used: list[str]
    saturated_at: int | None
    ceiling: float | None


class UncertaintyResponse(BaseModel):
    """What to label next.

    `total`, `aleatoric` and `epistemic` are variances summed over outputs; entropies for classes.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "request_id": "5f0c",
                    "model": _MODEL,
                    "posterior": None,
                    "acquisition": "epig",
                    "direction": "higher_is_more_informative",
                    "units": "nats",
                    "selected": [
                        {
                            "rank": 1,
                            "id": "c",
                            "index": 2,
                            "score": 0.42,
                            "gain": 0.42,
                            "total": 3.1,
                            "aleatoric": 0.1,
                            "epistemic": 3.0,
                        }
                    ],
                    "scores": [0.1, 0.3, 0.42],
                    "batch": {"strategies_used": ["top_k"], "saturated_at": None, "ceiling": None},
                    "diagnostics": _DIAGNOSTICS,
                    "timing_ms": _TIMING,
                }
            ]
        }
    )

    request_id: str
    model: ModelRef
    posterior: PosteriorRef | None
    acquisition: str
    direction: Literal["higher_is_more_informative"] = "higher_is_more_informative"
    units: str
    selected: list[Selected]
    scores: list[float]
    batch: BatchReport
    diagnostics: Diagnostics
    timing_ms: Timing


class PosteriorResponse(BaseModel):
    """Where the adapted particles are kept."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "request_id": "5f0c",
                    "model": _MODEL,
                    "posterior": _POSTERIOR,
                    "diagnostics": _DIAGNOSTICS,
                    "timing_ms": _TIMING,
                }
            ]
        }
    )

    request_id: str
    model: ModelRef
    posterior: PosteriorRef
    diagnostics: Diagnostics
    timing_ms: Timing
