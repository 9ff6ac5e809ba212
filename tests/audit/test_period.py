from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.audit.period import read_moment, read_period, read_since

NOW = 1_796_042_683.0


def days(text: str) -> tuple[str, str]:
    period = read_period(text, NOW)
    start, end = (datetime.fromtimestamp(each, UTC).isoformat() for each in (period.start, period.end))
    return start.removesuffix("T00:00:00+00:00"), end.removesuffix("T00:00:00+00:00")


def test_periods() -> None:
    assert days("2026-11") == ("2026-11-01", "2026-12-01")
    assert days("2026-12") == ("2026-12-01", "2027-01-01")
    assert days("2026-Q4") == ("2026-10-01", "2027-01-01")
    assert days("2026") == ("2026-01-01", "2027-01-01")
    assert days("2026-11-01..2026-11-15") == ("2026-11-01", "2026-11-16")
    assert days("2026-11-01T12:00..2026-11-01T13:00") == ("2026-11-01T12:00:00+00:00", "2026-11-01T13:00:00+00:00")
    assert read_period("30d", NOW) == (NOW - 30 * 86_400, NOW, "the last 30 days")


@pytest.mark.parametrize(
    "text", ["", "2026-13", "2026-00", "2026-Q5", "2026-11-02..2026-11-01", "x..y", "9999-12-01.."]
)
def test_what_is_no_period(text: str) -> None:
    with pytest.raises(ValueError):
        read_period(text, NOW)


@given(st.text())
def test_nothing_but_value_errors(text: str) -> None:
    for read in (lambda text: read_period(text, NOW), lambda text: read_since(text, NOW)):
        try:
            read(text)
        except ValueError:
            pass


def test_moments() -> None:
    assert read_moment("2026-11-30") == read_moment("2026-11-30T01:00+01:00")
    assert read_since("12h", NOW) == NOW - 43_200
    with pytest.raises(ValueError, match='expected a time such as "30d"'):
        read_since("yesterday", NOW)
