"""Images in a request: base64 PNG or JPEG files to pixels, and the threads that decode them."""

import asyncio
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from model_store.images import ImageInput, Pixels, upright
from service.codec.base64_text import decoded_base64
from service.codec.budget import Budget
from service.errors import RequestError, invalid_at

FORMATS = ("PNG", "JPEG")
"""File formats that are decoded."""
DECODING_THREADS = 2
"""Threads that decode requests for image models."""
MAX_DECODING_REQUESTS = 64
"""Requests that the decoding threads hold at a time, running and waiting."""

P = ParamSpec("P")
T = TypeVar("T")


class DecodingThreads:
    """A thread pool for decoding, which would block the event loop; used on the event loop alone."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(DECODING_THREADS, "images")
        self._requests = 0

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of a call in one of the threads.

        Raises:
            RequestError: 429 where the threads hold `MAX_DECODING_REQUESTS`.
        """
        if self._requests >= MAX_DECODING_REQUESTS:
            raise RequestError("queue-full", "too many images wait to be decoded", retry_after_s=1)
        self._requests += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, lambda: call(*args, **kwargs))
        finally:
            self._requests -= 1

    def stop(self) -> None:
        """Cancel the calls that wait, and accept no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def decoded_images(files: Sequence[str], image: ImageInput, budget: Budget, pointer: str) -> Pixels:
    """The pixels `[image, *image.shape]` of base64 files: grey or RGB, resized by area.

    Raises:
        RequestError: 422 for a file that is not a PNG or JPEG, 413 for too many pixels (checked before
            anything is decoded), 504 where the deadline passes.
    """
    pixels = np.empty((len(files), *image.shape), dtype=np.uint8)
    for index, file in enumerate(files):
        budget.check_deadline()
        pixels[index] = _decoded_image(file, image, budget, f"{pointer}/images/{index}")
    return pixels


def _decoded_image(file: str, image: ImageInput, budget: Budget, pointer: str) -> Pixels:
    content = decoded_base64(file.removeprefix("data:").rpartition("base64,")[2], pointer)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            budget.take_image(opened.width, opened.height, pointer)
            mode, size = "L" if image.channels == 1 else "RGB", (image.size, image.size)
            opaque = _on_white(upright(opened))
            return np.asarray(opaque.convert(mode).resize(size, Image.Resampling.BOX), np.uint8)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError):
        raise invalid_at(pointer, f"not a readable {' or '.join(FORMATS)}") from None


def _on_white(image: Image.Image) -> Image.Image:
    """The image without transparency, on a white background."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    foreground = image.convert("RGBA")
    background = Image.new("RGBA", foreground.size, "white")
    return Image.alpha_composite(background, foreground).convert("RGB")
