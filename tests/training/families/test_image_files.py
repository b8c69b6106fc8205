"""Images from folders, zips and arrays: equal tasks, roles, and what is left out or refused."""

import csv
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from model_store.images import ImageInput
from tests.closed_form import generator
from tests.images import SIZE
from tests.training.families.test_images import family
from training.families import UnusableData
from training.families.splits import roles_of_classes


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
        "train": 8,
        "validation": 2,
        "test": 2,
    }


def test_broken_files_and_small_classes_are_counted_or_refused(folder):
    classes = sorted(folder.glob("train/*/*"))
    (classes[0] / "0.png").write_bytes(b"\x89PNG broken")
    for each in list(classes[1].glob("*.png"))[1:]:
        each.unlink()
    notes = family(folder, split="folder", least=3).notes
    where = classes[0].relative_to(folder)
    assert notes[1].startswith(f"left out 1 of 67 files ({where}/0.png): not a readable image: PNG, JPEG")
    assert notes[2] == "left out 1 of 12 classes with under 3 images"
    with pytest.raises(UnusableData, match="HEIC; left out 1 of 12"):
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


def test_too_many_broken_files_are_refused_with_names_and_reasons(folder):
    files = sorted(folder.glob("train/*/*/*.png"))[:9]
    for each in files[:7]:
        each.write_bytes(b"no image")
    assert "left out 7 of 72 files (" in family(folder, split="folder").notes[1]
    for each in files[7:]:
        each.write_bytes(b"no image")
    with pytest.raises(
        UnusableData, match=r"too many files .* 8 of 72 files .* and 3 more\): not a readable"
    ):
        family(folder, split="folder")


def test_an_animated_file_is_its_first_frame_and_counted(folder):
    path = sorted(folder.glob("train/*/*/0.png"))[0]
    before = family(folder, split="folder").collection.pixels
    with Image.open(path) as opened:
        first = opened.convert("L")
    first.save(path, "PNG", save_all=True, append_images=[Image.new("L", first.size, 7)])
    after = family(folder, split="folder")
    np.testing.assert_array_equal(after.collection.pixels, before)
    assert after.notes[1] == "took the first frame of 1 animated files"


@pytest.mark.parametrize(("trained", "validating"), [(100, 12), (48, 12), (40, 10), (6, 1)])
def test_classes_enough_to_calibrate_many_are_kept_apart(trained, validating):
    roles = roles_of_classes(["train"] * trained + ["validation"] * 4, trained + 4, seed=0)
    assert (roles[-4:] == "test").all()
    assert int((roles == "validation").sum()) == validating


def test_a_class_under_two_roles_is_refused(folder):
    seen = next(folder.glob("train/*/*"))
    again = folder / "test" / seen.relative_to(folder / "train")
    again.mkdir(parents=True, exist_ok=True)
    (again / "0.png").write_bytes(next(seen.glob("*.png")).read_bytes())
    for split in ("folder", None):
        with pytest.raises(UnusableData, match=f"{seen.name}' of .* lies under both 'test' and 'train'"):
            family(folder, split=split)


def test_arrays_with_an_axis_too_many_are_the_same_images(arrays, tmp_path):
    found = np.load(arrays)
    path = tmp_path / "keras.npz"
    np.savez(path, images=found["images"][..., None], label=found["label"][:, None], split=found["split"])
    one, other = (family(each, split="split").of_role("train") for each in (arrays, path))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1].labels, other[1].labels)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": np.zeros((72, 5), np.uint8)}, r"found uint8 \[72, 5\]"),
        ({"images": np.zeros((72, 16, 16, 4), np.uint8)}, r"found uint8 \[72, 16, 16, 4\]"),
        ({"label": np.zeros((72, 2))}, r"72 images and labels \[72, 2\]"),
        ({"split": np.array([0] * 11 + [3])}, "says 3; it may say 0"),
        ({"split": np.array([-1] + [0] * 11)}, "says -1; it may say 0"),
    ],
)
def test_arrays_of_another_form_are_refused_in_a_sentence(arrays, tmp_path, changes, said):
    path = tmp_path / "odd.npz"
    np.savez(path, **{**np.load(arrays), **changes})
    with pytest.raises(UnusableData, match=said):
        family(path, split="split")


def test_arrays_of_the_models_size_are_cropped_as_the_service_crops(arrays):
    found = family(arrays, split="split", crop=0.5).collection.pixels[0]
    image = ImageInput(channels=1, size=SIZE, crop=0.5)
    assert np.array_equal(found, image.resize(Image.fromarray(np.load(arrays)["images"][0])))


def test_a_damaged_member_of_a_zip_is_left_out_and_counted(folder, tmp_path):
    names, path = sorted(folder.rglob("*.png")), tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for each in names:
            file.write(each, each.relative_to(folder))
    first = str(min(each.relative_to(folder) for each in folder.glob("train/*/*/*.png")))
    with zipfile.ZipFile(path) as file:
        info = file.getinfo(first)
    content = bytearray(path.read_bytes())
    start = info.header_offset + 30 + len(first)
    content[start : start + info.compress_size] = b"\xff" * info.compress_size
    path.write_bytes(content)
    assert family(path, split="folder", least=3).notes[1].startswith(f"left out 1 of 72 files ({first})")
