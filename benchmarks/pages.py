"""Pages of the manual that hold measured tables, each between two marks and sealed by a digest.

`<!-- measured: NAME: begin -->` opens a block and `<!-- measured: NAME: end, sha256 DIGEST -->` closes it.
The digest is of the text in between, so a table that was altered by hand no longer fits its seal.
Benchmarks write their blocks with `write`; `python -m benchmarks.pages PAGE …` seals tables that were
recorded by hand.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

BLOCK = re.compile(
    r"<!-- measured: (?P<name>[\w-]+): begin -->\n(?P<text>.*?)"
    r"<!-- measured: (?P=name): end(?:, sha256 (?P<seal>\w+))? -->",
    re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One measured block of a page.

    Attributes:
        text: everything between the marks.
        seal: the digest in the closing mark; empty where there is none.
    """

    name: str
    text: str
    seal: str

    @property
    def sealed(self) -> bool:
        """The text is the one that was sealed."""
        return self.seal == digest(self.text)


def digest(text: str) -> str:
    """The seal of a block's text: twelve hexadecimal digits of its SHA-256."""
    return sha256(text.encode()).hexdigest()[:12]


def blocks(page: str) -> Iterator[Block]:
    """All measured blocks of a page's text, in order."""
    for found in BLOCK.finditer(page):
        yield Block(found["name"], found["text"], found["seal"] or "")


def seal(page: str) -> str:
    """The page's text with the digest of every block made anew."""
    return BLOCK.sub(lambda found: _marked(found["name"], found["text"]), page)


def check(page: Path, name: str) -> None:
    """Make sure, before anything is measured, that the page has a place for it.

    Raises:
        SystemExit: the page has no block of that name.
    """
    if name not in {block.name for block in blocks(page.read_text())}:
        raise SystemExit(f"{page} has no place marked <!-- measured: {name}: begin --> … end -->")


def write(page: Path, lines: Sequence[str], name: str) -> None:
    """Put the lines into the block of that name, and seal it.

    Raises:
        SystemExit: the page has no block of that name.
    """
    check(page, name)
    text = "\n" + "\n".join(lines).strip("\n") + "\n\n"
    page.write_text(
        BLOCK.sub(lambda found: _marked(name, text) if found["name"] == name else found[0], page.read_text())
    )


def _marked(name: str, text: str) -> str:
    return f"<!-- measured: {name}: begin -->\n{text}<!-- measured: {name}: end, sha256 {digest(text)} -->"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        Path(argument).write_text(seal(Path(argument).read_text()))
