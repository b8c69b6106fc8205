"""Pictures of any format and size, as small files that the service takes."""

import io

from PIL import Image, UnidentifiedImageError

SIDE = 256
"""Pixels along the longer side of what is sent: models see far fewer."""
SMALL = 32 << 10
"""Bytes of a PNG or JPEG file that is sent as it is."""
MOST_PIXELS = 100_000_000


class Unreadable(ValueError):
    """Bytes that are no picture, or one of too many pixels."""


def shrunk(content: bytes) -> bytes:
    """A PNG or JPEG file that shows the same.

    Raises:
        Unreadable: it is no picture that Pillow reads, or it has more than a hundred million pixels.
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise Unreadable(f"the picture has {opened.width} × {opened.height} pixels")
            if len(content) <= SMALL and opened.format in ("PNG", "JPEG") and max(opened.size) <= 4 * SIDE:
                return content
            opened.draft("RGB", (SIDE, SIDE))
            clear = "A" in opened.getbands() or "transparency" in opened.info
            picture = opened.convert("RGBA" if clear else "RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError):
        raise Unreadable("not a readable picture") from None
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    if clear:
        picture.save(file, "PNG")
    else:
        picture.save(file, "JPEG", quality=92)
    return file.getvalue()
