"""Links, anchors and files that the pages name exist."""

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

TOP = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES = [*TOP, *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\]\([^)]*\))*\]\(([^)\s]+)\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
ROOMS = "bmaml|service|training|model_store|client|examples|benchmarks|monitoring|tests|docs"
SPAN = re.compile(rf"`((?:{ROOMS})/[\w./-]+)`")


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    found: set[str] = set()
    for heading in headings:
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(slug if slug not in found else f"{slug}-1")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = prose(page)
    targets = [*LINK.findall(text), *(target for _, target in IMAGE.findall(text))]
    for target in targets:
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if page.parent == ROOT / "docs":
            assert file.parent == page.parent, f"{target} is not part of the site: name the file instead"
        if anchor:
            assert anchor in anchors(file), (
                f"{page.name} links to {target}; there are {sorted(anchors(file))}"
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page):
    for name in SPAN.findall(prose(page)):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_images_say_what_they_show(page):
    for words, target in IMAGE.findall(prose(page)):
        assert len(words) > 20, f"{page.name}: {target}"


def test_every_page_is_in_the_navigation_and_is_linked_from_the_first():
    listed = set(re.findall(r"^ +- ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    there = {page.name for page in PAGES if page.parent == ROOT / "docs"}
    assert listed == there
    linked = {target.partition("#")[0] for target in LINK.findall(prose(ROOT / "docs" / "index.md"))}
    assert there - {"index.md"} <= linked
