"""What is posted, in JSON; `answers.py` has what comes back, `cards.py` what GET routes tell."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from bmaml.learners import MAX_STEPS
from service.schemas.values import Labels, X

DEFAULT_TTL_S = 600.0
"""Seconds that a posterior is kept where the request names none."""
MAX_LEVELS, MAX_BATCH, MAX_TTL_S = 100, 1000, 86_400
"""Quantile levels of one prediction; rows of one batch to label; seconds that a posterior may be kept."""
MAX_DEADLINE_MS = 600_000
"""The longest deadline that a request may name."""
MIN_TAIL = 1e-12
"""What a quantile level leaves on either side: less has no place in the numbers of an answer."""

Name = Annotated[str, Field(strict=True, max_length=200)]
Identifier = Name | Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
Level = Annotated[float, Field(strict=True, ge=MIN_TAIL, le=1 - MIN_TAIL, allow_inf_nan=False)]
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

    ttl_s: Annotated[float, Field(strict=True, gt=0, le=MAX_TTL_S, allow_inf_nan=False)] = DEFAULT_TTL_S


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
    deadline_ms: Annotated[int, Field(strict=True, ge=1, le=MAX_DEADLINE_MS)] | None = Field(
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


REQUESTS: dict[str, type[AdaptPredictRequest | UncertaintyRequest | PosteriorRequest]] = {
    "/adapt-predict": AdaptPredictRequest,
    "/uncertainty": UncertaintyRequest,
    "/posteriors": PosteriorRequest,
}
"""The body of every request for adaptation, by the path that it is posted to."""
