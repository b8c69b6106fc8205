"""Tasks of images: roles, support and query images, shots, and too few classes."""

import numpy as np
import pytest
import torch

from model_store.images import ImageInput
from tests.closed_form import generator
from tests.images import DIGITS, SIZE, random_images
from training.config import ImagesConfig, Shots
from training.families import Images, UnusableData

SMALL = {"size": SIZE, "ways": 3, "shots": Shots(1, 2), "queries": 2, "augment": 0.0}


def family(path, **changes):
    return Images(ImagesConfig(str(path), **(SMALL | changes)), seed=0)


def test_classes_of_one_role_never_meet_those_of_another(folder):
    whole = family(folder, split="folder")
    banks = [set(map(bytes, whole.of_role(role)[0].numpy())) for role in ("train", "validation", "test")]
    assert sum(map(len, banks)) == len(set().union(*banks)) == 72
    drawn = whole.batch(50, generator()).support.x
    everything = set(map(bytes, (255 * drawn).round().byte().numpy().reshape(-1, SIZE**2)))
    assert everything <= banks[0]


def test_a_task_shows_and_asks_different_images_of_the_same_classes(arrays):
    batch = family(arrays, split="split").batch(6, generator())
    for task in range(6):
        shown, asked = (set(map(bytes, part.x[task].numpy())) for part in (batch.support, batch.query))
        assert not shown & asked
        assert batch.support.y[task].sum(0).tolist() == [len(shown) / 3] * 3
        assert batch.query.y[task].sum(0).tolist() == [len(asked) / 3] * 3


def test_shots_are_drawn_and_what_is_not_shown_is_asked(arrays):
    whole = family(arrays, split="split")
    seen = {whole.batch(1, generator(seed)).support.x.shape[1] for seed in range(20)}
    assert seen == {3, 6}
    for seed in range(20):
        batch = whole.batch(1, generator(seed))
        assert batch.support.x.shape[1] + batch.query.x.shape[1] == 12


def test_some_tasks_show_unequal_numbers_of_each_class_and_no_class_goes_without(arrays):
    whole = family(arrays, split="split", shots=Shots(1, 3))
    counts = [
        (batch.support.y * batch.support.mask.unsqueeze(-1)).sum(1)
        for batch in (whole.batch(5, generator(seed)) for seed in range(20))
    ]
    uneven = [bool((each != each[0, 0]).any()) for each in counts]
    assert any(uneven)
    assert not all(uneven)
    assert {int(n) for each in counts for n in each.flatten()} == {1, 2, 3}


def test_validation_tasks_are_of_few_and_many_classes_even_and_uneven_and_the_same_every_time(tmp_path):
    file = tmp_path / "many.npz"
    images = random_images(40)
    roles = np.array(["train"] * 24 + ["validation"] * 12 + ["test"] * 4)
    np.savez(file, images=images.reshape(-1, SIZE, SIZE), labels=np.arange(40).repeat(DIGITS), split=roles)
    whole = family(file, split="split", shots=Shots(1, 3), ways=8, queries=1)
    first, again = list(whole.validation()), list(whole.validation())
    for number, batch in enumerate(first):
        counts = (batch.support.y * batch.support.mask.unsqueeze(-1)).sum(1)
        assert counts.shape == (10, 5 if number % 6 < 3 else 8)
        found = {int(each) for each in counts.flatten()}
        assert found == ({1}, {1, 2, 3}, {3})[number % 3]
        assert torch.equal(batch.support.x, again[number].support.x)
        assert torch.equal(batch.support.mask, again[number].support.mask)
    assert sum(len(batch.support) for batch in first) == whole.validation_tasks


def test_drawings_are_bright_ink_whatever_the_paper():
    ink = np.zeros((2, SIZE, SIZE), np.uint8)
    ink[:, 4:9, 4:9] = 200
    image = ImageInput(channels=1, size=SIZE, drawing=True)
    np.testing.assert_allclose(image.from_pixels(255 - ink), image.from_pixels(ink), atol=1e-6)
    plain = ImageInput(channels=1, size=SIZE)
    np.testing.assert_allclose(plain.from_pixels(255 - ink), 1 - plain.from_pixels(ink), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"ways": 20}, "8 training classes have 4 images; tasks have 20"),
        ({"least": 100}, "fewer than two classes"),
        ({"split": "elsewhere.csv"}, "cannot be read"),
    ],
)
def test_what_makes_no_task_is_refused_with_its_reason(folder, changes, found):
    with pytest.raises(UnusableData, match=found):
        family(folder, **({"split": "folder"} | changes))


def test_one_small_validation_class_leaves_the_others_their_shots(tmp_path):
    file = tmp_path / "small.npz"
    images = random_images(24)
    labels = np.arange(24).repeat(DIGITS)
    roles = np.array(["train"] * 10 + ["test"] * 2 + ["validation"] * 12)
    kept = ~((labels == 12) & (np.arange(len(labels)) % DIGITS > 1))  # two images of the first of them
    np.savez(file, images=images.reshape(-1, SIZE, SIZE)[kept], labels=labels[kept], split=roles)
    whole = family(file, split="split", shots=Shots(1, 4), ways=5, queries=1, least=2)
    shown = {int(each) for batch in whole.validation() for each in batch.support.y.sum(1).flatten()}
    assert shown == {1, 4}
