"""Figures and times for people: what templates print."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from datetime import datetime

NONE = "\N{EN DASH}"
"""Where there is no figure."""


def rate(value: float) -> str:
    """Per second."""
    if not value:
        return "0"
    return f"{_rounded(value, 0):,}" if value >= 100 else str(_rounded(value, 1)) if value >= 0.1 else f"{value:.2g}"


def percent(value: float | None) -> str:
    """A share from 0 to 1; one that is not whole is never shown as 100 %."""
    if value is None:
        return NONE
    text = str(_rounded(100 * value, 2))
    return f"{'99.99' if text == '100.00' and value < 1 else text.rstrip('0').rstrip('.')} %"


def seconds(value: float | None) -> str:
    """A duration."""
    if value is None:
        return NONE
    if value >= 1:
        return f"{_rounded(value, 2)} s"
    return f"{_rounded(1e3 * value, 1)} ms" if value >= 1e-3 else f"{_rounded(1e6 * value, 0)} \N{MICRO SIGN}s"


def _rounded(value: float, digits: int) -> Decimal:
    """Half of the last digit up, as browsers do (`Number.prototype.toFixed`)."""
    return Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)


def clock(value: datetime) -> str:
    """To the second, in UTC."""
    return f"{value:%Y-%m-%d %H:%M:%S} UTC"


def model_url(name: str) -> str:
    """The page of a model."""
    return f"/model?name={quote(name, safe='')}"


FILTERS = {"rate": rate, "percent": percent, "seconds": seconds, "clock": clock, "model_url": model_url}
