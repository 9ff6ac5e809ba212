"""Pieces of JSON lines: strings that are safe whatever a client sent, and times.

A line is pure ASCII: quotes, backslashes, controls (line feeds, escape sequences of terminals) and everything beyond
ASCII are escaped, bytes that are not UTF-8 and lone surrogates are spelled out (`\\xff`). So one event is one line
(CVE-2024-45808), and any JSON parser reads it.
"""

from __future__ import annotations

import time
from json.encoder import encode_basestring_ascii

NULL = b"null"

MAX_CHARACTERS = 1_024
"""Of one value; what is cut off is replaced by three dots. A path may have 8 KiB, and each byte may take six."""

MEMO_ENTRIES = 512
MEMO_CHARACTERS = 256
"""What longer values cost is their sender's doing; kept, 512 of them could take megabytes."""


def quote(value: str | bytes | None, limit: int = MAX_CHARACTERS) -> bytes:
    """A JSON string with its quotes; `null` for None."""
    if value is None:
        return NULL
    is_cut = len(value) > limit
    if is_cut:
        value = value[:limit]
    if isinstance(value, str):
        # Only lone surrogates do not encode.
        value = value.encode("utf-8", "backslashreplace")
    text = value.decode("utf-8", "backslashreplace")
    if is_cut:
        text += "..."
    if "\x7f" in text:
        # The one control that JSON lets stand.
        return encode_basestring_ascii(text).replace("\x7f", "\\u007f").encode("ascii")
    return encode_basestring_ascii(text).encode("ascii")


class Quoted(dict[str | bytes | None, bytes]):
    """`quote`, remembered for values that come again (paths, agents): 0.03 us instead of 0.3. Used as `quoted[value]`;
    what is empty is `null`.

    Bytes and text take one each: equal ones have equal hashes, and comparing them is an error under `python -bb`.
    """

    def __missing__(self, value: str | bytes | None) -> bytes:
        if len(self) >= MEMO_ENTRIES:
            self.clear()
        quoted = quote(value or None)
        if value is None or len(value) <= MEMO_CHARACTERS:
            self[value] = quoted
        return quoted


class UtcClock:
    """Times of the event loop as RFC 3339 in UTC with microseconds.

    Attributes:
        offset: seconds since the epoch minus the loop's time. Set it again now and then: the wall clock is corrected,
            the loop's is not.
    """

    __slots__ = ("offset", "prefix", "second")

    def __init__(self, offset: float) -> None:
        self.offset = offset
        self.second = -1
        self.prefix = b""
        """`second` as text: what stands before the decimal point."""

    def tick(self, second: int) -> bytes:
        """`prefix` of another second."""
        self.second = second
        self.prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        return self.prefix

    def format(self, moment: float) -> bytes:
        """`2026-01-31T12:00:00.000000Z`, without quotes."""
        wall = moment + self.offset
        second = int(wall)
        prefix = self.prefix if second == self.second else self.tick(second)
        return b"%b.%06dZ" % (prefix, (wall - second) * 1_000_000)
