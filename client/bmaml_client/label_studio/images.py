"""Images of any format and size, converted to small files that the service takes."""

import io

from PIL import Image, UnidentifiedImageError

from bmaml_client.label_studio.labelling import UnreadableTask
from bmaml_client.photographs import upright

MAX_SIDE = 256
"""Pixels along the longer side of a sent image; models see far fewer."""
SMALL_FILE_BYTES = 32 << 10
"""Largest PNG or JPEG file that is sent unchanged."""
MAX_PIXELS = 100_000_000
"""Of an image that is decoded."""


def shrink(content: bytes) -> bytes:
    """The image as a small PNG or JPEG file.

    Raises:
        UnreadableTask: Pillow cannot read the image, or it has more than `MAX_PIXELS` pixels.
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise UnreadableTask(f"the image has {opened.width} × {opened.height} pixels")
            if (
                len(content) <= SMALL_FILE_BYTES
                and opened.format in ("PNG", "JPEG")
                and max(opened.size) <= 4 * MAX_SIDE
            ):
                opened.load()  # a file that ends early is not sent: it would fail the rows beside it
                return content
            opened.draft("RGB", (MAX_SIDE, MAX_SIDE))
            turned = upright(opened)
            transparent = "A" in turned.getbands() or "transparency" in turned.info
            image = turned.convert("RGBA" if transparent else "RGB")
    except UnreadableTask:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError):
        raise UnreadableTask("not a readable image") from None
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    file = io.BytesIO()
    if transparent:
        image.save(file, "PNG")
    else:
        image.save(file, "JPEG", quality=92)
    return file.getvalue()
