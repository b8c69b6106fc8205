"""Retries: exponential backoff with full jitter, bounded in number and in time."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRIED_STATUSES = frozenset({429, 503})
"""Temporary refusals: a full queue, a rate limit, a start. A passed deadline (504) may pass again."""


@dataclass(frozen=True)
class Retries:
    """Limits on the repetitions of a request: their number, their time, and the pauses between them.

    The client waits before retry n: `Retry-After`, plus a time drawn uniformly from 0 to
    min(`cap_s`, `base_s` · 2ⁿ⁻¹). Every request of the service is idempotent.

    Attributes:
        count: retries after the first attempt.
        total_s: seconds in all; the client does not begin a wait that would end later.
        base_s, cap_s: seconds.
    """

    count: int = 4
    total_s: float = 60.0
    base_s: float = 0.1
    cap_s: float = 5.0

    def pause(
        self, retry: int, elapsed_s: float, retry_after_s: float | None, draw: Callable[[], float]
    ) -> float | None:
        """Seconds to wait before a retry; None where the request is not repeated.

        Args:
            retry: its number, from 1.
            elapsed_s: seconds since the first attempt began.
            retry_after_s: seconds that the service asked for.
            draw: gives numbers uniform in [0, 1).
        """
        if retry > self.count:
            return None
        jitter = draw() * min(self.cap_s, self.base_s * 2.0 ** (retry - 1))
        wait = (retry_after_s or 0.0) + jitter
        return wait if elapsed_s + wait <= self.total_s else None


def parse_retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds from now of a `Retry-After` header, a number or a date; None for anything else."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())
