"""The page around its tabs: keyboard, themes, narrow screens, lost servers, keys; for everyone."""

import json
import re
import shutil

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from model_store import SHIPPED
from service.settings import Settings
from tests.faults.conftest import free_port
from tests.service.conftest import serve

TABS = ("curves", "draw", "pictures", "policies", "own")
ANSWERED = {
    "curves": ("#reading", "points"),
    "draw": ("#draw-reading", "%"),
    "pictures": ("#pictures-reading", "%"),
    "policies": ("#policies-reading", "No episode yet"),
    "own": ("#own-reading", "predicted"),
}


def answered(page, tab):
    where, words = ANSWERED[tab]
    expect(page.locator(where)).to_contain_text(words)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("tab", TABS)
def test_axe_finds_nothing_to_complain_of(visit, tab, scheme):
    page = visit(tab, color_scheme=scheme)
    answered(page, tab)
    if tab == "draw":
        page.click("#suggest")
        expect(page.locator("#suggestions li")).to_have_count(6)
    if tab == "pictures":
        page.click("#pictures-rank")
        expect(page.locator("#pictures-suggestions li")).to_have_count(6)
    if tab == "policies":
        page.click("#policies-round")
        expect(page.locator("#policies-reading")).to_contain_text("is chosen")
    found = Axe().run(page).response["violations"]
    assert [
        (each["id"], node["html"][:200], node["failureSummary"]) for each in found for node in each["nodes"]
    ] == []


@pytest.mark.parametrize("tab", TABS)
def test_nothing_is_cut_off_at_360_pixels(visit, tab):
    page = visit(tab, viewport={"width": 360, "height": 740})
    answered(page, tab)
    wide = page.evaluate(
        """() => ['button', 'select', 'input', 'canvas', 'img', '.button', '.chart']
            .flatMap((kind) => [...document.querySelectorAll(`main ${kind}`)])
            .filter((each) => each.getClientRects().length && !each.closest('.unseen, .scroll'))
            .filter((each) => each.getBoundingClientRect().right > innerWidth + 0.5)
            .map((each) => each.outerHTML)"""
    )
    assert wide == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_tabs_go_by_arrow_keys_and_the_address_remembers(visit):
    page = visit()
    page.locator("#tab-curves").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-draw")).to_be_focused()
    expect(page.locator("#draw")).to_be_visible()
    expect(page.locator("#curves")).to_be_hidden()
    page.keyboard.press("End")
    expect(page.locator("#tab-own")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-curves")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.reload()
    answered(page, "own")
    expect(page.locator("[role=tab][tabindex='0'], [role=tab]:not([tabindex])")).to_have_count(1)


def test_the_theme_follows_the_system_until_it_is_chosen_and_is_remembered(visit):
    page = visit(color_scheme="dark")

    def paper():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    dark = paper()
    page.emulate_media(color_scheme="light")
    light = paper()
    assert light != dark
    expect(page.locator("#theme")).to_have_attribute("aria-pressed", "false")
    page.click("#theme")
    assert paper() == dark
    page.reload()
    assert paper() == dark
    expect(page.locator("#theme")).to_have_attribute("aria-pressed", "true")


def test_a_lost_server_is_said_and_the_page_goes_on_when_it_is_back(visit, tmp_path):
    visit.forgiven += ["ERR_CONNECTION_REFUSED", "status of 503"]  # not there, then starting
    shutil.copytree(SHIPPED / "sinusoid", tmp_path / "sinusoid")  # starts sooner than all of them
    settings, port = Settings(store=tmp_path, device="cpu"), free_port()
    first = serve(settings, port=port)
    served = next(first)
    page = visit(url=served.url)
    answered(page, "curves")
    count, before = page.locator("#belief .handle").count(), page.locator("#belief .mean").get_attribute("d")
    first.close()
    page.locator("#belief .surface").click(position={"x": 300, "y": 40})
    expect(page.locator("#server")).to_contain_text("does not answer")
    expect(page.locator("#belief .handle")).to_have_count(count + 1)
    assert page.locator("#belief .mean").get_attribute("d") == before
    for _ in serve(settings, port=port):
        expect(page.locator("#server")).to_be_empty()
        expect(page.locator("#belief .mean")).not_to_have_attribute("d", before)
        page.close()


@pytest.mark.parametrize("tab", TABS)
def test_no_click_is_lost_while_a_tab_starts(visit, tab):
    page, held = visit.blank(), []
    page.route("**/models", lambda route: held.append(route))
    with page.expect_request("**/models"):
        page.goto(f"{visit.url}/#{tab}")
    panel, first = page.locator(f"#{tab}"), page.locator(f"#{tab}-model")
    expect(panel).to_have_attribute("aria-busy", "true")
    first.focus()
    expect(first).not_to_be_focused()
    box = first.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(first).not_to_be_focused()
    held.pop().continue_()
    first.click()
    expect(first).to_be_focused()
    expect(panel).not_to_have_attribute("aria-busy", re.compile(""))
    answered(page, tab)


def test_a_key_is_asked_for_once_and_sent_with_every_request(visit):
    visit.forgiven.append("status of 401")
    page = visit.blank()
    sent = []

    def guarded(route):
        key = route.request.headers.get("authorization")
        sent.append(key)
        if key == "Bearer sesame":
            route.continue_()
            return
        problem = {"type": "urn:bmaml:problem:unauthorised", "title": "Unauthorized", "status": 401}
        body = json.dumps(problem | {"detail": "this key is not known", "request_id": "1", "errors": []})
        route.fulfill(status=401, content_type="application/problem+json", body=body)

    for path in ("models", "models/**", "limits", "adapt-predict", "uncertainty"):
        page.route(f"{visit.url}/{path}", guarded)
    page.goto(visit.url)
    dialog = page.locator("#key")
    expect(dialog).to_be_visible()
    page.get_by_label("Key", exact=True).fill("guess")
    page.keyboard.press("Enter")
    expect(page.locator("#key-problem")).to_have_text("This key is not known.")
    page.get_by_label("Key", exact=True).fill("“sesame”")
    page.keyboard.press("Enter")
    expect(page.locator("#key-problem")).to_contain_text("no typographic signs")
    page.get_by_label("Key", exact=True).fill("sesame")
    page.keyboard.press("Enter")
    answered(page, "curves")
    expect(dialog).to_be_hidden()
    assert sent[-1] == "Bearer sesame"
    refused = sent.index("Bearer sesame")
    assert set(sent[refused:]) == {"Bearer sesame"}
    page.click("#tab-own")
    expect(page.locator("#curl")).to_contain_text("$BMAML_KEY")
    assert "sesame" not in page.locator("#curl").inner_text() + page.locator("#python").inner_text()
    assert page.evaluate("localStorage.getItem('bearer')") is None


@pytest.mark.parametrize(
    ("status", "words"),
    [(429, "much to do"), (502, "Not ready yet: the service cannot be reached.")],
)
def test_a_full_queue_and_a_proxy_without_a_service_are_waited_out(visit, status, words):
    visit.forgiven.append(f"status of {status}")
    page = visit()
    answered(page, "curves")
    refusal = {"status": status, "headers": {"retry-after": "1"}, "body": "{}"}
    refused = [True]

    def full(route):
        route.fulfill(**refusal) if refused else route.continue_()

    page.route("**/adapt-predict", full)
    before = page.locator("#belief .mean").get_attribute("d")
    page.click("#random")
    expect(page.locator("#server")).to_contain_text(words)
    refused.clear()
    expect(page.locator("#belief .mean")).not_to_have_attribute("d", before)
    expect(page.locator("#server")).to_be_empty()


def test_the_explorer_shows_the_api_and_tries_it_out(visit):
    page = visit.blank()
    page.goto(f"{visit.url}/docs")
    expect(page.locator(".opblock")).to_have_count(12)
    page.click("#operations-models-limits .opblock-summary-control")
    page.click("#operations-models-limits .execute")
    expect(page.locator("#operations-models-limits .live-responses-table")).to_contain_text("body_bytes")
    assert visit.wrongs == []
