"""What a training run is: one frozen tree, saved whole in the manifest of what it publishes."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bmaml.embedding import ConvNet
from bmaml.errors import BmamlError
from model_store.columns import Transform


class InvalidConfig(BmamlError, ValueError):
    """Settings that describe no training run."""


@dataclass(frozen=True)
class Shots:
    """How many support rows a task shows: drawn uniformly from lowest..highest, both included.

    Raises:
        InvalidConfig: an empty range, or less than nothing.
    """

    lowest: int
    highest: int

    def __post_init__(self) -> None:
        if not 0 <= self.lowest <= self.highest:
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
        hide: part of the visits in which a column of texts is not told, each on its own: then a task can be
            told apart by its rows alone, and callers may leave such columns zero.

    Raises:
        InvalidConfig: a part outside [0, 1).
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
    hide: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise InvalidConfig(f"the part of rows to drop must lie in [0, 1); found {self.drop}")
        if not 0 <= self.hide < 1:
            raise InvalidConfig(f"the part of texts to hide must lie in [0, 1); found {self.hide}")


@dataclass(frozen=True)
class ImagesConfig:
    """Pictures by class.

    Attributes:
        path: a folder, a zip or an npz; see `families.pictures`.
        size: pixels along each side of the model's input.
        channels: 1 for grey, 3 for RGB.
        drawing: ink on an even ground: bright paper is inverted.
        split: "folder", a CSV file of class and role, or an array of the npz; None splits by class, seeded.
        ways: classes of a training task.
        shots: pictures shown of each class; drawn once for the tasks of a meta-batch.
        queries: pictures asked of each class where `shots.highest` are shown; more where fewer are.
        rotations: a class turned by a quarter of a circle is another class.
        augment: strength of random distortions; 0 for none.
        least: classes with fewer pictures are left out.
        strict: refuse what would be left out.
        features_of: a published version whose features are used as they are.

    Raises:
        InvalidConfig: sizes or counts that make no task.
    """

    path: str
    size: int = 28
    channels: int = 1
    drawing: bool = False
    split: str | None = None
    ways: int = 5
    shots: Shots = Shots(1, 3)
    queries: int = 1
    rotations: bool = False
    augment: float = 1.0
    least: int = 5
    strict: bool = False
    features_of: str | None = None

    @classmethod
    def recalled(cls, trained: Mapping[str, Any], path: str) -> "ImagesConfig":
        """As a published version remembers its training, for pictures at `path`."""
        values = {name: value for name, value in trained.items() if name != "kind"}
        return cls(**{**values, "path": path, "shots": Shots(**trained["shots"])})

    def __post_init__(self) -> None:
        if self.ways < 2 or self.queries < 1 or self.shots.lowest < 1 or self.least < 2:
            raise InvalidConfig(
                "a task needs two classes, a picture shown and one asked of each, a class two pictures; "
                f"found {self.ways}, {self.shots.lowest}, {self.queries}, {self.least}"
            )
        if not 0 <= self.augment < float("inf"):
            raise InvalidConfig(f"the strength of augmentation cannot be negative; found {self.augment}")


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


FamilyConfig = SinusoidConfig | TableConfig | ImagesConfig
FamilyKind = Literal["sinusoid", "table", "images"]


def kind_of(config: FamilyConfig) -> FamilyKind:
    """The kind of a family, as the command line calls it."""
    kinds: dict[type, FamilyKind] = {SinusoidConfig: "sinusoid", TableConfig: "table", ImagesConfig: "images"}
    return kinds[type(config)]


@dataclass(frozen=True)
class TrainingConfig:
    """One run, from data to published version.

    Attributes:
        embedding: the settings of a `ConvNet`, where tasks are pictures.
        start_from: a published model, the newest version of whose parameters are the first ones.

    Raises:
        InvalidConfig: tasks without any support row.
    """

    name: str
    family: FamilyConfig
    learner: str
    settings: dict[str, Any]
    optimisation: Optimisation = field(default_factory=Optimisation)
    seed: int = 0
    embedding: dict[str, Any] | None = None
    start_from: str | None = None

    def __post_init__(self) -> None:
        if self.family.shots.highest < 1:
            raise InvalidConfig(
                "there is nothing to adapt to in tasks that show no row: shots of 0 are for evaluation"
            )

    @property
    def trained_embedding(self) -> ConvNet | None:
        """The embedding that is trained with the learner, if there is one."""
        taken = isinstance(self.family, ImagesConfig) and self.family.features_of is not None
        return None if self.embedding is None or taken else ConvNet(**self.embedding)

    def as_data(self) -> dict[str, Any]:
        """Plain data for the manifest and for comparing runs; of a table's path only the file's name."""
        data = dataclasses.asdict(self)
        if not isinstance(self.family, SinusoidConfig):
            data["family"]["path"] = Path(self.family.path).name
        data["family"]["kind"] = kind_of(self.family)
        return data
