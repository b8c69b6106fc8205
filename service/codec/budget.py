"""The budget of one request before the device sees it: pixels of images, and time until its deadline."""

import time
from dataclasses import dataclass

from service.errors import FieldError, RequestError
from service.settings import Settings


@dataclass
class Budget:
    """The bounds of one request, and how much of them it has used.

    Attributes:
        deadline: on the engine's clock (`time.monotonic`).
        pixels: of all images that have been opened so far.
    """

    settings: Settings
    deadline: float
    pixels: int = 0

    def take_image(self, width: int, height: int, pointer: str) -> None:
        """Count the pixels of one more image, before it is decoded: of a large JPEG, those it is scaled to.

        Raises:
            RequestError: 413 where this image, or all images so far, have too many pixels.
        """
        self.pixels += width * height
        max_pixels, max_total = self.settings.max_picture_pixels, self.settings.max_request_pixels
        if width * height > max_pixels:
            where = FieldError(pointer=pointer, detail=f"{width} × {height} pixels to decode")
            raise RequestError("picture-too-large", f"an image has more than {max_pixels} pixels", [where])
        if self.pixels > max_total:
            where = FieldError(pointer=pointer, detail="with those before it")
            raise RequestError("picture-too-large", f"images of more than {max_total} pixels", [where])

    def check_deadline(self) -> None:
        """Refuse a request whose deadline has passed.

        Raises:
            RequestError: 504.
        """
        if time.monotonic() > self.deadline:
            raise RequestError("expired", "the deadline passed while the request was read")
