"""A page of the documentation that holds what a benchmark measured, between two marks."""

from collections.abc import Sequence
from pathlib import Path


def check(page: Path, name: str = "") -> tuple[str, str]:
    """The marks of a measurement; `name` tells several of one page apart.

    Raises:
        SystemExit: the page has none.
    """
    which = f"measured: {name}: " if name else "measured: "
    begin, end = (f"<!-- {which}{edge} -->" for edge in ("begin", "end"))
    if end not in page.read_text().partition(begin)[2]:
        raise SystemExit(f"{page} has no place marked {begin} … {end}")
    return begin, end


def write(page: Path, lines: Sequence[str], name: str = "") -> None:
    """Put the lines between the marks."""
    begin, end = check(page, name)
    before, _, rest = page.read_text().partition(begin)
    text = "\n".join(lines).strip("\n")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}")
