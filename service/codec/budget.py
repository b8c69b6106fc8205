"""What one request may use before the device sees it: rows, pixels, and the time until its deadline."""

import time
from dataclasses import dataclass

from service.errors import FieldError, RequestError
from service.settings import Settings


@dataclass
class Budget:
    """Bounds of one request, and what of them has been used.

    Attributes:
        deadline: on the engine's clock.
        pixels: of the pictures looked at so far.
    """

    settings: Settings
    deadline: float
    pixels: int = 0

    def take_picture(self, width: int, height: int, pointer: str) -> None:
        """One picture more, before it is decoded.

        Raises:
            RequestError: 413 where it has too many pixels, alone or with those before it.
        """
        self.pixels += width * height
        most, together = self.settings.max_picture_pixels, self.settings.max_request_pixels
        if width * height > most:
            where = FieldError(pointer=pointer, detail=f"{width} × {height} pixels")
            raise RequestError("picture-too-large", f"a picture has more than {most} pixels", [where])
        if self.pixels > together:
            where = FieldError(pointer=pointer, detail="with those before it")
            raise RequestError("picture-too-large", f"pictures of more than {together} pixels", [where])

    def check_time(self) -> None:
        """Whether there is any left.

        Raises:
            RequestError: 504 where the deadline has passed.
        """
        if time.monotonic() > self.deadline:
            raise RequestError("expired", "the deadline passed while the request was read")
