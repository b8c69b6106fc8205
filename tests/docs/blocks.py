"""The blocks of a Markdown page: commands and Python to be run, and the outputs that it shows.

A fenced block of `bash` or `python` is run. An HTML comment on the line before it says otherwise:

* `<!-- not run: REASON -->`: it cannot be run here, for one of `REASONS`;
* `<!-- runs until the end -->`: it serves, and is stopped after the page's last block;
* `<!-- output -->` and `<!-- output, in part -->`, before a block of `text` or `json`: what the block before
  it prints; `<!-- output, in part, to the digit -->`, before one of `json`: with these very numbers.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"^(?:<!-- (?P<note>[a-z][^>]*?) -->\n)?^```(?P<kind>[a-z]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
NUMBER = re.compile(r"[-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
REASONS = {
    "docker": re.compile(r"docker "),
    "elsewhere": re.compile(r"file:///tmp/elsewhere"),
    "cluster": re.compile(r"kubectl |helm |bmaml-key "),
    "ray": re.compile(r"ray start |serve (?:run|deploy) |export RAY_"),
    "gpu": re.compile(r"cuda|gpu"),
    "installation": re.compile(
        r"(?:make [a-z]+|(?:npm|pip) install .*|\.venv/bin/pip install .*|source \S+/activate)$"
    ),
    "tritonclient": re.compile(r""),
}
"""Why a block may go unrun, and what every command of such a block looks like."""


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        line: of the page, on which its text begins.
        note: of the comment before it.
    """

    kind: str
    text: str
    line: int
    note: str

    @property
    def runnable(self) -> bool:
        return self.kind in ("bash", "python")

    @property
    def unrun(self) -> str:
        """Why it is not run; empty where it is."""
        return self.note.removeprefix("not run: ") if self.note.startswith("not run: ") else ""

    def commands(self) -> Iterator[str]:
        """Its lines, without comments and with continued ones in one."""
        for line in self.text.replace("\\\n", " ").splitlines():
            if command := re.sub(r"\s+#.*|^#.*", "", line).strip():
                yield command


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    source = page.read_text()
    return [
        Block(
            found["kind"], found["text"], source.count("\n", 0, found.start("text")) + 1, found["note"] or ""
        )
        for found in FENCE.finditer(source)
    ]


def check_output(shown: Block, printed: str) -> None:
    """The output has the shape that the page shows.

    JSON: the same names, types and lengths of lists; in part: those that are shown; to the digit: numbers
    that round to the ones shown. Text: the same lines but for numbers and space; `…` stands for anything.
    """
    part = "in part" in shown.note
    if shown.kind == "json":
        there = json.loads(shown.text, parse_float=Decimal)
        _check_json(there, json.loads(printed, parse_float=Decimal), part, "to the digit" in shown.note, "")
        return
    for line in shown.text.splitlines():
        form = "".join(map(re.escape, NUMBER.sub("#", line))).replace("…", ".*")
        form = re.sub(r"(?:\\ )+", r"\\s*", form)
        found = [re.sub(r"^\s+", "", NUMBER.sub("#", each)) for each in printed.splitlines()]
        assert any(re.fullmatch(form + r"\s*", each) for each in found), f"{line!r} is not in {printed!r}"
    if not part:
        assert len(shown.text.splitlines()) == len(printed.splitlines()), printed


def _check_json(shown: Any, got: Any, part: bool, exact: bool, path: str) -> None:
    if isinstance(shown, dict):
        assert isinstance(got, dict), path
        assert set(shown) <= set(got) if part else set(shown) == set(got), f"{path}: {sorted(got)}"
        for key, value in shown.items():
            _check_json(value, got[key], part, exact, f"{path}/{key}")
    elif isinstance(shown, list):
        assert isinstance(got, list), path
        assert len(shown) == len(got), f"{path}: {got}"
        for place, value in enumerate(shown):
            _check_json(value, got[place], part, exact, f"{path}/{place}")
    elif isinstance(shown, bool | str) or shown is None:
        assert type(shown) is type(got), f"{path}: {got}"
    else:
        assert isinstance(got, int | Decimal), f"{path}: {got}"
        assert not isinstance(got, bool), f"{path}: {got}"
        if exact:
            assert Decimal(got).quantize(Decimal(shown)) == shown, f"{path}: {got} where {shown} is shown"
