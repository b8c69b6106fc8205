"""The service's warnings about answers, as Python's warnings."""

import inspect
import re
import warnings
from collections.abc import Iterable, Sequence

COUNTED_ROWS = re.compile(r"(\d+) of \d+ (query rows .*)", re.DOTALL)
"""A warning that counts the query rows of one request."""


class AnswerWarning(UserWarning):
    """A warning of the service about an answer, such as rows far from the training range."""


def merged_warnings(parts: Iterable[Sequence[str]], rows: int) -> list[str]:
    """The warnings of the requests that together predict `rows` query rows, each once.

    Counts of query rows are added: from `3 of 100 query rows …` and 50 rows without a warning comes
    `3 of 150 query rows …`.

    Args:
        parts: the warnings of each request.
    """
    counts: dict[str, int] = {}
    for each in (warning for part in parts for warning in part):
        counted = COUNTED_ROWS.fullmatch(each)
        if counted:
            counts[counted[2]] = counts.get(counted[2], 0) + int(counted[1])
        else:
            counts[each] = 0
    return [f"{count} of {rows} {text}" if count else text for text, count in counts.items()]


def warn_caller(messages: Iterable[str]) -> None:
    """Issue an `AnswerWarning` for each message, at the line outside this package that led here."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(f"{__package__}."):
        frame, level = frame.f_back, level + 1
    for message in messages:
        warnings.warn(message, AnswerWarning, stacklevel=level)
