"""When to ask again, and after how long: exponential backoff with full jitter, within bounds."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

AGAIN = frozenset({429, 503})
"""Statuses that pass: a full queue, a rate limit, a start. A deadline that passed (504) may pass again."""


@dataclass(frozen=True)
class Retries:
    """How often and for how long to try.

    Before the n-th retry the client waits a uniformly drawn time between 0 and
    min(`cap_s`, `base_s` · 2ⁿ⁻¹), after what `Retry-After` asks for. Every request can be repeated: none
    changes anything that a second one would change again.

    Attributes:
        count: retries after the first attempt.
        total_s: seconds in all; a wait that would end later is not begun.
        base_s, cap_s: seconds.
    """

    count: int = 4
    total_s: float = 60.0
    base_s: float = 0.1
    cap_s: float = 5.0

    def pause(
        self, retry: int, elapsed_s: float, retry_after_s: float | None, draw: Callable[[], float]
    ) -> float | None:
        """Seconds before retry number `retry` (from 1), or None where there is to be none.

        `draw` gives numbers uniform in [0, 1).
        """
        if retry > self.count:
            return None
        jitter = draw() * min(self.cap_s, self.base_s * 2.0 ** (retry - 1))
        wait = (retry_after_s or 0.0) + jitter
        return wait if elapsed_s + wait <= self.total_s else None


def seconds_of(retry_after: str | None, now: datetime | None = None) -> float | None:
    """A `Retry-After` header, a number or a date, in seconds from now; None for anything else."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())
