"""One request as the engine sees it: checked arrays in, numbers out; no HTTP and no JSON."""

import time
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bmaml.learners.posterior import Posterior
from model_store import Model
from model_store.model import Single
from service.schemas.responses import ClassPrediction, Prediction

Array = NDArray[np.float64]
Stratum = tuple[str, bool, int]
"""Jobs of one model and stratum take about as long for a unit of work (see `Job.stratum`)."""


IMAGE_WORK = 1000
"""Work of embedding one image, in the unit of `work_per_row`."""


def work_per_row(model: Model, steps: int) -> int:
    """The work of one row of a request: particles × (steps + 1), and `IMAGE_WORK` for an image."""
    image = 0 if model.embedding is None else IMAGE_WORK
    return model.learner.particles * (steps + 1) + image


@dataclass(frozen=True)
class PredictionSpec:
    """A prediction of every query row.

    Attributes:
        quantiles: levels to answer.
        interval: the probability that the central interval holds; None for classes, which have none.
        particles: also answer each particle's own prediction.
    """

    quantiles: tuple[float, ...] = ()
    interval: float | None = 0.9
    particles: bool = False

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """Every quantile level to compute; the two ends of the interval come last."""
        if self.interval is None:
            return self.quantiles
        return (*self.quantiles, 0.5 - self.interval / 2, 0.5 + self.interval / 2)


@dataclass(frozen=True)
class SelectionSpec:
    """Which of the first `pool_rows` query rows to label; the rest of them are targets.

    Attributes:
        keys: one draw in (0, 1) per pool row, made from the seed and the caller's id, so that
            neither ties nor random choices depend on the order of the pool.
        excluded: pool rows that must not be chosen.
        best: the largest label so far, in the caller's units; None without labels (then the largest
            predicted mean of the pool stands in).
    """

    acquisition: str
    strategy: str
    size: int
    pool_rows: int
    keys: Array
    excluded: NDArray[np.bool_]
    best: float | None
    joint: bool


@dataclass(frozen=True)
class PostedSupport:
    """A support set as the caller sent it: rows in their units, and labels."""

    x: NDArray[np.floating]
    labels: tuple[float | str | tuple[float, ...], ...]


@dataclass(frozen=True)
class KeptPosterior:
    """What adaptation gave for one task, to be asked again.

    Attributes:
        support_nll: before and after; None without support rows.
        labelled: features of the support rows, where x is a picture.
    """

    posterior: Posterior
    support_nll: tuple[float, float] | None
    effective_particles: float
    labelled: Tensor | None = None


@dataclass(frozen=True)
class Job:
    """A task for the device, in the network's units.

    Attributes:
        seed: of the posterior's draws; 0 where nothing is drawn.
        spec: None where the task is only to be adapted to.
        deadline: on the engine's clock; work not started by then is dropped.
        classes: of the support set, in the order of the one-hot columns of `support_y`.
        sent: the support set in the caller's units.
        key, ttl_s: what the posterior is to be kept under, if at all, and how long.
        known: the posterior, where the task has been adapted to before.
        made: on the engine's clock, when the request was decoded.
    """

    model: Model
    support_x: Single
    support_y: Single
    query_x: Single
    steps: int
    seed: int
    spec: PredictionSpec | SelectionSpec | None
    deadline: float
    warnings: tuple[str, ...] = ()
    classes: tuple[str | int, ...] = ()
    posted: PostedSupport = field(default_factory=lambda: PostedSupport(np.zeros((0, 0)), ()))
    key: str | None = None
    ttl_s: float = 0.0
    known: KeptPosterior | None = None
    made: float = field(default_factory=time.monotonic)

    @cached_property
    def group(self) -> tuple[str, int, int, int, bool, bool]:
        """Works of one group can be adapted and predicted together."""
        known = self.known is not None
        return self.model.sha256, self.steps, self.seed, self.support_y.shape[1], self.joint, known

    @cached_property
    def stratum(self) -> Stratum:
        """What its pace depends on beside the model: few support rows leave many hypotheses possible."""
        asked = ""
        if isinstance(self.spec, SelectionSpec):
            asked = f"{self.spec.acquisition} {self.spec.strategy} {self.spec.size.bit_length()}"
        return asked, self.known is not None, len(self.support_x).bit_length()

    def kept_as(self, key: str, known: KeptPosterior | None) -> "Job":
        """The same work, its posterior to be kept under this key, or known from there."""
        return replace(self, key=key, known=known)

    @property
    def joint(self) -> bool:
        """Whether the answer needs covariances between rows."""
        return isinstance(self.spec, SelectionSpec) and self.spec.joint

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Rows that the device sees: support (none where it is known already) and query."""
        return 0 if self.known else len(self.support_x), len(self.query_x)

    @cached_property
    def per_row(self) -> int:
        """The work of one row."""
        return work_per_row(self.model, 0 if self.known else self.steps)

    @cached_property
    def cost(self) -> int:
        """particles × rows × (steps + 1): the unit in which the queue is bounded."""
        return self.per_row * max(1, sum(self.shape))


@dataclass(frozen=True)
class Uncertainty:
    """`[row]`: variances summed over outputs, or entropies in nats; together they are the total."""

    aleatoric: Array
    epistemic: Array


@dataclass(frozen=True)
class Selection:
    """Answer to a `SelectionSpec`: pool indices in the order of choice, with what each adds."""

    indices: list[int]
    gains: list[float]
    scores: Array
    uncertainty: Uncertainty
    strategies: list[str]
    saturated_at: int | None
    ceiling: float | None


@dataclass(frozen=True)
class BatchTimes:
    """Seconds that a batch took, by phase."""

    embed_s: float = 0.0
    adapt_s: float = 0.0
    predict_s: float = 0.0

    def __add__(self, other: "BatchTimes") -> "BatchTimes":
        """Both batches together."""
        return BatchTimes(
            self.embed_s + other.embed_s, self.adapt_s + other.adapt_s, self.predict_s + other.predict_s
        )


@dataclass(frozen=True)
class Answer:
    """The result of a job.

    Attributes:
        support_nll: before and after adaptation; None without support rows.
        times: of the whole batch.
        kept: the posterior, where the job has a key.
        cached: whether it had been adapted to before.
        queue_s: seconds from submission to the start of the batch.
    """

    result: Prediction | ClassPrediction | Selection | None
    support_nll: tuple[float, float] | None
    effective_particles: float
    times: BatchTimes = BatchTimes()
    batched_tasks: int = 1
    queue_s: float = 0.0
    kept: KeptPosterior | None = None
    cached: bool = False
