"""Texts as dates and times, where only one reading is possible.

Read are ISO 8601 (`2023-01-24`, `2023-01-24T13:45:10Z`), the same with slashes or dots, `24.01.2023`,
`24 Jan 2023`, `Jan 24, 2023` and times of day (`13:45`). `24/01/2023` is read where the column settles
which part is the day. Two-digit years are never read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

EPOCH = datetime(1970, 1, 1)
MICROSECONDS_PER_DAY = 86_400_000_000
_CLOCK = r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
_TIME = rf"(?:(?:T|,?\s+){_CLOCK}\s*(?P<half>[AaPp][Mm])?\s*(?P<zone>Z|UTC|GMT|[+-]\d{{2}}:?\d{{2}})?)?"
_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_YEAR_FIRST = re.compile(
    rf"(?P<year>\d{{4}})(?P<mark>[-/.])(?P<month>\d{{1,2}})(?:(?P=mark)(?P<day>\d{{1,2}}))?{_TIME}", re.ASCII
)
_DOTTED = re.compile(rf"(?P<day>\d{{1,2}})\.(?P<month>\d{{1,2}})\.(?P<year>\d{{4}}){_TIME}", re.ASCII)
_NAMED = (
    re.compile(
        rf"(?P<day>\d{{1,2}})[ -](?P<month>[A-Za-z]{{3,9}})\.?[ ,-]+(?P<year>\d{{4}}){_TIME}", re.ASCII
    ),
    re.compile(rf"(?P<month>[A-Za-z]{{3,9}})\.? (?P<day>\d{{1,2}}),? (?P<year>\d{{4}}){_TIME}", re.ASCII),
)
_UNSETTLED = re.compile(rf"(?P<one>\d{{1,2}})[/-](?P<two>\d{{1,2}})[/-](?P<year>\d{{4}}){_TIME}", re.ASCII)
_SHORT_YEAR = re.compile(rf"\d{{1,2}}(?P<mark>[-/.])\d{{1,2}}(?P=mark)\d{{2}}{_TIME}", re.ASCII)
_TIME_OF_DAY = re.compile(rf"{_CLOCK}\s*(?P<half>[AaPp][Mm])?", re.ASCII)


@dataclass(frozen=True)
class Dates:
    """Texts as dates.

    Attributes:
        microseconds: since 1970-01-01 (UTC where a zone is given); None for a text that is no date.
        of_day: these are times of day, counted from midnight.
        note: which reading was chosen, and why; empty where there was no choice.
        refusal: why they cannot be read although they look like dates; empty where they can.
    """

    microseconds: tuple[int | None, ...]
    of_day: bool = False
    note: str = ""
    refusal: str = ""


def parsed_dates(texts: Sequence[str]) -> Dates:
    """The dates that the distinct texts of a column are."""
    texts = [text.strip() for text in texts]
    clocks = [_TIME_OF_DAY.fullmatch(text) for text in texts]
    if texts and all(clocks):
        return Dates(tuple(_microseconds_of_day(clock) for clock in clocks if clock), of_day=True)
    note = refusal = ""
    unsettled = [(text, match) for text in texts if (match := _UNSETTLED.fullmatch(text))]
    day_first = True
    if unsettled:
        days = [text for text, match in unsettled if int(match["one"]) > 12]
        months = [text for text, match in unsettled if int(match["two"]) > 12]
        day_first = not months
        if days and months:
            refusal = f"has dates with the day first ({days[0]}) and with the month first ({months[0]})"
        elif not days and not months:
            refusal = f"has dates whose day and month cannot be told apart ({unsettled[0][0]})"
        else:
            order, told = ("day/month/year", days[0]) if days else ("month/day/year", months[0])
            note = f"as {order}, since {told} leaves no other reading"
    elif 2 * len(short := [text for text in texts if _SHORT_YEAR.fullmatch(text)]) > len(texts):
        # fewer are something else, such as versions: 1.2.13 among 1.10.2 and beta
        refusal = f"has dates with two digits for the year ({short[0]})"
    moments = [_moment(text, day_first) for text in texts]
    zones = {moment.tzinfo is not None for moment in moments if moment is not None}
    if len(zones) > 1:
        refusal = "has times with a zone and times without one"
    return Dates(tuple(_since_epoch(moment) for moment in moments), False, note, refusal)


def parsed_date(text: str) -> int | None:
    """The microseconds from 1970-01-01 to a date that can only be read in one way; None for another text."""
    found = parsed_dates([text])
    return None if found.refusal or found.of_day else found.microseconds[0]


def _moment(text: str, day_first: bool) -> datetime | None:
    if match := _UNSETTLED.fullmatch(text):
        day, month = ("one", "two") if day_first else ("two", "one")
        return _datetime(match, int(match["year"]), int(match[month]), int(match[day]))
    for pattern in (_YEAR_FIRST, _DOTTED, *_NAMED):
        if match := pattern.fullmatch(text):
            month_number = _month(match["month"])
            return (
                None
                if month_number is None
                else _datetime(match, int(match["year"]), month_number, int(match["day"] or 1))
            )
    return None


def _month(text: str) -> int | None:
    if text.isdecimal():
        return int(text)
    lowered = "sep" if text.lower() == "sept" else text.lower()
    for number, name in enumerate(_MONTHS, 1):
        if lowered in (name, name[:3]):
            return number
    return None


def _datetime(match: re.Match[str], year: int, month: int, day: int) -> datetime | None:
    try:
        moment = datetime(year, month, day)
    except ValueError:
        return None
    if match["hour"] is None:
        return moment
    if (passed := _microseconds_of_day(match)) is None:
        return None
    moment += timedelta(microseconds=passed)
    zone = match["zone"]
    if zone is None:
        return moment
    if zone[0] not in "+-":
        return moment.replace(tzinfo=UTC)
    sign = -1 if zone[0] == "-" else 1
    offset = sign * timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
    return moment.replace(tzinfo=timezone(offset)) if abs(offset) < timedelta(days=1) else None


def _microseconds_of_day(match: re.Match[str]) -> int | None:
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"] or 0)
    if half := match["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half.lower() == "pm" else 0)
    if hour > 23 or minute > 59 or second > 59:
        return None
    fraction = int((match["fraction"] or "0").ljust(6, "0")[:6])
    return (hour * 3600 + minute * 60 + second) * 1_000_000 + fraction


def _since_epoch(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    if moment.tzinfo is not None:
        try:
            moment = moment.astimezone(UTC).replace(tzinfo=None)
        except OverflowError:
            return None
    return (moment - EPOCH) // timedelta(microseconds=1)
