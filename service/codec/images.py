"""Images in a request: base64 files to pixels, and the threads that decode them."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

import numpy as np

from model_store.images import ImageInput, Pixels, UnreadableImage, decoded_image
from service.codec.base64_text import decoded_base64
from service.codec.budget import Budget
from service.errors import RequestError, invalid_at

DECODING_THREADS = 2
"""Threads for work that would block the event loop: images, episodes, and weights of policies."""
MAX_DECODING_REQUESTS = 64
"""Requests that the decoding threads hold at a time, running and waiting."""

P = ParamSpec("P")
T = TypeVar("T")


class DecodingThreads:
    """A thread pool for work that would block the event loop; used on the event loop alone."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(DECODING_THREADS, "images")
        self._requests = 0

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of a call in one of the threads.

        Raises:
            RequestError: 429 where the threads hold `MAX_DECODING_REQUESTS`.
        """
        if self._requests >= MAX_DECODING_REQUESTS:
            raise RequestError("queue-full", "too many requests wait to be decoded", retry_after_s=1)
        self._requests += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, lambda: call(*args, **kwargs))
        finally:
            self._requests -= 1

    def stop(self) -> None:
        """Cancel the calls that wait, and accept no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class DecodedImages:
    """The images of one part of a request.

    Attributes:
        pixels: `[image, *image.shape]`.
        animated: the number of files whose first frame alone is taken.
    """

    pixels: Pixels
    animated: int


def decoded_images(files: Sequence[str], image: ImageInput, budget: Budget, pointer: str) -> DecodedImages:
    """The pixels of base64 files, decoded as in training (`model_store.images.decoded_image`).

    Raises:
        RequestError: 422 for a file that is no image, 413 for too many pixels (checked before anything is
            decoded), 504 where the deadline passes.
    """
    pixels, animated = np.empty((len(files), *image.shape), dtype=np.uint8), 0
    for index, file in enumerate(files):
        budget.check_deadline()
        where = f"{pointer}/images/{index}"
        content = decoded_base64(file.removeprefix("data:").rpartition("base64,")[2], where)
        try:
            decoded = decoded_image(content, image, partial(budget.take_image, pointer=where))
        except UnreadableImage as error:
            raise invalid_at(where, str(error)) from None
        pixels[index] = decoded.pixels
        animated += decoded.animated
    return DecodedImages(pixels, animated)
