"""A request as the engine sees it, and its result: checked arrays in, numbers out; no HTTP and no JSON."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bmaml.learners.posterior import Posterior
from model_store import Model
from model_store.class_target import Label
from model_store.model import Single
from service.schemas.diagnostics import Surprise
from service.schemas.policies import Act
from service.schemas.predictions import ActionPrediction, ClassPrediction, Prediction

Array = NDArray[np.float64]
"""An array of numbers in double precision."""
Stratum = tuple[str, bool, int]
"""The properties of a job, besides its model, on which its pace depends (see `Job.stratum`)."""

IMAGE_WORK = 1000
"""Work of one image in one pass of a convolutional network, in the unit of `work_per_row`."""


def work_per_row(model: Model, steps: int) -> int:
    """The work of one row of a request: particles × (steps + 1), plus `IMAGE_WORK` for an image.

    Where particles are whole convolutional networks, every pass is one over images.
    """
    passes = model.learner.particles * (steps + 1)
    if model.manifest.image is None:
        return passes
    return passes + IMAGE_WORK if model.embedding is not None else passes * IMAGE_WORK


@dataclass(frozen=True)
class PredictionSpec:
    """A request to predict every query row.

    Attributes:
        quantiles: levels to answer, in (0, 1).
        interval: probability of the central interval; None for classes without an order, which have none.
        particles: whether to answer each particle's own prediction, too.
        interval_method: where the request names it; the interval of a plain level is the mixture's.
    """

    quantiles: tuple[float, ...] = ()
    interval: float | None = 0.9
    particles: bool = False
    interval_method: Literal["mixture", "conformal"] | None = None

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """Every quantile level to compute; the two ends of the mixture's interval come last."""
        if self.interval is None or self.interval_method == "conformal":
            return self.quantiles
        return (*self.quantiles, 0.5 - self.interval / 2, 0.5 + self.interval / 2)


@dataclass(frozen=True)
class SelectionSpec:
    """A request to select rows to label. The pool comes first among the query rows, then the targets.

    Attributes:
        acquisition: name of the score of a row.
        strategy: name of the rule that builds a batch from the scores; never `auto`.
        size: rows to select.
        pool_rows: rows of the pool.
        keys: a number in (0, 1) for each pool row, a hash of the seed and the caller's id. Neither ties
            nor random choices then depend on the order of the pool.
        excluded: pool rows that must not be selected.
        best: the largest label so far, in the caller's units; None without labels, where the largest
            predicted mean of the pool takes its place.
        joint: whether scores or strategy need covariances between rows.
    """

    acquisition: str
    strategy: str
    size: int
    pool_rows: int
    keys: Array
    excluded: NDArray[np.bool_]
    best: float | None
    joint: bool

    @property
    def has_target(self) -> bool:
        """Whether target rows play a part."""
        return self.acquisition == "epig" or self.strategy == "joint_epig"


@dataclass(frozen=True)
class ActionSpec:
    """A request for a policy's action at every query row.

    Attributes:
        particles: whether to answer each particle's own moments, too.
    """

    act: Act
    particles: bool = False


Spec = PredictionSpec | SelectionSpec | ActionSpec
"""A question about query rows."""


@dataclass(frozen=True)
class PostedSupport:
    """A support set as the caller sent it: rows in the caller's units, and labels."""

    x: NDArray[np.floating]
    labels: tuple[Label | tuple[float, ...], ...]


@dataclass(frozen=True)
class KeptPosterior:
    """The result of adapting to one task, kept for later requests.

    Attributes:
        support_nll: NLL of the support labels before and after adaptation; None without support rows.
        effective_particles: 1 / Σ weight² over particles.
        support_features: features of the support rows, where the inputs are images.
    """

    posterior: Posterior
    support_nll: tuple[float, float] | None
    effective_particles: float
    support_features: Tensor | None = None


@dataclass(frozen=True)
class Job:
    """A request as the engine sees it: one task, in the network's units.

    Attributes:
        seed: seed of the posterior's draws; 0 where the learner draws nothing.
        spec: the question about the query rows; None where the task is only adapted to.
        deadline: seconds on the monotonic clock; a job that has not started by then expires.
        classes: classes of the model or the support set, in the order of the one-hot columns of `support_y`.
        posted: the support set in the caller's units.
        key: id under which the posterior is kept; None where it is not kept.
        ttl_s: seconds for which it is kept.
        kept: the kept posterior, where the task has been adapted to before.
        query_y: targets of the query rows, whose log density is asked for: numbers `[row, output]` in the
            network's units, in double precision; or the index of each row's class. None where none are.
        start: of a policy, the posterior of the first `start_rows` support rows, from which adaptation goes
            on; None: from the meta-learned start.
        decoded_at: seconds on the monotonic clock at which the request had been decoded.
    """

    model: Model
    support_x: Single
    support_y: Single
    query_x: Single
    steps: int
    seed: int
    spec: Spec | None
    deadline: float
    warnings: tuple[str, ...] = ()
    classes: tuple[Label, ...] = ()
    posted: PostedSupport = field(default_factory=lambda: PostedSupport(np.zeros((0, 0)), ()))
    key: str | None = None
    ttl_s: float = 0.0
    kept: KeptPosterior | None = None
    query_y: NDArray[Any] | None = None
    start: Posterior | None = None
    start_rows: int = 0
    decoded_at: float = field(default_factory=time.monotonic)

    @cached_property
    def group(self) -> tuple[str, int, int, int, bool, bool]:
        """Jobs of equal group can be computed in one batch."""
        has_posterior = self.kept is not None
        return self.model.sha256, self.steps, self.seed, self.support_y.shape[1], self.joint, has_posterior

    @cached_property
    def stratum(self) -> Stratum:
        """The selection asked for, whether the posterior is kept, and log₂ of the support rows.

        Together with the model they determine the seconds per unit of work, by and large. Few support rows,
        for instance, leave more hypotheses with weight.
        """
        selection = ""
        if isinstance(self.spec, SelectionSpec):
            selection = f"{self.spec.acquisition} {self.spec.strategy} {self.spec.size.bit_length()}"
        return selection, self.kept is not None, len(self.support_x).bit_length()

    def with_key(self, key: str, kept: KeptPosterior | None) -> "Job":
        """The same job with a posterior to keep under this key, or one that is kept there already."""
        return replace(self, key=key, kept=kept)

    @property
    def joint(self) -> bool:
        """Whether the answer needs covariances between rows."""
        return isinstance(self.spec, SelectionSpec) and self.spec.joint

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Support rows (none where the posterior is kept) and query rows to compute."""
        return 0 if self.kept else len(self.support_x) - self.start_rows, len(self.query_x)

    @cached_property
    def work_per_row(self) -> int:
        """The work of one row."""
        return work_per_row(self.model, 0 if self.kept else self.steps)

    @cached_property
    def cost(self) -> int:
        """The job's work: particles × rows × (steps + 1), the unit in which the queue is bounded."""
        return self.work_per_row * max(1, sum(self.shape))


def row_counts(jobs: Sequence[Job]) -> tuple[int, int]:
    """Real rows of a batch, and its rows with padding."""
    support, query = (max(sizes) for sizes in zip(*(job.shape for job in jobs), strict=True))
    return sum(sum(job.shape) for job in jobs), len(jobs) * (support + query)


@dataclass(frozen=True)
class Uncertainty:
    """The two parts of each row's uncertainty, `[row]`; their sum is the total.

    For numbers they are variances, summed over outputs; for classes, entropies in nats.
    """

    aleatoric: Array
    epistemic: Array


@dataclass(frozen=True)
class Selection:
    """The answer to a `SelectionSpec`.

    Attributes:
        indices: pool rows in the order of selection.
        gains: gain by each of them, in the unit of the strategy that selected it.
        scores: score of every pool row, `[row]`.
        targets: rows that the scores of EPIG are about; None for other scores.
        uncertainty: of every pool row.
        strategies: strategies that selected the rows, in order of use.
        saturated_at: rows that exhaust the information of the hypotheses; those after them are selected for
            diversity alone. None where they do not.
        ceiling: bound of that information: M - 1 rows of M bare particles, log M nats of M hypotheses
            about classes; None where there is none.
    """

    indices: list[int]
    gains: list[float]
    scores: Array
    targets: int | None
    uncertainty: Uncertainty
    strategies: list[str]
    saturated_at: int | None
    ceiling: float | None


@dataclass(frozen=True)
class BatchTimes:
    """Seconds of a batch, by phase."""

    embed_s: float = 0.0
    adapt_s: float = 0.0
    predict_s: float = 0.0

    def __add__(self, other: "BatchTimes") -> "BatchTimes":
        """The times of both batches together."""
        return BatchTimes(
            self.embed_s + other.embed_s, self.adapt_s + other.adapt_s, self.predict_s + other.predict_s
        )


@dataclass(frozen=True)
class PolicyState:
    """The state of a policy in its task, as the answer's diagnostics have it; arrays are `[particle]`."""

    rounds: int
    episodes: NDArray[np.float32]
    returns: NDArray[np.float32]
    weights: NDArray[np.float32]
    next_particle: int


@dataclass(frozen=True)
class Answer:
    """The result of a job.

    Attributes:
        support_nll: NLL of the support labels before and after adaptation; None without support rows.
        effective_particles: 1 / Σ weight² over particles.
        surprise: weights of the surprising hypotheses; None where the model has none.
        policy: the state of a policy; None for other models.
        times: times of the whole batch.
        batched_tasks: tasks of the batch.
        queue_s: seconds from submission to the start of the batch.
        kept: the posterior, where the job has a key.
        cached: whether the posterior was kept before.
    """

    result: Prediction | ClassPrediction | ActionPrediction | Selection | None
    support_nll: tuple[float, float] | None
    effective_particles: float
    surprise: Surprise | None = None
    policy: PolicyState | None = None
    times: BatchTimes = BatchTimes()
    batched_tasks: int = 1
    queue_s: float = 0.0
    kept: KeptPosterior | None = None
    cached: bool = False
