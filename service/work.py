"""One request as the engine sees it: checked arrays in, numbers out; no HTTP and no JSON."""

import time
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from model_store import Model
from model_store.model import Single

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PredictAsk:
    """The moments of every query row, and quantiles at these levels; the interval's two come last."""

    levels: tuple[float, ...]
    particles: bool = False


@dataclass(frozen=True)
class ChooseAsk:
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
class Work:
    """A task for the device, in the network's units.

    Attributes:
        seed: of learners that draw.
        deadline: on the engine's clock; work not started by then is dropped.
        classes: of the support set, in the order of the one-hot columns of `support_y`.
        made: on the engine's clock, when the request was decoded.
    """

    model: Model
    support_x: Single
    support_y: Single
    query_x: Single
    steps: int
    seed: int
    ask: PredictAsk | ChooseAsk
    deadline: float
    warnings: tuple[str, ...] = ()
    classes: tuple[str | int, ...] = ()
    made: float = field(default_factory=time.monotonic)

    @cached_property
    def group(self) -> tuple[str, int, int, int, bool]:
        """Works of one group can be adapted and predicted together."""
        seed = self.seed if self.model.learner.draws else 0
        return self.model.sha256, self.steps, seed, self.support_y.shape[1], self.joint

    @property
    def joint(self) -> bool:
        """Whether the answer needs covariances between rows."""
        return isinstance(self.ask, ChooseAsk) and self.ask.joint

    @property
    def rows(self) -> int:
        """Support and query rows."""
        return len(self.support_x) + len(self.query_x)

    @property
    def cost(self) -> int:
        """particles × rows × (steps + 1): the unit in which the queue is bounded.

        A picture costs what a thousand particles do: its features come from a deep network.
        """
        return self.model.work_per_row(self.steps) * max(1, self.rows)


@dataclass(frozen=True)
class Moments:
    """`[row, output]` in the caller's units."""

    mean: Array
    aleatoric: Array
    epistemic: Array


@dataclass(frozen=True)
class Uncertainty:
    """`[row]`: variances summed over outputs, or entropies in nats; together they are the total."""

    aleatoric: Array
    epistemic: Array


@dataclass(frozen=True)
class Classified:
    """Answer to a `PredictAsk` about classes: probabilities `[row, class]`, and `[row]` of the rest.

    `particle_probabilities` are `[particle, row, class]`.
    """

    probabilities: Array
    uncertainty: Uncertainty
    margin: Array
    variation_ratio: Array
    particle_probabilities: Array | None = None
    weights: Array | None = None


@dataclass(frozen=True)
class Predicted:
    """Answer to a `PredictAsk`.

    Quantiles are `[level, row, output]`, each hypothesis' moments `[particle, row, output]`.
    """

    moments: Moments
    quantiles: Array
    particle_mean: Array | None = None
    particle_std: Array | None = None
    weights: Array | None = None


@dataclass(frozen=True)
class Chosen:
    """Answer to a `ChooseAsk`: pool indices in the order of choice, with what each adds."""

    indices: list[int]
    gains: list[float]
    scores: Array
    uncertainty: Uncertainty
    strategies: list[str]
    saturated_at: int | None
    ceiling: float | None


@dataclass(frozen=True)
class Answer:
    """What came of a `Work`.

    Attributes:
        support_nll: before and after adaptation; None without support rows.
        embed_s, adapt_s, predict_s: seconds of the whole batch.
        queue_s: seconds from submission to the start of the batch.
    """

    result: Predicted | Classified | Chosen
    support_nll: tuple[float, float] | None
    effective_particles: float
    adapt_s: float
    predict_s: float
    batched_tasks: int
    queue_s: float = 0.0
    embed_s: float = 0.0
