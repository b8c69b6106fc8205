"""The manual builds without a warning, is whole, and asks no other host for anything."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from service.app import create_app
from service.settings import Settings
from tests.docs.blocks import ROOT

FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""What a browser loads by itself."""
NOT_FETCHED = {"canonical", "prev", "next", "alternate"}


class Tags(HTMLParser):
    def __init__(self, page: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.names.add(found.get("id", ""))
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in FETCHED and FETCHED[tag] in found and found.get("rel") not in NOT_FETCHED:
            self.fetched.append(found[FETCHED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("zensical")
    folder = tmp_path_factory.mktemp("manual")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", "mkdocs.yml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, re.sub(r"\x1b\[[\d;]*m", "", done.stderr + done.stdout)[-3000:]
    return folder / "site"


def pages(site: Path) -> Iterator[tuple[Path, Tags]]:
    for page in sorted(site.rglob("*.html")):
        yield page, Tags(page)


def test_every_page_of_the_manual_is_built(site):
    built = {page.parent.name for page, _ in pages(site)}
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"} <= built
    assert "Few-shot prediction" in (site / "index.html").read_text()


def test_nothing_is_fetched_from_another_host(site):
    for page, tags in pages(site):
        assert tags.fetched
        for each in tags.fetched:
            assert not urlsplit(each).netloc, f"{page}: {each}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text()), sheet


def test_links_and_images_of_the_built_pages_lead_somewhere(site):
    names = {page: tags.names for page, tags in pages(site)}
    for page, tags in pages(site):
        if page.name == "404.html":
            continue
        for each in [*tags.fetched, *tags.links]:
            parts = urlsplit(each)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{page.relative_to(site)}: {each}"
            if parts.fragment and target in names:
                assert parts.fragment in names[target], f"{page.relative_to(site)}: {each}"


def test_the_reference_is_what_the_service_says_of_itself():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import make_reference
    finally:
        sys.path.remove(str(ROOT / "docs"))
    said = make_reference.page(create_app(Settings(store=ROOT)).openapi())
    assert make_reference.PAGE.read_text() == said, "run python docs/make_reference.py"
