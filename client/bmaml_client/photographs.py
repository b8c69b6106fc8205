"""Photographs as smaller JPEGs, for requests that would otherwise exceed what a service takes."""

import io
from typing import TYPE_CHECKING

import numpy as np

from bmaml_client.errors import InvalidInput
from bmaml_client.model_info import ImageInput

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FINER = 2
"""Pixels of a smaller photograph for each pixel that a model needs, along each side."""
QUALITY = 95


def scaled_down(content: bytes, image: ImageInput) -> bytes:
    """A photograph as a JPEG with twice the pixels that a model needs along its shorter side.

    It is turned as its EXIF says, white where it is transparent, and has no colour profile. The answer is
    nearly that of the file, not exactly: a JPEG is compressed again. A smaller file is returned as it is.

    Args:
        content: a file that Pillow reads.
        image: of the model, `VersionCard.image`.

    Raises:
        ImportError: Pillow is absent: install `bmaml-client[images]`.
        InvalidInput: the file cannot be read.
    """
    from PIL import Image

    least = FINER * round(image.size / (image.crop or 1))
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.draft("RGB", (least, least))
            layered = upright(opened).convert("RGBA")
            flat = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidInput(f"a photograph cannot be read: {error}") from None
    share = min(1.0, least / min(flat.size))
    size = (max(1, round(share * flat.width)), max(1, round(share * flat.height)))
    file = io.BytesIO()
    flat.resize(size, Image.Resampling.BOX).save(file, "JPEG", quality=QUALITY)
    smaller = file.getvalue()
    return smaller if len(smaller) < len(content) else content


def upright(picture: "Picture") -> "Picture":
    """The picture as its EXIF turns it, and as the service reads it: sixteen bits are scaled down to eight.

    Pillow would clip them at 255 of 65,535.
    """
    from PIL import Image, ImageOps

    turned = ImageOps.exif_transpose(picture)
    if not turned.mode.startswith("I"):
        return turned
    deep, clear = np.asarray(turned, np.float32), turned.info.get("transparency")
    shallow = (deep / 257).round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(shallow if clear is None else np.where(deep == clear, np.uint8(255), shallow))
