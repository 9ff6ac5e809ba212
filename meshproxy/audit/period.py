"""The period of a review: `2026-11`, `2026-Q4`, `2026`, `30d`, or `2026-11-01..2026-11-15`. Days begin in UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

_MONTHS = re.compile(r"(\d{4})(?:-(?:Q([1-4])|(\d{2})))?")
_AGE = re.compile(r"([1-9]\d{0,4})([dh])")


class Period(NamedTuple):
    """From `start` until before `end`, in seconds since the epoch."""

    start: float
    end: float
    name: str


def read_period(text: str, now: float) -> Period:
    """Read a period. Raises ValueError."""
    if match := _AGE.fullmatch(text):
        seconds = int(match[1]) * {"d": 86_400, "h": 3_600}[match[2]]
        return Period(now - seconds, now, f"the last {match[1]} {'days' if match[2] == 'd' else 'hours'}")
    if match := _MONTHS.fullmatch(text):
        year, quarter, month = int(match[1]), match[2], match[3]
        first = 3 * int(quarter) - 2 if quarter else int(month or 1)
        if not 1 <= first <= 12:
            raise ValueError(f"there is no month {month}")
        months = 3 if quarter else 1 if month else 12
        return Period(_begin(year, first), _begin(year, first + months), text)
    first_day, dots, last_day = text.partition("..")
    if dots:
        end = read_moment(last_day)
        if len(last_day) == len("2026-11-15"):
            end += timedelta(days=1).total_seconds()
        period = Period(read_moment(first_day), end, f"{first_day} to {last_day}")
        if period.start < period.end:
            return period
    raise ValueError(f'expected a period such as "2026-11", "2026-Q4", "30d" or "2026-11-01..2026-11-15", got {text!r}')


def read_since(text: str, now: float) -> float:
    """An age such as `30d` or `12h`, or what `read_moment` reads. Raises ValueError."""
    if match := _AGE.fullmatch(text):
        return now - int(match[1]) * {"d": 86_400, "h": 3_600}[match[2]]
    try:
        return read_moment(text)
    except ValueError:
        raise ValueError(f'expected a time such as "30d", "12h" or "2026-11-30", got {text!r}') from None


def read_moment(text: str) -> float:
    """A date, or a date and time, in UTC if it names no zone. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


def _begin(year: int, month: int) -> float:
    """Of a month; the 13th is the first of the next year. Raises ValueError."""
    later, month = divmod(month - 1, 12)
    return datetime(year + later, month + 1, 1, tzinfo=UTC).timestamp()
