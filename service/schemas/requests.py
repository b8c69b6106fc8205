"""Bodies of POST requests; `responses.py` has those of their replies."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from bmaml.acquisition import DEFAULT_ACQUISITION
from bmaml.learners import MAX_STEPS
from service.schemas.policies import Act, EpisodeSupport
from service.schemas.values import Labels, X

DEFAULT_TTL_S = 600.0
"""Seconds that a posterior is kept where the request names none."""
MAX_TTL_S = 86_400
"""Seconds that a request may have a posterior kept."""
MAX_DEADLINE_MS = 600_000
"""Milliseconds of the longest deadline that a request may name."""
MAX_QUANTILE_LEVELS = 100
"""Quantile levels of one prediction."""
MAX_BATCH_SIZE = 1000
"""Rows of one batch to label."""
MIN_TAIL = 1e-6
"""Probability that a quantile level leaves on either side, at least."""

Name = Annotated[str, Field(strict=True, max_length=200)]
Identifier = Name | Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
Level = Annotated[float, Field(strict=True, ge=MIN_TAIL, le=1 - MIN_TAIL, allow_inf_nan=False)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Support(_Request):
    """Labelled rows to adapt to. Both lists may be empty: the answer then comes from the prior."""

    x: X = Field(description="rows × features, in the caller's units; or images")
    y: Labels = Field(
        description="one number per row (rows × outputs for models with several outputs); "
        "for classification one string, integer or truth value per row"
    )


class Query(_Request):
    """Rows to predict, and targets to be scored by the prediction."""

    x: X
    y: Labels | None = Field(
        default=None,
        description="with log_density: one target per row of x, in the form of support.y; a class must be "
        "one of the support set, or of the model where its classes have one meaning",
    )


class Target(_Request):
    """Rows on which the predictions should improve; `epig` of numbers takes the pool where there are none."""

    x: X


class Pool(_Request):
    """Unlabelled rows to choose from, with the caller's names for them."""

    x: X
    ids: list[Identifier] | None = Field(default=None, description="unique; by default the row's index")


class Adapt(_Request):
    """Settings of adaptation: inner steps (null: as trained), and the seed of learners that draw."""

    steps: Annotated[int, Field(strict=True, ge=0, le=MAX_STEPS)] | None = None
    seed: Seed = 0


class Keep(_Request):
    """The time for which the posterior is kept, to be asked again under the id in the answer."""

    ttl_s: Annotated[float, Field(strict=True, gt=0, le=MAX_TTL_S, allow_inf_nan=False)] = DEFAULT_TTL_S


class IntervalChoice(_Request):
    """The level of the interval, and the method that computes it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"level": 0.9, "method": "conformal"}]})

    level: Level = 0.9
    method: Literal["mixture", "conformal"] = Field(
        default="mixture",
        description="mixture: the central interval of the belief; conformal: mean ± threshold × std, "
        "with coverage that was counted on the validation tasks",
    )


def _interval_form(value: Any) -> str:
    return "interval-choice" if isinstance(value, dict | IntervalChoice) else "interval-level"


def _support_form(value: Any) -> str:
    episodes = isinstance(value, EpisodeSupport) or (isinstance(value, dict) and "episodes" in value)
    return "episodes-of-a-policy" if episodes else "labelled-rows"


class AdaptationRequest(_Request):
    """The fields that every request for adaptation has."""

    model: Name
    version: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        default=None, description="null: the newest"
    )
    support: (
        Annotated[
            Annotated[Support, Tag("labelled-rows")] | Annotated[EpisodeSupport, Tag("episodes-of-a-policy")],
            Discriminator(_support_form),
        ]
        | None
    ) = Field(
        default=None,
        description="with a posterior: rows to adapt to beside its own; policies take episodes",
    )
    posterior: Annotated[str, Field(strict=True, max_length=200)] | None = Field(
        default=None, description="the id of a kept posterior"
    )
    adapt: Adapt = Adapt()
    keep: Keep | None = Field(
        default=None,
        description="null: drop the posterior after the answer; one that extends another is kept for "
        "the default time",
    )
    deadline_ms: Annotated[int, Field(strict=True, ge=1, le=MAX_DEADLINE_MS)] | None = Field(
        default=None, description="milliseconds that the request may wait for the device"
    )


class PosteriorRequest(AdaptationRequest):
    """Adapt a model to the support set and keep the posterior, without a query."""

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


class AdaptPredictRequest(AdaptationRequest):
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
                },
                {
                    "model": "sinusoid",
                    "support": {"x": [[-2.0], [0.5], [3.1]], "y": [0.9, -1.1, 0.4]},
                    "query": {"x": [[0.0], [1.0]], "y": [-0.4, -1.2]},
                    "log_density": True,
                },
            ]
        }
    )

    query: Query
    quantiles: list[Level] = Field(default=[], max_length=MAX_QUANTILE_LEVELS)
    interval: Annotated[
        Annotated[Level, Tag("interval-level")] | Annotated[IntervalChoice, Tag("interval-choice")],
        Discriminator(_interval_form),
    ] = Field(
        default=0.9,
        description="a number is the level of the mixture's interval",
        examples=[0.9, {"level": 0.9, "method": "conformal"}],
    )
    particles: bool = Field(default=False, strict=True, description="also answer each particle's moments")
    act: Act | None = Field(default=None, description="of policies: who acts; null: the best particle")
    log_density: bool = Field(
        default=False,
        strict=True,
        description="also answer the log density of query.y under the prediction (of classes: log "
        "probability), in nats",
    )


class BatchChoice(_Request):
    """The number of rows to choose, and the strategy that keeps them from being redundant."""

    size: Annotated[int, Field(strict=True, ge=1, le=MAX_BATCH_SIZE)] = 1
    strategy: Name = "auto"
    seed: Seed = 0


class UncertaintyRequest(AdaptationRequest):
    """Adapt a model to the support set, then choose the pool rows to label next."""

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
    target: Target | None = None
    acquisition: Name | None = Field(
        default=None,
        description="null for policies: epistemic_variance; else by default "
        f"{DEFAULT_ACQUISITION} (for classes: epig with a target, else entropy)",
    )
    batch: BatchChoice = BatchChoice()
    exclude: list[Identifier] = Field(default=[], description="ids that must not be chosen")


REQUESTS: dict[str, type[AdaptationRequest]] = {
    "/adapt-predict": AdaptPredictRequest,
    "/uncertainty": UncertaintyRequest,
    "/posteriors": PosteriorRequest,
}
"""The body of every request for adaptation, by the path of its route."""
