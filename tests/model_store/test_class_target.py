"""Classifiers of tables in the store: their targets, and manifests that contradict themselves."""

import json

import pytest
from pydantic import ValidationError

from model_store import Store
from model_store.class_target import ClassTarget
from model_store.manifest import Manifest
from model_store.model import CorruptModel, Model
from tests.class_tables import LABELS, publish_class_table
from tests.images import publish_classifier
from tests.published import publish


@pytest.mark.parametrize(
    ("labels", "learner"),
    [
        (LABELS, "emaml"),
        ((False, True), "maml"),
        ((3, 1, 2), "bfa"),
        ((0.5, 1, 1.5), "bmaml"),
        (None, "conjugate"),
    ],
)
def test_what_is_loaded_is_what_was_published(tmp_path, labels, learner):
    ordered = labels is not None and isinstance(labels[0], float)
    published = publish_class_table(tmp_path, labels=labels, learner=learner, ordered=ordered)
    loaded = Store(tmp_path).load("grades")
    assert loaded.manifest == published.manifest
    assert loaded.sha256 == published.sha256
    assert loaded.manifest.labels == labels
    if labels is not None:
        assert [type(each) for each in loaded.manifest.labels or ()] == [type(each) for each in labels]


def test_versions_without_a_target_keep_the_digest_of_earlier_revisions(tmp_path):
    for model in (publish(tmp_path), publish_classifier(tmp_path, "shapes")):
        assert not {"target", "conformal"} & set(json.loads(model.manifest.dumped()))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": ("a",)}, "at least 2"),
        ({"labels": tuple(range(51))}, "at most 50"),
        ({"labels": ("a", "a")}, "alike"),
        ({"labels": (1, 1.0), "ordered": True}, "alike"),
        ({"labels": (1, "a")}, "all texts, all numbers or all truth values"),
        ({"labels": (0, False)}, "all texts, all numbers or all truth values"),
        ({"labels": (0.5, 1.5)}, "texts, integers or truth values"),
        ({"ordered": True}, "an order needs labels"),
        ({"labels": (float("nan"), 1.0), "ordered": True}, "finite"),
    ],
)
def test_targets_that_cannot_be_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        ClassTarget(name="y", **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 4}, "3 labels are named, and 4 classes"),
        ({"classes": None}, "a classification has a number of classes"),
        ({"inputs": ()}, "a classification has a number of classes"),
        ({"target": None}, "a classification has a number of classes"),
        ({"kind": "regression"}, "a classification has a number of classes"),
    ],
)
def test_manifests_that_contradict_themselves_are_refused(tmp_path, change, message):
    written = publish_class_table(tmp_path).manifest.model_dump()
    with pytest.raises(ValidationError, match=message):
        Manifest.model_validate({**written, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": ClassTarget(name="y")}, "for classes of fixed meaning, the manifest for others"),
        ({"target": ClassTarget(name="y", labels=("a", "b")), "classes": 2}, "tells 3 classes apart"),
    ],
)
def test_learners_that_do_not_fit_the_labels_are_refused(tmp_path, change, message):
    model = publish_class_table(tmp_path)
    manifest = model.manifest.model_copy(update=change)
    with pytest.raises(CorruptModel, match=message):
        Model.of(manifest, model.learned)
    wide = model.manifest.model_copy(update={"inputs": model.manifest.inputs * 2})
    with pytest.raises(CorruptModel, match="takes 2 inputs, the manifest names 4"):
        Model.of(wide, model.learned)
