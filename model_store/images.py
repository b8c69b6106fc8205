"""Conversion of images to the inputs of a model."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field

Pixels = NDArray[np.uint8]
"""`[image, height, width]` grey, or `[image, height, width, 3]` RGB."""


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says, in eight bits a channel.

    Sixteen bits are scaled down here: Pillow would clip them at 255 of 65,535.
    """
    turned = ImageOps.exif_transpose(image)
    if not turned.mode.startswith("I"):
        return turned
    return Image.fromarray((np.asarray(turned, np.float32) / 257).round().clip(0, 255).astype(np.uint8))


class ImageInput(BaseModel):
    """The image input of a model: channels × size × size values in [0, 1], channel by channel.

    Attributes:
        channels: 1 for grey, 3 for RGB.
        size: pixels along each side.
        drawing: ink on an even ground. A drawing with a bright border is inverted, so that ink is bright
            on paper and on screen alike.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int
    size: int = Field(ge=1)
    drawing: bool = False

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
