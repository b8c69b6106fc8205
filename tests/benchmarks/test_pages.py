"""Measured blocks of a page: written, sealed, checked."""

import pytest

from benchmarks import pages

PAGE = """# Speed

<!-- measured: one: begin -->
<!-- measured: one: end -->

Text.

<!-- measured: two: begin -->
old
<!-- measured: two: end, sha256 0 -->
"""


@pytest.fixture
def page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    return page


def test_a_block_is_written_and_sealed_and_the_rest_of_the_page_stays(page):
    pages.write(page, ["| ms |", "|---|", "| 5 |"], "two")
    text = page.read_text()
    one, two = pages.blocks(text)
    assert (one.name, one.text, one.seal) == ("one", "", "")
    assert two.text == "\n| ms |\n|---|\n| 5 |\n\n"
    assert two.sealed
    assert text.startswith(PAGE[: PAGE.index("old")])


def test_writing_again_changes_nothing(page):
    pages.write(page, ["5 ms \\1"], "one")
    once = page.read_text()
    pages.write(page, ["5 ms \\1"], "one")
    assert page.read_text() == once


def test_sealing_a_page_makes_every_seal_fit(page):
    sealed = pages.seal(PAGE)
    assert all(block.sealed for block in pages.blocks(sealed))
    assert [block.text for block in pages.blocks(sealed)] == [block.text for block in pages.blocks(PAGE)]
    assert not any(block.sealed for block in pages.blocks(PAGE))


def test_a_table_that_is_altered_by_hand_breaks_its_seal():
    assert not any(
        block.sealed for block in pages.blocks(pages.seal(PAGE).replace("old", "new")) if block.text
    )


def test_a_page_without_the_block_is_refused_before_anything_is_measured(page):
    with pytest.raises(SystemExit, match="three"):
        pages.check(page, "three")
