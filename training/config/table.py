"""The options of a table: its columns, their transforms and kinds, and the rows that tasks show."""

import math
import re
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Literal, TypeVar, get_args

from tyro.conf import Positional, Suppress, UseAppendAction, arg

from model_store.columns import Transform
from training.config.values import InvalidConfig, MissingOption, Shots, ShotsOption, Switch, one_word
from training.reading.dates import parsed_date

T = TypeVar("T")
TRANSFORMS: dict[str, Transform] = {"standardise": "none", **{name: name for name in get_args(Transform)}}
"""The transform of a column by the word after its colon."""
ELAPSED = "elapsed"
TargetChoice = Literal["auto", "numbers", "classes", "ordered"]
"""What the outputs of a table are."""
_DAYS = re.compile(r"days\((.*)\)")
_COLUMN = re.compile(r"(?P<name>.*?)(?<!\\):(?P<word>standardise|none|log2?|elapsed|days\([^()]*\)|)")


def _column(text: str) -> tuple[str, str]:
    """A column and the word after its last colon; a colon before another word belongs to the name."""
    if match := _COLUMN.fullmatch(text):
        word = match["word"] or "standardise"
        return match["name"].replace("\\:", ":"), TRANSFORMS.get(word, word)
    return text.replace("\\:", ":"), "none"


ColumnOption = Annotated[tuple[str, str], one_word(_column, ":".join, "COLUMN[:log|log2|elapsed|days(DATE)]")]


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


UpToOption = Annotated[UpTo, one_word(UpTo.parse, str, "COLUMN<=VALUE")]


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
            texts, truth values, and 0 and 1 alone for classes, and other numbers for numbers.
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
