"""Files of images as people have them: turned, transparent, deep, animated, huge, and what is refused."""

import base64
import importlib.util
import io
import math

import numpy as np
import pytest
from PIL import Image

from model_store.images import MAX_PIXELS, ImageInput, UnreadableImage, decoded_image
from service.codec.budget import Budget
from service.codec.images import decoded_images
from service.settings import Settings
from tests.images import png
from training.config import ImagesConfig
from training.families.image_files import read_images

COLOUR = ImageInput(channels=3, size=16)
GREY = ImageInput(channels=1, size=16)
ORIENTATION = 0x0112


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with a brighter upper left corner."""
    coarse = np.random.default_rng(seed).integers(40, 200, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    image.paste((250, 30, 30), (0, 0, width // 4, height // 4))
    return image


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(content: bytes, image: ImageInput = COLOUR) -> np.ndarray:
    return decoded_image(content, image).pixels.astype(int)


def everyday_files() -> dict[str, bytes]:
    """One file of each kind, by name with its suffix."""
    image = photograph(90, 60)
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    clear = image.copy()
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    frames = [photograph(90, 60, seed) for seed in (1, 2)]
    return {
        "plain.png": saved(image),
        "turned.jpg": saved(image, "JPEG", exif=turned),
        "clear.png": saved(clear),
        "clear.webp": saved(clear, "WEBP", lossless=True),
        "palette.png": saved(image.quantize(16)),
        "palette.gif": saved(image, "GIF"),
        "cmyk.jpg": saved(image.convert("CMYK"), "JPEG"),
        "deep.png": saved(deep),
        "animated.gif": saved(image, "GIF", save_all=True, append_images=frames),
        "huge.jpg": saved(photograph(3000, 2000), "JPEG"),
        "progressive.jpg": saved(photograph(600, 400), "JPEG", progressive=True),
        "windows.bmp": saved(image, "BMP"),
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", [None, 0.875])
def test_training_and_the_service_agree_to_the_pixel(tmp_path, channels, crop):
    files = everyday_files()
    for role in ("a", "b", "c"):
        (tmp_path / role).mkdir()
        for name, content in files.items():
            (tmp_path / role / name).write_bytes(content)
    image = ImageInput(channels=channels, size=16, crop=crop)
    config = ImagesConfig(str(tmp_path), size=16, channels=channels, crop=crop)
    trained = read_images(config, 0).pixels[: len(files)]
    posted = [base64.b64encode(files[name]).decode() for name in sorted(files)]
    served = decoded_images(posted, image, Budget(Settings(), math.inf), "/query/x")
    np.testing.assert_array_equal(served.pixels, trained)
    assert served.animated == 1


def test_an_image_is_turned_as_its_exif_says():
    image, turns = photograph(64, 64), {3: 2, 6: 3, 8: 1}
    for orientation, quarters in turns.items():
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        found = pixels(saved(image, exif=exif))
        np.testing.assert_allclose(found, np.rot90(pixels(saved(image)), quarters), atol=1)  # rounding


def test_transparency_is_white_in_every_form():
    shape = np.zeros((32, 32), np.uint8)
    shape[8:24, 8:24] = 255
    red = Image.new("RGB", (32, 32), (200, 0, 0))
    white = Image.new("RGB", (32, 32), "white")
    expected = pixels(saved(Image.composite(red, white, Image.fromarray(shape))))
    alpha = red.copy()
    alpha.putalpha(Image.fromarray(shape))
    index = Image.frombytes("P", (32, 32), (shape // 255).tobytes())
    index.putpalette([9, 9, 9, 200, 0, 0])
    for content in (saved(alpha), saved(alpha, "WEBP", lossless=True), saved(index, transparency=0)):
        np.testing.assert_array_equal(pixels(content), expected)


def test_a_clear_grey_value_of_sixteen_bits_is_white():
    deep = np.full((16, 16), 257 * 50, np.uint16)
    deep[:, 8:] = 12
    found = pixels(saved(Image.fromarray(deep), transparency=12), GREY)
    assert (found[:, :8] == 50).all()
    assert (found[:, 8:] == 255).all()


def test_sixteen_bits_are_scaled_and_not_clipped():
    shallow = np.asarray(photograph(16, 16).convert("L"))
    np.testing.assert_array_equal(
        pixels(saved(Image.fromarray(shallow.astype(np.uint16) * 257)), GREY), shallow
    )


def test_palettes_and_cmyk_have_the_colours_of_rgb():
    flat = Image.new("RGB", (40, 40), (0, 120, 240))
    expected = pixels(saved(flat))
    np.testing.assert_array_equal(pixels(saved(flat.quantize(4))), expected)
    found = pixels(saved(flat.convert("CMYK"), "JPEG", quality=100))
    np.testing.assert_allclose(found, expected, atol=3)


def test_a_huge_jpeg_is_decoded_at_a_fraction_of_its_pixels():
    image, taken = photograph(4000, 3000), []
    content = saved(image, "JPEG", quality=92)
    found = decoded_image(content, COLOUR, lambda *size: taken.append(size)).pixels.astype(int)
    assert taken == [(500, 375)]
    whole = pixels(saved(image))
    assert np.abs(found - whole).mean() < 1.5
    taken.clear()
    decoded_image(saved(image, "JPEG", progressive=True), COLOUR, lambda *size: taken.append(size))
    assert taken == [(4000, 3000)]


def test_a_bomb_is_refused_before_it_is_decompressed():
    side = math.isqrt(MAX_PIXELS) + 1
    content = saved(Image.new("1", (side, side)))
    assert len(content) < 20_000
    with pytest.raises(UnreadableImage, match="at most 64,000,000 are decoded"):
        decoded_image(content, COLOUR)


def test_an_animation_is_its_first_frame_and_says_so():
    first, other = photograph(32, 32), photograph(32, 32, 5)
    for kind in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        moving = decoded_image(saved(first, kind, save_all=True, append_images=[other], **options), COLOUR)
        still = decoded_image(saved(first, kind, **options), COLOUR)
        assert moving.animated
        assert not still.animated
        np.testing.assert_allclose(moving.pixels.astype(int), still.pixels.astype(int), atol=12)


def test_the_central_square_is_kept_where_there_is_a_crop():
    wide = Image.new("RGB", (64, 32), (10, 10, 10))
    wide.paste((200, 200, 200), (16, 0, 48, 32))
    whole = decoded_image(saved(wide), ImageInput(channels=3, size=16)).pixels
    cropped = decoded_image(saved(wide), ImageInput(channels=3, size=16, crop=1.0)).pixels
    np.testing.assert_allclose(cropped[:, 2:-2], 200, atol=3)  # the filter reaches over the edges
    assert cropped.min() > 150
    assert {10, 200} <= set(whole.flatten().tolist())


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"0" * 40, b"\xff\xd8\xff\xe0" * 9]
)
def test_broken_files_are_refused_in_a_sentence(content):
    with pytest.raises(UnreadableImage, match="not a readable image: PNG, JPEG"):
        decoded_image(content, COLOUR)


def test_a_truncated_jpeg_is_refused():
    content = saved(photograph(200, 200), "JPEG")
    with pytest.raises(UnreadableImage, match="not a readable image"):
        decoded_image(content[: len(content) // 2], COLOUR)


def test_heic_is_read_or_refused_with_the_package_that_reads_it():
    if importlib.util.find_spec("pillow_heif") is None:
        header = b"\x00\x00\x00\x18ftypheic" + b"\x00" * 16
        with pytest.raises(UnreadableImage, match="needs the package pillow-heif"):
            decoded_image(header, COLOUR)
        return
    from pillow_heif import register_heif_opener

    register_heif_opener()
    image = photograph(64, 64)
    content = saved(image, "HEIF", quality=95)
    np.testing.assert_allclose(pixels(content), pixels(saved(image)), atol=12)


def test_the_warning_of_an_animation_reaches_the_caller(tmp_path):
    from tests.images import publish_classifier, random_images
    from tests.service.conftest import serve

    publish_classifier(tmp_path, "colour", channels=3)
    shown = [png(each[0]) for each in random_images(2, channels=3)]
    moving = photograph(32, 32)
    file = saved(moving, "GIF", save_all=True, append_images=[photograph(32, 32, 4)])
    body = {
        "model": "colour",
        "support": {"x": {"images": shown}, "y": ["a", "b"]},
        "query": {"x": {"images": [base64.b64encode(file).decode()]}},
    }
    for served in serve(Settings(store=tmp_path, device="cpu")):
        answer = served.client.post("/adapt-predict", json=body).json()
        assert "1 image is animated: its first frame alone is taken" in answer["diagnostics"]["warnings"]
