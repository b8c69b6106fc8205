"""Small collections of images, and few held-out sine curves."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.images import SIZE, random_images

CLASSES = 12
ROLES = ["train"] * 8 + ["validation"] * 2 + ["test"] * 2


def written(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """train/alphabet0/c0/0.png …, with strays that are no images."""
    root = tmp_path / "images"
    for label, images in enumerate(random_images(CLASSES)):
        home = root / ROLES[label] / f"alphabet{label % 2}" / f"c{label:02}"
        home.mkdir(parents=True)
        for number, each in enumerate(images):
            (home / f"{number}.png").write_bytes(written(each))
        (home / "notes.txt").write_text("no image")
    return root


@pytest.fixture
def archive(folder, tmp_path):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as file:
        for each in sorted(folder.rglob("*.png")):
            file.write(each, each.relative_to(folder))
        file.writestr("__MACOSX/train/._0.png", "rubbish")
    return path


@pytest.fixture
def arrays(tmp_path):
    path = tmp_path / "images.npz"
    images = random_images(CLASSES)
    labels = np.repeat(np.arange(CLASSES), images.shape[1])
    split = np.array([0] * 8 + [1] * 2 + [2] * 2)
    np.savez(path, images=images.reshape(-1, SIZE, SIZE), label=labels, split=split)
    return path


@pytest.fixture
def few_held_out_tasks(monkeypatch):
    monkeypatch.setattr("training.families.sinusoid.HELD_OUT_TASKS", 20)
    monkeypatch.setattr("training.families.sinusoid.VALIDATION_TASKS", 10)
