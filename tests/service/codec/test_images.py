"""Images in every form, classes out: both endpoints, and what is refused."""

import base64
import io
import math

import numpy as np
import pytest
from PIL import Image

from model_store.images import ImageInput
from service.codec.budget import Budget
from service.codec.images import decoded_images
from service.codec.inputs import image_rows
from service.compute import classification
from service.errors import RequestError
from service.job import Uncertainty
from service.settings import Settings
from tests.images import SIZE, png, publish_classifier, random_images
from tests.service.conftest import serve

LEARNERS = ["conjugate", "bmaml", "bfa", "emaml", "maml"]
GREY = random_images(4)
NAMES = ["a", "b", "c", "d"]
ACQUISITIONS = ["entropy", "bald", "margin", "least_confidence", "variation_ratio", "epig", "random"]
STRATEGIES = ["auto", "top_k", "power", "joint", "k_centre"]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for learner in LEARNERS:
        publish_classifier(root, learner, learner)
    publish_classifier(root, "colour", channels=3)
    publish_classifier(root, "drawing", drawing=True)
    settings = Settings(store=root, device="cpu", max_picture_pixels=10_000, max_support_rows=40)
    for served in serve(settings):
        yield served.client


def encoded(images, kind="PNG"):
    return {"images": [png(each, kind) for each in images]}


def tensor(array):
    content = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "base64": content}


def task(model="conjugate", shots=2, labels=None, **changes):
    shown, asked = GREY[:, :shots].reshape(-1, SIZE, SIZE), GREY[:, shots:].reshape(-1, SIZE, SIZE)
    y = [name for name in labels or NAMES for _ in range(shots)]
    body = {"model": model, "support": {"x": encoded(shown), "y": y}, "query": {"x": encoded(asked)}}
    return body | changes


def predict(client, body):
    reply = client.post("/adapt-predict", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def refused(client, body, path="/adapt-predict"):
    reply = client.post(path, json=body)
    assert reply.headers["content-type"] == "application/problem+json"
    return reply.status_code, reply.json()["errors"][0]["pointer"]


@pytest.mark.parametrize("model", LEARNERS)
def test_every_learner_answers_with_probabilities_and_their_parts(client, model):
    answer = predict(client, task(model, particles=True))
    said = answer["prediction"]
    assert said["classes"] == NAMES
    p = np.array(said["probabilities"])
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-6)
    assert said["label"] == [NAMES[index] for index in p.argmax(-1)]
    entropy = {name: np.array(values) for name, values in said["entropy"].items()}
    np.testing.assert_allclose(entropy["total"], -(p * np.log(p)).sum(-1), atol=1e-5)
    np.testing.assert_allclose(
        entropy["total"], entropy["expected"] + entropy["mutual_information"], atol=1e-6
    )
    ordered = np.sort(p, -1)
    np.testing.assert_allclose(said["margin"], ordered[:, -1] - ordered[:, -2], atol=1e-6)
    each = said["particles"]
    np.testing.assert_allclose(np.tensordot(each["weight"], each["probabilities"], 1), p, atol=1e-6)
    warned = "single point" in " ".join(answer["diagnostics"]["warnings"])
    assert warned == (model == "maml")
    assert answer["timing_ms"]["embed"] > 0
    assert answer["timing_ms"]["decode"] > 0


def test_patterns_seen_through_noise_are_told_apart_before_any_training(client):
    answer = predict(client, task())
    right = [name for name in NAMES for _ in range(4)]
    assert np.mean([a == b for a, b in zip(answer["prediction"]["label"], right, strict=True)]) > 0.9


def test_all_forms_of_an_image_give_one_answer(client):
    body = task()
    expected = predict(client, body)["prediction"]["probabilities"]
    asked = GREY[:, 2:].reshape(-1, SIZE, SIZE)
    for form in (tensor(asked), tensor((asked / 255).astype(np.float32)), (asked / 255).tolist()):
        found = predict(client, body | {"query": {"x": form}})["prediction"]["probabilities"]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    flat = tensor((asked / 255).astype(np.float64).reshape(len(asked), -1))
    found = predict(client, body | {"query": {"x": flat}})["prediction"]["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, SIZE, SIZE), (SIZE, SIZE, 1)])
def test_a_channel_axis_of_grey_images_may_stand_first_or_last(client, shape):
    expected = predict(client, task())["prediction"]["probabilities"]
    asked = GREY[:, 2:].reshape(-1, *shape)
    for form in (tensor(asked), (asked / 255).tolist()):
        found = predict(client, task(query={"x": form}))["prediction"]["probabilities"]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    wrong = client.post("/adapt-predict", json=task(query={"x": tensor(np.zeros((1, 3, SIZE, SIZE)))}))
    assert f"[{SIZE}, {SIZE}] or [1, {SIZE}, {SIZE}]" in wrong.json()["errors"][0]["detail"]


def test_the_channels_of_colour_images_may_stand_first_or_last(client):
    noise = np.random.default_rng(3).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    body = {"model": "colour", "support": {"x": tensor(noise[:2]), "y": ["a", "b"]}}
    expected = predict(client, body | {"query": {"x": tensor(noise)}})["prediction"]["probabilities"]
    first = noise.transpose(0, 3, 1, 2)
    for form in (tensor(first), (first / 255).tolist()):
        found = predict(client, body | {"query": {"x": form}})["prediction"]["probabilities"]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_three_channels_of_three_by_three_pixels_stand_last(tmp_path):
    image = ImageInput(channels=3, size=3)
    values = np.random.default_rng(4).random((2, 3, 3, 3)).astype(np.float32)
    budget = Budget(Settings(store=tmp_path), float("inf"))
    found = image_rows(values.tolist(), image, "/query/x", 5, budget).raw
    np.testing.assert_allclose(found, values.transpose(0, 3, 1, 2).reshape(2, -1), rtol=1e-6)


def test_base64_of_images_and_tensors_may_have_line_breaks(client):
    expected = predict(client, task())["prediction"]["probabilities"]
    files = task()["query"]["x"]["images"]
    wrapped = [base64.encodebytes(base64.b64decode(each)).decode() for each in files]
    numbers = tensor(GREY[:, 2:].reshape(-1, SIZE, SIZE))
    content = base64.encodebytes(base64.b64decode(numbers["base64"])).decode().replace("\n", "\r\n")
    assert wrapped[0].count("\n") > 1
    for form in ({"images": wrapped}, numbers | {"base64": content}):
        found = predict(client, task(query={"x": form}))["prediction"]["probabilities"]
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "rows", "found"),
    [
        ([1, "1"], [1], "a string beside numbers"),
        (["1", 1], [1], "a number beside strings"),
        ([1, "1", 1, "2", 1], [1, 3], "a string beside numbers"),
        ([1.0, "1", "2"], [0], "a number beside strings"),
    ],
)
def test_numbers_beside_strings_as_labels_are_told_by_their_rows(client, labels, rows, found):
    shown = tensor(np.zeros((len(labels), SIZE, SIZE), np.uint8))
    reply = client.post("/adapt-predict", json=task() | {"support": {"x": shown, "y": labels}})
    assert reply.status_code == 422
    errors = reply.json()["errors"]
    assert [each["pointer"] for each in errors] == [f"/support/y/{row}" for row in rows]
    assert errors[0]["detail"] == f"{found}: labels are all of one type"


def test_images_of_any_size_and_colour_are_made_the_models(client):
    doubled = np.kron(GREY[:, 2:].reshape(-1, SIZE, SIZE), np.ones((2, 2), np.uint8))
    coloured = np.repeat(doubled[..., None], 3, -1)
    clear = np.concatenate([coloured, np.full((*coloured.shape[:-1], 1), 255, np.uint8)], -1)
    expected = predict(client, task())["prediction"]["probabilities"]
    for images in (doubled, coloured, clear):
        found = predict(client, task(query={"x": encoded(images)}))["prediction"]["probabilities"]
        np.testing.assert_allclose(found, expected, atol=0.02)


def test_a_colour_jpeg_is_worth_its_decoded_pixels(client):
    images = random_images(3, channels=3, seed=2)
    files = encoded(images[:, 1], "JPEG")
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in files["images"]]
    body = {"model": "colour", "support": {"x": tensor(images[:, 0]), "y": [7, 3, 5]}}
    said = predict(client, body | {"query": {"x": files}})["prediction"]
    expected = predict(client, body | {"query": {"x": tensor(np.stack(pixels))}})["prediction"]
    assert said["classes"] == [3, 5, 7]
    np.testing.assert_allclose(said["probabilities"], expected["probabilities"], atol=1e-6)


def test_a_drawing_is_the_same_on_white_and_on_black(client):
    ink = np.zeros((3, 2, SIZE, SIZE), np.uint8)
    for label in range(3):
        ink[label, :, 3 + 3 * label : 6 + 3 * label, 4:12] = 220
    body = {"model": "drawing", "support": {"x": tensor(ink[:, 0]), "y": ["p", "q", "r"]}}
    dark = predict(client, body | {"query": {"x": tensor(ink[:, 1])}})
    bright = predict(client, body | {"query": {"x": tensor(255 - ink[:, 1])}})
    np.testing.assert_allclose(
        bright["prediction"]["probabilities"], dark["prediction"]["probabilities"], atol=1e-5
    )


@pytest.mark.parametrize("model", ["conjugate", "drawing"])
@pytest.mark.parametrize("nothing", [{"images": []}, tensor(np.zeros(0, np.uint8)), []])
def test_no_images_at_all_are_refused_whatever_the_form(client, model, nothing):
    body = task(model, support={"x": nothing, "y": []})
    assert refused(client, body) == (422, "/support/y")
    assert refused(client, task(model, query={"x": nothing})) == (422, "/query/x")


def test_shots_may_differ_and_the_order_of_rows_does_not_matter(client):
    shown = np.concatenate([GREY[0, :3], GREY[1, :1], GREY[2, :2]])
    names = ["z"] * 3 + ["y"] + ["x"] * 2
    order = [4, 0, 3, 5, 2, 1]
    asked = {"x": encoded(GREY[:3, 4])}
    straight = {"model": "conjugate", "support": {"x": encoded(shown), "y": names}, "query": asked}
    mixed = straight | {"support": {"x": encoded(shown[order]), "y": [names[i] for i in order]}}
    first, second = predict(client, straight)["prediction"], predict(client, mixed)["prediction"]
    assert first["classes"] == second["classes"] == ["x", "y", "z"]
    np.testing.assert_allclose(first["probabilities"], second["probabilities"], atol=1e-5)


def test_an_uncertainty_that_is_no_number_is_a_422(client, monkeypatch):
    nothing = np.full(1, np.nan)
    monkeypatch.setattr(classification, "_uncertainty", lambda _: Uncertainty(nothing, nothing))
    reply = client.post("/adapt-predict", json=task()).json()
    assert (reply["status"], reply["type"]) == (422, "urn:bmaml:problem:diverged")


def test_one_class_is_certain_and_says_so(client):
    body = task(support={"x": encoded(GREY[0, :2]), "y": ["only", "only"]})
    answer = predict(client, body)
    assert set(answer["prediction"]["label"]) == {"only"}
    assert answer["prediction"]["margin"] == [1.0] * 16
    (told,) = answer["diagnostics"]["warnings"]  # its labels cannot get more probable, which is no fault
    assert "names one class" in told


@pytest.mark.parametrize("acquisition", ACQUISITIONS)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("model", ["conjugate", "bfa"])
def test_every_acquisition_goes_with_every_strategy(client, model, acquisition, strategy):
    body = task(model)
    pool = {"x": body.pop("query")["x"], "ids": [f"image {i}" for i in range(16)]}
    reply = client.post(
        "/uncertainty",
        json=body
        | {
            "pool": pool,
            "target": {"x": encoded(GREY[:, 0])},
            "acquisition": acquisition,
            "batch": {"size": 4, "strategy": strategy},
            "exclude": ["image 3"],
        },
    )
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    chosen = [each["id"] for each in answer["selected"]]
    assert len(set(chosen)) == 4
    assert "image 3" not in chosen
    for each in answer["selected"]:
        assert each["total"] == pytest.approx(each["aleatoric"] + each["epistemic"], abs=1e-9)


def test_without_a_name_the_acquisition_is_entropy_and_with_a_target_epig(client):
    body = task()
    body["pool"] = body.pop("query")
    assert client.post("/uncertainty", json=body).json()["acquisition"] == "entropy"
    body["target"] = {"x": encoded(GREY[:, 0])}
    assert client.post("/uncertainty", json=body).json()["acquisition"] == "epig"


def test_epig_about_classes_is_refused_without_a_target(client):
    body = task() | {"acquisition": "epig"}
    body["pool"] = body.pop("query")
    assert refused(client, body, "/uncertainty") == (422, "/target")


GIF = base64.b64encode(b"GIF89a no picture").decode()
HUGE = 10**12
THIRTEEN = GREY[:, :5].reshape(-1, SIZE, SIZE)[:13]


def bomb():
    return png(np.zeros((101, 100), np.uint8))


@pytest.mark.parametrize(
    ("changes", "status", "pointer"),
    [
        ({"query": {"x": {"images": ["!"]}}}, 422, "/query/x/images/0"),
        (
            {"query": {"x": {"images": [GIF]}}},
            422,
            "/query/x/images/0",
        ),
        ({"query": {"x": {"images": [bomb()]}}}, 413, "/query/x/images/0"),
        ({"query": {"x": {"images": []}}}, 422, "/query/x"),
        ({"query": {"x": {"images": [3]}}}, 422, "/query/x/images/0"),
        ({"query": {"x": [[0.5, 0.5]]}}, 422, "/query/x"),
        ({"query": {"x": [[[0.5], [0.5, 0.5]]]}}, 422, "/query/x"),
        ({"query": {"x": np.full((1, SIZE, SIZE), 2.0).tolist()}}, 422, "/query/x"),
        ({"query": {"x": tensor(np.full((1, SIZE, SIZE), np.nan))}}, 422, "/query/x/0"),
        ({"query": {"x": {"dtype": "uint8", "shape": [2, 3], "base64": "AAAA"}}}, 422, "/query/x/base64"),
        (
            {"query": {"x": {"dtype": "uint8", "shape": [HUGE, HUGE], "base64": ""}}},
            422,
            "/query/x/base64",
        ),
        ({"query": {"x": {"dtype": "int8", "shape": [1], "base64": ""}}}, 422, "/query/x/dtype"),
        ({"quantiles": [0.5]}, 422, "/quantiles"),
        ({"interval": {"level": 0.9, "method": "conformal"}}, 422, "/interval/method"),
        ({"adapt": {"steps": 1}}, 422, "/adapt/steps"),
        ({"support": {"x": {"images": []}, "y": []}}, 422, "/support/y"),
        ({"support": {"x": encoded(GREY[0, :2]), "y": ["a"]}}, 422, "/support/y"),
        ({"support": {"x": encoded(GREY[0, :2]), "y": [1.5, 2]}}, 422, "/support/y/0"),
        ({"support": {"x": encoded(GREY[0, :2]), "y": ["a", 2]}}, 422, "/support/y/1"),
        ({"support": {"x": encoded(GREY[0, :2]), "y": [1e300, 2]}}, 422, "/support/y/0"),
        ({"support": {"x": encoded(GREY[0, :2]), "y": [[1], [2]]}}, 422, "/support/y"),
        (
            {"support": {"x": tensor(THIRTEEN), "y": list(range(13))}},
            422,
            "/support/y",
        ),
        ({"support": {"x": tensor(np.zeros((41, SIZE, SIZE), np.uint8)), "y": [1] * 41}}, 422, "/support/x"),
    ],
)
def test_what_is_no_task_of_images_is_refused_where_it_is_wrong(client, changes, status, pointer):
    assert refused(client, task() | changes) == (status, pointer)


def test_more_classes_than_a_head_was_trained_for_are_refused(client):
    images = random_images(6)[:, 0]
    body = task("bfa", support={"x": tensor(images), "y": list(range(6))})
    assert refused(client, body) == (422, "/support/y")


def test_acquisitions_of_numbers_do_not_fit_classes(client):
    body = task()
    body["pool"] = body.pop("query")
    assert refused(client, body | {"acquisition": "ucb"}, "/uncertainty") == (422, "/acquisition")
    batch = {"size": 2, "strategy": "max_determinant"}
    assert refused(client, body | {"batch": batch}, "/uncertainty") == (422, "/batch/strategy")


def test_the_card_says_what_images_and_how_many_classes(client):
    card = client.get("/models/drawing/versions/1").json()
    assert card["kind"] == "classification"
    assert card["image"] == {"channels": 1, "size": SIZE, "drawing": True, "crop": None}
    assert card["classes"] == 12
    assert client.get("/limits").json()["picture_pixels"] == 10_000


def test_an_image_that_is_shown_twice_is_warned_of_and_under_two_labels_is_called_wrong(client):
    shown = encoded(np.stack([GREY[0, 0], GREY[1, 0], GREY[0, 0]]))
    query = {"x": encoded(GREY[:2, 3])}
    same, other = (
        predict(client, {"model": "conjugate", "support": {"x": shown, "y": labels}, "query": query})
        for labels in (["a", "b", "a"], ["a", "b", "b"])
    )
    assert "row 2 is row 0 again" in same["diagnostics"]["warnings"][0]
    assert other["diagnostics"]["warnings"] == [
        "support rows 0 and 2 hold the same input under two labels; one is wrong"
    ]


@pytest.mark.parametrize("model", LEARNERS)
def test_a_kept_posterior_of_images_answers_as_its_images_would(client, model):
    body = task(model)
    fresh = predict(client, body)
    shown = {name: body[name] for name in ("model", "support")}
    kept = client.post("/posteriors", json=shown).json()["posterior"]
    known = {"model": body["model"], "posterior": kept["id"]}
    again = predict(client, {**known, "query": body["query"]})
    assert again["prediction"]["classes"] == fresh["prediction"]["classes"]
    assert again["posterior"]["cache"] == "hit"
    for name in ("probabilities", "margin"):
        np.testing.assert_allclose(again["prediction"][name], fresh["prediction"][name], atol=1e-5)
    asked = {"pool": body["query"], "acquisition": "entropy", "batch": {"size": 3, "strategy": "k_centre"}}
    one, other = (client.post("/uncertainty", json={**who, **asked}).json() for who in (shown, known))
    assert [each["index"] for each in one["selected"]] == [each["index"] for each in other["selected"]]
    np.testing.assert_allclose(other["scores"], one["scores"], atol=1e-5)
    more = predict(client, {**known, "support": body["support"], "query": body["query"]})
    assert more["posterior"]["rows"] == 2 * kept["rows"]


def test_more_classes_than_the_service_allows_are_refused(tmp_path):
    publish_classifier(tmp_path, "conjugate", "conjugate")
    for served in serve(Settings(store=tmp_path, device="cpu", max_classes=3)):
        assert served.client.get("/limits").json()["classes"] == 3
        body = task()
        assert refused(served.client, body) == (422, "/support/y")
        assert "at most 3" in served.client.post("/adapt-predict", json=body).json()["errors"][0]["detail"]


def test_all_images_of_a_request_share_a_bound_and_the_deadline(tmp_path):
    publish_classifier(tmp_path, "conjugate", "conjugate")
    pixels = SIZE * SIZE
    for served in serve(Settings(store=tmp_path, device="cpu", max_request_pixels=9 * pixels)):
        assert served.client.get("/limits").json()["request_pixels"] == 9 * pixels
        one = {"images": [png(GREY[0, 0])]}
        fine = task(shots=1, labels=NAMES[:4]) | {"query": {"x": one}}
        assert served.client.post("/adapt-predict", json=fine).status_code == 200
        many = fine | {"query": {"x": {"images": [png(GREY[0, 0])] * 6}}}
        assert refused(served.client, many) == (413, "/query/x/images/5")
    image, late = ImageInput(channels=1, size=SIZE, drawing=False), Budget(Settings(), deadline=-math.inf)
    with pytest.raises(RequestError) as refusal:
        decoded_images([png(GREY[0, 0])], image, late, "/x")
    assert refusal.value.kind == "expired"


def test_few_wait_for_their_images_to_be_decoded(tmp_path, monkeypatch):
    publish_classifier(tmp_path, "conjugate", "conjugate")
    for served in serve(Settings(store=tmp_path, device="cpu")):
        monkeypatch.setattr("service.codec.images.MAX_DECODING_REQUESTS", 0)
        reply = served.client.post("/adapt-predict", json=task())
        assert (reply.status_code, reply.json()["type"]) == (429, "urn:bmaml:problem:queue-full")
        monkeypatch.undo()
