"""Measured figures of README and manual are those of the measured tables, to the digit."""

import re
from collections.abc import Iterator
from decimal import Decimal

import pytest

from benchmarks.pages import BLOCK, Block, blocks, seal
from tests.docs.blocks import ROOT
from tests.docs.figures import (
    FIGURE,
    UNREAD,
    Tables,
    Wrong,
    broken,
    differing,
    problems,
    tables,
    unaccounted,
    value,
)
from tests.docs.unmeasured import UNMEASURED

MANUAL = {page.name: page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
SMALL = seal("""\
<!-- measured: speed: begin -->

#### curves

| server | clients | answers a second | p99, ms | in 90 % |
|---|---|---|---|---|
| ours | 1 | 157.4 | 9.4 | 92 % |
| ours, in C | 64 | 1,677 ± 3 | 111.5 | −3 % |

<!-- measured: speed: end -->

In [9 `2`](3.md) it takes 9<!--speed/curves/ours/1/p99--> ms, −3<!--speed/64/in-90--> %.
""")
"""A page with one measured table."""


@pytest.fixture(scope="module")
def measured() -> Tables:
    return tables(page.read_text() for page in MANUAL.values())


def test_every_block_is_as_it_was_sealed():
    for name, page in MANUAL.items():
        assert not [block.name for block in broken(page.read_text())], name


def test_no_two_blocks_have_one_name():
    names = [block.name for page in MANUAL.values() for block in blocks(page.read_text())]
    assert len(names) == len(set(names)) > 8


@pytest.mark.parametrize("name", MANUAL)
def test_figures_with_a_key_are_those_of_the_tables(name, measured):
    assert not list(differing(MANUAL[name].read_text(), measured))


@pytest.mark.parametrize("name", UNMEASURED)
def test_every_other_number_of_the_prose_is_listed_as_not_measured(name):
    assert not list(unaccounted(MANUAL[name].read_text(), UNMEASURED[name]))


@pytest.mark.parametrize("name", UNMEASURED)
def test_any_digit_of_the_prose_that_is_changed_is_noticed(name, measured):
    text = MANUAL[name].read_text()
    for changed in _changed(text, among=_visible(text)):
        assert list(problems(changed, measured, UNMEASURED[name])), _difference(text, changed)


@pytest.mark.parametrize("name", MANUAL)
def test_a_figure_has_no_other_digits_than_its_cell(name, measured):
    for found in FIGURE.finditer(MANUAL[name].read_text()):
        for by in range(1, 10):
            for changed in _changed(found["figure"], by):
                assert list(differing(f"{changed}<!--{found['key']}-->", measured)), changed


@pytest.mark.parametrize("name", MANUAL)
def test_any_digit_of_a_measured_table_that_is_changed_is_noticed(name):
    for block in blocks(MANUAL[name].read_text()):
        assert not any(Block(block.name, text, block.seal).sealed for text in _changed(block.text))
        assert not any(Block(block.name, block.text, seal).sealed for seal in _changed(block.seal))


def test_a_figure_that_did_not_follow_its_table_is_noticed():
    measured = tables([seal(SMALL.replace("9.4", "9.6"))])
    assert list(differing(SMALL, measured)) == ["9 is told where 9.6 was measured (speed/curves/ours/1/p99)"]


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("speed/ours/1/answers-a-second", "157.4"),
        ("speed/curves/ours-in-c/answers", "1677"),
        ("speed/64/in-90", "-3"),
        ("speed/64/p99÷1000", "0.1115"),
        ("speed/64/p99÷speed/1/p99", "11.86"),
    ],
)
def test_a_key_names_a_cell_or_a_ratio(key, found):
    assert round(value(key, tables([SMALL])), len(found.partition(".")[2])) == Decimal(found)


@pytest.mark.parametrize(
    "key",
    ["speed/1", "speed/curves/p99", "speed/64/ours/p99", "speed/6/p99", "fast/ours/p99", "speed/1/server"],
)
def test_a_key_that_names_no_number_or_several_is_refused(key):
    with pytest.raises(Wrong):
        value(key, tables([SMALL]))


def test_a_key_behind_no_number_is_noticed():
    assert list(differing("It takes **9**<!--speed/1/p99--> ms.", tables([SMALL])))


def test_a_figure_is_rounded_half_up():
    for figure, told in [("111.5", True), ("112", True), ("111", False), ("111.50", True), ("110", False)]:
        assert told is not bool(list(differing(f"{figure}<!--speed/64/p99-->", tables([SMALL])))), figure


def test_a_number_needs_a_key_or_a_phrase():
    assert not list(problems(SMALL, tables([SMALL]), ["[9"]))
    assert [problem[:8] for problem in unaccounted(SMALL, [])] == ["9 has no"]
    assert [problem[:8] for problem in unaccounted("It is 0.17 long, or 10,000.", ["0.1", "17", "10"])] == [
        "'0.1' is", "'17' is ", "0.17 has", "10,000 h",
    ]  # fmt: skip


def _changed(text: str, by: int = 1, among: str | None = None) -> Iterator[str]:
    """The text with one digit raised by `by`, for each digit (of a text of the same length)."""
    for found in re.finditer(r"[0-9]", among or text):
        place = found.start()
        yield f"{text[:place]}{(int(text[place]) + by) % 10}{text[place + 1 :]}"


def _visible(page: str) -> str:
    """The page with spaces for everything that is not prose."""
    for hidden in (BLOCK, UNREAD):
        page = hidden.sub(lambda found: re.sub(r"\S", " ", found[0]), page)
    return page


def _difference(text: str, changed: str) -> str:
    place = next(place for place, (one, other) in enumerate(zip(text, changed, strict=True)) if one != other)
    return changed[max(0, place - 40) : place + 40]
