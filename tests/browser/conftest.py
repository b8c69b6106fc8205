"""A headless Chromium in front of the shipped models. Without one these tests are skipped."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from model_store import SHIPPED
from service.settings import Settings
from tests.service.conftest import Served, serve

MAX_WAIT_MS = 30_000
"""The longest wait for something to appear; on a busy machine pages take their time."""


# Playwright runs an event loop in this thread for as long as it is open: not a moment longer than its tests.
@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium on the path: apt-get install chromium")
    expect.set_options(timeout=MAX_WAIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def shipped(chromium: Browser) -> Iterator[Served]:
    yield from serve(Settings(store=SHIPPED, device="cpu"))


@dataclass
class Opener:
    """Opens pages, and writes down what no page may do.

    Attributes:
        wrongs: errors on the console, exceptions, and requests to other hosts.
        forgiven: parts of messages that the test provokes.
    """

    browser: Browser
    url: str
    wrongs: list[str] = field(default_factory=list)
    forgiven: list[str] = field(default_factory=list)
    contexts: list[Any] = field(default_factory=list)

    def __call__(self, tab: str = "curves", url: str | None = None, **options: Any) -> Page:
        """The playground, on one of its tabs."""
        page = self.blank(**options)
        page.goto(f"{url or self.url}/#{tab}")
        return page

    def blank(self, **options: Any) -> Page:
        """An empty page in a context of its own, watched."""
        context = self.browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.contexts.append(context)
        page: Page = context.new_page()
        page.set_default_timeout(MAX_WAIT_MS)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.wrongs.append(str(error)))
        page.on("request", self._request)
        return page

    def close(self) -> None:
        """Close every page; a request that one of its handlers holds is no fault of the next test."""
        for context in self.contexts:
            for page in context.pages:
                page.unroute_all(behavior="ignoreErrors")
            context.close()

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.wrongs.append(f"console: {message.text}")

    def _request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1":
            self.wrongs.append(f"asked another host: {request.url}")


@pytest.fixture
def visit(chromium: Browser, shipped: Served) -> Iterator[Opener]:
    opener = Opener(chromium, shipped.url)
    yield opener
    opener.close()
    wrongs = [each for each in opener.wrongs if not any(part in each for part in opener.forgiven)]
    assert not wrongs
