"""Pictures: photographs in named piles are taught, asked about, ranked, and refused one by one."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from model_store.images import ImageInput, decoded_image
from service.settings import Settings
from tests.images import publish_classifier, random_images
from tests.published import publish
from tests.service.conftest import serve

BODY = 1 << 20
"""Bytes of a body that the service of large photographs takes."""
DROP = """([zone, files]) => {
    const data = new DataTransfer();
    for (const [name, content] of files) {
        const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
        data.items.add(new File([bytes], name));
    }
    const event = { bubbles: true, cancelable: true, dataTransfer: data };
    zone.dispatchEvent(new DragEvent("dragover", event));
    zone.dispatchEvent(new DragEvent("drop", event));
}"""
UNKNOWN = "() => { window.createImageBitmap = () => Promise.reject(new Error('unknown')); }"
"""From now on the browser decodes no picture."""
SLOW = """() => {
    const [decode, preview] = [window.createImageBitmap, URL.createObjectURL];
    window.createImageBitmap = async (...args) => {
        await new Promise((done) => { window.goOn = done; });
        return decode(...args);
    };
    URL.createObjectURL = (blob) => {
        window.previewed = true;
        return preview.call(URL, blob);
    };
}"""
"""From now on the browser decodes a picture once it is told to, and says when its preview is made."""
DECODED = """async ([content, least]) => {
    const { decodedPixels } = await import(new URL("playground/pictures/jpeg.js", document.baseURI));
    const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
    const { width, height } = await createImageBitmap(new Blob([bytes]));
    return decodedPixels(bytes, width, height, least);
}"""


def encoded(pixels, kind="PNG", **options):
    """The bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def patterns(classes=3, each=4):
    """Files `[class][image]` of noisy patterns."""
    return [[encoded(image) for image in images] for images in random_images(classes, each, 3, seed=3)]


def photograph(seed, width=1200, height=900, kind="JPEG", **options):
    """A file of a smooth scene with the grain that makes photographs large."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 255, (4, 4, 3), dtype=np.uint8))
    scene = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    grain = draw.integers(-20, 20, scene.shape)
    pixels = (scene + grain).clip(0, 255).astype(np.uint8)
    return encoded(pixels, kind, **({"quality": 95} if kind == "JPEG" else {}) | options)


def drop(zone, files):
    zone.evaluate(
        "(zone, files) => (" + DROP + ")([zone, files])",
        [[name, base64.b64encode(content).decode()] for name, content in files],
    )


def pile(page, name):
    return page.get_by_role("group", name=f"Pile {name}", exact=True).locator(".drop")


def question(page):
    return page.get_by_role("group", name="the question", exact=True)


def pool(page):
    return page.get_by_role("group", name="the pictures without a label", exact=True)


def bodies_of(page, path):
    """The bodies posted to a path from now on."""
    bodies = []

    def note(request):
        if request.method == "POST" and request.url.endswith(path):
            bodies.append(request.post_data_json)

    page.on("request", note)
    return bodies


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    publish_classifier(root, "photographs", channels=3)
    publish_classifier(root, "drawings", drawing=True)
    for served in serve(Settings(store=root, device="cpu", max_body_bytes=BODY)):
        yield served.url


@pytest.fixture
def page(visit, url):
    """Two piles of patterns, a question, and nothing else."""
    page = visit("pictures", url=url)
    expect(page.locator("#pictures-reading")).to_contain_text("%")
    page.click("#pictures-clear")
    files = patterns()
    for number in (1, 2):
        drop(
            pile(page, f"pile {number}"),
            [(f"{number}-{i}.png", each) for i, each in enumerate(files[number][:2])],
        )
        expect(pile(page, f"pile {number}").locator("li")).to_have_count(2)
    drop(question(page), [("asked.png", files[1][2])])
    expect(page.locator("#pictures-reading")).to_contain_text("asked.png: ")
    return page


def test_the_first_view_asks_about_groceries(visit):
    page = visit("pictures")
    expect(page.locator("#pictures-reading")).to_contain_text("question-2.jpg: ")
    expect(page.locator("#pictures-bars .name")).to_have_text(["cucumber", "papaya", "passion fruit"])
    shares = [
        float(words.removesuffix(" %").lstrip("<> "))
        for words in page.locator("#pictures-bars .value").all_inner_texts()
    ]
    assert sum(shares) == pytest.approx(100, abs=1)
    expect(page.locator("#pictures-entropy-value")).to_contain_text("of 1.10 nats")
    expect(page.locator("#pictures-mutual-value")).to_contain_text("of 1.10 nats")
    bars = page.locator("#pictures-bars").inner_text()
    page.get_by_role("button", name="question-1.jpg", exact=True).click()
    expect(page.locator("#pictures-reading")).to_contain_text("question-1.jpg: ")
    assert page.locator("#pictures-bars").inner_text() != bars


def test_the_files_themselves_are_sent_and_the_support_set_once(page):
    posteriors, questions = bodies_of(page, "/posteriors"), bodies_of(page, "/adapt-predict")
    files = patterns()
    page.get_by_label("Choose pictures for the question").set_input_files(
        [{"name": "more.png", "mimeType": "image/png", "buffer": files[2][2]}]
    )
    expect(page.locator("#pictures-reading")).to_contain_text("more.png: ")
    assert posteriors == []
    sent = [base64.b64decode(each) for each in questions[-1]["query"]["x"]["images"]]
    assert sent == [files[1][2], files[2][2]]
    with page.expect_response("**/adapt-predict"):
        drop(pile(page, "pile 1"), [("third.png", files[1][3])])
    assert posteriors[-1]["support"]["y"] == ["pile 1"] * 3 + ["pile 2"] * 2
    assert base64.b64decode(posteriors[-1]["support"]["x"]["images"][2]) == files[1][3]
    expect(page.locator("#pictures-sent")).to_be_empty()


def test_a_name_that_is_being_typed_is_not_that_of_an_answer_on_its_way(page):
    held = []
    page.route("**/adapt-predict", lambda route: held.append(route))
    with page.expect_request("**/adapt-predict"):
        drop(question(page), [("late.png", patterns()[0][0])])
    page.get_by_label("Name of pile pile 1").press("s")
    held.pop().continue_()
    expect(page.locator("#pictures-reading")).to_contain_text("late.png: ")
    expect(page.locator("#pictures-bars .name")).to_have_text(["pile 1", "pile 2"])
    expect(page.locator("#pictures-bars")).not_to_contain_text("NaN")


def test_an_example_that_is_loading_is_given_up_by_starting_anew(page):
    held, last = [], "**/groceries/question-2.jpg"
    page.route(last, lambda route: held.append(route))
    with page.expect_request(last):
        page.click("#pictures-example")
    page.click("#pictures-clear")
    drop(pile(page, "pile 1"), [("own.png", patterns()[0][0])])
    with page.expect_response(last):
        held.pop().continue_()
    page.evaluate("() => fetch('livez').then(() => fetch('livez'))")  # whatever follows has been shown by now
    expect(pile(page, "pile 1").locator("li")).to_have_count(1)
    page.unroute(last)
    page.dblclick("#pictures-example")
    expect(page.locator("#pictures-reading")).to_contain_text("question-2.jpg: ")
    expect(question(page).locator("li")).to_have_count(2)


def test_an_example_waits_for_a_lost_server(visit, page):
    visit.forgiven.append("ERR_FAILED")
    lost = [True]
    page.route("**/groceries/*.json", lambda route: route.abort() if lost else route.continue_())
    page.click("#pictures-example")
    expect(page.locator("#server")).to_contain_text("does not answer")
    lost.clear()
    expect(page.locator("#pictures-reading")).to_contain_text("question-2.jpg: ")


def test_a_picture_that_is_being_read_is_given_up_by_starting_anew(page):
    page.evaluate(SLOW)
    drop(question(page), [("slow.png", patterns()[0][0])])
    page.wait_for_function("() => window.goOn")
    page.click("#pictures-clear")
    page.evaluate("() => window.goOn()")
    page.wait_for_function("() => window.previewed")
    expect(question(page).locator("li")).to_have_count(0)


def test_piles_are_added_renamed_and_removed_by_keyboard(page):
    page.get_by_label("Name of pile pile 1").fill("stripes")
    page.keyboard.press("Tab")
    expect(page.locator("#pictures-bars .name")).to_have_text(["stripes", "pile 2"])
    expect(page.get_by_label("Choose pictures for stripes")).to_have_count(1)
    page.get_by_label("Name of pile pile 2").fill("stripes")
    page.keyboard.press("Tab")
    expect(page.locator("#pictures-reading")).to_have_text(
        "Two piles are named “stripes”: give them different names."
    )
    page.locator("#add-pile").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Name of pile pile 1")).to_have_count(1)
    page.get_by_role("button", name="Remove pile stripes").last.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Name of pile pile 1")).to_be_focused()
    expect(page.locator("#pictures-reading")).to_have_text("Two piles need a picture each.")
    expect(page.get_by_role("button", name="Remove pile stripes")).to_be_disabled()
    expect(page.locator("#pictures-bars .bar")).to_have_count(0)


def test_a_picture_is_removed_by_keyboard_and_the_focus_stays(page):
    buttons = pile(page, "pile 1").get_by_role("button", name=re.compile("^Remove 1-"))
    expect(buttons).to_have_count(2)
    with page.expect_response("**/posteriors"):
        buttons.first.focus()
        page.keyboard.press("Enter")
    expect(buttons).to_have_count(1)
    expect(page.get_by_role("button", name="Remove 1-1.png from pile 1")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Choose pictures for pile 1")).to_be_focused()


def test_a_broken_picture_says_so_in_its_place_and_the_others_are_answered(visit, page):
    visit.forgiven.append("status of 422")
    broken = patterns()[1][3][:60]
    drop(pile(page, "pile 1"), [("broken.png", broken), ("note.txt", b"no picture")])
    sentences = pile(page, "pile 1").locator(".problem")
    told = "not a readable image: PNG, JPEG, WebP, GIF, BMP, AVIF or HEIC."
    expect(sentences).to_have_text([f"broken.png: {told}", f"note.txt: {told}"])
    expect(page.locator("#pictures-problem")).to_be_empty()
    expect(page.locator("#pictures-reading")).to_contain_text("asked.png: ")
    drop(question(page), [("torn.png", broken)])
    expect(question(page).locator(".problem")).to_have_text(f"torn.png: {told}")
    expect(page.locator("#pictures-reading")).to_contain_text("asked.png: ")
    page.get_by_role("button", name="Remove broken.png from pile 1").click()
    expect(sentences).to_have_text([f"note.txt: {told}"])


def test_piles_of_broken_pictures_alone_ask_for_others(visit, page):
    visit.forgiven.append("status of 422")
    page.click("#pictures-clear")
    files = patterns()
    drop(question(page), [("asked.png", files[0][0])])
    drop(pile(page, "pile 1"), [("good.png", files[0][1])])
    drop(pile(page, "pile 2"), [("bad.png", b"nothing")])
    expect(pile(page, "pile 2").locator(".problem")).to_contain_text("bad.png: not a readable image")
    expect(page.locator("#pictures-reading")).to_have_text("Two piles need a picture that can be read.")


def test_warnings_of_the_service_are_shown(page):
    frames = [Image.fromarray(each) for each in random_images(2, 1, 3)[:, 0]]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    drop(question(page), [("moving.gif", file.getvalue())])
    expect(page.locator("#pictures-warnings li")).to_have_text(
        ["1 image is animated: its first frame alone is taken"]
    )


def test_the_pool_is_ranked_and_a_labelled_picture_moves_to_its_pile(page):
    files = patterns()
    page.click("#pictures-rank")
    expect(page.locator("#pictures-ranked")).to_have_text("Drop pictures without a label first.")
    drop(
        pool(page), [(f"new-{i}.png", each) for i, each in enumerate((files[0][0], files[1][3], files[2][3]))]
    )
    expect(pool(page).locator("li")).to_have_count(3)
    ranked = bodies_of(page, "/uncertainty")
    page.select_option("#pictures-acquisition", "bald")
    items = page.locator("#pictures-suggestions li")
    expect(items).to_have_count(3)
    assert ranked[-1]["acquisition"] == "bald"
    assert ranked[-1]["posterior"].startswith("post_")
    scores = [float(each.split()[0]) for each in items.locator("span:text-matches('^\\d')").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    first = items.first.locator("strong").inner_text().removeprefix("1. ")
    page.get_by_role("button", name=f"{first} is pile 2").click()
    expect(items).to_have_count(2)
    expect(page.get_by_role("button", name=f"Remove {first} from pile 2")).to_have_count(1)
    expect(pool(page).locator("li")).to_have_count(2)
    assert ranked[-1]["posterior"] != ranked[0]["posterior"]
    expect(page.locator("#pictures-ranked")).to_contain_text("first.")
    page.click("#pictures-clear")
    expect(page.locator("#pictures-ranked")).to_be_empty()


def test_a_refused_ranking_leaves_the_answer_to_the_question(visit, page):
    visit.forgiven.append("status of 400")
    refusal = {"status": 400, "body": '{"status": 400, "detail": "no such thing"}'}
    page.route("**/uncertainty", lambda route: route.fulfill(**refusal))
    drop(pool(page), [("new.png", patterns()[0][0])])
    expect(pool(page).locator("li")).to_have_count(1)
    page.click("#pictures-rank")
    expect(page.locator("#pictures-ranked")).to_have_text("No such thing.")
    expect(page.locator("#pictures-problem")).to_be_empty()
    expect(page.locator("#pictures-reading")).to_contain_text("asked.png: ")
    page.route("**/adapt-predict", lambda route: route.fulfill(**refusal))
    drop(question(page), [("more.png", patterns()[0][1])])
    expect(page.locator("#pictures-problem")).to_have_text("No such thing.")
    expect(page.locator("#pictures-timing")).to_be_empty()


@pytest.mark.parametrize(("turned", "kind"), [(1, "JPEG"), (6, "JPEG"), (1, "PNG")])
def test_what_does_not_fit_is_scaled_down_to_nearly_the_pixels_of_the_file(page, turned, kind):
    asked = bodies_of(page, "/adapt-predict")
    exif = Image.Exif()
    exif[0x0112] = turned
    large = photograph(1, 1800, 1350, kind=kind, exif=exif)
    assert len(large) * 4 / 3 > BODY
    drop(question(page), [("large.jpg", large)])
    expect(page.locator("#pictures-reading")).to_contain_text("large.jpg: ")
    expect(question(page).locator(".note").last).to_contain_text("scaled down")
    expect(page.locator("#pictures-sent")).to_contain_text("1 picture of 6 did not fit into a request")
    small, scaled = (base64.b64decode(each) for each in asked[-1]["query"]["x"]["images"])
    assert small == patterns()[1][2]
    image = ImageInput(channels=3, size=16)
    assert min(Image.open(io.BytesIO(scaled)).size) == 2 * image.resized
    found, expected = (decoded_image(each, image).pixels.astype(float) for each in (scaled, large))
    assert np.abs(found - expected).mean() < 3  # of 255: another filter, and a second JPEG


def test_a_picture_is_scaled_down_for_as_long_as_it_does_not_fit(page):
    drop(question(page), [("large.jpg", photograph(1, 1000, 760)), ("other.jpg", photograph(2, 950, 760))])
    expect(page.locator("#pictures-sent")).to_contain_text("1 picture of 7 did not fit")
    page.get_by_role("button", name="Remove other.jpg from the question").click()
    expect(page.locator("#pictures-sent")).to_be_empty()


def test_a_file_that_can_neither_be_sent_nor_scaled_down_is_named(page):
    drop(pile(page, "pile 1"), [("clip.mov", bytes(BODY))])
    expect(pile(page, "pile 1").locator(".problem")).to_have_text(
        "clip.mov: 1.0 MiB are too large for a request, and this page cannot scale them down: "
        "save it as a JPEG."
    )
    expect(page.locator("#pictures-reading")).to_contain_text("asked.png: ")
    expect(page.locator("#pictures-sent")).to_be_empty()


def test_pixels_that_the_browser_cannot_count_are_refused_in_sentences(visit, page):
    visit.forgiven.append("status of 413")
    page.evaluate(UNKNOWN)
    drop(question(page), [("huge.png", encoded(np.zeros((2000, 2500, 3), np.uint8)))])
    expect(question(page).locator(".problem")).to_have_text(
        "huge.png: has 2500 × 2000 pixels, more than this service takes (4,000,000): save it as a JPEG."
    )
    page.get_by_role("button", name="Remove huge.png from the question").click()
    content = encoded(np.zeros((1990, 2000, 3), np.uint8))
    drop(question(page), [(f"{number}.png", content) for number in range(9)])
    expect(page.locator("#pictures-problem")).to_contain_text(
        "These 10 pictures have more pixels than this service takes a request (32,000,000)"
    )
    expect(question(page).locator(".problem")).to_have_count(0)


def test_pictures_that_do_not_fit_however_scaled_are_refused_in_a_sentence(visit, tmp_path):
    publish_classifier(tmp_path, "photographs", channels=3)
    for served in serve(Settings(store=tmp_path, device="cpu", max_body_bytes=68 << 10)):
        page = visit("pictures", url=served.url)
        expect(page.locator("#pictures-problem")).to_have_text(
            re.compile(
                r"^Even scaled down these 9 pictures are \d+ KiB, and this service takes 68 KiB a request: "
                r"remove some, or start it with a larger BMAML_MAX_BODY_BYTES\.$"
            )
        )
        page.close()


@pytest.mark.parametrize("kind", [{}, {"progressive": True}, {"kind": "PNG"}], ids=str)
@pytest.mark.parametrize("least", [100, 450, 2000])
def test_the_page_counts_the_pixels_that_the_service_decodes(page, kind, least):
    content = photograph(2, 1201, 901, **kind)
    decoded = []
    decoded_image(content, ImageInput(channels=3, size=least // 2), lambda *size: decoded.append(size))
    found = page.evaluate(DECODED, [base64.b64encode(content).decode(), least])
    assert found == decoded[0][0] * decoded[0][1]


def test_a_model_of_drawings_takes_pictures_too(page):
    asked = bodies_of(page, "/adapt-predict")
    page.select_option("#pictures-model", "drawings")
    with page.expect_response("**/adapt-predict"):
        drop(question(page), [("again.png", patterns()[0][0])])
    assert asked[-1]["model"] == "drawings"


def test_a_store_without_models_of_images_says_so(visit, tmp_path):
    publish(tmp_path, "tiny")
    for served in serve(Settings(store=tmp_path, device="cpu")):
        page = visit("pictures", url=served.url)
        expect(page.locator("#pictures-problem")).to_have_text("This service has no model of images.")
        page.close()
