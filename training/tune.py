"""`bmaml-train tune`: one training, again and again with other options; the best on the validation tasks."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from bmaml.errors import BmamlError
from training.config import InvalidConfig, MissingOption
from training.run import Run
from training.varied import KINDS, default_varied, is_given, varied


class TuneUnavailable(BmamlError):
    """A search is asked for, and Optuna is not installed."""


@dataclass(frozen=True)
class SearchOptions:
    """The search.

    Attributes:
        training: the training to repeat, with all its options: table FILE …, sinusoid …, images PATH … or
            world WORLD ….
        vary: an option of the training and its values: OPTION=LOW:HIGH, OPTION=LOW:HIGH:log or
            OPTION=A,B,C. Without it the learner's own choice.
        trials: trials of all workers together, those of earlier calls included.
        storage: the address of the database that workers share, such as postgresql://…; the default is a
            file of SQLite in the folder of runs.
        prune: stop a trial whose validation NLL is above the median of the others at the same step.
    """

    training: Annotated[Positional[tuple[str, ...]], arg(metavar="COMMAND …", help_behavior_hint="")]
    vary: tuple[str, ...] = ()
    trials: int = 20
    storage: str | None = None
    prune: bool = True

    def __post_init__(self) -> None:
        if not self.training or self.training[0] not in KINDS:
            raise MissingOption(
                "tune needs the training to repeat after its own options, such as: bmaml-train tune "
                "--trials 20 table FILE --task … --name NAME"
            )
        if self.trials < 1:
            raise InvalidConfig(f"a search has at least one trial; found --trials {self.trials}")


def separated(arguments: Sequence[str]) -> list[str]:
    """A command line in which `--` parts the options of `tune` from the training that it repeats."""
    words = list(arguments)
    if words[:1] == ["tune"] and "--" not in words:
        place = next((at for at, word in enumerate(words[1:], 1) if word in KINDS), None)
        if place is not None:
            words.insert(place, "--")
    return words


def tune(options: SearchOptions, parsed: Callable[[Sequence[str]], Callable[[], Run]]) -> None:
    """Search, or go on with a search, and publish the best.

    Args:
        parsed: the command of a command line, ready to be called; it exits where an option cannot be read.

    Raises:
        InvalidConfig, MissingOption: options that make no search.
        TuneUnavailable: Optuna is not installed.
        StudyUnavailable, OtherStudy: the storage cannot be used, or its study has other options.
        NothingFound: every trial failed.
        Interrupted: a signal came; the same command goes on.
    """
    words = options.training
    _check(options)
    chosen = varied(options.vary, words[0], words)
    for line in ([], *(each.words(value) for each in chosen for value in each.examples)):
        parsed([*words, *line])
    try:
        from training.search import Search
    except ImportError as error:
        raise TuneUnavailable(
            f"tune needs the extra tune: pip install 'bmaml-service[tune]' ({error})"
        ) from None
    run = parsed(words)()
    chosen = chosen or default_varied(run, words[0], words)
    Search(options, run, chosen, lambda words: parsed(words)()).complete()


def _check(options: SearchOptions) -> None:
    """Refuse options of the training that do not go together with a search.

    Raises:
        InvalidConfig: there is one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InvalidConfig(
            "tune takes one process for each trial: instead of torchrun, start it several times with one "
            "--storage"
        )
    if is_given("resume", options.training):
        raise InvalidConfig("a search goes on where it was: leave --resume out")
    if any(word.endswith(":auto") for word in options.training):
        raise InvalidConfig(
            "a kind of target that each trial chooses anew makes validation NLLs incomparable: name the kind "
            "instead of auto"
        )


def default_storage(folder: Path) -> str:
    """The address of the database in a run's folder."""
    return f"sqlite:///{folder / 'study.db'}"
