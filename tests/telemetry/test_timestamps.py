"""Points in time."""

from __future__ import annotations

import pytest

from meshproxy.telemetry.timestamps import duration, timestamp


def test_in_utc_with_milliseconds() -> None:
    assert timestamp(1_767_268_800.25) == "2026-01-01T12:00:00.250+00:00"
    assert timestamp(None) is None


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-5, "0s"), (0.4, "0s"), (59, "59s"), (61, "1m 1s"), (3_600, "1h"), (90_061, "1d 1h")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
