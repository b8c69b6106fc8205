"""Bodies of replies to POST requests: computed, encoded and published as these dataclasses.

`orjson` writes them as they are, the arrays included, and OpenAPI is made from the same fields.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from bmaml.acquisition import MAX_POOL_TARGETS
from model_store.class_target import Label
from service.schemas.arrays import Doubles
from service.schemas.diagnostics import Diagnostics, PolicyDiagnostics, Timing
from service.schemas.predictions import (
    ActionPrediction,
    ClassPrediction,
    OrderedPrediction,
    Prediction,
    ScoredClassPrediction,
    ScoredOrderedPrediction,
    ScoredPrediction,
)

# Parts that the examples of the responses share.
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
    "surprise": {"wide": 0.004, "noisy": 0.002, "broad": 0.001},
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


@dataclass(frozen=True)
class ModelRef:
    """The model version that answered."""

    name: str
    version: int
    sha256: Annotated[str, Field(description="of the version's manifest")]
    learner: str


@dataclass(frozen=True)
class PosteriorRef:
    """A kept posterior; `cache` is `hit` where it had been kept before this request."""

    id: str
    rows: Annotated[int, Field(description="labelled rows that it was adapted to")]
    expires_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    cache: Literal["hit", "miss"]


@dataclass(frozen=True)
class PosteriorCard:
    """A kept posterior, its settings and its size."""

    id: str
    model: ModelRef
    rows: int
    steps: int
    classes: Annotated[list[Label] | None, Field(description="of its rows; null where labels are numbers")]
    bytes: int
    expires_at: datetime


@dataclass(frozen=True)
class PosteriorResponse:
    """The posterior that was kept, and the fields that all replies share."""

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
    diagnostics: Diagnostics | PolicyDiagnostics
    timing_ms: Timing


@dataclass(frozen=True)
class AdaptPredictResponse:
    """The prediction of the query rows, in the caller's units."""

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
    prediction: (
        Prediction
        | ScoredPrediction
        | ClassPrediction
        | ScoredClassPrediction
        | OrderedPrediction
        | ScoredOrderedPrediction
        | ActionPrediction
    )
    diagnostics: Diagnostics | PolicyDiagnostics
    timing_ms: Timing


@dataclass(frozen=True)
class Selected:
    """A pool row to label; `gain` is what it adds to the rows ranked before it, in nats where joint."""

    rank: int
    id: str | int
    index: int
    score: float
    gain: float
    total: float
    aleatoric: float
    epistemic: float


@dataclass(frozen=True)
class BatchReport:
    """The strategies that chose the batch.

    Of M bare particles at most M − 1 rows can be informative, and of M hypotheses about classes log M nats
    (`ceiling`).
    The rows after the first `saturated_at` are chosen for diversity alone.
    """

    strategies_used: list[str]
    saturated_at: int | None
    ceiling: float | None


@dataclass(frozen=True)
class UncertaintyResponse:
    """The pool rows to label next, and the scores of the whole pool.

    `total`, `aleatoric` and `epistemic` are variances summed over outputs; entropies for classes. `targets`
    is the number of rows that the scores of `epig` are about: those of the target, else of the pool.
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
                    "targets": 3,
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
    targets: Annotated[
        int | None,
        Field(
            description=f"null but for epig; at most {MAX_POOL_TARGETS} rows represent a pool without target"
        ),
    ]
    selected: list[Selected]
    scores: Doubles
    batch: BatchReport
    diagnostics: Diagnostics | PolicyDiagnostics
    timing_ms: Timing
