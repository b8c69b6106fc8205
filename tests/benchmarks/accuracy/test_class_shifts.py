"""Episodes of images of the shift suite: what a shift changes, and the scores of the answers."""

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.accuracy.class_scores import ClassScore, class_metrics
from benchmarks.accuracy.class_shifts import (
    CLASS_SHIFTS,
    OTHER_DATA_SHIFTS,
    QUERIES,
    SHOTS,
    WAYS,
    Episode,
    episodes,
    unseen_images,
)
from benchmarks.accuracy.number_tasks import FAMILY
from benchmarks.accuracy.shift_tables import class_table
from benchmarks.accuracy.shifts import class_panels
from model_store import SHIPPED, Model, Store

CLASSES, IMAGES = 14, 9
SIZE = 28


@pytest.fixture(scope="module")
def model() -> Model:
    return Store(SHIPPED).load("omniglot")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two files of made-up drawings: every class is a drawing, and its images differ in some dots."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    paths = []
    for name in ("omniglot28.npz", "other.npz"):
        shapes = np.kron(random.random((CLASSES, 1, 7, 7)) < 0.2, np.ones((1, 1, 4, 4), bool))
        dots = random.random((CLASSES, IMAGES, SIZE, SIZE)) < 0.01
        images = (255 * (shapes ^ dots)).astype(np.uint8).reshape(-1, SIZE, SIZE)
        np.savez(
            folder / name,
            images=images,
            label=np.repeat(np.arange(CLASSES), IMAGES),
            class_split_vinyals=np.array([0, 1, *[2] * (CLASSES - 2)]),
        )
        paths.append(folder / name)
    return paths


@pytest.fixture(scope="module")
def episode() -> Episode:
    """Images of one value each: 10 × class + number, elsewhere 100 more, and foreign ones 200 more."""
    numbers = (10 * np.arange(WAYS)[:, None] + np.arange(5 + QUERIES)).astype(np.uint8)
    images = np.broadcast_to(numbers[..., None, None], (*numbers.shape, 4, 4))
    return Episode(5, images, images[:, 5:] + np.uint8(200), images + np.uint8(100))


def changed(name: str, episode: Episode):
    return {**CLASS_SHIFTS, **OTHER_DATA_SHIFTS}[name](episode, np.random.default_rng(0))


def test_episodes_have_images_of_unseen_classes(model, files):
    images = unseen_images(model, files[0])
    for shots in SHOTS:
        for episode in episodes(images, None, 3, shots):
            assert episode.own.shape == (WAYS, shots + QUERIES, SIZE, SIZE)
            assert episode.foreign.shape == (WAYS, QUERIES, SIZE, SIZE)
            both = np.concatenate([episode.own, episode.foreign], 1).reshape(-1, SIZE * SIZE)
            assert len(np.unique(both, axis=0)) == len(both)


def test_the_family_shows_and_asks_all_classes(episode):
    task = changed(FAMILY, episode)
    assert (task.support[:, 0, 0] // 10 == task.labels).all()
    assert task.truth is not None
    assert (task.query[:, 0, 0] // 10 == task.truth).all()
    assert (len(task.labels), len(task.truth)) == (WAYS * 5, WAYS * QUERIES)


def test_two_mislabelled_rows_exchange_their_labels(episode):
    task = changed("two support rows mislabelled", episode)
    assert (task.support[:, 0, 0] // 10 != task.labels).sum() == 2
    assert sorted(task.labels) == sorted(changed(FAMILY, episode).labels)


def test_contradicting_and_repeated_rows_are_added(episode):
    task = changed("the first class's rows also as the second's", episode)
    assert np.array_equal(task.support[-5:], task.support[:5])
    assert (task.labels[-5:] == 1).all()
    task = changed("each row twice", episode)
    assert np.array_equal(task.support[: WAYS * 5], task.support[WAYS * 5 :])
    assert np.array_equal(task.labels[: WAYS * 5], task.labels[WAYS * 5 :])


@pytest.mark.parametrize(
    ("name", "first"), [("queries of foreign classes", 200), ("queries of other data", 100)]
)
def test_foreign_queries_have_no_truth(name, first, episode):
    task = changed(name, episode)
    assert task.truth is None
    assert (task.query[:, 0, 0] // 100 == first // 100).all()
    assert np.array_equal(task.support, changed(FAMILY, episode).support)


def test_one_class_is_shown_alone(episode):
    task = changed("one class, queries of others", episode)
    assert set(task.labels) == {0}
    assert (task.support[:, 0, 0] // 10 == 0).all()


def test_noise_is_drawn_for_images_and_not_for_labels(episode):
    task = changed("noise images", episode)
    assert len(np.unique(task.support.reshape(len(task.support), -1), axis=0)) == len(task.support)
    assert np.array_equal(task.labels, changed(FAMILY, episode).labels)
    assert changed("queries of noise", episode).truth is None


def test_every_shift_is_answered_with_finite_numbers(model, files):
    found = class_panels(model, *files, tasks=1)
    assert list(found) == [(shots, name) for shots in SHOTS for name in (*CLASS_SHIFTS, *OTHER_DATA_SHIFTS)]
    for key, scores in found.items():
        (score,) = scores
        assert score is not None, key
        assert score.finite, key
    assert all(class_metrics(found[shots, "one class, queries of others"])["warned"] == 1 for shots in SHOTS)
    assert class_metrics(found[5, FAMILY])["accuracy"] > 0.9
    assert math.isnan(class_metrics(found[5, "queries of noise"])["accuracy"])
    lines = class_table(found)
    assert len(lines) == 2 + len(found)
    assert {line.count("|") for line in lines} == {lines[0].count("|")}


def test_metrics_are_means_over_tasks():
    one = ClassScore(
        *(np.array(each) for each in ([1.0, 0.0], [0.8, 0.6], [0.2, 1.0], [0.5, 0.7], [0.1, 0.1])), True
    )
    two = replace(one, right=np.array([1.0, 1.0]), nll=np.array([0.1, 0.1]), warned=False)
    metrics = class_metrics([one, None, two, None])
    assert metrics["accuracy"] == pytest.approx(0.75)
    assert metrics["nll"] == pytest.approx(0.35)
    assert metrics["worst_nll"] == pytest.approx(0.6)
    assert metrics["warned"] == 0.5
    assert metrics["answered"] == 0.5
    assert class_metrics([None]) == {"answered": 0.0}
