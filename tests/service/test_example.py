"""The example that a labelling team could copy labels every image it is given."""

import subprocess
import sys

import pytest
from PIL import Image

from service.settings import Settings
from tests.images import publish_classifier, random_images
from tests.service.conftest import serve


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    publish_classifier(root, "shapes")
    for served in serve(Settings(store=root, device="cpu")):
        yield served.url


def test_each_round_asks_for_one_image_and_moves_it_to_its_class(tmp_path, url):
    images = random_images(2, 3)
    for label, name in enumerate(("left", "right")):
        (tmp_path / name).mkdir()
        Image.fromarray(images[label, 0]).save(tmp_path / name / "first.png")
    (tmp_path / "unlabelled").mkdir()
    for label, number in ((0, 1), (1, 1), (0, 2), (1, 2)):
        Image.fromarray(images[label, number]).save(tmp_path / "unlabelled" / f"{label}-{number}.png")
    command = [sys.executable, "examples/label_next.py", str(tmp_path), "--model", "shapes", "--url", url]
    done = subprocess.run(
        [*command, "--rounds", "9"],
        input="left\nright\nleft\nother\n",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("nats) is a: ") == 4
    counts = {each.name: len(list(each.iterdir())) for each in tmp_path.iterdir()}
    assert counts == {"left": 3, "right": 2, "other": 1, "unlabelled": 0}
