"""Page and explorer behind a proxy that publishes the service under a prefix and answers nothing else."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from playwright.sync_api import Browser, expect

from model_store import SHIPPED
from service.settings import Settings
from tests.browser.conftest import Opener
from tests.service.conftest import listening, serve

PREFIX = "/lab/few-shot"


def proxy(target: str, strips: bool) -> FastAPI:
    """A proxy that publishes `target` under the prefix, and strips the prefix or passes it on."""
    client = httpx.AsyncClient(timeout=60, verify=False)  # loading certificates takes long

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await client.aclose()

    app = FastAPI(openapi_url=None, lifespan=lifespan)

    @app.api_route(PREFIX + "/{path:path}", methods=["GET", "HEAD", "POST", "DELETE"])
    async def passed_on(path: str, request: Request) -> Response:
        headers = {name: value for name, value in request.headers.items() if name != "host"}
        url = f"{target}{'' if strips else PREFIX}/{path}"
        content = await request.body()
        reply = await client.request(
            request.method, url, headers=headers, content=content, params=request.query_params
        )
        kept = {
            name: value
            for name, value in reply.headers.items()
            if name not in ("content-encoding", "content-length", "connection", "transfer-encoding")
        }
        return Response(reply.content, reply.status_code, kept)

    return app


@pytest.fixture(scope="module", params=["stripped", "passed on"])
def address(request: pytest.FixtureRequest, chromium: Browser) -> Iterator[str]:
    """The address of the service behind the proxy."""
    settings = Settings(store=SHIPPED, device="cpu", root_path=PREFIX)
    for served in serve(settings):
        app = proxy(served.url, strips=request.param == "stripped")
        for beside in listening(app, ready=lambda client: True):
            yield beside.url + PREFIX


@pytest.fixture
def opener(chromium: Browser, address: str) -> Iterator[Opener]:
    opener = Opener(chromium, address)
    yield opener
    opener.close()
    assert not opener.wrongs


def test_the_explorer_executes_behind_a_prefix(opener):
    page = opener.blank()
    page.goto(f"{opener.url}/docs")
    expect(page.locator(".opblock")).to_have_count(12)
    for operation in ("models-limits", "predict-adapt_predict"):
        page.click(f"#operations-{operation} .opblock-summary-control")
        page.click(f"#operations-{operation} .execute")
    table = ".live-responses-table"
    expect(page.locator(f"#operations-models-limits {table}")).to_contain_text("body_bytes")
    expect(page.locator(f"#operations-predict-adapt_predict {table}")).to_contain_text("aleatoric")
    expect(page.locator("#operations-predict-adapt_predict .request-url")).to_contain_text(
        f"{opener.url}/v1/adapt-predict"
    )


def test_the_playground_works_behind_a_prefix(opener):
    page = opener()
    expect(page.locator("#reading")).to_contain_text("points")
    page.click("#tab-draw")
    expect(page.locator("#draw-reading")).to_contain_text("%")
    page.click("#tab-own")
    expect(page.locator("#own-reading")).to_contain_text("predicted")
    expect(page.locator("#curl")).to_contain_text(f"{opener.url}/adapt-predict")
    page.click("nav a")
    expect(page.locator(".opblock")).to_have_count(12)
    page.click("nav a:has-text('Playground')")
    expect(page).to_have_url(f"{opener.url}/")
    expect(page.locator("h1")).to_have_text("Few-shot playground")
