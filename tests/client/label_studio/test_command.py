"""`bmaml-label-studio` from outside, and images on their way to the service."""

import io

import numpy as np
import pytest
from PIL import Image

from bmaml_client.label_studio.__main__ import main
from bmaml_client.label_studio.images import MAX_SIDE, SMALL_FILE_BYTES, shrink
from bmaml_client.label_studio.labelling import UnreadableTask


def test_a_wrong_setting_is_named(monkeypatch, capsys):
    monkeypatch.setenv("BMAML_LABEL_STUDIO_PORT", "many")
    assert main([]) == 2
    told = capsys.readouterr().err
    assert "BMAML_LABEL_STUDIO_MODEL: Field required" in told
    assert "BMAML_LABEL_STUDIO_PORT" in told


def test_help_lists_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "BMAML_LABEL_STUDIO_TOKEN" in capsys.readouterr().out


def made(kind, mode="RGB", side=900):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, len(mode)), dtype=np.uint8)
    Image.fromarray(pixels, mode).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGB"), ("JPEG", "RGB"), ("PNG", "RGBA"), ("WEBP", "RGB")]
)
def test_large_images_of_any_format_become_small_files(kind, mode):
    small = shrink(made(kind, mode))
    with Image.open(io.BytesIO(small)) as opened:
        assert max(opened.size) == MAX_SIDE
        assert opened.format == ("PNG" if mode == "RGBA" else "JPEG")
        assert opened.mode == mode


def test_small_files_go_as_they_are():
    content = made("PNG", side=40)
    assert len(content) < SMALL_FILE_BYTES
    assert shrink(content) is content
    assert shrink(made("GIF", side=40))[:2] == b"\xff\xd8"


def test_what_is_no_image_is_refused():
    with pytest.raises(UnreadableTask):
        shrink(b"hello")
