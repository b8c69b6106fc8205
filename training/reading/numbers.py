"""Texts as numbers: which texts are numbers, and which were meant to be."""

import re

from training.errors import UnusableTable

MAX_EXACT = 2**53
"""The whole numbers up to here are exact in double precision."""
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?", re.ASCII)
_DECIMAL_POINT = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+", re.ASCII)
_MEANT = re.compile(
    r"[+-]?\s?[$€£¥]?\s?(\d{1,3}([,.'’ \u00a0\u202f]\d{3})+|\d+)?([.,]\d+)?([eE][+-]?\d+)?\s?[%€$£¥]?",
    re.ASCII,
)


def parsed_number(text: str) -> float | None:
    """The number that a text is, spaces around it apart; None for another text."""
    text = text.strip()
    if _NUMBER.fullmatch(text) or _INFINITE.fullmatch(text):
        return float(text)
    return None


def is_inexact(text: str) -> bool:
    """Whether a text is a whole number beyond 2^53, whose last digits a number would lose."""
    text = text.strip()
    return bool(_WHOLE.fullmatch(text)) and abs(int(text)) > MAX_EXACT


def was_meant(text: str) -> bool:
    """Whether a text looks like a number in a form that is read or in another, such as `1,000` or `5 %`."""
    text = text.strip()
    return any(each.isdecimal() for each in text) and bool(_MEANT.fullmatch(text))


def decimal_mark(cells: list[tuple[str, str, str]], separator: str) -> str:
    """The decimal mark of a file whose columns are not separated by commas.

    Args:
        cells: text, column and place of the cells that may be numbers.

    Raises:
        UnusableTable: both marks occur, or a comma could be of thousands or of a decimal.
    """
    commas = [cell for cell in cells if _DECIMAL_COMMA.fullmatch(cell[0].strip())]
    if not commas:
        return "."
    points = [cell for cell in cells if _DECIMAL_POINT.fullmatch(cell[0].strip())]
    if points:
        raise UnusableTable(
            f"numbers have commas ({_shown(commas[0])}) and points ({_shown(points[0])}): "
            "write all decimals with the same mark and thousands without one"
        )
    if separator != ";" and all(_THOUSANDS.fullmatch(cell[0].strip()) for cell in commas):
        raise UnusableTable(
            f"{_shown(commas[0])} may be thousands or decimals: write numbers with a point, without thousands"
        )
    return ","


def _shown(cell: tuple[str, str, str]) -> str:
    text, column, place = cell
    return f"{text.strip()!r} in {column!r}, {place}"
