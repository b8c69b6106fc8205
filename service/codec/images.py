"""Pictures in a request: base64 PNG or JPEG to pixels, with bounds checked before anything is decoded."""

import asyncio
import base64
import binascii
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from model_store.images import ImageInput, Pixels, upright
from service.codec.budget import Budget
from service.errors import RequestError, invalid_at

FORMATS = ("PNG", "JPEG")


def decoded(pictures: Sequence[str], image: ImageInput, budget: Budget, pointer: str) -> Pixels:
    """Pictures as the model takes them: grey or RGB, resized by area.

    Raises:
        RequestError: 422 for what is no picture, 413 for too many pixels, 504 when the time is up.
    """
    result = np.empty((len(pictures), *image.shape), dtype=np.uint8)
    for index, text in enumerate(pictures):
        budget.check_time()
        result[index] = _one(text, image, budget, f"{pointer}/images/{index}")
    return result


def _one(text: str, image: ImageInput, budget: Budget, pointer: str) -> Pixels:
    try:
        content = base64.b64decode(text.removeprefix("data:").rpartition("base64,")[2], validate=True)
    except (binascii.Error, ValueError):
        raise invalid_at(pointer, "not base64") from None
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            budget.take_picture(opened.width, opened.height, pointer)
            mode, side = "L" if image.channels == 1 else "RGB", (image.size, image.size)
            picture = _flat(upright(opened))
            return np.asarray(picture.convert(mode).resize(side, Image.Resampling.BOX), np.uint8)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError):
        raise invalid_at(pointer, f"not a readable {' or '.join(FORMATS)}") from None


def _flat(picture: Image.Image) -> Image.Image:
    """Without transparency: what shows through is white, as on a page."""
    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture
    above = picture.convert("RGBA")
    page = Image.new("RGBA", above.size, "white")
    return Image.alpha_composite(page, above).convert("RGB")


P = ParamSpec("P")
T = TypeVar("T")

THREADS, MOST = 2, 64
"""Threads; requests that may be with them or wait for them."""


class DecodingThreads:
    """Runs what takes long and needs no device."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "pictures")
        self._taken = 0

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of a call.

        Raises:
            RequestError: 429 while too many wait.
        """
        if self._taken >= MOST:
            raise RequestError("queue-full", "too many pictures wait to be decoded", retry_after_s=1)
        self._taken += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, lambda: call(*args, **kwargs))
        finally:
            self._taken -= 1

    def stop(self) -> None:
        """Take no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
