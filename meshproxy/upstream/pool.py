"""Connections to one address, lent out stream by stream.

A taker is served at once when a connection is at hand, and called back otherwise: the usual request takes its stream
without an await. Counters and lists change in one place each; nothing is found out by scanning but the few HTTP/2
connections of one address.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

from meshproxy.transport.connector import ConnectError, connect_h1, connect_h2

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from meshproxy.transport.connection import Driving
    from meshproxy.transport.h1 import H1Client
    from meshproxy.transport.h2 import H2Client
    from meshproxy.transport.stream import Upstream


class PoolFull(ConnectError):
    """Every connection that the pool may open is in use, and enough requests wait already."""


class Taker(Protocol):
    """Whoever wants a stream."""

    def acquired(self, stream: Upstream) -> None:
        """Here it is."""

    def acquire_failed(self, error: ConnectError) -> None:
        """There is none to be had."""


class PoolSettings(Protocol):
    """What a pool reads of its `ModelServer`."""

    @property
    def connect_timeout(self) -> float:
        """Seconds."""

    @property
    def max_connections(self) -> int:
        """Connections to one address at a time."""

    @property
    def max_pending(self) -> int:
        """Requests that may wait for one."""

    @property
    def idle_timeout(self) -> float:
        """Seconds that a connection is kept without a request."""


class Pool:
    """What pools of both versions share: how many connections there are, and who waits for one."""

    def __init__(self, driving: Driving, address: str, settings: PoolSettings) -> None:
        self.driving = driving
        self.address = address
        self.settings = settings
        self.size = 0
        """Connections open or being opened."""
        self.is_closed = False
        self._opening = 0
        self._waiting: deque[Taker] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def acquire(self, taker: Taker) -> None:
        """Serve `taker` now or later."""
        if not self._serve_now(taker):
            self._wait(taker)

    def withdraw(self, taker: Taker) -> None:
        """`taker` waits no longer."""
        if taker in self._waiting:
            self._waiting.remove(taker)

    def _serve_now(self, taker: Taker) -> bool:
        raise NotImplementedError

    def _open(self) -> Coroutine[None, None, None]:
        raise NotImplementedError

    def _wanted(self) -> int:
        """How many connections being opened the waiting takers justify."""
        raise NotImplementedError

    def _wait(self, taker: Taker) -> None:
        if len(self._waiting) >= self.settings.max_pending:
            taker.acquire_failed(
                PoolFull(f"{len(self._waiting)} requests wait for one of {self.size} connections to {self.address}")
            )
            return
        self._waiting.append(taker)
        self._grow()

    def _grow(self) -> None:
        while self._opening < self._wanted() and self.size < self.settings.max_connections:
            self.size += 1
            self._opening += 1
            task = self.driving.loop.create_task(self._open_one())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _open_one(self) -> None:
        outbox = self.driving.outbox
        try:
            await self._open()
        except ConnectError as error:
            self.size -= 1
            self._opening -= 1
            if self._waiting:
                taker = self._waiting.popleft()
                outbox.begin()
                try:
                    taker.acquire_failed(error)
                finally:
                    outbox.flush()
        except asyncio.CancelledError:
            self.size -= 1
            self._opening -= 1
            raise

    def _hand_out(self) -> None:
        while self._waiting and self._serve_now(self._waiting[0]):
            self._waiting.popleft()

    def _gone(self) -> None:
        self.size -= 1
        if not self.is_closed:
            self._grow()

    def close(self) -> None:
        """Open no more; connections in use are closed when they come back."""
        self.is_closed = True
        for task in self._tasks:
            task.cancel()
        waiting, self._waiting = self._waiting, deque()
        for taker in waiting:
            taker.acquire_failed(ConnectError(f"the pool of {self.address} is closed"))


class H1Pool(Pool):
    """HTTP/1.1: one request a connection at a time; the most recently used is lent first, the others grow old."""

    def __init__(self, driving: Driving, address: str, settings: PoolSettings) -> None:
        super().__init__(driving, address, settings)
        self._idle: list[H1Client] = []

    def _serve_now(self, taker: Taker) -> bool:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closing:
                taker.acquired(connection)
                return True
        return False

    def _wanted(self) -> int:
        return len(self._waiting)

    async def _open(self) -> None:
        connection = await connect_h1(self.driving, self.address, self, self.settings.connect_timeout)
        self._opening -= 1
        outbox = self.driving.outbox
        outbox.begin()
        try:
            self.released(connection)
        finally:
            outbox.flush()

    def released(self, connection: H1Client) -> None:
        """A connection is free (`h1.Owner`)."""
        if self.is_closed:
            connection.close()
            return
        if self._waiting:
            self._waiting.popleft().acquired(connection)
            return
        connection.deadline = self.driving.loop.time() + self.settings.idle_timeout
        self._idle.append(connection)

    def closed(self, connection: H1Client) -> None:
        """A connection is gone (`h1.Owner`)."""
        if connection in self._idle:
            self._idle.remove(connection)
        self._gone()

    def close(self) -> None:
        """Close what is idle; the rest follows as it comes back."""
        super().close()
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


class H2Pool(Pool):
    """HTTP/2: a connection carries as many streams as its server allows; another is opened when all are full."""

    def __init__(self, driving: Driving, address: str, settings: PoolSettings) -> None:
        super().__init__(driving, address, settings)
        self._connections: list[H2Client] = []

    def _serve_now(self, taker: Taker) -> bool:
        for connection in self._connections:
            if connection.can_open:
                taker.acquired(connection.open())
                return True
        return False

    def _wanted(self) -> int:
        return 1 if self._waiting else 0

    async def _open(self) -> None:
        connection = await connect_h2(self.driving, self.address, self, self.settings.connect_timeout)
        self._opening -= 1
        if self.is_closed:
            connection.close()
            return
        self._connections.append(connection)
        outbox = self.driving.outbox
        outbox.begin()
        try:
            self._hand_out()
        finally:
            outbox.flush()

    def freed(self, connection: H2Client) -> None:
        """A stream has ended (`h2.Owner`)."""
        if self._waiting:
            self._hand_out()
        if self.is_closed and not connection.streams:
            connection.close()

    def retired(self, connection: H2Client) -> None:
        """The server takes no new streams on it (`h2.Owner`)."""
        if connection in self._connections:
            self._connections.remove(connection)

    def closed(self, connection: H2Client) -> None:
        """A connection is gone (`h2.Owner`)."""
        self.retired(connection)
        self._gone()

    def close(self) -> None:
        """Close what carries nothing; the rest follows when its last stream has ended."""
        super().close()
        for connection in list(self._connections):
            if not connection.streams:
                connection.close()
