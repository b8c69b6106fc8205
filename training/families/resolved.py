"""Columns of `--x` and `--y` as columns of the file, which may have colons in their names."""

from pathlib import Path

from training.config import TRANSFORMS, InvalidConfig, TableConfig
from training.errors import UnusableTable
from training.families.targets import is_target_word
from training.reading import column_names


def resolved(config: TableConfig) -> TableConfig:
    """The configuration with `--x` and `--y` as columns of the file, which may have colons in their names.

    Raises:
        InvalidConfig: a column with a colon is not in the file, and the word after the colon is no transform.
    """
    try:
        header = column_names(Path(config.path))
    except UnusableTable:
        header = ()
    chosen = []
    for name, word in config.x:
        if (whole := f"{name}:{word}") in header:
            chosen.append((whole, "none"))
            continue
        if ":" in name and name not in header:
            first, _, unknown = name.partition(":")
            raise InvalidConfig(
                f"unknown transform {unknown!r} of {first!r}: {', '.join(TRANSFORMS)}, elapsed, days(DATE); "
                f"and no column of {config.path} is called {name!r}"
            )
        chosen.append((name, word))
    labels = [(each, "real") if each in header else _named_target(each) for each in config.y]
    return TableConfig(
        **{
            **vars(config),
            "x": tuple(chosen),
            "y": tuple(name for name, _ in labels),
            "kinds": tuple(word for _, word in labels),
        }
    )


def _named_target(text: str) -> tuple[str, str]:
    """A target's column and its kind, from what `--y` says of it."""
    name, colon, word = text.rpartition(":")
    if colon and is_target_word(word) and not name.endswith("\\"):
        return name.replace("\\:", ":"), word
    return text.replace("\\:", ":"), "real"
