"""Values of several families' options, and what is raised where options make no run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from tyro.conf import FlagCreatePairsOff
from tyro.constructors import PrimitiveConstructorSpec

from bmaml.errors import BmamlError

T = TypeVar("T")
Switch = Annotated[bool, FlagCreatePairsOff]
"""A flag that has no `--no-` form."""


class InvalidConfig(BmamlError):
    """Settings that describe no training run."""


class MissingOption(InvalidConfig):
    """A required option that is not given."""


def one_word(read: Callable[[str], T], written: Callable[[T], str], shape: str) -> Any:
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


ShotsOption = Annotated[Shots, one_word(Shots.parse, str, "K|LOWEST:HIGHEST")]
