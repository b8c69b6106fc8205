"""What a reply tells of its adaptation: particles, fit, surprise, warnings, times."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from service.schemas.arrays import Numbers


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

    `decode` is the time from the request's head to its arrays: the arrival of the body, and the loading of a
    shelved version, are in it. `embed` is from images to features, and `total` from acceptance to reply.
    """

    decode: float
    queue: float
    embed: float
    adapt: float
    predict: float
    total: float
    batched_tasks: int
