"""The service's warnings about answers, as Python's warnings."""

import inspect
import re
import warnings
from collections.abc import Iterable, Sequence

FAR_ROWS = re.compile(r"(\d+) of \d+ (query rows .*?: )(.*)(; .*)", re.DOTALL)
"""A warning that counts the query rows of one request: count, subject, columns and advice."""
FAR_COLUMN = re.compile(
    r"(?P<column>\S.*?)(?P<value> is \S+ in row )(?P<row>\d+)(?P<range> \(training: .*?\))", re.DOTALL
)
"""A column in such a warning, with its farthest value."""


class AnswerWarning(UserWarning):
    """A warning of the service about an answer, such as rows far from the training range."""


def merged_warnings(parts: Iterable[tuple[int, Sequence[str]]]) -> list[str]:
    """The warnings of requests that together predict many query rows, each once.

    Counts of query rows are added, and row indices count from the first request's rows on: from 50 rows
    without a warning, then `3 of 100 query rows … in row 7 …`, comes `3 of 150 query rows … in row 57 …`.
    Each column is named once.

    Args:
        parts: the number of query rows of each request, and its warnings.
    """
    counts: dict[str | tuple[str, str], int] = {}
    columns: dict[tuple[str, str], dict[str, str]] = {}
    unnamed: dict[tuple[str, str], str] = {}
    start = 0
    for rows, texts in parts:
        for text in texts:
            counted = FAR_ROWS.fullmatch(text)
            if not counted:
                counts[text] = 0
                continue
            key = counted[2], counted[4]
            counts[key] = counts.get(key, 0) + int(counted[1])
            named = columns.setdefault(key, {})
            for each in FAR_COLUMN.finditer(counted[3]):
                place = f"{each['value']}{start + int(each['row'])}{each['range']}"
                named.setdefault(each["column"].removeprefix(", "), place)
            unnamed.setdefault(key, FAR_COLUMN.sub("", counted[3]))
        start += rows
    merged = []
    for found, count in counts.items():
        if isinstance(found, tuple):
            (subject, advice), places = found, ", ".join(map("".join, columns[found].items()))
            merged.append(f"{count} of {start} {subject}{places}{unnamed[found]}{advice}")
        else:
            merged.append(found)
    return merged


def warn_caller(messages: Iterable[str]) -> None:
    """Issue an `AnswerWarning` for each message, at the line outside this package that led here."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(f"{__package__}."):
        frame, level = frame.f_back, level + 1
    for message in messages:
        warnings.warn(message, AnswerWarning, stacklevel=level)
