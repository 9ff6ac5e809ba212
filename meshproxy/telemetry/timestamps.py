"""Points in time as the process log and the pages show them, and spans of time as people read them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import overload

UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


@overload
def timestamp(seconds: float) -> str: ...
@overload
def timestamp(seconds: float | None) -> str | None: ...
def timestamp(seconds: float | None) -> str | None:
    """RFC 3339, in UTC, of seconds since the epoch."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def duration(seconds: float) -> str:
    """The two largest units: `3h 12m`."""
    whole = max(0, int(seconds))
    parts: list[str] = []
    for size, unit in UNITS:
        if whole >= size or (unit == "s" and not parts):
            parts.append(f"{whole // size}{unit}")
            whole %= size
    return " ".join(parts[:2])
