"""Pictures are decoded off the event loop, in threads of their own, by few at a time."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from service.problems import RequestError

P = ParamSpec("P")
T = TypeVar("T")

THREADS, MOST = 2, 64
"""Threads; requests that may be with them or wait for them."""


class Decoders:
    """Runs what takes long and needs no device."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "pictures")
        self._taken = 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of a call.

        Raises:
            RequestError: 429 while too many wait.
        """
        if self._taken >= MOST:
            raise RequestError("queue-full", "too many pictures wait to be decoded", retry_after_s=1)
        self._taken += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, lambda: work(*args, **kwargs))
        finally:
            self._taken -= 1

    def stop(self) -> None:
        """Take no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
