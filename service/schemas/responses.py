"""Bodies of replies to POST requests: computed, encoded and published as these dataclasses.

`orjson` writes them as they are, the arrays included, and OpenAPI is made from the same fields.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, GetPydanticSchema

from bmaml.acquisition import MAX_POOL_TARGETS
from model_store.class_target import Label

Values = Annotated[NDArray[np.float32], GetPydanticSchema(lambda _, handler: handler(list[Any]))]
"""`[row]`, or `[row, output]` for models with several outputs."""
Numbers = Annotated[NDArray[np.float32], GetPydanticSchema(lambda _, handler: handler(list[float]))]
"""`[row]`; or `[particle]`, for weights."""
ValueRows = Annotated[NDArray[np.float32], GetPydanticSchema(lambda _, handler: handler(list[list[Any]]))]
"""`[level or particle, row]`, with a last axis of outputs where there are several."""
NumberRows = Annotated[NDArray[np.float32], GetPydanticSchema(lambda _, handler: handler(list[list[float]]))]
"""`[row, class]`."""
Doubles = Annotated[NDArray[np.float64], GetPydanticSchema(lambda _, handler: handler(list[float]))]
"""`[row]`, in double precision."""
DoubleValues = Annotated[NDArray[np.float64], GetPydanticSchema(lambda _, handler: handler(list[Any]))]
"""As `Values`, in double precision."""
NumberTables = Annotated[
    NDArray[np.float32], GetPydanticSchema(lambda _, handler: handler(list[list[list[float]]]))
]
"""`[particle, row, class]`."""

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
class Variance:
    """The predictive variance: total is aleatoric plus epistemic."""

    total: Values
    aleatoric: Values
    epistemic: Values


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of the prediction: values[i][row] is the one at levels[i]."""

    levels: list[float]
    values: ValueRows


@dataclass(frozen=True)
class Interval:
    """The central interval that holds `level` of the probability."""

    level: float
    lower: Values
    upper: Values


@dataclass(frozen=True)
class IntervalByMethod(Interval):
    """The interval, where the request named a method.

    By `mixture` it is the central interval that holds `level` of the probability. By `conformal` it is mean ±
    threshold × std, and holds a row of a new task with probability `level` at least.
    """

    method: Literal["mixture", "conformal"]


@dataclass(frozen=True)
class ParticleMoments:
    """Each particle's own prediction: mean[particle][row], std (noise included), and weight[particle]."""

    mean: ValueRows
    std: ValueRows
    weight: Numbers


@dataclass(frozen=True)
class Prediction:
    """The predicted numbers, one entry per query row: a list for models with several outputs."""

    mean: Values
    std: Values
    variance: Variance
    quantiles: Quantiles
    interval: Annotated[
        IntervalByMethod | Interval, Field(description="with its method where the request named one")
    ]
    particles: ParticleMoments | None


@dataclass(frozen=True)
class ScoredPrediction(Prediction):
    """The predicted numbers, and the log density of the posted targets."""

    log_density: Annotated[
        DoubleValues, Field(description="of query.y under the answered mixture, in nats, per unit of y")
    ]


@dataclass(frozen=True)
class ActionPrediction:
    """The action at each query row, all by the same particle, and the belief about it.

    The moments are those of all particles together, by their weights: σ² is aleatoric, and their disagreement
    epistemic.
    """

    action: Annotated[Values, Field(description="as drawn: to be posted back in an episode")]
    command: Annotated[Values, Field(description="clipped to the range of each action: to be carried out")]
    particle: Annotated[
        int | None, Field(description="that acts; null for the mean, whose episodes are no particle's own")
    ]
    mean: Values
    std: Values
    variance: Variance
    particles: ParticleMoments | None


@dataclass(frozen=True)
class Entropy:
    """Predictive entropy in nats, per query row: expected (aleatoric) plus mutual information (epistemic)."""

    total: Numbers
    expected: Annotated[Numbers, Field(description="the part that no label removes")]
    mutual_information: Annotated[
        Numbers,
        Field(
            description="of label and hypothesis, which labels remove. A hypothesis is a particle, in some "
            "learners together with a draw of its class means, which is the same for all rows"
        ),
    ]


@dataclass(frozen=True)
class ParticleProbabilities:
    """Each particle's own prediction: probabilities[particle][row][class] and weight[particle]."""

    probabilities: NumberTables
    weight: Numbers


@dataclass(frozen=True)
class ClassPrediction:
    """The predicted classes, one entry per query row.

    Classes are those of the support set, as sent, or those of the model where they have one meaning.
    """

    classes: list[Label]
    probabilities: Annotated[NumberRows, Field(description="rows × classes")]
    label: Annotated[list[Label], Field(description="the most probable class")]
    entropy: Entropy
    margin: Annotated[
        Numbers, Field(description="the most probable class's probability less that of the next")
    ]
    variation_ratio: Annotated[Numbers, Field(description="the weight of hypotheses that name another class")]
    particles: ParticleProbabilities | None


@dataclass(frozen=True)
class ScoredClassPrediction(ClassPrediction):
    """The predicted classes, and the log probability of the posted ones."""

    log_density: Annotated[Doubles, Field(description="log probability of query.y, in nats")]


@dataclass(frozen=True)
class LabelQuantiles:
    """Quantiles of an ordered class: values[i][row] is the first label whose cumulative probability is
    levels[i] or more.
    """

    levels: list[float]
    values: list[list[Label]]


@dataclass(frozen=True)
class LabelInterval:
    """The labels from `lower` to `upper` of each row, which hold `level` of the probability or more."""

    level: float
    lower: list[Label]
    upper: list[Label]


@dataclass(frozen=True)
class OrderedPrediction(ClassPrediction):
    """The predicted classes where these stand in an order."""

    median: Annotated[list[Label], Field(description="the first label with half of the probability up to it")]
    quantiles: LabelQuantiles
    interval: LabelInterval


@dataclass(frozen=True)
class ScoredOrderedPrediction(OrderedPrediction):
    """The predicted ordered classes, and the log probability of the posted ones."""

    log_density: Annotated[Doubles, Field(description="log probability of query.y, in nats")]


@dataclass(frozen=True)
class SupportNll:
    """Negative log likelihood of the support labels, in nats per value, before and after adaptation."""

    before: float
    after: float


@dataclass(frozen=True)
class Surprise:
    """Weights, given the support rows, of the hypotheses that the task is unlike those of training.

    The hypotheses of training have the rest.
    """

    wide: Annotated[float, Field(description="the labels differ more than those of training")]
    noisy: Annotated[float, Field(description="the rows are noisier than those of training")]
    broad: Annotated[float, Field(description="no particle explains the rows")]


@dataclass(frozen=True)
class Diagnostics:
    """Particles, steps and fit of the adaptation, and warnings about the answer."""

    particles: int
    effective_particles: Annotated[float, Field(description="1 / Σ weight²")]
    steps: int
    support_nll: Annotated[SupportNll | None, Field(description="null without support rows")]
    surprise: Annotated[
        Surprise | None, Field(description="null where the version has no hypotheses about unlike tasks")
    ]
    warnings: list[str]


@dataclass(frozen=True)
class PolicyDiagnostics(Diagnostics):
    """The state of a policy in its task; an entry for each particle."""

    rounds: Annotated[int, Field(description="of episodes so far: the number of the next round")]
    episodes: Annotated[Numbers, Field(description="of each particle so far")]
    returns: Annotated[
        Numbers, Field(description="mean return of a particle's latest round with episodes; 0 before any")
    ]
    weights: Annotated[Numbers, Field(description="softmax of returns ÷ temperature, of those that acted")]
    next_particle: Annotated[
        int, Field(description="to act next: one that has not acted, until a particle is paid, then the best")
    ]


@dataclass(frozen=True)
class Timing:
    """Milliseconds of the request, by phase; embed, adapt and predict are those of the whole fused batch.

    `decode` is the time from bytes to arrays, `embed` from images to features, and `total` from acceptance
    to reply.
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
