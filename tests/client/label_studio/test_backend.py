"""Label Studio's protocol: setup, predictions with a certainty, and learning from annotations."""

import base64

import httpx
import numpy as np
import pytest

from bmaml_client import Client
from tests.client.label_studio.bodies import (
    IMAGE_CONFIG,
    NUMBER_CONFIG,
    annotation,
    asked,
    created,
    event,
    setup,
)
from tests.client.label_studio.conftest import IMAGES
from tests.images import png

ROWS = [({"x": -2.0, "note": "a"}, 8.0), ({"x": "0.5"}, 11.5), ({"x": 3}, 9.0)]


def predicted(backend, config, *data):
    reply = backend.post("/predict", json=asked(config, *data))
    assert reply.status_code == 200, reply.text
    said = reply.json()
    assert len(said["results"]) == len(data)
    assert {each["model_version"] for each in said["results"]} <= {said["model_version"]}
    return said["results"], said["model_version"]


def learn(backend, body, status=201):
    reply = backend.post("/webhook", json=body)
    assert reply.status_code == status, reply.text
    return reply.json()


def image(label, number):
    return {"image": f"/data/upload/{label}/{number}.png"}


def test_health_says_whether_the_service_would_answer(backend, service):
    assert backend("tiny").get("/health").json() == {"status": "UP", "model_class": "bmaml-service"}
    assert backend("tiny").get("/").status_code == 200
    assert backend("tiny").get("/metrics").json() == {}


def test_setup_names_the_version_and_every_label_changes_it(backend):
    tiny = backend("tiny")
    assert tiny.post("/setup", json=setup(NUMBER_CONFIG)).json() == {"model_version": "tiny@1+0"}
    learn(tiny, created(NUMBER_CONFIG, 17, 19, 11.5, {"x": 0.5}))
    assert tiny.post("/setup", json=setup(NUMBER_CONFIG)).json() == {"model_version": "tiny@1+1"}


@pytest.mark.parametrize(
    ("model", "config", "why"),
    [
        ("tiny", IMAGE_CONFIG, "asks for classification, tiny does regression"),
        ("shapes", NUMBER_CONFIG, "asks for regression"),
        ("wide", NUMBER_CONFIG, "2 outputs"),
        ("tiny", "<View>", "not XML"),
        ("tiny", "<View></View>", "has 0"),
        ("tiny", '<View><Number name="a"/><Number name="b"/></View>', "has 2"),
        ("shapes", IMAGE_CONFIG.replace("single-radio", "multiple"), "multiple"),
        ("shapes", IMAGE_CONFIG.replace("$image", "image"), "value="),
        ("shapes", IMAGE_CONFIG.replace("<Image", "<Audio"), "Image"),
    ],
)
def test_a_project_that_no_model_of_ours_fits_is_refused_with_the_reason(backend, model, config, why):
    reply = backend(model).post("/setup", json=setup(config))
    assert reply.status_code == 400
    assert why in reply.json()["detail"]


def test_an_unknown_model_is_told_as_the_service_tells_it(backend):
    reply = backend("tin").post("/setup", json=setup(NUMBER_CONFIG))
    assert reply.status_code == 502
    assert "no model of that name" in reply.json()["detail"]


def test_numbers_are_predicted_from_all_annotations_so_far(backend, service):
    tiny = backend("tiny")
    (prior,), _ = predicted(tiny, NUMBER_CONFIG, {"x": 1.0})
    for index, (data, label) in enumerate(ROWS):
        learn(tiny, created(NUMBER_CONFIG, index, 10 + index, label, data))
    results, version = predicted(tiny, NUMBER_CONFIG, {"x": 1.0}, {"x": -4.0}, {"x": 0.0})
    assert version == "tiny@1+3"
    with Client(service.url) as client:
        x, y = [[float(data["x"])] for data, _ in ROWS], [label for _, label in ROWS]
        answer = client.adapt_predict("tiny", x, y, [[1.0], [-4.0], [0.0]])
    found = [each["result"][0]["value"]["number"] for each in results]
    np.testing.assert_allclose(found, answer.mean, rtol=1e-4)
    assert results[0]["result"][0] | {"value": {}} == {
        "from_name": "answer",
        "to_name": "row",
        "type": "number",
        "value": {},
    }
    scores = np.array([each["score"] for each in results])
    np.testing.assert_array_equal(np.argsort(scores), np.argsort(-answer.variance.epistemic))
    assert ((scores > 0) & (scores <= 1)).all()
    assert prior["score"] < scores[0]


def test_the_services_warnings_are_in_the_log_once_for_all_parts(backend, caplog):
    caplog.set_level("WARNING", "bmaml_client.label_studio")
    predicted(backend("tiny"), NUMBER_CONFIG, {"x": 400.0}, {"x": 1.0}, {"x": -500.0})
    told = [each.getMessage() for each in caplog.records]
    assert sum("project 2: the support set is empty" in each for each in told) == 1
    assert sum("project 2: 2 of 3 query rows are far from what training saw" in each for each in told) == 1


def test_inputs_are_taken_by_the_models_names(backend, service):
    (result,), _ = predicted(backend("sized"), NUMBER_CONFIG, {"size": "64", "note": "b", "x": 0.5})
    with Client(service.url) as client:
        expected = client.adapt_predict("sized", [], [], [[0.5, 64.0]]).mean[0]
    assert result["result"][0]["value"]["number"] == pytest.approx(expected, rel=1e-4)


def test_a_task_that_cannot_be_read_fails_alone(backend):
    results, _ = predicted(backend("tiny"), NUMBER_CONFIG, {"y": 1.0}, {"x": 1.0}, {"x": "nan"}, {"x": None})
    assert [bool(each["result"]) for each in results] == [False, True, False, False]
    assert results[0]["score"] is None
    assert results[0]["error"] == "the task's data have no number 'x'"


def test_images_are_predicted_once_two_classes_are_labelled(backend, service):
    shapes = backend("shapes")
    learn(shapes, created(IMAGE_CONFIG, 1, 11, "left", image(0, 0)))
    results, _ = predicted(shapes, IMAGE_CONFIG, image(0, 1))
    assert (results[0]["result"], results[0]["score"]) == ([], 0.0)
    learn(shapes, created(IMAGE_CONFIG, 2, 12, "right", image(1, 0)))
    some = [image(label, number) for label in (0, 1) for number in (1, 2, 3)]
    results, _ = predicted(shapes, IMAGE_CONFIG, *some)
    assert results[0]["result"][0]["to_name"] == "image"
    found = [each["result"][0]["value"]["choices"] for each in results]
    with Client(service.url) as client:
        answer = client.adapt_predict(
            "shapes", IMAGES[:, 0], ["left", "right"], IMAGES[:, 1:].reshape(6, 16, 16)
        )
    assert found == [[label] for label in answer.label]
    certainty = 1 - answer.entropy.total / np.log(2)
    np.testing.assert_allclose([each["score"] for each in results], certainty, rtol=1e-3, atol=1e-5)


def test_a_image_that_is_missing_or_elsewhere_fails_alone(backend, studio):
    shapes = backend("shapes")
    for label, name in enumerate(("left", "right")):
        learn(shapes, created(IMAGE_CONFIG, label, label, name, image(label, 0)))
    data = [
        image(0, 9),
        {"image": "https://elsewhere.example/secret.png"},
        {"image": "data:image/png;base64,????"},
        {"image": "data:text/plain;base64,aGVsbG8="},
        {},
        image(0, 1),
    ]
    results, _ = predicted(shapes, IMAGE_CONFIG, *data)
    assert [bool(each["result"]) for each in results] == [False] * 5 + [True]
    assert "404" in results[0]["error"]
    assert "nothing is fetched from elsewhere" in results[1]["error"]
    assert {each.url.host for each in studio.seen} == {"127.0.0.1"}


def test_an_annotation_can_change_be_skipped_or_go_and_so_can_its_task(backend):
    tiny = backend("tiny")

    def mean():
        return predicted(tiny, NUMBER_CONFIG, {"x": 0.5})[0][0]["result"][0]["value"]["number"]

    prior = mean()
    learn(tiny, created(NUMBER_CONFIG, 1, 11, 15.0, {"x": 0.5}))
    high = mean()
    learn(tiny, created(NUMBER_CONFIG, 1, 11, 5.0, {"x": 0.5}, action="ANNOTATION_UPDATED"))
    assert mean() < prior < high
    learn(tiny, created(NUMBER_CONFIG, 1, 11, None, {"x": 0.5}, action="ANNOTATION_UPDATED", cancelled=True))
    assert mean() == prior
    for gone in (
        event("ANNOTATIONS_DELETED", NUMBER_CONFIG, annotations=[{"id": 1}]),
        event("TASKS_DELETED", NUMBER_CONFIG, tasks=[{"id": 11}]),
        {"action": "PROJECT_DELETED", "project": {"id": 2}},
    ):
        learn(tiny, created(NUMBER_CONFIG, 1, 11, 15.0, {"x": 0.5}))
        assert mean() == pytest.approx(high, rel=1e-5)
        learn(tiny, gone)
        assert mean() == prior


def test_an_event_without_its_task_has_it_fetched(backend, studio):
    tiny = backend("tiny")
    studio.tasks[19] = {"id": 19, "data": {"x": 0.5}}
    before = predicted(tiny, NUMBER_CONFIG, {"x": 0.5})[0][0]["score"]
    learn(tiny, created(NUMBER_CONFIG, 17, 19, 11.5))
    assert predicted(tiny, NUMBER_CONFIG, {"x": 0.5})[0][0]["score"] > before


@pytest.mark.parametrize("how", ["event", "train"])
def test_training_takes_all_annotations_anew_and_labels_outlive_a_restart(backend, studio, how):
    tiny = backend("tiny")
    learn(tiny, created(NUMBER_CONFIG, 99, 99, 20.0, {"x": 4.0}))
    studio.export = [
        {
            "id": 10 + index,
            "data": data,
            "annotations": [annotation(index, 10 + index, label)],
            "predictions": [],
        }
        for index, (data, label) in enumerate(ROWS)
    ]
    studio.export.append(
        {"id": 50, "data": {"x": 1.0}, "annotations": [annotation(50, 50, 1.0, cancelled=True)]}
    )
    if how == "event":
        learn(tiny, event("START_TRAINING", NUMBER_CONFIG))
    else:
        body = {
            "annotations": studio.export,
            "project": "2.1629208174",
            "label_config": NUMBER_CONFIG,
            "params": {},
        }
        assert tiny.post("/train", json=body).status_code == 201
    trained, _ = predicted(tiny, NUMBER_CONFIG, {"x": 1.0})
    one_by_one = backend("tiny", database=":memory:")
    for index, (data, label) in enumerate(ROWS):
        learn(one_by_one, created(NUMBER_CONFIG, index, 10 + index, label, data))
    assert predicted(one_by_one, NUMBER_CONFIG, {"x": 1.0})[0][0]["result"] == trained[0]["result"]
    assert predicted(backend("tiny"), NUMBER_CONFIG, {"x": 1.0})[0][0]["result"] == trained[0]["result"]


def exported(*tasks):
    """An export of annotated images: id of the task, its data and its label."""
    return [
        {"id": number, "data": data, "annotations": [annotation(100 + number, number, label)]}
        for number, data, label in tasks
    ]


BROKEN = base64.b64encode(base64.b64decode(png(IMAGES[0, 0]))[:-40]).decode()


@pytest.mark.parametrize("how", ["event", "train"])
@pytest.mark.parametrize(
    "lost",
    [
        {"image": "/data/upload/0/9.png"},
        {"image": f"data:image/png;base64,{BROKEN}"},
        {"image": "http://[broken/1.png"},
        {},
    ],
)
def test_a_lost_image_costs_that_image_and_the_reply_names_it(backend, studio, how, lost):
    shapes = backend("shapes")
    studio.export = exported((1, image(0, 0), "left"), (2, lost, "left"), (3, image(1, 0), "right"))
    if how == "event":
        reply = learn(shapes, event("START_TRAINING", IMAGE_CONFIG))
        assert reply.pop("status") == "ok"
    else:
        body = {"annotations": studio.export, "project": "2.1", "label_config": IMAGE_CONFIG}
        sent = shapes.post("/train", json=body)
        assert sent.status_code == 201
        reply = sent.json()
    ((named,),) = reply.values()
    assert list(reply) == ["left_out"]
    assert named["task"] == "2"
    assert named["error"]
    results, version = predicted(shapes, IMAGE_CONFIG, image(0, 1), lost)
    assert [bool(each["result"]) for each in results] == [True, False]
    assert version == "shapes@1+1"


def test_an_image_lost_after_it_was_stored_is_still_learnt_from(backend, studio):
    shapes = backend("shapes")
    studio.export = exported((1, image(0, 0), "left"), (2, image(1, 0), "right"))
    assert learn(shapes, event("START_TRAINING", IMAGE_CONFIG)) == {"status": "ok"}
    before, _ = predicted(shapes, IMAGE_CONFIG, image(0, 1))
    studio.lost.add("/data/upload/1/0.png")
    assert learn(shapes, event("START_TRAINING", IMAGE_CONFIG)) == {"status": "ok"}
    after, _ = predicted(shapes, IMAGE_CONFIG, image(0, 1))
    assert after[0]["score"] == pytest.approx(before[0]["score"], rel=1e-4)


def test_a_training_without_any_image_changes_nothing(backend, studio):
    shapes = backend("shapes")
    for label, name in enumerate(("left", "right")):
        learn(shapes, created(IMAGE_CONFIG, label, label, name, image(label, 0)))
    before = predicted(shapes, IMAGE_CONFIG, image(0, 1))
    studio.export = exported((7, image(0, 9), "left"), (8, image(1, 9), "right"))
    detail = learn(shapes, event("START_TRAINING", IMAGE_CONFIG), 502)["detail"]
    assert detail.startswith("none of 2 annotated tasks can be read; task 7: Label Studio does not return")
    assert predicted(shapes, IMAGE_CONFIG, image(0, 1)) == before
    detail = learn(shapes, created(IMAGE_CONFIG, 9, 9, "left", image(0, 9)), 502)["detail"]
    assert detail.startswith("task 9 cannot be learnt from: Label Studio does not return")


@pytest.mark.parametrize("reference", ["/label-studio/data/upload/{}/0.png", "/data/upload/{}/0.png"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_label_studio_may_be_published_under_a_path(backend, studio, reference, slash):
    studio.path = "/label-studio"
    shapes = backend("shapes", url=f"http://studio.example/label-studio{slash}", token="a.b.c")
    data = [{"image": reference.format(label)} for label in (0, 1)]
    studio.export = exported((1, data[0], "left"), (2, data[1], "right"))
    assert learn(shapes, event("START_TRAINING", IMAGE_CONFIG)) == {"status": "ok"}
    whole = {"image": "http://studio.example/label-studio/data/upload/0/1.png"}
    outside = [
        {"image": f"http://studio.example{path}"}
        for path in (
            "/other/0.png",
            "/label-studio/../0.png",
            "/label-studio/%2e%2e/0.png",
            "/label-studios/0.png",
        )
    ]
    results, _ = predicted(shapes, IMAGE_CONFIG, whole, {"image": "//elsewhere.example/0.png"}, *outside)
    assert [bool(each["result"]) for each in results] == [True, False, False, False, False, False]
    assert all("nothing is fetched from elsewhere" in each["error"] for each in results[1:])
    assert {each.url.path.split("/")[1] for each in studio.seen} == {"label-studio"}
    assert {each.url.host for each in studio.seen} == {"studio.example"}


@pytest.mark.parametrize("prefix", ["", "/ml"])
def test_the_backend_may_be_published_under_a_path(backend, prefix):
    tiny = backend("tiny", root_path="/ml", user="studio", password="secret")
    assert tiny.get(f"{prefix}/health").status_code == 401
    reply = tiny.post(f"{prefix}/predict", json=asked(NUMBER_CONFIG, {"x": 1.0}), auth=("studio", "secret"))
    assert len(reply.json()["results"]) == 1


def test_a_personal_token_that_buys_nothing_is_told(backend, studio, monkeypatch):
    monkeypatch.setattr(type(studio), "__call__", lambda self, request: httpx.Response(200, json=[]))
    shapes = backend("shapes", token="a.b.c")
    results, _ = predicted(shapes, IMAGE_CONFIG, image(0, 0))
    assert results[0]["error"] == "Label Studio gives no access token for the personal token"


def test_more_labels_than_the_service_takes_leave_the_newest(backend, service):
    tiny = backend("tiny")
    rows = [(float(x), 10 + float(np.sin(x))) for x in np.linspace(-4, 4, 9)]
    for index, (x, label) in enumerate(rows):
        learn(tiny, created(NUMBER_CONFIG, index, index, label, {"x": x}))
    with Client(service.url) as client:
        x, y = zip(*rows[-6:], strict=True)
        expected = client.adapt_predict("tiny", np.array(x)[:, None], y, [[0.0]]).mean[0]
    found = predicted(tiny, NUMBER_CONFIG, {"x": 0.0})[0][0]["result"][0]["value"]["number"]
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_service_that_has_forgotten_is_told_again(backend, service):
    tiny = backend("tiny")
    for index, (data, label) in enumerate(ROWS):
        learn(tiny, created(NUMBER_CONFIG, index, index, label, data))
    first, _ = predicted(tiny, NUMBER_CONFIG, {"x": 1.0})
    with Client(service.url) as client:
        x, y = [[float(data["x"])] for data, _ in ROWS], [label for _, label in ROWS]
        kept = client.keep("tiny", x, y)
        assert kept.cache == "hit"
        client.forget(kept)
    assert predicted(tiny, NUMBER_CONFIG, {"x": 1.0})[0] == first


def test_events_that_teach_nothing_are_told_apart(backend):
    tiny = backend("tiny")
    assert learn(tiny, event("TASKS_CREATED", NUMBER_CONFIG, tasks=[{"id": 1}]), 200) == {
        "status": "Unknown event"
    }
    assert learn(tiny, {"action": "ANNOTATION_CREATED"}, 400)["detail"].startswith(
        "the event names no project"
    )
    assert "no annotation" in learn(tiny, event("ANNOTATION_CREATED", NUMBER_CONFIG), 400)["detail"]
    learn(tiny, {"project": {}}, 422)
    learn(tiny, created(NUMBER_CONFIG, 1, 1, 1.0, {"z": 1.0}), 502)
    learn(tiny, event("START_TRAINING", NUMBER_CONFIG.replace("<View>", "<View")), 400)


def test_a_personal_token_buys_short_lived_ones(backend, studio):
    shapes = backend("shapes", token="a.b.c")
    learn(shapes, created(IMAGE_CONFIG, 1, 1, "left", image(0, 0)))
    learn(shapes, created(IMAGE_CONFIG, 2, 2, "right", image(1, 0)))
    assert [each.url.path for each in studio.seen].count("/api/token/refresh") == 1
    assert studio.seen[-1].headers["authorization"] == "Bearer short-1"


def test_a_password_is_asked_for_where_there_is_one(backend):
    tiny = backend("tiny", user="studio", password="secret")
    assert tiny.get("/health").status_code == 401
    assert (
        tiny.post("/predict", json=asked(NUMBER_CONFIG, {"x": 1.0}), auth=("studio", "wrong")).status_code
        == 401
    )
    assert tiny.get("/health", auth=("studio", "secret")).status_code == 200
