"""A page of the documentation that holds what a benchmark measured, between two marks."""

from collections.abc import Sequence
from pathlib import Path


def write(page: Path, lines: Sequence[str], name: str = "") -> None:
    """Put the lines between the marks; `name` tells several measurements of one page apart."""
    which = f"measured: {name}: " if name else "measured: "
    begin, end = (f"<!-- {which}{edge} -->" for edge in ("begin", "end"))
    before, found, rest = page.read_text().partition(begin)
    after, closed = rest.partition(end)[2], end in rest
    if not found or not closed:
        raise SystemExit(f"{page} has no place marked {begin} … {end}")
    text = "\n".join(lines).strip("\n")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
