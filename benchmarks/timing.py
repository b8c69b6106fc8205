"""Wall-clock time of repeated calls."""

import time
from collections.abc import Callable


def timed(run: Callable[[], object], repeats: int) -> list[float]:
    """Milliseconds of each call, after a warm-up of a tenth as many (at least one)."""
    for _ in range(max(1, repeats // 10)):
        run()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        found.append(1000 * (time.perf_counter() - start))
    return found
