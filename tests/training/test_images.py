"""Pictures from folders, zips and arrays; tasks dealt from them; a classifier trained and published."""

import csv
import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from model_store import Store
from model_store.images import ImageInput
from tests.closed_form import generator
from tests.pictures import SIZE, pictures
from training.__main__ import main
from training.config import ImagesConfig, InvalidConfig, Shots
from training.evaluate_classes import expected_calibration_error
from training.families import Images, UnusableData
from training.families.augment import distorted, relit, turned
from training.families.bank import Bank
from training.families.pictures import decoded

CLASSES = 12
ROLES = ["train"] * 8 + ["validation"] * 2 + ["test"] * 2
SMALL = {"size": SIZE, "ways": 3, "shots": Shots(1, 2), "queries": 2, "augment": 0.0}


def written(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """train/alphabet0/c0/0.png …, with strays that are no pictures."""
    root = tmp_path / "pictures"
    for label, images in enumerate(pictures(CLASSES)):
        home = root / ROLES[label] / f"alphabet{label % 2}" / f"c{label:02}"
        home.mkdir(parents=True)
        for number, each in enumerate(images):
            (home / f"{number}.png").write_bytes(written(each))
        (home / "notes.txt").write_text("no picture")
    return root


@pytest.fixture
def archive(folder, tmp_path):
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w") as file:
        for each in sorted(folder.rglob("*.png")):
            file.write(each, each.relative_to(folder))
        file.writestr("__MACOSX/train/._0.png", "rubbish")
    return path


@pytest.fixture
def arrays(tmp_path):
    path = tmp_path / "pictures.npz"
    images = pictures(CLASSES)
    labels = np.repeat(np.arange(CLASSES), images.shape[1])
    split = np.array([0] * 8 + [1] * 2 + [2] * 2)
    np.savez(path, images=images.reshape(-1, SIZE, SIZE), label=labels, split=split)
    return path


def family(path, **changes):
    return Images(ImagesConfig(str(path), **(SMALL | changes)), seed=0)


def test_folders_zips_and_arrays_of_the_same_pictures_are_the_same_tasks(folder, archive, arrays):
    found = [family(folder, split="folder"), family(archive, split="folder"), family(arrays, split="split")]
    first, second = (each.batch(4, generator(1)) for each in found[:2])
    torch.testing.assert_close(second.support.x, first.support.x)
    torch.testing.assert_close(second.query.y, first.query.y)
    for role in ("train", "validation", "test"):  # the same pictures, in the order of other names
        named, numbered = (sorted(map(bytes, each.bank(role)[0].numpy())) for each in found[1:])
        assert named == numbered
    assert found[0].notes == ("72 pictures of 12 classes (2 test, 8 train, 2 validation)",)


def test_classes_of_one_role_never_meet_those_of_another(folder):
    whole = family(folder, split="folder")
    banks = [set(map(bytes, whole.bank(role)[0].numpy())) for role in ("train", "validation", "test")]
    assert sum(map(len, banks)) == len(set().union(*banks)) == 72
    drawn = whole.batch(50, generator()).support.x
    everything = set(map(bytes, (255 * drawn).round().byte().numpy().reshape(-1, SIZE**2)))
    assert everything <= banks[0]


def test_a_task_shows_and_asks_different_pictures_of_the_same_classes(arrays):
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
    assert {whole.batch(1, generator(s)).everything().x.shape[1] for s in range(20)} == {12}


def test_a_csv_may_tell_the_roles(folder, tmp_path):
    names = sorted(str(each.relative_to(folder)) for each in folder.glob("*/*/*"))
    path = tmp_path / "roles.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows((name, "test" if "c1" in name else "train") for name in names)
    roles = family(folder, split=str(path)).pictures.roles
    assert (roles == "test").sum() == 2
    path.write_text("nobody,train\n")
    with pytest.raises(UnusableData, match="gives no role to 12 classes"):
        family(folder, split=str(path))


def test_without_a_split_the_seed_decides(folder):
    roles = family(folder).pictures.roles
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
    assert notes[1] == "left out 1 files in 1 folders that are no pictures"
    assert notes[2] == "left out 1 of 12 classes with under 3 pictures"
    with pytest.raises(UnusableData, match="no pictures; left out 1 of 12"):
        family(folder, split="folder", least=3, strict=True)


def test_odd_sizes_and_colours_are_made_the_models(folder):
    path = sorted(folder.glob("train/*/*/0.png"))[0]
    before = family(folder, split="folder").pictures.pixels
    with Image.open(path) as opened:
        opened.resize((3 * SIZE, 3 * SIZE), Image.Resampling.NEAREST).convert("RGB").save(path)
    np.testing.assert_array_equal(family(folder, split="folder").pictures.pixels, before)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"ways": 20}, "8 training classes have 4 pictures; tasks have 20"),
        ({"least": 100}, "fewer than two classes"),
        ({"split": "elsewhere.csv"}, "cannot be read"),
    ],
)
def test_what_makes_no_task_is_refused_with_its_reason(folder, changes, found):
    with pytest.raises(UnusableData, match=found):
        family(folder, **({"split": "folder"} | changes))


def test_paths_that_hold_no_pictures_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.zip").write_bytes(b"no zip")
    np.savez(tmp_path / "other.npz", values=np.zeros(3))
    for name, found in (
        ("missing", "no file"),
        ("empty", "no readable picture"),
        ("no.zip", "neither a folder"),
        ("other.npz", "needs arrays"),
    ):
        with pytest.raises(UnusableData, match=found):
            family(tmp_path / name)


@pytest.mark.parametrize("changes", [{"ways": 1}, {"queries": 0}, {"augment": -1.0}, {"shots": Shots(0, 2)}])
def test_settings_that_make_no_task_are_refused(changes):
    with pytest.raises(InvalidConfig):
        ImagesConfig("somewhere", **changes)


def test_drawings_are_bright_ink_whatever_the_paper():
    ink = np.zeros((2, SIZE, SIZE), np.uint8)
    ink[:, 4:9, 4:9] = 200
    image = ImageInput(channels=1, size=SIZE, drawing=True)
    np.testing.assert_allclose(image.scaled(255 - ink), image.scaled(ink), atol=1e-6)
    plain = ImageInput(channels=1, size=SIZE)
    np.testing.assert_allclose(plain.scaled(255 - ink), 1 - plain.scaled(ink), atol=1e-6)


def test_four_quarter_turns_are_none_and_each_turns_its_own():
    images = torch.rand(5, 1, 8, 8)
    quarters = torch.tensor([0, 1, 2, 3, 1])
    once = turned(images, quarters)
    torch.testing.assert_close(turned(once, -quarters % 4), images)
    torch.testing.assert_close(once[1], torch.rot90(images[1], 1, (-2, -1)))


def test_no_strength_distorts_nothing_and_light_stays_in_range():
    images = torch.rand(6, 3, 8, 8)
    owners = torch.tensor([0, 0, 1, 1, 2, 2])
    torch.testing.assert_close(distorted(images, owners, 0.0, generator()), images)
    lit = relit(images, 3.0, generator())
    assert float(lit.min()) >= 0
    assert float(lit.max()) <= 1


def test_a_deal_has_distinct_classes_and_distinct_pictures_of_them():
    owners = torch.tensor([2, 0, 1, 0, 2, 1, 2, 0, 3])
    bank = Bank(owners)
    deal = bank.deal(50, 3, 1, 1, generator())
    assert bool((owners[deal.pictures] == deal.classes.unsqueeze(-1)).all())
    for classes, rows in zip(deal.classes, deal.pictures, strict=True):
        assert len(set(classes.tolist())) == 3
        assert 3 not in classes  # one picture is too few to show and to ask
        assert len(set(rows.flatten().tolist())) == 6
    with pytest.raises(ValueError, match="3 classes have 2 pictures; tasks of 4"):
        bank.deal(1, 4, 1, 1, generator())


def test_calibration_error_by_hand():
    right = torch.tensor([1.0, 0.0, 1.0, 1.0])
    confidence = torch.tensor([0.7, 0.7, 0.99, 0.99])
    assert expected_calibration_error(right, confidence) == pytest.approx((2 * 0.2 + 2 * 0.01) / 4)


@pytest.mark.parametrize("learner", ["conjugate", "bmaml", "bfa", "emaml", "maml"])
def test_every_learner_trains_and_publishes_a_classifier(arrays, tmp_path, learner, capsys):
    store = tmp_path / "store"
    options = ["--name", "shapes", "--store", str(store), "--runs", str(tmp_path / "runs")]
    options += ["--size", str(SIZE), "--split", "split", "--classes", "2", "--width", "4", "--shots", "1:2"]
    options += ["--meta-steps", "12", "--evaluate-every", "6", "--learner", learner, "--dimensions", "8"]
    assert main(["images", str(arrays), *options]) == 0
    assert "published shapes version 1" in capsys.readouterr().out
    model = Store(store).load("shapes")
    assert model.manifest.kind == "classification"
    assert model.manifest.classes == (100 if learner == "conjugate" else 2)
    assert "16 × 16 → any classes" in Store(store).card("shapes")
    assert main(["evaluate", "shapes", str(arrays), "--store", str(store)]) == 0
    assert main(["plot", "shapes", str(arrays), "--store", str(store)]) == 1


def test_a_head_is_trained_on_the_features_of_a_published_version(arrays, tmp_path):
    store, runs = str(tmp_path / "store"), str(tmp_path / "runs")
    shared = ["--store", store, "--runs", runs, "--size", str(SIZE), "--split", "split", "--classes", "2"]
    shared += ["--meta-steps", "6", "--evaluate-every", "6", "--shots", "1"]
    assert main(["images", str(arrays), "--name", "base", "--width", "4", *shared]) == 0
    head = ["--learner", "bfa", "--features-of", "base", "--rotations"]
    assert main(["images", str(arrays), "--name", "head", *head, *shared]) == 0
    base, built = Store(tmp_path / "store").load("base"), Store(tmp_path / "store").load("head")
    assert built.embedding == base.embedding
    for name, tensor in base.learned.items():
        if name.startswith("embedding."):
            assert torch.equal(tensor, built.learned[name])


def test_training_remembers_the_statistics_it_normalises_by(arrays, tmp_path):
    store = tmp_path / "store"
    options = [
        "--name",
        "shapes",
        "--store",
        str(store),
        "--runs",
        str(tmp_path / "runs"),
        "--split",
        "split",
    ]
    options += ["--size", str(SIZE), "--classes", "3", "--width", "4", "--meta-steps", "30", "--shots", "1"]
    assert main(["images", str(arrays), *options]) == 0
    learned = Store(store).load("shapes").learned
    for block in range(4):
        assert not torch.equal(
            learned[f"embedding.{block}.mean"], torch.zeros_like(learned[f"embedding.{block}.mean"])
        )


def test_a_learner_for_numbers_is_refused_for_pictures(arrays, tmp_path, capsys):
    options = ["--name", "shapes", "--store", str(tmp_path), "--size", str(SIZE), "--split", "split"]
    assert main(["images", str(arrays), *options, "--classes", "2", "--learner", "collapsed"]) == 1
    assert "collapsed is no learner for classes" in capsys.readouterr().err


def test_a_run_may_start_from_a_published_version_of_its_shape(arrays, tmp_path, capsys):
    store, runs = str(tmp_path / "store"), str(tmp_path / "runs")
    shared = ["--store", store, "--runs", runs, "--size", str(SIZE), "--split", "split", "--classes", "2"]
    shared += ["--evaluate-every", "6", "--shots", "1", "--dimensions", "4"]
    assert main(["images", str(arrays), "--name", "base", "--width", "4", "--meta-steps", "6", *shared]) == 0
    more = ["--name", "more", "--start-from", "base", "--meta-steps", "1", "--learning-rate", "1e-9"]
    assert main(["images", str(arrays), "--width", "4", *more, *shared]) == 0
    base, further = (Store(tmp_path / "store").load(name) for name in ("base", "more"))
    torch.testing.assert_close(further.learned["initial"], base.learned["initial"], atol=1e-6, rtol=0)
    assert further.manifest.training["start_from"] == "base"
    assert main(["images", str(arrays), "--width", "6", *more, *shared]) == 1
    assert "base has other parameters than this run" in capsys.readouterr().err


def test_training_sees_deep_and_turned_pictures_as_the_service_does():
    ink = np.tril(np.full((16, 16), 250, np.uint8))
    tags = Image.Exif()
    tags[0x0112] = 6  # turn it clockwise by a quarter
    whole, image = [], ImageInput(channels=1, size=16)
    for pixels, said in ((ink, None), (ink.astype(np.uint16) * 257, None), (np.rot90(ink), tags)):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", exif=said)
        whole.append(decoded(file.getvalue(), image))
    np.testing.assert_array_equal(whole[0], ink)
    np.testing.assert_array_equal(whole[1], ink)
    np.testing.assert_array_equal(whole[2], ink)
