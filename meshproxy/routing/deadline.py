"""The time limit of the next hop: gRPC and REST each have a header for it.

Both are rounded down, so that no server downstream of us waits longer than we do, but never to zero: what has expired
already is written as the shortest time that can be expressed.
"""

from __future__ import annotations

import re

from meshproxy.codec.grpc import format_timeout
from meshproxy.codec.headers import REST_TIMEOUT

REST_HEADER = REST_TIMEOUT

WHOLE_MILLISECONDS = 0.1
DAY = 86_400.0
_MILLISECONDS = re.compile(rb"[0-9]{1,10}")
_MOST_MILLISECONDS = 10**10 - 1


def grpc_timeout(seconds: float) -> bytes:
    """The value of `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, Timeout). From 0.1 s up to a day
    it is in whole milliseconds, so that calls which are given the same time have the same few values, and heads that
    hold them are found in the encoder's cache; otherwise in the finest unit that eight digits are enough for."""
    if WHOLE_MILLISECONDS <= seconds <= DAY:
        return b"%dm" % int(seconds * 1000)
    return format_timeout(seconds)


def rest_timeout(value: bytes) -> float | None:
    """Seconds of `REST_HEADER`; None if it is no number of at most ten digits, or 0, which means no limit to Envoy."""
    return int(value) / 1000 or None if _MILLISECONDS.fullmatch(value) else None


def format_rest(seconds: float) -> bytes:
    """The value of `REST_HEADER`, from 1 ms to 115 days."""
    milliseconds = int(seconds * 1000)
    if milliseconds > _MOST_MILLISECONDS:
        milliseconds = _MOST_MILLISECONDS
    return b"%d" % milliseconds if milliseconds > 0 else b"1"
