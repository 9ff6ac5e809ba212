"""The times that figures can be of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

WINDOWS = {60: "1 minute", 300: "5 minutes", 3600: "1 hour"}
"""By seconds. No others: each is worked out once for all viewers."""
DEFAULT = 60


def read_window(request: web.Request) -> int:
    """What a request asks for in `seconds`; the default where that is none of them."""
    text = request.query.get("seconds", "")
    return next((seconds for seconds in WINDOWS if str(seconds) == text), DEFAULT)
