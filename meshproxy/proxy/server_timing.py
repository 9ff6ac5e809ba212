"""The response field `server-timing` (https://www.w3.org/TR/server-timing/): where the time of a request went, as far
as it has gone when the head of the response is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.proxy.time_split import split_time_so_far

if TYPE_CHECKING:
    from meshproxy.codec.events import Headers
    from meshproxy.proxy.exchange import Exchange

NAME = b"server-timing"
PARTS = ("read", "decide", "queue", "retry", "connect", "upstream")
"""Of `TimeSplit`: those that are over when the head is written."""


def server_timing(exchange: Exchange) -> Headers:
    """The field, for an exchange whose `first_byte` is known: `inbound.read;dur=0.012, inbound.decide;dur=0.051, ...`.
    `dur` is milliseconds. The direction tells the sidecars of a call apart: each adds a field of its own."""
    split, direction = split_time_so_far(exchange, exchange.first_byte), exchange.connection.direction
    named = [(part, getattr(split, part)) for part in PARTS]
    metrics = [f"{direction}.{part};dur={seconds * 1e3:.3f}" for part, seconds in named if seconds is not None]
    return ((NAME, ", ".join(metrics).encode("ascii")),)
