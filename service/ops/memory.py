"""How the process holds its memory."""

import ctypes
import gc
import math
import os
from collections.abc import Callable
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""mallopt(3)."""
KEPT_BYTES = 1 << 29
SLACK_BYTES = 1 << 23
"""Freed memory that a process may hold for longer than EVERY_S. To return 40 MiB takes 2 ms."""
EVERY_S = 60.0
THRESHOLDS = 10_000, 10, 10
"""Of the garbage collector: a request makes hundreds of objects, and hardly any cycle among them."""


def keep_freed_memory() -> None:
    """Tell glibc to reuse the memory of freed tensors instead of handing it back to the system.

    Batches allocate and free the same few megabytes over and over; fresh pages for each of them
    would cost more than some of the arithmetic. All threads share one arena: what one of them freed,
    another may use, and the process holds a fifth less and does not grow. To be called before there
    are other threads; other C libraries are left as they are.
    """
    if (library := _glibc()) is not None:
        library.mallopt(M_ARENA_MAX, 1)
        library.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def give_back() -> bool:
    """Hand the pages of freed memory back to the system, wherever in the heap they are; True."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)
    return True


class FreedMemory:
    """Freed memory that a process keeps for its next batches: for good only so much of it.

    What is freed and what is in use look alike from outside. So a process is measured by the least that it
    held after a return, since what is served last changed: while it holds far more, for whatever reason, it
    is asked again and again to return what it can.

    Args:
        pid: of the process.
        give_back: has it hand its freed memory back; whether it was able to.
    """

    def __init__(self, pid: int, give_back: Callable[[], bool]) -> None:
        self._pid, self._give_back = pid, give_back
        self._least, self._last = math.inf, -math.inf
        self._due = self._changed = False

    def look(self, now: float, changed: bool) -> None:
        """Have freed memory returned, if it is time: at once where what is served has changed.

        Args:
            now: seconds of a monotonic clock.
        """
        large = resident_bytes(self._pid) > self._least + SLACK_BYTES
        self._changed |= changed
        self._due |= changed or (large and now - self._last >= EVERY_S)
        if self._due and self._give_back():
            held = resident_bytes(self._pid)
            self._least, self._last = (held if self._changed else min(self._least, held)), now
            self._due = self._changed = False


def resident_bytes(pid: int) -> int:
    """Of a process; zero where the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def spare_the_imported() -> None:
    """Take all there is out of the garbage collector's sight.

    Two hundred thousand objects of the libraries live as long as the process; to look at them all, again and
    again, stops every thread for a fifth of a second. What comes after them is looked at more rarely, too.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
