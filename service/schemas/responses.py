"""The answers to POST requests, described once: computed, encoded and published as these dataclasses.

`orjson` writes them as they are, the arrays included, and OpenAPI is made from the same fields.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, GetPydanticSchema

Values = Annotated[NDArray[np.float32], GetPydanticSchema(lambda _, handler: handler(list[Any]))]
"""One entry per row: a number, or a list with one number per output."""
Numbers = Annotated[NDArray[np.float32], GetPydanticSchema(lambda _, handler: handler(list[float]))]
ValueRows = Annotated[NDArray[np.float32], GetPydanticSchema(lambda _, handler: handler(list[list[Any]]))]
NumberRows = Annotated[NDArray[np.float32], GetPydanticSchema(lambda _, handler: handler(list[list[float]]))]
NumberTables = Annotated[
    NDArray[np.float32], GetPydanticSchema(lambda _, handler: handler(list[list[list[float]]]))
]

# Parts that the examples of the answers share.
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


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The version that answered."""

    name: str
    version: int
    sha256: Annotated[str, Field(description="of the version's manifest")]
    learner: str


@dataclass(frozen=True, slots=True)
class PosteriorRef:
    """The kept posterior, and whether it was there before the request (`hit`)."""

    id: str
    rows: Annotated[int, Field(description="labelled rows it was adapted to")]
    expires_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    cache: Literal["hit", "miss"]


@dataclass(frozen=True, slots=True)
class PosteriorCard:
    """A kept posterior."""

    id: str
    model: ModelRef
    rows: int
    steps: int
    classes: Annotated[list[str | int] | None, Field(description="of its rows, where labels are classes")]
    bytes: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Variance:
    """Total is aleatoric plus epistemic."""

    total: Values
    aleatoric: Values
    epistemic: Values


@dataclass(frozen=True, slots=True)
class Quantiles:
    """values[i][row] is the quantile at levels[i]."""

    levels: list[float]
    values: ValueRows


@dataclass(frozen=True, slots=True)
class Interval:
    """The central interval that holds `level` of the probability."""

    level: float
    lower: Values
    upper: Values


@dataclass(frozen=True, slots=True)
class ParticleMoments:
    """Each particle's own prediction: mean[particle][row], std with its noise, weight[particle]."""

    mean: ValueRows
    std: ValueRows
    weight: Numbers


@dataclass(frozen=True, slots=True)
class Prediction:
    """One entry per query row; for models with several outputs each entry is a list."""

    mean: Values
    std: Values
    variance: Variance
    quantiles: Quantiles
    interval: Interval
    particles: ParticleMoments | None


@dataclass(frozen=True, slots=True)
class Entropy:
    """In nats, per query row: total is expected (aleatoric) plus mutual information (epistemic)."""

    total: Numbers
    expected: Numbers
    mutual_information: Numbers


@dataclass(frozen=True, slots=True)
class ParticleProbabilities:
    """Each particle's own answer: probabilities[particle][row][class], weight[particle]."""

    probabilities: NumberTables
    weight: Numbers


@dataclass(frozen=True, slots=True)
class ClassPrediction:
    """One entry per query row; the classes are those of the support set, as they were sent."""

    classes: list[str | int]
    probabilities: Annotated[NumberRows, Field(description="rows × classes")]
    label: Annotated[list[str | int], Field(description="the most probable class")]
    entropy: Entropy
    margin: Annotated[Numbers, Field(description="the most probable class's lead over the next")]
    variation_ratio: Annotated[Numbers, Field(description="the weight of particles that name another class")]
    particles: ParticleProbabilities | None


@dataclass(frozen=True, slots=True)
class SupportNll:
    """NLL of the support labels in nats per value, before and after adaptation."""

    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """How the answer came about."""

    particles: int
    effective_particles: Annotated[float, Field(description="1 / Σ weight²")]
    steps: int
    support_nll: Annotated[SupportNll | None, Field(description="null without support rows")]
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds from acceptance to answer; from embed to predict they are those of the whole fused batch.

    `decode` is the time from bytes to arrays, `embed` from images to features.
    """

    decode: float
    queue: float
    embed: float
    adapt: float
    predict: float
    total: float
    batched_tasks: int


@dataclass(frozen=True)
class PosteriorResponse:
    """The kept posterior, with what every answer carries."""

    __pydantic_config__: ClassVar = ConfigDict(
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


@dataclass(frozen=True)
class AdaptPredictResponse:
    """The ensemble's belief about the query rows, in the caller's units."""

    __pydantic_config__: ClassVar = ConfigDict(
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
    posterior: Annotated[PosteriorRef | None, Field(description="null unless it is kept")]
    prediction: Prediction | ClassPrediction
    diagnostics: Diagnostics
    timing_ms: Timing


@dataclass(frozen=True, slots=True)
class Selected:
    """A row to label; `gain` is what it adds to those chosen before it, in nats where joint."""

    rank: int
    id: str | int
    index: int
    score: float
    gain: float
    total: float
    aleatoric: float
    epistemic: float


@dataclass(frozen=True, slots=True)
class BatchReport:
    """How the batch was chosen.

    A set of M bare particles can tell at most M − 1 rows apart, and inform about classes by at most
    log M nats (`ceiling`); from `saturated_at` picks on the rest are chosen for diversity alone.
    """

    strategies_used: list[str]
    saturated_at: int | None
    ceiling: float | None


@dataclass(frozen=True)
class UncertaintyResponse:
    """The rows to label next.

    `total`, `aleatoric` and `epistemic` are variances summed over outputs; entropies for classes.
    """

    __pydantic_config__: ClassVar = ConfigDict(
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
    direction: Literal["higher_is_more_informative"]
    units: str
    selected: list[Selected]
    scores: Annotated[NDArray[np.float64], GetPydanticSchema(lambda _, handler: handler(list[float]))]
    batch: BatchReport
    diagnostics: Diagnostics
    timing_ms: Timing
