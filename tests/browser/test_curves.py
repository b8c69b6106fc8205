"""Curves: points are put, pulled and removed, and the belief follows."""

import json
import re
import time
from itertools import pairwise

import pytest
from playwright.sync_api import expect

from bmaml.acquisition import DEFAULT_ACQUISITION

MEAN = "#belief .mean"
HANDLES = "#belief .handle"


@pytest.fixture
def page(visit):
    page = visit()
    expect(page.locator("#reading")).to_contain_text("points")
    return page


def shape(page):
    return page.locator(MEAN).get_attribute("d")


def changes(page, before):
    page.wait_for_function(
        "([path, before]) => document.querySelector(path).getAttribute('d') !== before", arg=[MEAN, before]
    )


def place(page, x, y):
    """A place in the plot, in shares of its width and height."""
    box = page.locator("#belief .surface").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def bodies(page, path):
    """The bodies posted to a path from now on."""
    found = []
    page.on("request", lambda r: found.append(json.loads(r.post_data)) if r.url.endswith(path) else None)
    return found


def shows_no_answer(page):
    expect(page.locator("#belief path[d], #parts path[d], #gain path[d]")).to_have_count(0)
    for part in ("#reading", "#timing"):
        expect(page.locator(part)).to_be_empty()


def test_the_first_view_is_a_live_example(page):
    assert page.locator(HANDLES).count() >= 3
    assert len(shape(page)) > 500
    assert page.locator("#belief .particle").count() > 10
    assert page.locator("#parts path").first.get_attribute("d")
    expect(page.locator("#belief .next-word")).to_have_text("label here next")
    expect(page.locator("#gain .next-dot")).to_have_count(1)


def test_a_click_adds_a_point_and_the_mean_goes_through_it(page):
    count, before = page.locator(HANDLES).count(), shape(page)
    x, y = place(page, 0.55, 0.3)
    page.mouse.click(x, y)
    expect(page.locator(HANDLES)).to_have_count(count + 1)
    changes(page, before)
    page.mouse.move(x, y)
    expect(page.locator("#belief .tip")).to_contain_text("mean")
    box = page.locator(f"{HANDLES} .point").last.bounding_box()  # the axes may have made room for it
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    off = page.evaluate(
        """([path, x, y]) => {
            const mean = document.querySelector(path), toScreen = mean.getScreenCTM();
            const total = mean.getTotalLength(), distances = [];
            for (let at = 0; at < total; at += 1) {
                const point = mean.getPointAtLength(at).matrixTransform(toScreen);
                distances.push(Math.hypot(point.x - x, point.y - y));
            }
            return Math.min(...distances);
        }""",
        [MEAN, x, y],
    )
    assert off < 3


def test_a_point_is_dragged_with_one_request_at_a_time_and_the_last_place_wins(page):
    asked, flying, most = bodies(page, "adapt-predict"), 0, 0

    def started(request):
        nonlocal flying, most
        flying += request.method == "POST"
        most = max(most, flying)

    def ended(request):
        nonlocal flying
        flying -= request.method == "POST"

    page.on("request", started)
    page.on("requestfinished", ended)
    box = page.locator(f"{HANDLES} .point").first.bounding_box()
    goal = place(page, 0.35, 0.2)

    def last(response):
        return response.url.endswith("uncertainty") and at(response.request) == pytest.approx(-1.5, abs=1e-3)

    def at(request):
        return json.loads(request.post_data)["support"]["x"][0][0]

    with page.expect_response(last):
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(*goal, steps=40)
        page.mouse.up()
    assert most == 1
    assert 1 < len(asked) <= 41
    assert page.locator("#points-table input").first.input_value() == "-1.5"


def test_points_go_by_double_click_and_by_the_delete_key(page):
    count = page.locator(HANDLES).count()
    page.locator(f"{HANDLES} .point").first.dblclick()
    expect(page.locator(HANDLES)).to_have_count(count - 1)
    page.locator(HANDLES).first.focus()
    page.keyboard.press("Delete")
    expect(page.locator(HANDLES)).to_have_count(count - 2)
    expect(page.locator(HANDLES).first).to_be_focused()
    page.click("#clear-points")
    expect(page.locator(HANDLES)).to_have_count(0)
    expect(page.locator("#reading")).to_contain_text("the support set is empty")


def test_arrow_keys_move_a_point_and_keep_the_focus(page):
    handle = page.locator(HANDLES).first
    handle.focus()
    before, words = shape(page), handle.get_attribute("aria-label")
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("ArrowRight")
    expect(handle).not_to_have_attribute("aria-label", words)
    expect(handle).to_be_focused()
    changes(page, before)


def test_the_table_adds_edits_and_removes(page):
    rows, before = page.locator("#points-table tbody tr"), shape(page)
    count = rows.count()
    page.get_by_label("x of a new point").fill("0.25")
    page.get_by_label("y of a new point").fill("1.5")
    page.keyboard.press("Enter")
    expect(rows).to_have_count(count + 1)
    expect(page.locator(HANDLES).last).to_have_attribute("aria-label", f"Point {count} of {count}: 0.25, 1.5")
    changes(page, before)
    before = shape(page)
    page.get_by_label("y of point 1", exact=True).fill("3")
    changes(page, before)
    for left in (count - 1, count - 2):
        page.get_by_label("Remove point 1").press("Enter")
        expect(rows).to_have_count(left + 1)
        expect(page.get_by_label("Remove point 1")).to_be_focused()


def test_the_table_shows_what_was_typed_in_full(page):
    page.select_option("#curves-model", "learning-curves")
    size = page.get_by_label("train_size of point 1", exact=True)
    accuracy = page.get_by_label("accuracy of point 1", exact=True)
    size.fill("16384")
    accuracy.fill("0.81234")
    expect(size).to_have_value("16384")
    size.fill("")
    page.get_by_label("train_size of a new point").focus()
    expect(size).to_have_value("16384")
    expect(accuracy).to_have_value("0.81234")


def test_points_stay_for_another_model_of_the_same_columns(page):
    page.get_by_label("y of point 1", exact=True).fill("1.25")
    handles = page.locator(HANDLES)
    labels = handles.evaluate_all("all => all.map((each) => each.getAttribute('aria-label'))")
    page.select_option("#curves-model", "sinusoid-bmaml")
    expect(page.locator("#steps")).to_be_enabled()
    assert handles.evaluate_all("all => all.map((each) => each.getAttribute('aria-label'))") == labels
    page.select_option("#curves-model", "learning-curves")
    expect(page.get_by_label("train_size of point 1", exact=True)).to_have_value("16")


def test_the_answer_of_one_model_does_not_stand_under_another(page):
    held = []
    page.route("**/adapt-predict", lambda route: held.append(route))
    with page.expect_request("**/adapt-predict"):
        page.select_option("#curves-model", "learning-curves")
    shows_no_answer(page)
    expect(page.locator("#label-next-hint")).to_be_empty()
    held.pop().continue_()
    expect(page.locator("#reading")).to_contain_text("5 points;")


def test_the_suggested_point_is_labelled_from_the_truth(page):
    count, before = page.locator(HANDLES).count(), page.locator("#label-next-hint").inner_text()
    page.check("#truth")
    expect(page.locator("#belief path.truth")).to_have_count(1)
    expect(page.locator("#example-about")).to_contain_text("sin(")
    page.click("#label-next")
    expect(page.locator(HANDLES)).to_have_count(count + 1)
    expect(page.locator("#label-next-hint")).not_to_have_text(before)


def test_learning_curves_are_real_on_a_log_axis_with_their_truth_on_demand(page):
    page.select_option("#curves-model", "learning-curves")
    expect(page.locator(HANDLES)).to_have_count(5)
    expect(page.locator("#gain")).to_contain_text("train_size")
    ticks = page.evaluate(
        """() => [...document.querySelectorAll('#gain text')]
            .filter((each) => each.getAttribute('text-anchor') === 'middle')
            .map((each) => [Number(each.textContent.replace(',', '')), Number(each.getAttribute('x'))])"""
    )
    ticks = [tick for tick in ticks if tick[0] > 0]
    assert [value for value, _ in ticks[:3]] == [16, 32, 64]
    steps = [second[1] - first[1] for first, second in pairwise(ticks)]
    assert max(steps) - min(steps) < 1
    expect(page.locator("#belief circle.truth")).to_have_count(0)
    page.check("#truth")
    expect(page.locator("#belief circle.truth")).not_to_have_count(0)
    first = page.locator("#example-about").inner_text()
    for _ in range(40):
        page.click("#random")
        if page.locator("#example-about").inner_text() != first:
            break
    assert page.locator("#example-about").inner_text() != first


def test_steps_are_offered_where_the_model_iterates_alone(page):
    expect(page.locator("#steps")).to_be_disabled()
    expect(page.locator("#steps-about")).to_contain_text("adapts exactly")
    page.select_option("#curves-model", "sinusoid-bmaml")
    expect(page.locator("#steps")).to_be_enabled()
    asked = bodies(page, "adapt-predict")
    page.locator("#steps").focus()
    expect(page.locator(MEAN)).to_have_attribute("d", re.compile("M"))
    before = shape(page)
    page.keyboard.press("ArrowRight")
    changes(page, before)
    assert asked[-1]["adapt"] == {"steps": 2}
    expect(page.locator("#steps-value")).to_have_text("2")


def test_the_acquisition_is_the_readers_choice(page):
    expect(page.locator("#acquisition")).to_have_value(DEFAULT_ACQUISITION)
    asked = bodies(page, "uncertainty")
    for name in ("epistemic_variance", "epig"):
        with page.expect_response("**/uncertainty"):
            page.select_option("#acquisition", name)
        assert asked[-1]["acquisition"] == name
        assert "target" not in asked[-1]
    expect(page.locator("#curves-problem")).to_be_empty()


def test_what_the_service_refuses_is_said_at_the_chart_and_goes_when_it_is_mended(page, visit):
    visit.forgiven.append("status of 422")
    page.select_option("#curves-model", "learning-curves")
    field = page.get_by_label("train_size of point 2", exact=True)
    field.fill("-4")
    expect(page.get_by_role("alert").filter(has_text="Point 2")).to_contain_text("log2 scale")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#points-table [aria-invalid]")).to_have_count(1)
    shows_no_answer(page)
    field.fill("24")
    expect(page.locator("#points-table [aria-invalid]")).to_have_count(0)
    expect(page.locator("#curves-problem")).to_be_empty()


def test_a_tap_adds_a_point(visit):
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    expect(page.locator("#reading")).to_contain_text("points")
    count = page.locator(HANDLES).count()
    page.locator("#belief").scroll_into_view_if_needed()
    page.touchscreen.tap(*place(page, 0.5, 0.25))
    expect(page.locator(HANDLES)).to_have_count(count + 1)


def test_a_double_tap_removes_a_point(visit):
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    expect(page.locator("#reading")).to_contain_text("points")
    count, point = page.locator(HANDLES).count(), page.locator(f"{HANDLES} .point").first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    spot = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    finger, now = page.context.new_cdp_session(page), time.time()
    for after in (0.0, 0.1):  # a double tap is one by the times of its events, not by ours
        for kind, points, late in (("touchStart", [spot], 0.0), ("touchEnd", [], 0.02)):
            event = {"type": kind, "touchPoints": points, "timestamp": now + after + late}
            finger.send("Input.dispatchTouchEvent", event)
    expect(page.locator(HANDLES)).to_have_count(count - 1)
