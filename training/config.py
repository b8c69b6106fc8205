"""What a training run is: one frozen tree, saved whole in the manifest of what it publishes."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bmaml.errors import BmamlError
from model_store.columns import Transform


class InvalidConfig(BmamlError, ValueError):
    """Settings that describe no training run."""


@dataclass(frozen=True)
class Shots:
    """How many support rows a task shows: drawn uniformly from lowest..highest, both included.

    Raises:
        InvalidConfig: fewer than one row at the top, or an empty range.
    """

    lowest: int
    highest: int

    def __post_init__(self) -> None:
        if not 0 <= self.lowest <= self.highest or self.highest < 1:
            raise InvalidConfig(f"shots need 0 <= lowest <= highest; found {self.lowest}:{self.highest}")

    @classmethod
    def parse(cls, text: str) -> "Shots":
        """From `K` or `LOWEST:HIGHEST`.

        Raises:
            InvalidConfig: anything else.
        """
        lowest, _, highest = text.partition(":")
        try:
            return cls(int(lowest), int(highest or lowest))
        except ValueError as error:
            if isinstance(error, InvalidConfig):
                raise
            raise InvalidConfig(f"shots are K or LOWEST:HIGHEST; found {text!r}") from None


@dataclass(frozen=True)
class SinusoidConfig:
    """The paper's sine curves.

    Attributes:
        tasks: how many training tasks there are; None for a new one every time.
        resplit: with a finite number, deal each task's fixed points into support and query anew
            at every visit, instead of once.
        queries: query points of a training task.
    """

    shots: Shots = Shots(10, 10)
    queries: int = 10
    tasks: int | None = None
    resplit: bool = False


@dataclass(frozen=True)
class TableConfig:
    """A table with a task column.

    Attributes:
        x: input columns, each with its transform; text and truth values become one column per value.
        split: the column that says train, validation or test; None splits by task, seeded.
        group: a column that keeps tasks together where the seed splits them; None splits task by task.
        order: support sets are prefixes in this column; None draws them at random.
        queries: at most so many query rows of a task in one training batch.
        drop: part of the rows that each visit to a training task leaves out, at random, so that few
            tasks are not learned by heart.

    Raises:
        InvalidConfig: a part to drop outside [0, 1).
    """

    path: str
    task: str
    x: tuple[tuple[str, Transform], ...]
    y: tuple[str, ...]
    split: str | None = None
    group: str | None = None
    order: str | None = None
    shots: Shots = Shots(3, 10)
    queries: int = 64
    drop: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise InvalidConfig(f"the part of rows to drop must lie in [0, 1); found {self.drop}")


@dataclass(frozen=True)
class Optimisation:
    """The outer loop.

    Attributes:
        meta_steps: updates of the meta-parameters.
        meta_batch: tasks per update.
        learning_rate: Adam's, at the start.
        final_rate: the fraction of it that is left at the end.
        decay: how it gets there.
        warmup: updates over which the rate first rises from zero.
        clip: largest norm of the meta-gradient; None for no limit.
        evaluate_every: updates between looks at the validation tasks.
        optimiser: Adam for everything, or Muon for the matrices between hidden layers.
        matrix_rate: Muon's rate for those, at the start; it decays with the learning rate.
        patience: looks without a better NLL before stopping; 0 runs to the end and keeps the last
            parameters, anything else keeps the best.
    """

    meta_steps: int = 20_000
    meta_batch: int = 16
    learning_rate: float = 1e-3
    final_rate: float = 0.13
    decay: Literal["exponential", "cosine"] = "exponential"
    warmup: int = 100
    clip: float | None = 10.0
    evaluate_every: int = 500
    patience: int = 10
    optimiser: Literal["adam", "muon"] = "adam"
    matrix_rate: float = 0.02

    def __post_init__(self) -> None:
        whole = {"meta_steps": self.meta_steps, "meta_batch": self.meta_batch}
        whole["evaluate_every"] = self.evaluate_every
        for name, value in whole.items():
            if value < 1:
                raise InvalidConfig(f"{name} must be at least 1; found {value}")
        rates = (self.learning_rate, self.matrix_rate)
        if not all(0 < rate < float("inf") for rate in rates) or not 0 < self.final_rate <= 1:
            raise InvalidConfig("the learning rates must be positive and their final fraction in (0, 1]")
        if min(self.warmup, self.patience) < 0 or (self.clip is not None and self.clip <= 0):
            raise InvalidConfig("warmup and patience cannot be negative, and clip must be positive")


@dataclass(frozen=True)
class TrainingConfig:
    """One run, from data to published version."""

    name: str
    family: SinusoidConfig | TableConfig
    learner: str
    settings: dict[str, Any]
    optimisation: Optimisation = field(default_factory=Optimisation)
    seed: int = 0

    def as_data(self) -> dict[str, Any]:
        """Plain data for the manifest and for comparing runs; of a table's path only the file's name."""
        data = dataclasses.asdict(self)
        if isinstance(self.family, TableConfig):
            data["family"]["path"] = Path(self.family.path).name
        data["family"]["kind"] = "table" if isinstance(self.family, TableConfig) else "sinusoid"
        return data
