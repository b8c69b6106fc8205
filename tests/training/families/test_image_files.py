"""Images from folders, zips and arrays: equal tasks, roles, and what is left out or refused."""

import csv
import io

import numpy as np
import pytest
import torch
from PIL import Image

from model_store.images import ImageInput
from tests.closed_form import generator
from tests.images import SIZE
from tests.training.families.test_images import family
from training.families import UnusableData
from training.families.image_files import decode_image


def test_folders_zips_and_arrays_of_the_same_images_are_the_same_tasks(folder, archive, arrays):
    found = [family(folder, split="folder"), family(archive, split="folder"), family(arrays, split="split")]
    first, second = (each.batch(4, generator(1)) for each in found[:2])
    torch.testing.assert_close(second.support.x, first.support.x)
    torch.testing.assert_close(second.query.y, first.query.y)
    for role in ("train", "validation", "test"):  # the same images, in the order of other names
        named, numbered = (sorted(map(bytes, each.of_role(role)[0].numpy())) for each in found[1:])
        assert named == numbered
    assert found[0].notes == ("72 images of 12 classes (2 test, 8 train, 2 validation)",)


def test_a_csv_may_tell_the_roles(folder, tmp_path):
    names = sorted(str(each.relative_to(folder)) for each in folder.glob("*/*/*"))
    path = tmp_path / "roles.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows((name, "test" if "c1" in name else "train") for name in names)
    roles = family(folder, split=str(path)).collection.roles
    assert (roles == "test").sum() == 2
    path.write_text("nobody,train\n")
    with pytest.raises(UnusableData, match="gives no role to 12 classes"):
        family(folder, split=str(path))


def test_without_a_split_the_seed_decides(folder):
    roles = family(folder).collection.roles
    assert {role: int((roles == role).sum()) for role in set(roles)} == {
        "train": 9,
        "validation": 1,
        "test": 2,
    }


def test_broken_files_and_small_classes_are_counted_or_refused(folder):
    classes = sorted(folder.glob("train/*/*"))
    (classes[0] / "0.png").write_bytes(b"\x89PNG broken")
    for each in list(classes[1].glob("*.png"))[1:]:
        each.unlink()
    notes = family(folder, split="folder", least=3).notes
    assert notes[1] == "left out 1 files in 1 folders that are no images"
    assert notes[2] == "left out 1 of 12 classes with under 3 images"
    with pytest.raises(UnusableData, match="no images; left out 1 of 12"):
        family(folder, split="folder", least=3, strict=True)


def test_odd_sizes_and_colours_are_made_the_models(folder):
    path = sorted(folder.glob("train/*/*/0.png"))[0]
    before = family(folder, split="folder").collection.pixels
    with Image.open(path) as opened:
        opened.resize((3 * SIZE, 3 * SIZE), Image.Resampling.NEAREST).convert("RGB").save(path)
    np.testing.assert_array_equal(family(folder, split="folder").collection.pixels, before)


def test_paths_that_hold_no_images_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.zip").write_bytes(b"no zip")
    np.savez(tmp_path / "other.npz", values=np.zeros(3))
    for name, found in (
        ("missing", "no file"),
        ("empty", "no readable image"),
        ("no.zip", "neither a folder"),
        ("other.npz", "needs arrays"),
    ):
        with pytest.raises(UnusableData, match=found):
            family(tmp_path / name)


def test_training_sees_deep_and_turned_images_as_the_service_does():
    ink = np.tril(np.full((16, 16), 250, np.uint8))
    clockwise = Image.Exif()
    clockwise[0x0112] = 6  # turn it by a quarter
    whole, image = [], ImageInput(channels=1, size=16)
    for pixels, tags in ((ink, None), (ink.astype(np.uint16) * 257, None), (np.rot90(ink), clockwise)):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", exif=tags)
        whole.append(decode_image(file.getvalue(), image))
    np.testing.assert_array_equal(whole[0], ink)
    np.testing.assert_array_equal(whole[1], ink)
    np.testing.assert_array_equal(whole[2], ink)
