"""Answers of the service, as frozen dataclasses with arrays.

Arrays are doubles, but the service sends single precision, about seven digits, unless they are `Double`.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from bmaml_client.inputs import Support

Array = NDArray[np.float64]
Double = Annotated[Array, np.float64]
"""An array that the service sends in double precision."""


@dataclass(frozen=True)
class ModelRef:
    """The version that answered."""

    name: str
    version: int
    sha256: str
    learner: str


@dataclass(frozen=True)
class Posterior:
    """Adapted particles that the service keeps.

    Pass it as `posterior` in place of x and y. The client sends the rows again, once, where the service
    has dropped the particles.

    Attributes:
        rows: labelled rows that the particles have seen.
        cache: `hit` where the service had the particles already.
        support: the rows; None where this client did not send all of them.
        warnings: sentences of the service about the rows and the adaptation.
        session: the `X-Session-ID` of all requests about the task; None where this client does not know it.
    """

    id: str
    rows: int
    expires_at: datetime
    cache: str
    model: ModelRef
    support: Support | None = field(default=None, repr=False, compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)
    session: str | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class PosteriorCard:
    """Description of a kept posterior."""

    id: str
    model: ModelRef
    rows: int
    steps: int
    classes: tuple[Any, ...] | None
    bytes: int
    expires_at: datetime


@dataclass(frozen=True)
class SupportNll:
    """NLL of the support labels in nats per value, before and after adaptation."""

    before: float
    after: float


@dataclass(frozen=True)
class Surprise:
    """Weights of the hypotheses that the task is unlike those of training; those of training have the rest.

    Attributes:
        wide: the labels differ more than those of training.
        noisy: the rows are noisier than those of training.
        broad: no particle explains the rows.
    """

    wide: float
    noisy: float
    broad: float


@dataclass(frozen=True)
class Diagnostics:
    """Diagnostics of the adaptation.

    Attributes:
        effective_particles: 1 / Σ wᵢ² of the particles' weights w.
        support_nll: None for an empty support set.
        warnings: sentences.
        surprise: None where the version has no hypotheses about unlike tasks.
    """

    particles: int
    effective_particles: float
    steps: int
    support_nll: SupportNll | None
    warnings: tuple[str, ...]
    surprise: Surprise | None = None


@dataclass(frozen=True)
class Timing:
    """Milliseconds in the service."""

    decode: float
    queue: float
    embed: float
    adapt: float
    predict: float
    total: float
    batched_tasks: int


@dataclass(frozen=True)
class Answer:
    """Fields of every answer.

    Attributes:
        posterior: the kept particles; None where none were asked for.
    """

    request_id: str
    model: ModelRef
    posterior: Posterior | None
    diagnostics: Diagnostics
    timing_ms: Timing


@dataclass(frozen=True, eq=False)
class Variance:
    """Variance: total is aleatoric (noise) plus epistemic (removable by labels)."""

    total: Array
    aleatoric: Array
    epistemic: Array


@dataclass(frozen=True, eq=False)
class Quantiles:
    """Quantiles: values[i, row] at levels[i]."""

    levels: tuple[float, ...]
    values: Array


@dataclass(frozen=True, eq=False)
class Interval:
    """The central interval that holds `level` of the probability; or the conformal one, by `method`."""

    level: float
    lower: Array
    upper: Array
    method: str = "mixture"


@dataclass(frozen=True, eq=False)
class ParticleMoments:
    """Predictions of each particle, by falling weight: mean[particle, row], std alike, weight[particle]."""

    mean: Array
    std: Array
    weight: Array


@dataclass(frozen=True, eq=False)
class Prediction(Answer):
    """Predicted numbers: one entry per query row, or one row of outputs for models with several.

    Attributes:
        log_density: of `query_y` under the mixture, in nats per unit of y; None without `query_y`.
    """

    mean: Array
    std: Array
    variance: Variance
    quantiles: Quantiles
    interval: Interval
    particles: ParticleMoments | None
    log_density: Double | None = None


@dataclass(frozen=True, eq=False)
class Entropy:
    """Entropy in nats: total is expected (aleatoric) plus mutual information (epistemic).

    The latter is what labels would remove: the disagreement of hypotheses, each of them a particle, in
    learners with uncertain class means together with a draw of them.
    """

    total: Array
    expected: Array
    mutual_information: Array


@dataclass(frozen=True, eq=False)
class ParticleProbabilities:
    """Predictions of each particle: probabilities[particle, row, class], weight[particle]."""

    probabilities: Array
    weight: Array


@dataclass(frozen=True, eq=False)
class LabelQuantiles:
    """Quantiles of ordered classes: values[i][row] is the label at levels[i]."""

    levels: tuple[float, ...]
    values: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, eq=False)
class LabelInterval:
    """The labels from `lower` to `upper` of each row, which hold `level` of the probability or more."""

    level: float
    lower: tuple[Any, ...]
    upper: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class ClassPrediction(Answer):
    """Predicted classes: one entry per query row.

    Attributes:
        classes: labels of the support set as they were sent, sorted; or those of the model, in its order,
            where they mean the same in every task.
        probabilities: `[row, class]`.
        label: the most probable class of each row.
        margin: its probability less that of the second.
        variation_ratio: the weight of the hypotheses that predict another class.
        log_density: log probability of `query_y` in nats; None without `query_y`.
        median, quantiles, interval: of ordered classes, as labels; None for others.
    """

    classes: tuple[Any, ...]
    probabilities: Array
    label: tuple[Any, ...]
    entropy: Entropy
    margin: Array
    variation_ratio: Array
    particles: ParticleProbabilities | None
    log_density: Double | None = None
    median: tuple[Any, ...] | None = None
    quantiles: LabelQuantiles | None = None
    interval: LabelInterval | None = None


@dataclass(frozen=True)
class Selected:
    """A row to label; `gain` is its contribution beyond the rows selected before it."""

    rank: int
    id: Any
    index: int
    score: float
    gain: float
    total: float
    aleatoric: float
    epistemic: float


@dataclass(frozen=True)
class Batch:
    """Strategies that selected the rows; rows from rank `saturated_at` on were selected for diversity."""

    strategies_used: tuple[str, ...]
    saturated_at: int | None
    ceiling: float | None


@dataclass(frozen=True, eq=False)
class Choice(Answer):
    """The rows of a pool to label next.

    Attributes:
        scores: of every row of the pool; a higher score is more informative.
        units: of the scores.
        targets: rows that the scores of `epig` are about: those of `target`, else of the pool, which a
            sample represents where it is large; None for other acquisitions.
    """

    acquisition: str
    direction: str
    units: str
    selected: tuple[Selected, ...]
    scores: Array
    batch: Batch
    targets: int | None = None

    @property
    def indices(self) -> NDArray[np.int64]:
        """Indices of the selected rows in the pool, the most informative first."""
        return np.array([each.index for each in self.selected], dtype=np.int64)

    @property
    def ids(self) -> tuple[Any, ...]:
        """The caller's ids of the selected rows."""
        return tuple(each.id for each in self.selected)
