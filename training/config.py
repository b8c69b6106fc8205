"""The configuration of a training run: one frozen tree, saved whole in the manifest of what it publishes.

These dataclasses are also the options of `bmaml-train`: names, types, defaults and help come from them.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from tyro.conf import FlagCreatePairsOff, Positional, Suppress, UseAppendAction, arg
from tyro.constructors import PrimitiveConstructorSpec

from bmaml.embedding import ConvNet
from bmaml.errors import BmamlError
from model_store.columns import Transform
from model_store.images import ImageInput
from training.reading.dates import parsed_date

T = TypeVar("T")
Switch = Annotated[bool, FlagCreatePairsOff]
"""A flag that has no `--no-` form."""
TRANSFORMS: dict[str, Transform] = {"standardise": "none", **{name: name for name in get_args(Transform)}}
"""The transform of a column by the word after its colon."""
ELAPSED = "elapsed"
DEFAULT_IMAGE_SIZE = 28
"""Pixels along each side of images, where neither the caller nor a backbone says."""
TargetChoice = Literal["auto", "numbers", "classes", "ordered"]
"""What the outputs of a table are."""
_DAYS = re.compile(r"days\((.*)\)")
_COLUMN = re.compile(r"(?P<name>.*?)(?<!\\):(?P<word>standardise|none|log2?|elapsed|days\([^()]*\)|)")


class InvalidConfig(BmamlError):
    """Settings that describe no training run."""


class MissingOption(InvalidConfig):
    """A required option that is not given."""


def _one_word(read: Callable[[str], T], written: Callable[[T], str], shape: str) -> Any:
    """The option of a type that is written as one word of a given shape."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=shape,
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: not isinstance(value, str),
        str_from_instance=lambda value: [written(value)],
    )


@dataclass(frozen=True)
class Shots:
    """The number of support rows of a task, drawn uniformly from lowest..highest, both included.

    Raises:
        InvalidConfig: an empty range, or a negative number.
    """

    lowest: int
    highest: int

    def __post_init__(self) -> None:
        if not 0 <= self.lowest <= self.highest:
            raise InvalidConfig(f"shots need 0 <= lowest <= highest; found {self}")

    def __str__(self) -> str:
        return f"{self.lowest}:{self.highest}"

    @classmethod
    def parse(cls, text: str) -> "Shots":
        """From `K` or `LOWEST:HIGHEST`.

        Raises:
            InvalidConfig: anything else.
        """
        lowest, _, highest = text.partition(":")
        try:
            return cls(int(lowest), int(highest or lowest))
        except ValueError:
            raise InvalidConfig(f"shots are K or LOWEST:HIGHEST; found {text!r}") from None


ShotsOption = Annotated[Shots, _one_word(Shots.parse, str, "K|LOWEST:HIGHEST")]


@dataclass(frozen=True)
class SinusoidConfig:
    """The sine curves of Yoon et al. 2018.

    Attributes:
        shots: support points of a task.
        queries: query points of a training task.
        tasks: the number of training tasks; None draws a new one every time.
        resplit: with a finite number of tasks, deal each task's fixed points into support and query
            set anew at every visit, instead of once.
    """

    shots: ShotsOption = Shots(10, 10)
    queries: int = 10
    tasks: int | None = None
    resplit: Switch = False


def _column(text: str) -> tuple[str, str]:
    """A column and the word after its last colon; a colon before another word belongs to the name."""
    if match := _COLUMN.fullmatch(text):
        word = match["word"] or "standardise"
        return match["name"].replace("\\:", ":"), TRANSFORMS.get(word, word)
    return text.replace("\\:", ":"), "none"


ColumnOption = Annotated[
    tuple[str, str], _one_word(_column, ":".join, "COLUMN[:log|log2|elapsed|days(DATE)]")
]


def origin_of(word: str) -> int | None:
    """The microseconds from 1970-01-01 to the origin of `days(DATE)`; None for another word.

    Raises:
        InvalidConfig: the origin is no date.
    """
    if (match := _DAYS.fullmatch(word)) is None:
        return None
    if (origin := parsed_date(match[1])) is None:
        raise InvalidConfig(f"{word} needs a date such as days(2020-01-31)")
    return origin


@dataclass(frozen=True)
class UpTo:
    """The rows whose value in a column is at most a bound.

    Attributes:
        column: numbers or dates, or `COLUMN:elapsed` for the days since a task's first row.
        value: the bound as it was given.
    """

    column: str
    value: str

    def __str__(self) -> str:
        return f"{self.column}<={self.value}"

    @property
    def source(self) -> tuple[str, bool]:
        """The column of the file, and whether the days since a task's first row count."""
        name, word = _column(self.column)
        return (name, True) if word == ELAPSED else (self.column.replace("\\:", ":"), False)

    @classmethod
    def parse(cls, text: str) -> "UpTo":
        """From `COLUMN<=VALUE`.

        Raises:
            InvalidConfig: anything else.
        """
        column, found, value = text.partition("<=")
        if not (found and column.strip() and value.strip()):
            raise InvalidConfig(f"support sets end at COLUMN<=VALUE; found {text!r}")
        return cls(column.strip(), value.strip())


UpToOption = Annotated[UpTo, _one_word(UpTo.parse, str, "COLUMN<=VALUE")]


def _all_of(option: str, lists: tuple[tuple[T, ...], ...]) -> tuple[T, ...]:
    if not lists or not all(lists):
        raise MissingOption(f"{option} needs at least one column")
    return tuple(chain.from_iterable(lists))


def _inputs(x: UseAppendAction[tuple[tuple[ColumnOption, ...], ...]]) -> tuple[tuple[str, str], ...]:
    """Input columns of all options `--x`.

    Args:
        x: input columns; all are standardised, after a logarithm where one is named. Dates are days
            since a task's first row (elapsed) or since a date.
    """
    return _all_of("--x", x)


def _outputs(y: UseAppendAction[tuple[tuple[str, ...], ...]]) -> tuple[str, ...]:
    """Output columns of all options `--y`.

    Args:
        y: output columns. A kind after a colon says what their numbers are: log (positive), logit (bounded
            by 0 and 1) or logit(LOW,HIGH), integer (whole), count (whole, from 0, on a log scale), auto (the
            one of these that predicts the validation tasks best, in short trials).
    """
    return _all_of("--y", y)


@dataclass(frozen=True)
class TableConfig:
    """A table with one row per observation and a column that names the task.

    Attributes:
        path: a Parquet or CSV file.
        task: the column that names the task; none where classes are new.
        x: input columns, each with its transform; text and truth values become one column per value.
        y: output columns.
        target: numbers, classes (2 to 50 that mean the same in every task), or ordered classes; auto takes
            texts and truth values for classes, and numbers for numbers.
        levels: the labels of classes in their order, from lowest to highest.
        new_classes: every task has classes of its own, drawn from those of the file; tasks of other classes
            are answered, too.
        ways: classes of a training task where they are new; None takes 60, or all if they are fewer.
        split: the column that says train, validation or test; None splits by task, seeded.
        group: a column that keeps tasks together where the seed splits them; None splits task by task.
        order: support sets are prefixes in this column; None draws them at random.
        shots: support rows of a task, or of each class where classes are new; None takes 3:10 for numbers,
            0:10 for classes, 1:3 of each new class.
        support_until: support sets are all rows up to a value in a column, instead of `shots`.
        queries: the largest number of query rows of a task in one training batch.
        missing: texts and numbers that stand for a missing value, beside the usual ones.
        categorical: input columns whose numbers are names: one column per value.
        drop: the fraction of its rows that each visit to a training task leaves out at random, against
            overfitting to few tasks.
        resolution: half the distance at which labels can be told apart, in the units of the output (the
            smallest of several): labels that agree by chance or rounding are then no proof of a tiny noise.
        hide: the fraction of visits in which a text column is zero, each column on its own. Callers may
            then leave such columns zero.
        kinds: the kind of each output, which `--y` names; all real where it is empty.

    Raises:
        InvalidConfig: a fraction outside [0, 1); the target or the task among the inputs; a column twice;
            options that do not go together.
    """

    path: Annotated[Positional[str], arg(metavar="FILE")]
    x: Annotated[tuple[tuple[str, str], ...], arg(name="", constructor=_inputs)]
    y: Annotated[tuple[str, ...], arg(name="", constructor=_outputs)]
    task: str | None = None
    target: TargetChoice = "auto"
    levels: tuple[str, ...] = ()
    new_classes: Switch = False
    ways: Annotated[int | None, arg(name="classes")] = None
    split: str | None = None
    group: str | None = None
    order: str | None = None
    shots: ShotsOption | None = None
    support_until: UpToOption | None = None
    queries: int = 64
    missing: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    drop: float = 0.0
    resolution: float = 0.0
    hide: float = 0.0
    kinds: Suppress[tuple[str, ...]] = ()

    @property
    def outputs(self) -> tuple[tuple[str, str], ...]:
        """The output columns with the word for the kind of each."""
        return tuple(zip(self.y, self.kinds or ("real",) * len(self.y), strict=True))

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise InvalidConfig(f"the part of rows to drop must lie in [0, 1); found {self.drop}")
        if not 0 <= self.resolution < math.inf:
            raise InvalidConfig(f"the resolution of labels cannot be negative; found {self.resolution}")
        if not 0 <= self.hide < 1:
            raise InvalidConfig(f"the part of texts to hide must lie in [0, 1); found {self.hide}")
        if self.new_classes:
            self._check_new_classes()
        elif self.task is None:
            raise MissingOption("--task needs the column that names the task")
        elif self.ways is not None:
            raise InvalidConfig("--classes counts new classes: give --new-classes, too")
        if self.target in ("classes", "ordered") and len(self.y) != 1:
            raise InvalidConfig(f"classes are named by one column; found {', '.join(self.y)}")
        if self.levels and self.target == "numbers":
            raise InvalidConfig("--levels names classes, and --target says numbers")
        if len(set(self.levels)) < len(self.levels):
            raise InvalidConfig("--levels names a label twice")
        inputs = [name for name, _ in self.x]
        for _, word in self.x:
            origin_of(word)
        if leaking := sorted(set(inputs) & set(self.y)):
            raise InvalidConfig(
                f"{leaking[0]!r} is a target and cannot be an input, too: leave it out of --x"
            )
        if self.task in inputs:
            raise InvalidConfig(
                f"{self.task!r} names the task and cannot be an input: a new task has a name of its own"
            )
        if self.task in self.y:
            raise InvalidConfig(f"{self.task!r} names the task and cannot be a target")
        for option, names in (("--x", self.x), ("--y", self.y)):
            if twice := [each for each in names if names.count(each) > 1]:
                raise InvalidConfig(f"{option} names {twice[0]!r} twice")
        if unused := sorted(set(self.categorical) - set(inputs)):
            raise InvalidConfig(f"--categorical {unused[0]}: there is no such column in --x")

    @property
    def support_rows(self) -> Shots:
        """The support rows of a task: `shots`, or the default of the target."""
        if self.shots is not None:
            return self.shots
        if self.new_classes:
            return Shots(1, 3)
        return Shots(3, 10) if self.target in ("auto", "numbers") else Shots(0, 10)

    def _check_new_classes(self) -> None:
        if self.target in ("numbers", "ordered") or self.levels:
            raise InvalidConfig("--new-classes have no numbers, no order and no fixed names: see --target")
        if len(self.y) != 1:
            raise InvalidConfig(f"--new-classes are named by one column; found {', '.join(self.y)}")
        for option, given in (
            ("--task", self.task is not None),
            ("--order", self.order is not None),
            ("--support-until", self.support_until is not None),
            ("--drop", self.drop > 0),
            ("--hide", self.hide > 0),
            ("--resolution", self.resolution > 0),
        ):
            if given:
                raise InvalidConfig(
                    f"{option} is no option of --new-classes, whose tasks are drawn from all classes "
                    "(--group keeps classes together)"
                )
        if any(word == ELAPSED for _, word in self.x):
            raise InvalidConfig("days since a task's first row are no input of --new-classes: use days(DATE)")
        if self.support_rows.lowest < 1 or (self.ways is not None and self.ways < 2):
            raise InvalidConfig(
                "a task needs two new classes with a support row each: see --shots, --classes"
            )


def _channels(rgb: Annotated[Switch, arg(help_behavior_hint="")] = False) -> int:
    """Channels of an image.

    Args:
        rgb: three colours instead of grey.
    """
    return 3 if rgb else 1


@dataclass(frozen=True)
class ImagesConfig:
    """Images by class.

    Attributes:
        path: a folder per class, a zip of such folders, or an npz.
        size: pixels along each side of the model's input; 0 takes 28, or those of the backbone.
        channels: 1 for grey, 3 for RGB.
        drawing: ink on an even ground; bright paper is inverted.
        split: "folder" (the topmost one names the role), a CSV of class and role, or an array of the npz;
            None splits by class, seeded.
        ways: classes of a training task.
        shots: support images of each class, drawn once for the tasks of a meta-batch.
        queries: query images of each class at the highest number of shots; fewer shots leave more.
        rotations: take a class turned by a quarter of a circle for another class.
        augment: strength of random distortions; 0 for none.
        least: leave out classes with fewer images.
        strict: refuse what would be left out.
        features_of: use the features of this published version, unchanged.
        crop: part of the shorter side that the central square keeps; None takes the backbone's, and without
            one squeezes the whole image to a square.
        backbone: embed images by a pretrained network, unchanged: torchvision:NAME, timm:NAME,
            efficientnet-lite0, or file:PATH of torch.export or TorchScript.
        mean: of each channel in [0, 1], which is subtracted before the backbone; None takes the weights' own.
        std: of each channel, by which it is divided; None takes the weights' own.

    Raises:
        InvalidConfig: sizes or counts that make no task.
    """

    path: Annotated[Positional[str], arg(metavar="PATH")]
    size: int = 0
    channels: Annotated[int, arg(name="", constructor=_channels)] = 1
    drawing: Switch = False
    split: str | None = None
    ways: Annotated[int, arg(name="classes")] = 60
    shots: ShotsOption = Shots(1, 3)
    queries: int = 1
    rotations: Switch = False
    augment: float = 1.0
    least: int = 5
    strict: Switch = False
    features_of: str | None = None
    crop: float | None = None
    backbone: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    @classmethod
    def from_manifest(cls, trained: Mapping[str, Any], path: str) -> "ImagesConfig":
        """The configuration in a published version's manifest, for images at another `path`."""
        values = {name: value for name, value in trained.items() if name != "kind"}
        values |= {name: tuple(values[name]) for name in ("mean", "std") if values.get(name)}
        return cls(**{**values, "path": path, "shots": Shots(**trained["shots"])})

    @property
    def image(self) -> ImageInput:
        """The image input of the model."""
        return ImageInput(channels=self.channels, size=self.size, drawing=self.drawing, crop=self.crop)

    def __post_init__(self) -> None:
        if not self.size and self.backbone is None:
            object.__setattr__(self, "size", DEFAULT_IMAGE_SIZE)
        if self.backbone is not None and self.features_of is not None:
            raise InvalidConfig(
                "features are those of a backbone or of a published version: give one of them"
            )
        if self.backbone is None and (self.mean or self.std):
            raise InvalidConfig("--mean and --std are of a backbone: name one")
        if self.std is not None and min(self.std) <= 0:
            raise InvalidConfig(f"standard deviations are positive; found {self.std}")
        if self.ways < 2 or self.queries < 1 or self.shots.lowest < 1 or self.least < 2:
            raise InvalidConfig(
                "a task needs two classes with a support and a query image each, a class two images; "
                f"found {self.ways}, {self.shots.lowest}, {self.queries}, {self.least}"
            )
        if not 0 <= self.augment < float("inf"):
            raise InvalidConfig(f"the strength of augmentation cannot be negative; found {self.augment}")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise InvalidConfig(f"a crop keeps a part in (0, 1] of the shorter side; found {self.crop}")


@dataclass(frozen=True)
class WorldConfig:
    """A world of tasks for policies.

    Attributes:
        world: navigation, ring, or with the extra gym gym:HalfCheetahDir, gym:HalfCheetahVel and gym:ID of
            any Gymnasium environment with continuous actions.
        episodes: episodes of each particle in a round.
        shaped: judge the adapted particles by the denser reward that a simulator knows; they still adapt to
            the world's own.
        vary: what tasks of gym:ID differ by, each NAME=LOW:HIGH: a keyword of gymnasium.make or else an
            attribute of the environment.
        horizon: steps of an episode of gym:ID; None takes the environment's own.

    Raises:
        InvalidConfig: too few episodes for a particle to move, or no step in an episode; a denser reward of
            gym:ID.
    """

    world: Annotated[Positional[str], arg(metavar="WORLD")]
    episodes: int = 10
    shaped: Switch = False
    vary: tuple[str, ...] = ()
    horizon: int | None = None

    def __post_init__(self) -> None:
        if self.episodes < 2:
            raise InvalidConfig(f"a round needs at least two episodes of a particle; found {self.episodes}")
        if self.horizon is not None and self.horizon < 1:
            raise InvalidConfig(f"an episode has at least one step; found --horizon {self.horizon}")


@dataclass(frozen=True)
class Optimisation:
    """The outer loop.

    Attributes:
        meta_steps: updates of the meta-parameters.
        meta_batch: tasks per update.
        learning_rate: Adam's rate at the start.
        final_rate: the fraction of the learning rate that is left at the end.
        decay: the schedule from one to the other.
        warmup: updates over which the rate first rises from zero.
        clip: largest norm of the meta-gradient; 0 for no limit.
        evaluate_every: updates between two evaluations of the validation tasks.
        patience: evaluations without a better NLL before training stops and keeps the best parameters; 0
            runs to the end and keeps the last.
        optimiser: Adam for everything, or Muon for the matrices between hidden layers.
        matrix_rate: Muon's rate for those matrices at the start; it decays with the learning rate.
    """

    meta_steps: int = 20_000
    meta_batch: int = 16
    learning_rate: float = 1e-3
    final_rate: float = 0.13
    decay: Literal["exponential", "cosine"] = "exponential"
    warmup: int = 100
    clip: float = 10.0
    evaluate_every: int = 500
    patience: int = 10
    optimiser: Literal["adam", "muon"] = "adam"
    matrix_rate: float = 0.02

    def __post_init__(self) -> None:
        for name in ("meta_steps", "meta_batch", "evaluate_every"):
            if (value := getattr(self, name)) < 1:
                raise InvalidConfig(f"{name} must be at least 1; found {value}")
        rates = (self.learning_rate, self.matrix_rate)
        if not all(0 < rate < float("inf") for rate in rates) or not 0 < self.final_rate <= 1:
            raise InvalidConfig("the learning rates must be positive and their final fraction in (0, 1]")
        if min(self.warmup, self.patience, self.clip) < 0:
            raise InvalidConfig("warmup, patience and clip cannot be negative")


SupervisedConfig = SinusoidConfig | TableConfig | ImagesConfig
FamilyConfig = SupervisedConfig | WorldConfig
FamilyKind = Literal["sinusoid", "table", "images", "world"]
RecipeKind = Literal["sinusoid", "table", "classes", "new classes", "images", "world"]
"""Kinds of families by their targets: a table may have classes, of fixed meaning or new in every task."""


def support_rows(config: SupervisedConfig) -> Shots:
    """The support rows of a task of this family."""
    return config.support_rows if isinstance(config, TableConfig) else config.shots


def recipe_kind(config: FamilyConfig) -> RecipeKind:
    """The kind of a family that decides which learners fit it, and by which recipe."""
    if not isinstance(config, TableConfig):
        return family_kind(config)
    if config.new_classes:
        return "new classes"
    return "classes" if config.target in ("classes", "ordered") else "table"


def family_kind(config: FamilyConfig) -> FamilyKind:
    """The kind of a family, by its name on the command line."""
    kinds: dict[type, FamilyKind] = {
        SinusoidConfig: "sinusoid",
        TableConfig: "table",
        ImagesConfig: "images",
        WorldConfig: "world",
    }
    return kinds[type(config)]


@dataclass(frozen=True)
class TrainingConfig:
    """One run, from data to published version.

    Attributes:
        settings: the learner's, its network among them.
        embedding: the settings of a `ConvNet`, for images.
        start_from: the published model whose newest parameters are the first ones.

    Raises:
        InvalidConfig: no task has a support row.
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
        if not isinstance(self.family, WorldConfig) and support_rows(self.family).highest < 1:
            raise InvalidConfig(
                "there is nothing to adapt to in tasks that show no row: shots of 0 are for evaluation"
            )

    @property
    def trained_embedding(self) -> ConvNet | None:
        """The embedding that is trained with the learner, if there is one."""
        taken = isinstance(self.family, ImagesConfig) and self.family.features_of is not None
        return None if self.embedding is None or taken else ConvNet(**self.embedding)

    def as_data(self) -> dict[str, Any]:
        """Plain data for the manifest and the comparison of runs; a path is reduced to the file's name."""
        data = dataclasses.asdict(self)
        if isinstance(self.family, TableConfig | ImagesConfig):
            data["family"]["path"] = Path(self.family.path).name
        if isinstance(self.family, ImagesConfig) and (self.family.backbone or "").startswith("file:"):
            data["family"]["backbone"] = f"file:{Path(self.family.backbone or '').name}"
        if not isinstance(self.family, WorldConfig):
            data["family"]["shots"] = dataclasses.asdict(support_rows(self.family))
        data["family"]["kind"] = family_kind(self.family)
        return data
