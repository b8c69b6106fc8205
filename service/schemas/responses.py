"""What requests are answered with, in JSON."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

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
