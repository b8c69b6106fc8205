"""Images in files and arrays, as the inputs of a model."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, features
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from bmaml.errors import BmamlError

Pixels = NDArray[np.uint8]
"""`[image, height, width]` grey, or `[image, height, width, 3]` RGB."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""File formats that are always decoded, by Pillow's names."""
AVIF_BRANDS = frozenset({b"avif", b"avis"})
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
"""Brands of files whose format only some installations decode."""
MAX_PIXELS = 64_000_000
"""Pixels of one file: a larger image is refused before it is decompressed."""
DRAFT_SCALE = 2
"""Pixels of a JPEG that are decoded for each pixel that is needed, along each side, at least."""


class UnreadableImage(BmamlError, ValueError):
    """Bytes that are no image, or one that cannot be decoded here."""


@dataclass(frozen=True)
class DecodedImage:
    """One image at a model's size.

    Attributes:
        pixels: grey or RGB, in the shape of `ImageInput.shape`.
        animated: the file has further frames; `pixels` are the first.
    """

    pixels: Pixels
    animated: bool


def decoded_image(
    content: bytes, image: "ImageInput", take: Callable[[int, int], None] | None = None
) -> DecodedImage:
    """The image in a file, as a model takes it: one function for training and for the service.

    A large JPEG is scaled down while it is decoded, to no less than `DRAFT_SCALE` times the pixels that the
    model needs. The image is then turned as its EXIF says, made opaque over white, converted to eight bits
    grey or RGB, and resized. An animation is its first frame. Colour profiles are not applied.

    Args:
        take: is called with the width and height to be decoded, before they are; it may refuse them. A
            progressive JPEG is decoded whole.

    Raises:
        UnreadableImage: no image of these formats, a broken one, one of more than `MAX_PIXELS`, or a HEIC
            image without the package that reads it.
    """
    formats = FORMATS + _formats_by_brand(content)
    try:
        with Image.open(io.BytesIO(content), formats=formats) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise UnreadableImage(
                    f"{opened.width} × {opened.height} pixels: at most {MAX_PIXELS:,} are decoded"
                )
            least = DRAFT_SCALE * image.resized
            if not opened.info.get("progressive"):
                opened.draft(None, (least, least))
            if take is not None:
                take(opened.width, opened.height)
            # The further pictures of an MPO, which phones write, are other views: no animation.
            animated = opened.format != "MPO" and bool(getattr(opened, "is_animated", False))
            return DecodedImage(image.resize(_opaque(ImageOps.exif_transpose(opened))), animated)
    except UnreadableImage:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise UnreadableImage("not a readable image: PNG, JPEG, WebP, GIF, BMP, AVIF or HEIC") from None


def _formats_by_brand(content: bytes) -> tuple[str, ...]:
    """The format of a file of the ISO base media family by its brand, where this installation reads it.

    Raises:
        UnreadableImage: the package or the decoder that reads it is absent.
    """
    brand = content[8:12] if content[4:8] == b"ftyp" else b""
    if brand in AVIF_BRANDS:
        if not features.check("avif"):
            raise UnreadableImage("an AVIF image, which this Pillow does not decode: send it as JPEG or PNG")
        return ("AVIF",)
    if brand not in HEIC_BRANDS:
        return ()
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise UnreadableImage(
            "a HEIC image, which needs the package pillow-heif: install it, or send a JPEG or PNG"
        ) from None
    register_heif_opener()
    return ("HEIF",)


def _opaque(image: Image.Image) -> Image.Image:
    """The image in eight bits a channel, on a white background where it is transparent.

    Sixteen bits are scaled down here: Pillow would clip them at 255 of 65,535.
    """
    clear = image.info.get("transparency")
    if image.mode.startswith("I"):
        deep = np.asarray(image, np.float32)
        shallow = (deep / 257).round().clip(0, 255).astype(np.uint8)
        return Image.fromarray(shallow if clear is None else np.where(deep == clear, np.uint8(255), shallow))
    if clear is None and "A" not in image.getbands() and "a" not in image.getbands():
        return image
    foreground = image.convert("RGBA")
    background = Image.new("RGBA", foreground.size, "white")
    return Image.alpha_composite(background, foreground).convert("RGB")


class ImageInput(BaseModel):
    """The image input of a model: channels × size × size values in [0, 1], channel by channel.

    Attributes:
        channels: 1 for grey, 3 for RGB.
        size: pixels along each side.
        drawing: ink on an even ground. A drawing with a bright border is inverted, so that ink is bright
            on paper and on screen alike.
        crop: part of the shorter side that the central square keeps, in (0, 1]; the image is resized by a
            bicubic filter. None squeezes the whole image to a square, averaging over areas.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int
    size: int = Field(ge=1)
    drawing: bool = False
    crop: float | None = Field(default=None, gt=0, le=1)

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The fields; without a crop, those of earlier revisions, so that a version's digest stays."""
        values: dict[str, Any] = handler(self)
        if self.crop is None:
            del values["crop"]
        return values

    @property
    def resized(self) -> int:
        """Pixels of the shorter side after resizing, before the crop."""
        return self.size if self.crop is None else round(self.size / self.crop)

    def resize(self, image: Image.Image) -> Pixels:
        """An opaque image of eight bits in the shape of one image of `Pixels`."""
        image = image.convert("L" if self.channels == 1 else "RGB")
        side = (self.size, self.size)
        if self.crop is None:
            return np.asarray(image.resize(side, Image.Resampling.BOX), np.uint8)
        kept = min(image.size) * self.size / self.resized
        left, top = (image.width - kept) / 2, (image.height - kept) / 2
        box = (left, top, left + kept, top + kept)
        return np.asarray(image.resize(side, Image.Resampling.BICUBIC, box), np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image as an array of pixels: `(size, size)` grey, `(size, size, 3)` RGB."""
        return (self.size, self.size) if self.channels == 1 else (self.size, self.size, self.channels)

    @property
    def inputs(self) -> int:
        """Values of one image."""
        return self.channels * self.size**2

    def from_pixels(self, pixels: Pixels) -> NDArray[np.float32]:
        """Pixels 0 … 255 as `[image, channel × height × width]`, in [0, 1]."""
        return self.from_values(pixels.astype(np.float32) / np.float32(255))

    def from_values(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values in [0, 1] in the layout of `Pixels`, as `[image, channel × height × width]`."""
        values = values.reshape(len(values), *self.shape)
        if self.drawing:
            edges = (values[:, 0], values[:, -1], values[:, :, 0], values[:, :, -1])
            border = np.concatenate(
                [edge.reshape(len(values), self.size * self.channels) for edge in edges], 1
            )
            bright = np.median(border, axis=1) > 0.5
            values = np.where(bright.reshape(-1, *[1] * (values.ndim - 1)), 1 - values, values)
        if self.channels == 3:
            values = values.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(values.reshape(len(values), self.inputs), dtype=np.float32)
