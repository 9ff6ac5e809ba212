"""Points in time as the process log and the pages of the admin port show them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import overload


@overload
def timestamp(seconds: float) -> str: ...
@overload
def timestamp(seconds: float | None) -> str | None: ...
def timestamp(seconds: float | None) -> str | None:
    """RFC 3339, in UTC, of seconds since the epoch."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
