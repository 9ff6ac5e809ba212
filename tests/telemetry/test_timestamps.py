"""Points in time."""

from __future__ import annotations

from meshproxy.telemetry.timestamps import timestamp


def test_in_utc_with_milliseconds() -> None:
    assert timestamp(1_767_268_800.25) == "2026-01-01T12:00:00.250+00:00"
    assert timestamp(None) is None
