"""Photographs that are scaled down before they are sent have nearly the pixels of their files."""

import io

import numpy as np
import pytest
from PIL import Image

from bmaml_client import InvalidInput, scaled_down
from bmaml_client.label_studio.images import shrink
from bmaml_client.model_info import ImageInput
from model_store.images import ImageInput as Input
from model_store.images import decoded_image


def photograph(kind="JPEG", turned=1, channels=3, width=800, height=600):
    """A file of a smooth scene with grain."""
    draw = np.random.default_rng(4)
    coarse = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    scene = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    pixels = (scene + draw.integers(-9, 10, scene.shape)).clip(0, 255).astype(np.uint8)
    if channels == 4:
        alpha = np.full((height, width, 1), 255, np.uint8)
        alpha[: height // 2] = 0
        pixels = np.concatenate([pixels, alpha], 2)
    exif = Image.Exif()
    exif[0x0112] = turned
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("crop", [None, 0.875])
@pytest.mark.parametrize(("kind", "turned", "channels"), [("JPEG", 1, 3), ("JPEG", 6, 3), ("PNG", 1, 4)])
def test_a_smaller_photograph_has_nearly_the_pixels_of_the_file(kind, turned, channels, crop):
    content = photograph(kind, turned, channels)
    smaller = scaled_down(content, ImageInput(3, 56, drawing=False, crop=crop))
    image = Input(channels=3, size=56, crop=crop)
    with Image.open(io.BytesIO(smaller)) as opened:
        assert min(opened.size) == 2 * image.resized
    assert len(smaller) < len(content) / 5
    found, expected = (decoded_image(each, image).pixels.astype(float) for each in (smaller, content))
    assert np.abs(found - expected).mean() < 3  # of 255: a JPEG is compressed again


def test_a_small_file_stays_as_it_is():
    content = photograph(width=40, height=30)
    assert scaled_down(content, ImageInput(3, 56, drawing=False)) == content


def test_a_file_that_is_no_picture_is_refused():
    with pytest.raises(InvalidInput, match="a photograph cannot be read"):
        scaled_down(b"nothing", ImageInput(3, 56, drawing=False))


def test_sixteen_bits_are_scaled_down_as_the_service_does():
    deep = np.tile(np.linspace(0, 65_535, 800).astype(np.uint16), (600, 1))
    file = io.BytesIO()
    Image.fromarray(deep).save(file, "PNG")
    content, image = file.getvalue(), Input(channels=3, size=56)
    expected = decoded_image(content, image).pixels.astype(float)
    for smaller in (scaled_down(content, ImageInput(3, 56, drawing=False)), shrink(content)):
        assert np.abs(decoded_image(smaller, image).pixels - expected).max() < 4


@pytest.mark.parametrize("turned", [3, 6, 8])
def test_label_studio_turns_a_photograph_as_its_exif_says(turned):
    content = photograph(turned=turned)
    image = Input(channels=3, size=56)
    found, expected = (decoded_image(each, image).pixels.astype(float) for each in (shrink(content), content))
    assert np.abs(found - expected).mean() < 3
