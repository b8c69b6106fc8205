"""The parts of a request that are for policies: episodes that tell of a task, and the choice of an action."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from service.schemas.values import EncodedTensor, Row, Rows, depth_form

MAX_EPISODES = 2000
"""Episodes of one request."""
MAX_ROUNDS = 200
"""Rounds of a posterior, those of all requests together."""
OWN_EPISODES = "only episodes that a particle of this model acted itself can be adapted to"
DEMONSTRATION = f"a demonstration has no particle that acted it: {OWN_EPISODES}"
BEHAVIOUR = f"episodes of other behaviour policies are not corrected for: {OWN_EPISODES}"
LOG_PROBABILITY = (
    "log probabilities are not posted: the service computes them from the actions and the particle, as the "
    "rounds before left it"
)
OTHER_POLICY = {
    **dict.fromkeys(("demonstration", "demonstrations", "expert", "expert_actions"), DEMONSTRATION),
    **dict.fromkeys(("behaviour", "behavior", "behaviour_policy", "behavior_policy"), BEHAVIOUR),
    **dict.fromkeys(("log_prob", "log_probs", "logp", "log_probabilities"), LOG_PROBABILITY),
}
"""Fields that other libraries have for episodes of another policy, and why they are refused."""

Index = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
StepRows = Annotated[
    Annotated[Row, Tag("1-D")]
    | Annotated[Rows, Tag("2-D")]
    | Annotated[EncodedTensor, Tag("encoded-tensor")],
    Discriminator(depth_form),
]
"""A number or a row of numbers for each step."""


def _not_null(value: Any) -> Any:
    if value is None:
        raise PydanticCustomError("other_policy", DEMONSTRATION)
    return value


def _own(value: Any) -> Any:
    """The fields of a body, without any of `OTHER_POLICY`."""
    if isinstance(value, dict):
        for name, reason in OTHER_POLICY.items():
            if name in value:
                raise PydanticCustomError("other_policy", reason)
    return value


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Episode(_Part):
    """One episode of one particle: an observation, the action drawn at it, and its reward, for each step."""

    round: Index = Field(description="0 for episodes of the meta-learned start, then one more each time")
    particle: Annotated[Index, BeforeValidator(_not_null)] = Field(description="the particle that acted")
    observations: StepRows = Field(description="steps × observations; the last state after them is left out")
    actions: StepRows = Field(
        description="steps × actions as they were drawn (`action` of the answer), never the clipped `command`"
    )
    rewards: StepRows = Field(description="one number for each step")
    ended: bool = Field(
        default=False,
        strict=True,
        description="whether the task ended it; for the record: returns stop at the last step anyway",
    )

    _of_a_particle = model_validator(mode="before")(staticmethod(_own))


class EpisodeSupport(_Part):
    """Episodes of a task, round by round, for a policy. None: the answer is the meta-learned start's."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "episodes": [
                        {
                            "round": 0,
                            "particle": 3,
                            "observations": [[0.0, 0.0], [0.1, -0.04]],
                            "actions": [[1.3, -0.4], [0.7, 0.2]],
                            "rewards": [0.0, 0.84],
                            "ended": False,
                        }
                    ]
                }
            ]
        }
    )

    episodes: list[Episode]

    _of_particles = model_validator(mode="before")(staticmethod(_own))


class Act(_Part):
    """The particle that acts, and the seed of its draw."""

    how: Literal["best", "thompson", "mean", "next"] = Field(
        default="best",
        description="best: the particle whose latest episodes returned most; thompson: one drawn with the "
        "posterior's weights; next: `next_particle` of the diagnostics; mean: the average of all particles, "
        "without noise, whose episodes cannot be posted back",
    )
    particle: Index | None = Field(default=None, description="this particle, whatever `how` says")
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = Field(
        default=0, description="the same seed draws the same noise: take another one for each step"
    )
