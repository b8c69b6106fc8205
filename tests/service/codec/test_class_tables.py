"""Classes of a table: answers, labels in every form, and what is refused."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from bmaml.task import Examples
from model_store import Column, Store
from model_store.class_target import ClassTarget
from service.codec.support_set import known_labels
from service.errors import RequestError
from service.settings import Settings
from tests.class_tables import LABELS, MOST_CLASSES, publish_class_table
from tests.images import SIZE, png, publish_classifier, random_images
from tests.service.conftest import serve

FIXED = {
    "grades": LABELS,
    "passed": (False, True),
    "scores": (0.5, 1, 1.5, 2),
    "levels": ("low", "mid", "high"),
}
HEADS = ("emaml", "maml", "bfa", "bmaml")
ACQUISITIONS = ["entropy", "bald", "margin", "least_confidence", "variation_ratio", "epig", "random"]
X = [[-2.0, 32.0], [0.5, 64.0], [3.0, 512.0]]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("tables")
    for name, labels in FIXED.items():
        publish_class_table(root, name, labels, ordered=name in ("scores", "levels"))
    for learner in HEADS:
        publish_class_table(root, f"fixed-{learner}", learner=learner)
        publish_class_table(root, f"new-{learner}", None, learner=learner)
    publish_class_table(root, "new-conjugate", None, learner="conjugate")
    return root


@pytest.fixture(scope="module")
def client(store):
    for served in serve(_settings(store)):
        yield served.client


def _settings(store):
    return Settings(store=store, device="cpu", max_support_rows=40)


def task(model="grades", y=("fails", "passes", "passes"), **changes):
    support = {"x": X[: len(y)], "y": list(y)}
    return {"model": model, "support": support, "query": {"x": X}} | changes


def predict(client, body):
    reply = client.post("/adapt-predict", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def refused(client, body, path="/adapt-predict"):
    reply = client.post(path, json=body)
    assert reply.status_code == 422, reply.text
    problem = reply.json()
    return problem["errors"][0]["pointer"], f"{problem['detail']} {problem['errors'][0]['detail']}"


def probabilities(answer):
    return np.array(answer["prediction"]["probabilities"])


@pytest.mark.parametrize("model", [f"{kind}-{learner}" for kind in ("fixed", "new") for learner in HEADS])
def test_every_learner_answers_as_for_images(client, model):
    said = predict(client, task(model, particles=True))["prediction"]
    assert set(said) == {
        *("classes", "probabilities", "label", "entropy", "margin", "variation_ratio", "particles")
    }
    assert said["classes"] == (list(LABELS) if "fixed" in model else ["fails", "passes"])
    p = np.array(said["probabilities"])
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-6)
    assert said["label"] == [said["classes"][place] for place in p.argmax(-1)]
    entropy = {name: np.array(values) for name, values in said["entropy"].items()}
    np.testing.assert_allclose(entropy["total"], -(p * np.log(p)).sum(-1), atol=1e-5)
    np.testing.assert_allclose(
        entropy["total"], entropy["expected"] + entropy["mutual_information"], atol=1e-6
    )
    ordered = np.sort(p, -1)
    np.testing.assert_allclose(said["margin"], ordered[:, -1] - ordered[:, -2], atol=1e-6)


@pytest.mark.parametrize("model", FIXED)
def test_labels_come_back_as_they_were_sent_and_in_the_model_s_order(client, model):
    labels = FIXED[model]
    answer = predict(client, task(model, (labels[1], labels[0], labels[1])))
    assert answer["prediction"]["classes"] == list(labels)
    assert [type(each) for each in answer["prediction"]["classes"]] == [type(each) for each in labels]
    assert all(
        any(each is known for known in labels) or each in labels for each in answer["prediction"]["label"]
    )


@pytest.mark.parametrize("model", ["grades", *(f"fixed-{learner}" for learner in HEADS)])
def test_no_labelled_row_is_answered_from_the_prior(client, store, model):
    answer = predict(client, task(model, ()))
    assert answer["diagnostics"]["support_nll"] is None
    assert any("this is the model's prior" in each for each in answer["diagnostics"]["warnings"])
    loaded = Store(store).load(model)
    x = torch.from_numpy(loaded.standardised_inputs(np.array(X)))
    np.testing.assert_allclose(
        probabilities(answer), loaded.prior_of_classes(x).exp().numpy(), atol=1e-5, rtol=0
    )


def test_an_absent_class_keeps_a_probability_and_what_is_shown_gains(client):
    prior, after = (probabilities(predict(client, task(y=y))) for y in ((), ("passes",) * 3))
    assert (after[:, [0, 2]] > 0).all()
    assert (after[:, 1] > prior[:, 1]).all()


def test_the_fit_is_told_against_the_prior(client, store):
    model = Store(store).load("grades")
    x = torch.from_numpy(model.standardised_inputs(np.array(X)))
    y = torch.eye(3)[[0, 1, 1]]
    fit = predict(client, task())["diagnostics"]["support_nll"]
    before = -(model.prior_of_classes(x) * y).sum(-1).mean()
    assert fit["before"] == pytest.approx(float(before), abs=1e-5)
    support = Examples.full(x[None], y[None])
    posterior = model.learner.adapt(model.learned, support)
    after = -model.classify(posterior, x[None], support).log_density(y[None]).mean()
    assert fit["after"] == pytest.approx(float(after), abs=1e-5)
    new = predict(client, task("new-conjugate"))["diagnostics"]["support_nll"]
    assert new["before"] == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("model", "y", "listed"),
    [
        ("grades", ["fails", "fails", "wins"], '["fails","passes","repeats"]'),
        ("grades", [0, 1, 0], '["fails","passes","repeats"]'),
        ("grades", [True, False, True], '["fails","passes","repeats"]'),
        ("passed", [0, 1, 0], "[false,true]"),
        ("passed", ["True", "False", "True"], "[false,true]"),
        ("scores", [0.5, 1.0, 9.0], "[0.5,1,1.5,2]"),
        ("scores", [[0.5], [1.0], [2.0]], "[0.5,1,1.5,2]"),
        ("levels", ["low", "mid", "High"], '["low","mid","high"]'),
    ],
)
def test_an_unknown_label_is_refused_with_those_there_are(client, model, y, listed):
    pointer, told = refused(client, task(model, y))
    wrong = {"wins": 2, "High": 2, 9.0: 2}.get(y[-1] if not isinstance(y[-1], list) else None, 0)
    assert pointer == f"/support/y/{wrong}"
    assert f"this model's labels are {listed}" in told
    assert "wins" not in told
    pointer, told = refused(client, {**task(model, ()), "log_density": True, "query": {"x": X, "y": y}})
    assert pointer == f"/query/y/{wrong}"


@pytest.mark.parametrize(
    ("model", "y", "told"),
    [
        ("levels", ["low", "mid", " High"], "do you mean 'high'?"),
        ("levels", ["low", "mid", "lowest"], None),
        ("grades", ["fails", "fails", 3], "labels are all of one type"),
        ("grades", [1, 2, 3], "a number, where labels are strings"),
        ("passed", [0, 1, 0], "a number, where labels are truth values"),
        ("scores", ["0.5", "1", "2"], "a string, where labels are numbers"),
        ("scores", [[0.5], [1.0], [2.0]], "a list of 1; a label is one value"),
    ],
)
def test_an_unknown_label_is_told_by_its_kind_and_by_the_label_it_resembles(client, model, y, told):
    _, found = refused(client, task(model, y))
    assert told in found if told else "do you mean" not in found


def test_ten_labels_are_listed_and_the_others_counted():
    known = [f"label-{place}" for place in range(14)]
    with pytest.raises(RequestError) as caught:
        known_labels(["label-3", "other"], known, "/support/y")
    assert '"label-9"] and 4 more' in str(caught.value.detail)
    assert "label-10" not in str(caught.value.detail)
    with pytest.raises(RequestError) as caught:
        known_labels(["other"], known[:10], "/support/y")
    assert str(caught.value.detail).endswith('"label-9"]')


def test_mixed_truth_values_are_refused(client):
    assert refused(client, task("passed", [True, 1, False]))[0] == "/support/y/1"
    assert refused(client, task("passed", [True, "a", False]))[0] == "/support/y/1"
    assert refused(client, task("new-conjugate", [1, True, 2]))[0] == "/support/y/1"
    assert refused(client, task("passed", [True, None, False]))[0] == "/support/y/1"


def test_new_classes_may_be_truth_values_too(client):
    said = predict(client, task("new-conjugate", [True, False, True]))["prediction"]
    assert said["classes"] == [False, True]
    assert all(isinstance(each, bool) for each in said["label"])
    names = predict(client, task("new-conjugate", ["yes", "no", "yes"]))["prediction"]
    assert names["probabilities"] == said["probabilities"]


def test_new_classes_need_a_row_and_are_bounded(client):
    assert refused(client, task("new-conjugate", ()))[0] == "/support/y"
    rows = [[0.1 * row, 20.0] for row in range(MOST_CLASSES + 1)]
    body = {"model": "new-conjugate", "support": {"x": rows, "y": list(range(len(rows)))}, "query": {"x": X}}
    assert "at most 12 are taken" in refused(client, body)[1]


@pytest.mark.parametrize("model", FIXED)
def test_posted_targets_are_scored_whatever_the_support_set_names(client, model):
    labels = list(FIXED[model])
    rows = [X[0]] * len(labels)
    body = task(model, (labels[0],)) | {"query": {"x": rows, "y": labels}, "log_density": True}
    said = predict(client, body)["prediction"]
    np.testing.assert_allclose(np.exp(said["log_density"]), said["probabilities"][0], atol=1e-6)


def test_both_forms_of_a_body_are_answered_alike(client):
    plain = predict(client, task("scores", (0.5, 1.5, 2)))
    tensors = {
        "support.x": np.array(X),
        "support.y": np.array([0.5, 1.5, 2.0]),
        "query.x": np.array(X),
    }
    content = save(tensors, metadata={"request": '{"model": "scores"}'})
    headers = {"content-type": "application/vnd.safetensors", "accept": "application/vnd.safetensors"}
    reply = client.post("/adapt-predict", content=content, headers=headers)
    assert reply.status_code == 200
    found = load(reply.content)["prediction.probabilities"]
    np.testing.assert_allclose(found, plain["prediction"]["probabilities"], atol=1e-6)
    length = int.from_bytes(reply.content[:8], "little")
    rest = json.loads(json.loads(reply.content[8 : 8 + length])["__metadata__"]["response"])
    assert rest["prediction"]["median"] == plain["prediction"]["median"]
    truth = save(
        {"support.x": np.array(X), "query.x": np.array(X)},
        metadata={"request": '{"model": "passed", "support": {"y": [true, false, true]}}'},
    )
    reply = client.post("/adapt-predict", content=truth, headers={"content-type": headers["content-type"]})
    assert reply.status_code == 200
    assert reply.json()["prediction"]["classes"] == [False, True]


@pytest.mark.parametrize("model", ["scores", "levels"])
def test_ordered_classes_have_a_median_quantiles_and_an_interval_of_labels(client, model):
    labels = list(FIXED[model])
    said = predict(client, task(model, labels[:2], quantiles=[0.2, 0.9], interval=0.6))["prediction"]
    cumulative = np.array(said["probabilities"]).cumsum(-1)

    def first(level):
        return [labels[min(int((row < level).sum()), len(labels) - 1)] for row in cumulative]

    assert said["median"] == first(0.5)
    assert said["quantiles"] == {"levels": [0.2, 0.9], "values": [first(0.2), first(0.9)]}
    assert said["interval"] == {"level": 0.6, "lower": first(0.2), "upper": first(0.8)}
    for row, (low, high) in enumerate(zip(said["interval"]["lower"], said["interval"]["upper"], strict=True)):
        inside = slice(labels.index(low), labels.index(high) + 1)
        assert sum(said["probabilities"][row][inside]) >= 0.6 - 1e-6


def test_classes_without_an_order_have_no_quantiles(client):
    assert refused(client, task(quantiles=[0.5]))[0] == "/quantiles"
    assert "interval" not in predict(client, task())["prediction"]
    conformal = {"level": 0.9, "method": "conformal"}
    assert refused(client, task("scores", (1,), interval=conformal))[0] == "/interval/method"


@pytest.mark.parametrize("model", ["grades", "scores", "new-conjugate"])
@pytest.mark.parametrize("acquisition", ACQUISITIONS)
def test_a_pool_is_scored_and_a_batch_chosen(client, model, acquisition):
    y = (0.5, 1, 1) if model == "scores" else ("fails", "passes", "passes")
    pool = {"ids": list("abcd"), "x": [[-4.0, 20.0], [-1.0, 90.0], [2.0, 300.0], [4.0, 4000.0]]}
    body = {
        "model": model,
        "support": {"x": X, "y": list(y)},
        "pool": pool,
        "target": {"x": X},
        "acquisition": acquisition,
        "batch": {"size": 3},
        "exclude": ["b"],
    }
    reply = client.post("/uncertainty", json=body)
    assert reply.status_code == 200, reply.text
    said = reply.json()
    assert len({each["id"] for each in said["selected"]} - {"b"}) == 3
    assert len(said["scores"]) == 4
    if model != "new-conjugate":
        body["support"] = {"x": [], "y": []}
        assert client.post("/uncertainty", json=body).status_code == 200


def test_numbers_acquisitions_do_not_fit_classes(client):
    body = {"model": "grades", "support": {"x": [], "y": []}, "pool": {"x": X}, "acquisition": "ucb"}
    pointer, told = refused(client, body, "/uncertainty")
    assert pointer == "/acquisition"
    assert "entropy" in told


@pytest.mark.parametrize("model", ["grades", "passed", "new-conjugate"])
def test_a_kept_posterior_answers_and_takes_more_rows(client, model):
    labels = (True, False, True) if model == "passed" else ("fails", "passes", "passes")
    whole = predict(client, task(model, labels))
    first = client.post("/posteriors", json={"model": model, "support": {"x": X[:2], "y": list(labels[:2])}})
    posterior = first.json()["posterior"]["id"]
    card = client.get(f"/posteriors/{posterior}").json()
    assert card["classes"] == ([False, True] if model == "passed" else sorted(set(card["classes"])))
    assert card["rows"] == 2
    alone = predict(client, {"model": model, "posterior": posterior, "query": {"x": X}})
    assert alone["posterior"]["cache"] == "hit"
    more = {"x": X[2:], "y": [labels[2]]}
    again = predict(client, {"model": model, "posterior": posterior, "support": more, "query": {"x": X}})
    np.testing.assert_allclose(probabilities(again), probabilities(whole), atol=1e-6)
    assert again["prediction"]["classes"] == whole["prediction"]["classes"]


def test_a_label_and_its_text_are_two_posteriors(client):
    def key(y):
        body = {"model": "new-conjugate", "support": {"x": X, "y": y}}
        return client.post("/posteriors", json=body).json()["posterior"]["id"]

    assert len({key([True, False, True]), key([1, 0, 1]), key(["1", "0", "1"])}) == 3


def test_inputs_outside_training_are_told_or_refused(client):
    body = task() | {"query": {"x": [[40.0, 64.0]]}}
    told = " ".join(predict(client, body)["diagnostics"]["warnings"])
    assert "1 of 1 query rows are far from what training saw: x is 40 in row 0 (training: -5 to 5)" in told
    assert "the answer returns to the model's prior" in told
    new = task("new-conjugate") | {"query": {"x": [[40.0, 64.0]]}}
    assert "the model is untested" in " ".join(predict(client, new)["diagnostics"]["warnings"])
    rows = [[0.1, 20.0]] * 30
    many = {"model": "grades", "support": {"x": rows, "y": ["fails"] * 30}, "query": {"x": X}}
    assert "probabilities may be too sure" in " ".join(predict(client, many)["diagnostics"]["warnings"])
    for part in ("support", "query"):
        wrong = task()
        wrong[part] = {**wrong[part], "x": [[0.0, -1.0], *X[1:]]}
        pointer, detail = refused(client, wrong)
        assert pointer == f"/{part}/x/0"
        assert "'size' takes positive numbers" in detail
    assert refused(client, task() | {"query": {"x": [[0.0]]}})[0] == "/query/x/0"
    assert refused(client, task() | {"query": {"x": {"images": []}}})[0] == "/query/x"


@pytest.mark.parametrize("model", ["grades", "levels", "fixed-bmaml"])
def test_far_outside_training_the_answer_is_the_prior_s_but_not_near_support_rows(client, model):
    labels = FIXED.get(model, LABELS)
    support = {"x": [*X[:2], [-900.0, 64.0]], "y": [labels[0], labels[2], labels[2]]}
    asked = {"model": model, "query": {"x": [[1e6, 64.0], [-900.0, 64.0]]}}
    fresh = predict(client, {**asked, "support": support})
    near = predict(client, {"model": model, "support": {"x": [], "y": []}, "query": {"x": [[5.0, 64.0]]}})
    np.testing.assert_allclose(probabilities(fresh)[0], probabilities(near)[0], atol=1e-5)
    for part in ("total", "expected", "mutual_information"):
        own, prior = (np.array(each["prediction"]["entropy"][part]) for each in (fresh, near))
        np.testing.assert_allclose(own[0], prior[0], atol=1e-5)
    prior = predict(client, {**asked, "support": {"x": [], "y": []}})
    assert np.abs(probabilities(fresh)[1] - probabilities(prior)[1]).max() > 0.01
    kept = client.post("/posteriors", json={"model": model, "support": support}).json()["posterior"]["id"]
    again = predict(client, {**asked, "posterior": kept})
    np.testing.assert_allclose(probabilities(again), probabilities(fresh), atol=1e-6)


def test_the_list_and_the_card_say_what_the_classes_are(client):
    listed = {each["name"]: each for each in client.get("/models").json()["models"]}
    assert listed["grades"]["target"] == {"name": "outcome", "labels": list(LABELS), "ordered": False}
    assert listed["scores"]["target"] == {"name": "outcome", "labels": [0.5, 1, 1.5, 2], "ordered": True}
    assert listed["new-conjugate"]["target"] == {"name": "outcome", "labels": None, "ordered": False}
    card = client.get("/models/passed/versions/1").json()
    assert (card["kind"], card["classes"], card["image"]) == ("classification", 2, None)
    assert card["target"]["labels"] == [False, True]
    assert [column["name"] for column in card["inputs"]] == ["x", "size"]
    assert card["outputs"] == []


def test_features_published_as_vectors_are_classified_as_the_images_are(tmp_path):
    """A table of an embedding's features, with the same learner, answers as the images do."""
    shapes = publish_classifier(tmp_path, "shapes")
    assert shapes.embedding is not None
    images = random_images(5)
    with torch.no_grad():
        pixels = torch.from_numpy(images.reshape(1, -1, SIZE * SIZE).astype(np.float32) / 255)
        features = shapes.embedded(pixels)[0].double().numpy().reshape(5, -1, shapes.embedding.features)
    low, high = features.min((0, 1)) - 1, features.max((0, 1)) + 1
    columns = [
        Column(name=f"f{place}", lower=low[place], upper=high[place]) for place in range(features.shape[-1])
    ]
    manifest = shapes.manifest
    Store(tmp_path).publish(
        "vectors",
        "# A card\n",
        {name: tensor for name, tensor in shapes.learned.items() if not name.startswith("embedding.")},
        kind="classification",
        inputs=tuple(columns),
        classes=manifest.classes,
        target=ClassTarget(name="shape"),
        learner=manifest.learner,
        settings=manifest.settings,
        training={},
        seed=0,
        code_version=manifest.code_version,
        metrics={},
    )
    names = [name for name in "abcde" for _ in range(2)]
    for served in serve(_settings(tmp_path)):
        shown = [png(each) for each in images[:, :2].reshape(-1, SIZE, SIZE)]
        asked = [png(each) for each in images[:, 2:].reshape(-1, SIZE, SIZE)]
        by_image = predict(
            served.client,
            {
                "model": "shapes",
                "support": {"x": {"images": shown}, "y": names},
                "query": {"x": {"images": asked}},
            },
        )["prediction"]
        by_vector = predict(
            served.client,
            {
                "model": "vectors",
                "support": {"x": features[:, :2].reshape(10, -1).tolist(), "y": names},
                "query": {"x": features[:, 2:].reshape(20, -1).tolist()},
            },
        )["prediction"]
    assert by_image["label"] == by_vector["label"]
    for figure in ("probabilities", "margin", "variation_ratio"):
        np.testing.assert_allclose(by_vector[figure], by_image[figure], atol=1e-5)
    for part in by_image["entropy"]:
        np.testing.assert_allclose(by_vector["entropy"][part], by_image["entropy"][part], atol=1e-5)
