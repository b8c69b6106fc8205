"""How the process holds its memory."""

import ctypes
import gc

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""mallopt(3)."""
KEPT_BYTES = 1 << 29
THRESHOLDS = 10_000, 10, 10
"""Of the garbage collector: a request makes hundreds of objects, and hardly any cycle among them."""


def keep_freed_memory() -> None:
    """Tell glibc to reuse the memory of freed tensors instead of handing it back to the system.

    Batches allocate and free the same few megabytes over and over; fresh pages for each of them
    would cost more than some of the arithmetic. All threads share one arena: what one of them freed,
    another may use, and the process holds a fifth less and does not grow. To be called before there
    are other threads; other C libraries are left as they are.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(M_ARENA_MAX, 1)
        library.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def spare_the_imported() -> None:
    """Take all there is out of the garbage collector's sight.

    Two hundred thousand objects of the libraries live as long as the process; to look at them all, again and
    again, stops every thread for a fifth of a second. What comes after them is looked at more rarely, too.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
