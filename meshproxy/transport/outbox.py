"""Writes once per batch of events instead of once per piece.

One read from a socket often holds many requests, and each leaves pieces on several connections. A piece costs a TLS
record and may cost a system call, so connections gather theirs and are flushed when the batch is done: a small REST
exchange over TLS writes one record instead of two, 16 gRPC calls share one write.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

logger = logging.getLogger(__name__)


class Flushable(Protocol):
    """A connection that gathers output."""

    def flush(self) -> None:
        """Write everything gathered so far."""


class Outbox:
    """The connections of one event loop that have something to write."""

    __slots__ = ("_dirty", "_in_batch", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._dirty: list[Flushable] = []
        self._in_batch = False

    def add(self, connection: Flushable) -> None:
        """Flush `connection` at the end of the batch; outside of one, in the next turn of the loop."""
        if not self._dirty and not self._in_batch:
            self._loop.call_soon(self.flush)
        self._dirty.append(connection)

    def begin(self) -> None:
        """A batch of events begins: whoever begins it calls `flush` when it is done."""
        self._in_batch = True

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
