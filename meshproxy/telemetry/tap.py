"""A tap: the lines of calls that match a filter, for one reader, while somebody looks.

What it may cost is bounded. Lines are formatted at most `rate` times a second, and wait for their reader in a queue of
`QUEUE_BYTES`; what exceeds either is counted, and the reader is told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from meshproxy.routing.rate_limit import Bucket

if TYPE_CHECKING:
    from meshproxy.proxy.exchange import Exchange

QUEUE_BYTES = 262_144
"""Lines that wait for the reader: about three hundred."""
PIECE_BYTES = 65_536
"""Handed to the connection at once, about: it buffers what the reader has not taken."""
DEFAULT_RATE = 100
"""Lines a second; what `linkerd viz tap` has, too."""
MOST_RATE = 1_000
"""A line takes 3 to 15 us: with four taps, 6 % of a core at most."""
SECONDS_BETWEEN_COUNTS = 1.0


class Tap:
    """One tap. Called with each finished exchange (`observer.Sink`).

    Args:
        takes: the filter.
        line_of: makes the line of an exchange, with its line feed.
        rate: lines a second.

    Attributes:
        shown: lines that were formatted, and not dropped.
        over_rate: calls that matched and were not shown, as there were too many.
        unread: the same, as the reader has not read what came before.
    """

    def __init__(self, takes: Callable[[Exchange], bool], line_of: Callable[[Exchange], bytes], rate: int) -> None:
        self._takes = takes
        self._line_of = line_of
        self._bucket = Bucket(rate, rate)
        self._lines: deque[bytes] = deque()
        self._size = 0
        self.shown = 0
        self.over_rate = 0
        self.unread = 0
        self._told = (0, 0)
        self._told_at = 0.0

    def __call__(self, exchange: Exchange) -> None:
        """Queue its line, if it is wanted and may be shown."""
        if not self._takes(exchange):
            return
        if self._size >= QUEUE_BYTES:
            self.unread += 1
        elif self._bucket.take(1.0, exchange.finished):
            self.over_rate += 1
        else:
            line = self._line_of(exchange)
            self._lines.append(line)
            self._size += len(line)
            self.shown += 1

    def take(self, now: float) -> bytes:
        """Whole lines for the reader, about `PIECE_BYTES` at most; empty if there is nothing to tell."""
        taken: list[bytes] = []
        size = 0
        while self._lines and size < PIECE_BYTES:
            line = self._lines.popleft()
            taken.append(line)
            size += len(line)
        self._size -= size
        if self._told != (self.over_rate, self.unread) and now - self._told_at >= SECONDS_BETWEEN_COUNTS:
            self._told_at = now
            taken.append(self._count())
        return b"".join(taken)

    def end(self, now: float) -> bytes:
        """What is left, and the last line: what was shown."""
        self._told_at = now
        return b"".join((*self._lines, self._count()))

    def _count(self) -> bytes:
        """What was shown, and what was not."""
        self._told = self.over_rate, self.unread
        return b'{"tap":{"shown":%d,"overRate":%d,"unread":%d}}\n' % (self.shown, *self._told)
