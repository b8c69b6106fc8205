"""What the service answers, as frozen dataclasses with arrays.

Arrays hold doubles, but the service sends single precision: about seven digits.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmaml_client.inputs import Shown

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ModelRef:
    """Which version answered."""

    name: str
    version: int
    sha256: str
    learner: str


@dataclass(frozen=True)
class Posterior:
    """Adapted particles that the service keeps, and the rows they were adapted to.

    Give it in place of x and y to ask again. Should the service have dropped it, the client sends the
    rows again, once.

    Attributes:
        rows: labelled rows it has seen.
        cache: `hit` where the particles were there already.
        shown: the rows, where this client sent all of them.
    """

    id: str
    rows: int
    expires_at: datetime
    cache: str
    model: ModelRef
    shown: Shown | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class PosteriorCard:
    """What the service says of a kept posterior."""

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
class Diagnostics:
    """How an answer came about."""

    particles: int
    effective_particles: float
    steps: int
    support_nll: SupportNll | None
    warnings: tuple[str, ...]


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
    """What every answer says.

    Attributes:
        posterior: where the adapted particles are kept; None unless they are.
    """

    request_id: str
    model: ModelRef
    posterior: Posterior | None
    diagnostics: Diagnostics
    timing_ms: Timing


@dataclass(frozen=True, eq=False)
class Variance:
    """Total is aleatoric (noise no label removes) plus epistemic (what labels could remove)."""

    total: Array
    aleatoric: Array
    epistemic: Array


@dataclass(frozen=True, eq=False)
class Quantiles:
    """values[i, row] is the quantile at levels[i]."""

    levels: tuple[float, ...]
    values: Array


@dataclass(frozen=True, eq=False)
class Interval:
    """The central interval that holds `level` of the probability."""

    level: float
    lower: Array
    upper: Array


@dataclass(frozen=True, eq=False)
class ParticleMoments:
    """Each hypothesis' own prediction, the weightiest first: mean[particle, row], std, weight[particle]."""

    mean: Array
    std: Array
    weight: Array


@dataclass(frozen=True, eq=False)
class Prediction(Answer):
    """Numbers: one entry per query row, or one row of outputs for models with several."""

    mean: Array
    std: Array
    variance: Variance
    quantiles: Quantiles
    interval: Interval
    particles: ParticleMoments | None


@dataclass(frozen=True, eq=False)
class Entropy:
    """In nats: total is expected (aleatoric) plus mutual information (epistemic)."""

    total: Array
    expected: Array
    mutual_information: Array


@dataclass(frozen=True, eq=False)
class ParticleProbabilities:
    """Each particle's own answer: probabilities[particle, row, class], weight[particle]."""

    probabilities: Array
    weight: Array


@dataclass(frozen=True, eq=False)
class ClassPrediction(Answer):
    """Classes: one entry per query row.

    Attributes:
        classes: those of the support set, sorted, as they were sent.
        probabilities: `[row, class]`.
        label: the most probable class of each row.
        margin: its lead over the next.
        variation_ratio: the weight of the particles that name another class.
    """

    classes: tuple[Any, ...]
    probabilities: Array
    label: tuple[Any, ...]
    entropy: Entropy
    margin: Array
    variation_ratio: Array
    particles: ParticleProbabilities | None


@dataclass(frozen=True)
class Selected:
    """A row to label; `gain` is what it adds to those chosen before it."""

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
    """How the rows were chosen; from `saturated_at` picks on for diversity alone."""

    strategies_used: tuple[str, ...]
    saturated_at: int | None
    ceiling: float | None


@dataclass(frozen=True, eq=False)
class Choice(Answer):
    """What to label next.

    Attributes:
        scores: of every row of the pool; higher is more informative.
        units: of the scores.
    """

    acquisition: str
    direction: str
    units: str
    selected: tuple[Selected, ...]
    scores: Array
    batch: Batch

    @property
    def indices(self) -> NDArray[np.int64]:
        """Rows of the pool, the best first."""
        return np.array([each.index for each in self.selected], dtype=np.int64)

    @property
    def ids(self) -> tuple[Any, ...]:
        """The caller's ids of those rows."""
        return tuple(each.id for each in self.selected)
