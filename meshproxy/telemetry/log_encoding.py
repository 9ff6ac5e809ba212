"""Values of JSON log lines: strings that are safe whatever a client sent, and times.

Everything is ASCII: quotes, backslashes, controls (line feeds, terminal escape sequences) and all other characters are
escaped, bytes that are not UTF-8 and lone surrogates are written as `\\xff`. So one event is one line (CVE-2024-45808),
and any JSON parser reads it.
"""

from __future__ import annotations

import time
from json.encoder import encode_basestring_ascii

NULL = "null"
MICROSECONDS = "%06d"
"""Takes a float and rounds down; an f-string would need a conversion first."""

MAX_CHARACTERS = 1_024
"""Of one value; three dots replace the rest. A path may have 8 KiB, and each byte may take six characters."""

FOLLOW_SECONDS = 1.0
"""For how long, once the wall clock was set, times may still be as it was before."""

MEMO_ENTRIES = 512
MEMO_CHARACTERS = 256
"""Longer values are not cached: 512 of them could take megabytes."""


def quote(value: str | bytes | None, limit: int = MAX_CHARACTERS) -> str:
    """A JSON string with its quotes; `null` for None."""
    if value is None:
        return NULL
    is_cut = len(value) > limit
    if is_cut:
        value = value[:limit]
    if isinstance(value, str):
        # Only lone surrogates cannot be encoded.
        value = value.encode("utf-8", "backslashreplace")
    text = value.decode("utf-8", "backslashreplace")
    if is_cut:
        text += "..."
    if "\x7f" in text:
        # The one control character that JSON does not require to be escaped.
        return encode_basestring_ascii(text).replace("\x7f", "\\u007f")
    return encode_basestring_ascii(text)


def quote_bytes(value: bytes) -> bytes:
    """`quote` as bytes; faster for short ASCII, as ids and addresses are."""
    if len(value) <= MEMO_CHARACTERS and value.isascii():
        text = encode_basestring_ascii(value.decode())
        if "\x7f" not in text:
            return text.encode()
    return quote(value).encode("ascii")


class QuotedBytes(dict[str, bytes]):
    """A cache of `quote` for text that recurs (addresses): 0.03 us instead of 0.3. Used as `quoted[value]`.

    Args:
        nothing: what empty text is.
    """

    def __init__(self, nothing: bytes) -> None:
        super().__init__()
        self._nothing = nothing

    def __missing__(self, value: str) -> bytes:
        if len(self) >= MEMO_ENTRIES:
            self.clear()
        quoted = quote(value).encode("ascii") if value else self._nothing
        if len(value) <= MEMO_CHARACTERS:
            self[value] = quoted
        return quoted


class UtcClock:
    """Times of the event loop as RFC 3339 in UTC with microseconds.

    The wall clock is set and corrected while a process runs, and goes on while a machine is suspended; the loop's is
    not, and does not. So `expire` looks at it again, every second where the reaper has it.

    Attributes:
        offset: seconds since the epoch minus the event loop's time.
        deadline: of the event loop, when `expire` is due.
        second: the last formatted second, a whole number.
        prefix: `second` as text, up to the decimal point.
    """

    __slots__ = ("deadline", "offset", "prefix", "second")

    def __init__(self, offset: float) -> None:
        self.offset = offset
        self.deadline = 0.0
        self.second = -1.0
        self.prefix = b""

    def expire(self, now: float) -> None:
        """Follow the wall clock, and look again in a second. `now`: of the event loop."""
        self.offset = time.time() - time.monotonic()
        self.deadline = now + FOLLOW_SECONDS

    def tick(self, second: float) -> bytes:
        """Set `second` and return its `prefix`."""
        self.second = second
        self.prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode("ascii")
        return self.prefix

    def format(self, moment: float) -> str:
        """`2026-01-31T12:00:00.000000Z`, without quotes."""
        wall = moment + self.offset
        second = wall // 1
        prefix = self.prefix if second == self.second else self.tick(second)
        return f"{prefix.decode()}.{MICROSECONDS % ((wall - second) * 1_000_000)}Z"
