"""Draw: characters are taught in a stroke each, asked about, and chosen by the model."""

import pytest
from playwright.sync_api import expect

ANGLE = [[(0.25, 0.15), (0.25, 0.85), (0.8, 0.85)]]
CROSS = [[(0.2, 0.2), (0.8, 0.8)], [(0.8, 0.2), (0.2, 0.8)]]
DOOR = [[(0.2, 0.85), (0.2, 0.2), (0.8, 0.2), (0.8, 0.85)], [(0.2, 0.55), (0.8, 0.55)]]


@pytest.fixture
def page(visit):
    page = visit("draw")
    expect(page.locator("#draw-reading")).to_contain_text("%")
    return page


def canvas(page, name):
    return page.locator(f'canvas[aria-label^="{name}:"]')


def draw(page, name, strokes, shift=0.0):
    """Draw strokes on an emptied pad with the mouse."""
    page.get_by_role("button", name=f"Clear ({name})").click()
    box = canvas(page, name).bounding_box()

    def at(point):
        return box["x"] + (point[0] + shift) * box["width"], box["y"] + (point[1] - shift / 2) * box["height"]

    for stroke in strokes:
        page.mouse.move(*at(stroke[0]))
        page.mouse.down()
        for point in stroke[1:]:
            page.mouse.move(*at(point), steps=6)
        page.mouse.up()


def shares(page):
    values = page.locator("#bars .value").all_inner_texts()
    return [float(value.removesuffix(" %").lstrip("<> ")) for value in values]


def test_the_first_view_is_a_live_example(page):
    assert sum(shares(page)) == pytest.approx(100, abs=1)
    assert max(shares(page)) > 60
    expect(page.locator("#entropy-value")).to_contain_text("nats")
    expect(page.locator("#mutual-value")).to_contain_text("nats")


def test_what_is_drawn_by_hand_is_told_apart(page):
    for name, strokes in (("Class A", ANGLE), ("Class B", CROSS), ("Class C", DOOR)):
        draw(page, name, strokes)
    for right, strokes in ((0, ANGLE), (1, CROSS), (2, DOOR)):
        draw(page, "Question", strokes, shift=0.06)
        first = page.locator("#bars .bar").nth(right)
        expect(first).to_have_class("bar first")
        expect(first.locator(".value")).to_have_text("> 99.9 %")


def test_what_was_taken_back_is_not_answered_afterwards(page):
    held = []
    page.route("**/adapt-predict", lambda route: held.append(route))
    with page.expect_request("**/adapt-predict"):
        draw(page, "Question", CROSS)
    page.get_by_role("button", name="Undo the last stroke (Question)").click()
    page.get_by_role("button", name="Clear (Question)").click()
    with page.expect_response("**/adapt-predict"):
        held.pop().continue_()
    page.evaluate("() => fetch('livez').then(() => fetch('livez'))")  # whatever follows has been asked by now
    assert held == []
    expect(page.locator("#draw-reading")).to_have_text("Draw something to ask about it.")
    expect(page.locator("#bars .bar")).to_have_count(0)


def test_the_answer_follows_the_pen_and_undo_takes_a_stroke_back(page):
    draw(page, "Question", CROSS)
    expect(canvas(page, "Question")).to_have_attribute("aria-label", "Question: 2 strokes")
    page.get_by_role("button", name="Undo the last stroke (Question)").click()
    expect(canvas(page, "Question")).to_have_attribute("aria-label", "Question: 1 stroke")
    page.get_by_role("button", name="Clear (Question)").click()
    expect(page.locator("#draw-reading")).to_have_text("Draw something to ask about it.")
    expect(page.locator("#bars .bar")).to_have_count(0)
    box = canvas(page, "Question").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 160, steps=5)
    expect(page.locator("#bars .bar")).to_have_count(3)
    page.mouse.up()


def test_a_finger_draws(visit):
    page = visit("draw", viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    expect(page.locator("#draw-reading")).to_contain_text("%")
    page.get_by_role("button", name="Clear (Question)").click()
    pad = canvas(page, "Question")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    finger = page.context.new_cdp_session(page)
    for kind, share in (("touchStart", 0.2), ("touchMove", 0.5), ("touchMove", 0.8), ("touchEnd", None)):
        points = (
            [{"x": box["x"] + share * box["width"], "y": box["y"] + 0.5 * box["height"]}] if share else []
        )
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    expect(pad).to_have_attribute("aria-label", "Question: 1 stroke")
    expect(page.locator("#bars .bar")).to_have_count(3)


def test_the_keyboard_picks_ready_strokes(page):
    page.get_by_role("button", name="Pick ready strokes (Question)").focus()
    page.keyboard.press("Enter")
    key = page.locator("#glyph-grid").get_by_role("button", name="key")
    key.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#glyphs")).to_be_hidden()
    expect(page.locator("#bars .bar").nth(1)).to_have_class("bar first")
    expect(page.get_by_role("button", name="Pick ready strokes (Question)")).to_be_focused()


def test_classes_are_two_to_five_and_named_by_the_reader(page):
    for _ in range(2):
        page.click("#add-class")
    expect(page.locator("#add-class")).to_be_disabled()
    expect(page.locator("#draw-reading")).to_have_text("Draw an example of D and of E first.")
    for _ in range(3):
        page.click("#remove-class")
    expect(page.locator("#remove-class")).to_be_disabled()
    page.get_by_label("Name of class A").fill("lollipop")
    expect(page.locator("#bars .name").first).to_have_text("lollipop")
    page.get_by_label("Name of class B").fill("lollipop")
    expect(page.locator("#draw-reading")).to_contain_text("same name")


def test_the_model_says_what_to_draw_next_and_learns_from_it(page):
    page.click("#suggest")
    items = page.locator("#suggestions li")
    expect(items).to_have_count(6)
    scores = [float(words.split()[0]) for words in items.locator("span:has-text('nats')").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.3
    first = items.first.locator("strong").inner_text().removeprefix("1. ")
    page.get_by_role("button", name=f"Ask about {first}").click()
    page.get_by_role("button", name=f"{first} is B").click()
    expect(page.locator("#suggestions").get_by_text(first, exact=False)).to_have_count(0)
    expect(page.get_by_role("button", name="Remove drawing 1 of B")).to_have_count(1)
    expect(page.locator("#bars .bar").nth(1)).to_have_class("bar first")
    expect(items).to_have_count(6)
    page.get_by_role("button", name="Remove drawing 1 of B").press("Enter")
    expect(page.get_by_label("Name of class B")).to_be_focused()
    with page.expect_request("**/uncertainty") as asked:
        page.click("#suggest")
    assert asked.value.post_data_json["exclude"] == []


def test_suggestions_follow_the_classes_and_their_names(page):
    page.click("#suggest")
    buttons = page.locator("#suggestions li").first.locator(".row button")
    expect(buttons).to_have_text(["A", "B", "C"])
    page.get_by_label("Name of class A").fill("lollipop")
    expect(buttons).to_have_text(["lollipop", "B", "C"])
    page.click("#remove-class")
    expect(buttons).to_have_text(["lollipop", "B"])


def test_a_refusal_takes_the_answer_away(page, visit):
    visit.forgiven.append("status of 400")
    refusal = {"status": 400, "body": '{"status": 400, "detail": "no such thing"}'}
    page.route("**/adapt-predict", lambda route: route.fulfill(**refusal))
    page.get_by_role("button", name="Undo the last stroke (Question)").click()
    expect(page.locator("#draw-problem")).to_have_text("No such thing.")
    expect(page.locator("#bars .bar")).to_have_count(0)
    for part in ("reading", "timing"):
        expect(page.locator(f"#draw-{part}")).to_be_empty()


def test_one_more_drawing_of_a_class_is_kept_beside_the_pad(page):
    buttons = page.get_by_role("group", name="Class A").get_by_role("button", name="One more drawing")
    buttons.click()
    expect(page.get_by_role("button", name="Remove drawing 1 of A")).to_have_count(1)
    expect(canvas(page, "Class A")).to_have_attribute("aria-label", "Class A: empty")
    expect(page.locator("#bars .bar")).to_have_count(3)
