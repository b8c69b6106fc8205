"""The options that a search varies, each over a range of numbers or a choice of words."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from training.config import InvalidConfig, MissingOption, RecipeKind, recipe_kind
from training.options import settings_options
from training.run import Run

UNTOUCHED = "default"
"""The word of a choice that leaves the option as the command has it."""
SWITCH = {"true": "--{}", "false": "--no-{}"}
KINDS: dict[str, tuple[RecipeKind, ...]] = {
    "sinusoid": ("sinusoid",),
    "table": ("table", "classes", "new classes"),
    "images": ("images",),
    "world": ("world",),
}
"""The kinds of families of each command that trains."""
FAMILY_OPTIONS: dict[str, dict[str, type]] = {
    "sinusoid": {"queries": int, "resplit": bool},
    "table": {"drop": float, "hide": float, "classes": int, "dimensions": int},
    "images": {
        "augment": float,
        "classes": int,
        "rotations": bool,
        "width": int,
        "standard": bool,
        "views": int,
        "dimensions": int,
    },
    "world": {"shaped": bool},
}
"""The options beside those of learner and outer loop that leave the validation tasks as they are."""
ONE_WAY_SWITCHES = frozenset({"resplit", "rotations", "standard", "shaped"})
"""Flags that have no `--no-` form."""
RATE_FACTOR = 4.0
"""Default ranges of rates go from the command's own value divided by this to its product with it."""
BY_LEARNER: dict[str, tuple[str, ...]] = {
    "collapsed": ("particles=16,32,64",),
    "laplace": ("effects=2:8", "shrinkage=0.5:8:log"),
    "conjugate": ("particles=4,8,16", "dimensions=32,64,128"),
}
"""Default ranges beside the learning rate; learners with an inner step vary its size."""
BY_KIND: dict[RecipeKind, tuple[str, ...]] = {"table": ("drop=0:0.3",)}


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds, both included.

    Attributes:
        whole: whole numbers alone.
        log: drawn evenly in the logarithm.
    """

    low: float
    high: float
    whole: bool
    log: bool

    def word(self, value: float) -> str:
        """The number as it is written after the option, to four digits."""
        return str(int(value)) if self.whole else f"{value:.4g}"


@dataclass(frozen=True)
class Varied:
    """An option, and the values that it may take.

    Attributes:
        option: its name, without dashes.
        values: a range, or the words of a choice.
        flag: the option is a flag, which `true` and `false` set.
    """

    option: str
    values: Range | tuple[str, ...]
    flag: bool = False

    def words(self, value: float | str) -> list[str]:
        """The words of a command line that give the option this value."""
        if isinstance(self.values, Range):
            return [f"--{self.option}", self.values.word(float(value))]
        if value == UNTOUCHED or (value == "false" and self.option in ONE_WAY_SWITCHES):
            return []
        if self.flag:
            return [SWITCH[str(value)].format(self.option)]
        return [f"--{self.option}", *shlex.split(str(value))]

    @property
    def examples(self) -> tuple[float | str, ...]:
        """The bounds of a range, or all words of a choice."""
        return (self.values.low, self.values.high) if isinstance(self.values, Range) else self.values

    def __str__(self) -> str:
        if not isinstance(self.values, Range):
            return f"{self.option}={','.join(self.values)}"
        log = ":log" if self.values.log else ""
        return f"{self.option}={self.values.word(self.values.low)}:{self.values.word(self.values.high)}{log}"


def varied(texts: Iterable[str], command: str, words: Sequence[str]) -> tuple[Varied, ...]:
    """The options that `--vary` names.

    Args:
        command: the command that trains.
        words: its command line, which may not give any of them.

    Raises:
        InvalidConfig, MissingOption: what varies is no option, or its values are none.
    """
    types, found = option_types(command), [_parsed(text, command) for text in texts]
    names = [name for name, _ in found]
    for name in names:
        if name not in types:
            raise InvalidConfig(
                f"--vary {name}: no option of {command} that a search may vary; these are "
                f"{', '.join(sorted(types))}"
            )
        if names.count(name) > 1:
            raise InvalidConfig(f"--vary names {name} twice")
        if is_given(name, words):
            raise InvalidConfig(f"--{name} is given and varied: leave it out of the command or of --vary")
    return tuple(_varied(name, values, types[name]) for name, values in found)


def default_varied(run: Run, command: str, words: Sequence[str]) -> tuple[Varied, ...]:
    """The options that a search varies unless `--vary` says so: those of the learner that are not given."""
    config, learner = run.config, run.learner()
    texts = [_around("learning-rate", config.optimisation.learning_rate)]
    if config.learner not in BY_LEARNER:
        texts.append(_around("step-size", learner.step_size))
    texts += BY_LEARNER.get(config.learner, ())
    texts += BY_KIND.get(recipe_kind(config.family), ())
    return varied((text for text in texts if not is_given(text.partition("=")[0], words)), command, words)


def option_types(command: str) -> dict[str, Any]:
    """The type of every option of a command that a search may vary."""
    groups = get_type_hints(settings_options(*KINDS[command])).values()
    found = {name: kind for group in groups for name, kind in get_type_hints(group).items()}
    return {name.replace("_", "-"): kind for name, kind in found.items()} | FAMILY_OPTIONS[command]


def is_given(option: str, words: Sequence[str]) -> bool:
    """Whether a command line gives an option."""
    spellings = {f"--{option}", f"--no-{option}"}
    return any(word.partition("=")[0].replace("_", "-") in spellings for word in words)


def _around(option: str, value: float) -> str:
    return f"{option}={value / RATE_FACTOR:.4g}:{value * RATE_FACTOR:.4g}:log"


def _parsed(text: str, command: str) -> tuple[str, str]:
    name, equals, values = text.partition("=")
    if not equals or not name.strip("-") or not values:
        raise MissingOption(
            f"--vary is OPTION=LOW:HIGH, OPTION=LOW:HIGH:log or OPTION=A,B,C with an option of {command}; "
            f"found {text!r}"
        )
    return name.lstrip("-").replace("_", "-"), values


def _varied(name: str, text: str, kind: Any) -> Varied:
    numeric = [each for each in (int, float) if each is kind]
    if ":" in text and "," not in text and numeric:
        return Varied(name, _range(name, text, whole=float not in numeric))
    choices = tuple(word.strip() for word in text.split(","))
    if len(choices) < 2 or not all(choices) or len(set(choices)) < len(choices):
        raise InvalidConfig(
            f"--vary {name}={text}: a choice has two or more different words, parted by commas"
            + ("; a range is LOW:HIGH" if numeric else f", and {name} is no number that has a range")
        )
    flag = kind is bool
    if flag and (unknown := [word for word in choices if word not in (*SWITCH, UNTOUCHED)]):
        raise InvalidConfig(f"--vary {name}={text}: {name} is true or false; found {unknown[0]!r}")
    return Varied(name, choices, flag)


def _range(name: str, text: str, whole: bool) -> Range:
    low, high, *rest = text.split(":")
    if rest not in ([], ["log"]):
        raise InvalidConfig(f"--vary {name}={text}: a range is LOW:HIGH or LOW:HIGH:log")
    try:
        bounds = [(int if whole else float)(word) for word in (low, high)]
    except ValueError:
        kind = "whole numbers" if whole else "numbers"
        raise InvalidConfig(f"--vary {name}={text}: {name} takes {kind}") from None
    if not -float("inf") < bounds[0] < bounds[1] < float("inf") or (rest and bounds[0] <= 0):
        positive = ", both positive for a logarithm" if rest else ""
        raise InvalidConfig(f"--vary {name}={text}: a range rises from its first number{positive}")
    return Range(bounds[0], bounds[1], whole, bool(rest))
