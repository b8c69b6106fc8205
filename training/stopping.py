"""Signals that ask a run to stop, counted instead of obeyed at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM has come; neither ends the process while the context lasts."""
    with counted_signals() as came:
        yield lambda: came() > 0


@contextmanager
def counted_signals() -> Iterator[Callable[[], int]]:
    """The number of SIGINT and SIGTERM so far; neither ends the process while the context lasts."""
    count = 0

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1

    before = {number: signal.signal(number, request) for number in SIGNALS}
    try:
        yield lambda: count
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
