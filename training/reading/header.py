"""The wanted columns among those of a file."""

from collections.abc import Sequence
from pathlib import Path

from training.errors import UnusableTable

MAX_NAMES_SHOWN = 20


def places_of(path: Path, header: Sequence[str], wanted: Sequence[str], told: str = "") -> dict[str, int]:
    """The places of the wanted columns.

    Args:
        told: what else to say of the file where a column is absent.

    Raises:
        UnusableTable: a column is absent or there several times.
    """
    if absent := sorted(set(wanted) - set(header)):
        shown = [*header[:MAX_NAMES_SHOWN], *(["…"] if len(header) > MAX_NAMES_SHOWN else [])]
        raise UnusableTable(f"{path}: no column {', '.join(absent)}; there are {', '.join(shown)}{told}")
    places = {}
    for name in wanted:
        found = [place for place, each in enumerate(header) if each == name]
        if len(found) > 1:
            raise UnusableTable(
                f"{path}: column {name!r} is there {len(found)} times, as columns "
                f"{' and '.join(str(place + 1) for place in found)}: rename all but one"
            )
        places[name] = found[0]
    return places
