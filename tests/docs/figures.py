"""Figures in the prose of the manual, each with a key into the measured table that it comes from.

A figure is a number with a comment behind it, which the rendered page does not show:

    `sinusoid` is answered 677<!--serving/sinusoid/ours/64/answers--> times a second

The key names a measured block (`benchmarks/pages.py`), then the row, then the column. The row is named by
some of its cells, from left to right; the heading above the table (or else the line above it) counts as
its first cell. Each part is the text of a cell in lower case with hyphens for all else (`in-90` is
`in 90 %`), or its first words where no cell is called just that. `KEY÷KEY` is a ratio, `KEY÷1000` another
unit.

A figure must equal its cell, rounded half up to the places that the figure shows. All other numbers of a
page's prose must lie inside phrases that are listed as not measured.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from benchmarks.pages import BLOCK, Block, blocks

NUMBER = re.compile(r"−?\d(?:[\d,]*\d)?(?:\.\d+)?")
KEY = re.compile(r"<!--(?P<key>[^\s<>]+)-->")
FIGURE = re.compile(rf"(?P<figure>{NUMBER.pattern}){KEY.pattern}")
CELL = re.compile(r"[-−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
UNREAD = re.compile(
    r"^(?P<fence> *```).*?^(?P=fence)$"  # blocks of code
    r"|(?<=\n\n)(?: {4}[^\n]*\n|\n(?= {4}))+"  # and those that are indented
    r"|`[^`]*`"  # code in a line
    r"|(?<=\])\([^)\s]*\)"  # targets of links
    r"|<!--.*?-->",  # comments
    re.MULTILINE | re.DOTALL,
)


class Wrong(ValueError):
    """A key that names no cell, or several."""


@dataclass(frozen=True)
class Row:
    """One row of a measured table.

    Attributes:
        cells: by column, the heading above the table first.
        words: the same as keys spell them.
        columns: names of the columns as keys spell them; the heading's is empty.
    """

    cells: tuple[str, ...]
    words: tuple[str, ...]
    columns: tuple[str, ...]


class Table:
    """The rows of one measured block, whose tables need not be alike."""

    def __init__(self, block: str = "") -> None:
        self._rows = list(_rows(block))
        self._words = {word for row in self._rows for word in (*row.words, *row.columns)}
        self._known: dict[str, Decimal] = {}

    def number(self, cell: str) -> Decimal:
        """The number in the cell that this part of a key names.

        Raises:
            Wrong: there is no such cell, or more than one, or no number in it.
        """
        if cell not in self._known:
            self._known[cell] = self._find(cell)
        return self._known[cell]

    def _find(self, cell: str) -> Decimal:
        *among, column = map(self._meant, cell.split("/"))
        found = [
            text
            for row in self._rows
            if among and _in_order(among, row.words)
            for text, title in zip(row.cells, row.columns, strict=True)
            if title in column
        ]
        if len(found) != 1:
            raise Wrong(f"{cell} names {len(found) or 'no'} cells")
        number = CELL.search(found[0])
        if number is None:
            raise Wrong(f"{cell} names {found[0]!r}, which is no number")
        return Decimal(number[0].replace(",", "").replace("−", "-"))

    def _meant(self, part: str) -> set[str]:
        """The cells and columns that one part of a key may mean."""
        return (
            {part} if part in self._words else {word for word in self._words if word.startswith(f"{part}-")}
        )


Tables = dict[str, Table]
"""By the block's name."""


def tables(pages: Iterable[str]) -> Tables:
    """All measured tables of these pages."""
    return {block.name: Table(block.text) for page in pages for block in blocks(page)}


def broken(page: str) -> list[Block]:
    """Measured blocks that are not what was sealed."""
    return [block for block in blocks(page) if not block.sealed]


def problems(page: str, measured: Tables, unmeasured: Sequence[str]) -> Iterator[str]:
    """Everything that is wrong with the numbers of one page; nothing where all is well.

    Args:
        page: its text.
        measured: of all pages.
        unmeasured: phrases whose numbers nobody measured.
    """
    for block in broken(page):
        yield f"block {block.name} is not what was sealed: run its benchmark, or benchmarks/pages.py"
    yield from differing(page, measured)
    yield from unaccounted(page, unmeasured)


def differing(page: str, measured: Tables) -> Iterator[str]:
    """Figures whose key names no cell, or a cell that says otherwise; keys that stand behind no figure."""
    for lost in KEY.findall(FIGURE.sub("", page)):
        yield f"{lost} stands behind no number"
    for found in FIGURE.finditer(page):
        try:
            cell = value(found["key"], measured)
        except Wrong as error:
            yield str(error)
            continue
        figure = found["figure"].replace(",", "").replace("−", "-")
        places = Decimal(1).scaleb(-len(figure.partition(".")[2]))
        if Decimal(figure) != cell.quantize(places, ROUND_HALF_UP):
            yield f"{found['figure']} is told where {cell} was measured ({found['key']})"


def unaccounted(page: str, unmeasured: Sequence[str]) -> Iterator[str]:
    """Numbers that have neither key nor phrase, and phrases that are not on the page."""
    text = prose(page)
    allowed: set[int] = set()
    for phrase in unmeasured:
        found = [each.span() for each in re.finditer(rf"(?<![\d.,]){re.escape(phrase)}(?!\d)", text)]
        if not found:
            yield f"{phrase!r} is listed as not measured and is not on the page"
        allowed.update(place for span in found for place in range(*span))
    for number in NUMBER.finditer(text):
        if not allowed.issuperset(range(*number.span())):
            near = text[max(0, number.start() - 40) : number.end() + 30]
            yield f"{number[0]} has no key and is not listed as not measured: … {near} …"


def prose(page: str) -> str:
    """The page without measured blocks, code, addresses and comments; `#` stands for a figure with a key."""
    text = FIGURE.sub("#", BLOCK.sub("", page))
    return re.sub(r"\s+", " ", UNREAD.sub("`", text))


def value(key: str, measured: Tables) -> Decimal:
    """The measured number that a key names.

    Raises:
        Wrong: there is none, or more than one.
    """
    first, *divisors = (
        Decimal(part) if NUMBER.fullmatch(part) else _number(part, measured) for part in key.split("÷")
    )
    for divisor in divisors:
        first /= divisor
    return first


def _number(key: str, measured: Tables) -> Decimal:
    name, _, cell = key.partition("/")
    if name not in measured:
        raise Wrong(f"{key}: there is no block {name}")
    return measured[name].number(cell)


def _in_order(among: Sequence[set[str]], cells: Iterable[str]) -> bool:
    rest = iter(cells)
    return all(any(cell in names for cell in rest) for names in among)


def _rows(block: str) -> Iterator[Row]:
    heading = ""
    columns: tuple[str, ...] = ()
    for line in map(str.strip, block.splitlines()):
        if not line.startswith("|"):
            columns = ()
            if line.startswith("#") or (line and not heading.startswith("#")):
                heading = line
            continue
        cells = tuple(cell.strip() for cell in line[1:-1].split("|"))
        if not columns:
            columns = ("", *map(_words, cells))
        elif not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            cells = (heading, *cells)
            yield Row(cells, tuple(map(_words, cells)), columns)


def _words(cell: str) -> str:
    return re.sub(r"[^\w.]+", "-", cell.lower()).strip("-.")
