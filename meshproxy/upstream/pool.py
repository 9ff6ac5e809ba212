"""Connections to one address, shared stream by stream.

A waiter is served immediately if a connection is available, and called back otherwise: the usual request takes its
stream without an await. Counters and lists change in one place each; nothing is found out by scanning but the few
HTTP/2 connections of one address.

After a failed attempt to connect, further attempts are made one at a time with exponential backoff. Requests that come
meanwhile fail at once with the last error, and can be retried elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from meshproxy.transport.certificate_age import LEAVING
from meshproxy.transport.connect_failures import ConnectError, ConnectFailure
from meshproxy.transport.connector import connect_h1, connect_h2
from meshproxy.transport.h1_client import H1Client
from meshproxy.transport.h2_client import H2Client

if TYPE_CHECKING:
    from meshproxy.transport.client import StreamWaiter
    from meshproxy.transport.connection import ConnectionContext
    from meshproxy.transport.connector import PeerSecurity
    from meshproxy.transport.stream import Upstream

logger = logging.getLogger(__name__)

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 1.0
"""Seconds. A pause is drawn from the second half of its length, so that many clients of one server do not come back
together: none is shorter than 100 ms."""
YOUNG = 0.05
"""Seconds for which requests wait for an attempt of a failing pool: a server that has recovered answers within that
time, and for one that has not, nothing more is lost."""


class PoolFull(ConnectError):
    """All connections are in use, and `max_pending` requests already wait."""


class PoolSettings(msgspec.Struct, frozen=True):
    """What a pool needs of its `ModelServer`. Times are seconds."""

    connect_timeout: float
    max_connections: int
    """Connections to one address at a time."""
    max_pending: int
    """Requests that may wait for a connection."""
    idle_timeout: float
    """How long a connection is kept without a request."""


ConnectionT = TypeVar("ConnectionT", H1Client, H2Client)


class Pool(Generic[ConnectionT]):
    """What pools of both HTTP versions share: the connections, and the requests that wait for one."""

    def __init__(
        self,
        shared: ConnectionContext,
        address: str,
        settings: PoolSettings,
        peer: PeerSecurity | None = None,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """
        Args:
            shared: what connections share.
            address: where they go.
            settings: limits.
            peer: TLS; None: plaintext.
            draw: a number from 0 to 1, as `random.random` gives: pauses between attempts are drawn with it.
        """
        self.shared = shared
        self.address = address
        self.settings = settings
        self.peer = peer
        self.is_tls = peer is not None
        self.on_failure: Callable[[ConnectError], None] = lambda error: None
        """Called for each attempt that failed."""
        self._draw = draw
        self.beside: Pool[Any] | None = None
        """Another pool of the same address, whose connections count towards the same limit."""
        self.size = 0
        """Connections open or being opened."""
        self.is_closed = False
        self._opening = 0
        self._connections: set[ConnectionT] = set()
        """Those that are open."""
        self._waiting: deque[StreamWaiter] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        # Trouble: from an attempt that failed to the next that does not.
        self._trouble: ConnectError | None = None
        self._pause = 0.0
        """The length of the last one, before the draw."""
        self._not_before = 0.0
        """`loop.time()` of the next attempt."""
        self._began = 0.0
        """When the last attempt did."""
        self._timer: asyncio.TimerHandle | None = None
        """For those who wait while nothing is being opened."""

    def acquire(self, waiter: StreamWaiter) -> None:
        """Serve `waiter` now or later."""
        if self._waiting:
            self._hand_out()
        stream = self._take()
        if stream is not None:
            waiter.acquired(stream)
        else:
            self._wait(waiter)

    def _give(self, waiter: StreamWaiter, stream: Upstream) -> None:
        """Serve one of those that waited; what goes wrong with it must not reach the others."""
        try:
            waiter.acquired(stream)
        except Exception as error:
            waiter.crashed(error)

    def withdraw(self, waiter: StreamWaiter) -> None:
        """`waiter` waits no longer."""
        if waiter in self._waiting:
            self._waiting.remove(waiter)

    def close(self) -> None:
        """The document was removed. Requests that wait, or come late with an older snapshot, are still served; after
        that nothing stays open."""
        self.is_closed = True
        if not self._waiting:
            for task in tuple(self._tasks):
                task.cancel()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    # What differs between the versions

    def _take(self) -> Upstream | None:
        """A stream, if one is available."""
        raise NotImplementedError

    async def _connect(self) -> ConnectionT:
        """Raises ConnectError."""
        raise NotImplementedError

    def _opened(self, connection: ConnectionT) -> None:
        """Give it to those who wait."""
        raise NotImplementedError

    def _wanted(self) -> int:
        """How many connections being opened the waiting waiters justify."""
        raise NotImplementedError

    def _is_busy(self) -> bool:
        """A connection is open that will be free for waiting requests later."""
        raise NotImplementedError

    def _unusable_because(self, connections: Iterable[ConnectionT]) -> ConnectError | None:
        """Why more like these would be of no use."""
        return None

    # Growing

    def _wait(self, waiter: StreamWaiter) -> None:
        refusal = self._refuse()
        if refusal is not None:
            waiter.acquire_failed(refusal)
            return
        self._waiting.append(waiter)
        self._grow()

    def _refuse(self) -> ConnectError | None:
        """Why no further request may wait."""
        if len(self._waiting) >= self.settings.max_pending:
            return PoolFull(
                f"{len(self._waiting)} requests already wait for one of {self.size} connections to {self.address}"
            )
        if self._is_busy():
            return None
        if (unusable := self._unusable_because(self._connections)) is not None:
            return unusable
        if self._trouble is None:
            return None
        now = self.shared.loop.time()
        if now - self._began < YOUNG if self._opening else now >= self._not_before:
            return None
        return ConnectError(f"{self._trouble} (last attempt)", self._trouble.failure)

    def _grow(self) -> None:
        if (
            self._waiting
            and not self._is_busy()
            and (unusable := self._unusable_because(self._connections)) is not None
        ):
            self._fail(unusable)
        while self._opening < self._wanted() and self._has_room():
            now = self.shared.loop.time()
            if self._trouble is not None:
                if self._opening:
                    return  # its end brings us back here
                if now < self._not_before:
                    if self._timer is None:
                        self._timer = self.shared.loop.call_at(self._not_before, self._grow_again)
                    return
            self._begin_one(now)
        if self._opening < self._wanted() and self.beside is not None:
            self.beside.give_way()

    def _grow_all(self) -> None:
        """There may be room, here or in the pool beside this one."""
        self._grow()
        if self.beside is not None:
            self.beside._grow()

    def give_way(self) -> None:
        """The pool beside this one has no room, and requests wait in it."""

    def _has_room(self) -> bool:
        """Another connection may be opened."""
        others = self.beside.size if self.beside is not None else 0
        return self.size + others < self.settings.max_connections

    def is_pausing(self, now: float) -> bool:
        """An attempt failed: another one would be too early, or beside one that is under way."""
        return self._trouble is not None and (self._opening > 0 or now < self._not_before)

    def _begin_one(self, now: float) -> None:
        self.size += 1
        self._opening += 1
        self._began = now
        task = self.shared.loop.create_task(self._open_one())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _grow_again(self) -> None:
        self._timer = None
        self._not_before = 0.0  # it is now, whatever the clocks of timers are rounded to
        self._grow()

    async def _open_one(self) -> None:
        connection = None
        error = None
        is_retry = self._trouble is not None
        try:
            connection = await self._connect()
        except asyncio.CancelledError:
            self._opening -= 1
            self.size -= 1
            self._grow_all()  # for requests that arrived between the cancellation and now
            raise
        except ConnectError as refused:
            error = refused
        except Exception as mistake:
            # Any defect: if it ended this task, the waiters would wait forever.
            logger.exception("internal error in connecting to %s", self.address)
            error = ConnectError(f"{self.address} cannot be reached: {mistake}")
        self._opening -= 1
        outbox = self.shared.outbox
        outbox.begin()
        try:
            if connection is not None and not connection.is_closing:
                self._trouble = None
                self._connections.add(connection)
                unusable = self._unusable_because((connection,))
                self._opened(connection)
                error = unusable if self._waiting and not self._is_busy() else None
            else:
                self.size -= 1
                error = error or ConnectError(
                    f"{self.address} closed the connection immediately", ConnectFailure.CLOSED
                )
            if error is not None:
                self._pause_after(error, is_retry)
                self._fail(error)
        finally:
            outbox.flush()
            self._grow_all()

    def _pause_after(self, error: ConnectError, is_retry: bool) -> None:
        """A connection could not be opened. Several attempts that began before there was trouble count as one."""
        self.on_failure(error)
        self._trouble = error
        self._pause = min(self._pause * 2, LONGEST_PAUSE) if is_retry else FIRST_PAUSE
        self._not_before = self.shared.loop.time() + self._pause * (1.0 + self._draw()) / 2

    def _fail(self, error: ConnectError) -> None:
        """Fail the requests that have nothing left to wait for. All leave the queue before the first callback, which
        may enqueue again."""
        count = 1 if self._is_busy() else max(1, len(self._waiting) - self._opening)
        for waiter in [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]:
            waiter.acquire_failed(error)

    def _hand_out(self) -> None:
        while self._waiting:
            stream = self._take()
            if stream is None:
                return
            self._give(self._waiting.popleft(), stream)

    def closed(self, connection: ConnectionT) -> None:
        """A connection has closed (`H1Owner`, `H2Owner`). One that failed to open was not counted."""
        if connection in self._connections:
            self._connections.remove(connection)
            self.size -= 1
            self._grow_all()


class H1Pool(Pool[H1Client]):
    """HTTP/1.1: one request a connection at a time; the most recently used is chosen first, the others time out."""

    def __init__(
        self,
        shared: ConnectionContext,
        address: str,
        settings: PoolSettings,
        peer: PeerSecurity | None = None,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(shared, address, settings, peer, draw=draw)
        self._idle: list[H1Client] = []

    def _take(self) -> H1Client | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closing:
                return connection
        return None

    def take_idle(self) -> H1Client | None:
        """An idle connection, if there is one and nobody waits."""
        idle = self._idle
        if not idle or self._waiting:
            return None
        connection = idle.pop()
        return self._take() if connection.is_closing else connection

    def _wanted(self) -> int:
        return len(self._waiting)

    def _is_busy(self) -> bool:
        return bool(self._connections)

    async def _connect(self) -> H1Client:
        return await connect_h1(self.shared, self.address, self, self.settings.connect_timeout, self.peer)

    def _opened(self, connection: H1Client) -> None:
        self.released(connection)

    def released(self, connection: H1Client) -> None:
        """A connection is free (`H1Owner`)."""
        if self._waiting:
            self._give(self._waiting.popleft(), connection)
            return
        if self.is_closed:
            connection.close()
            return
        now = self.shared.loop.time()
        deadline, good_until = now + self.settings.idle_timeout, connection.good_until
        if deadline > good_until:
            if now >= good_until:
                self.shared.on_drained(LEAVING)
                connection.close()
                return
            deadline = good_until
        connection.deadline = deadline
        self._idle.append(connection)

    def closed(self, connection: H1Client) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        super().closed(connection)

    def close(self) -> None:
        """Close what is idle; the rest follows as it comes back."""
        super().close()
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


class H2Pool(Pool[H2Client]):
    """HTTP/2: a connection carries as many streams as its server allows; another is opened when all are full."""

    def __init__(
        self,
        shared: ConnectionContext,
        address: str,
        settings: PoolSettings,
        peer: PeerSecurity | None = None,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(shared, address, settings, peer, draw=draw)
        self._usable: list[H2Client] = []
        """Those without a GOAWAY from the server and without an expired certificate."""

    def _take(self) -> Upstream | None:
        for connection in self._usable:
            if connection.can_open:
                return connection.open()
        return None

    def find_open(self) -> H2Client | None:
        """A connection that takes another stream, if there is one and nobody waits."""
        if not self._waiting:
            for connection in self._usable:
                if connection.can_open:
                    return connection
        return None

    def _wanted(self) -> int:
        return 1 if self._waiting and self._unusable_because(self._connections) is None else 0

    def _is_busy(self) -> bool:
        return any(connection.streams for connection in self._usable)

    def _unusable_because(self, connections: Iterable[H2Client]) -> ConnectError | None:
        if any(connection.refuses_streams for connection in connections):
            message = f"{self.address} accepts no requests at present (SETTINGS_MAX_CONCURRENT_STREAMS is 0)"
            return ConnectError(message, ConnectFailure.NO_STREAMS)
        return None

    async def _connect(self) -> H2Client:
        return await connect_h2(self.shared, self.address, self, self.settings.connect_timeout, self.peer)

    def _opened(self, connection: H2Client) -> None:
        self._usable.append(connection)
        self._hand_out()
        if not connection.streams:
            self._let_rest(connection)

    def stream_closed(self, connection: H2Client) -> None:
        """A stream has ended (`H2Owner`)."""
        if self._waiting:
            self._hand_out()
        if connection.streams:
            return
        if not self.is_closed and connection in self._usable:
            connection.limit_idle_time(self.settings.idle_timeout)  # `_let_rest`, without its call
        else:
            connection.close()
        if self._waiting:
            # The server may have lowered its limit to 0: nothing else would fail the waiting requests.
            self._grow()

    def _let_rest(self, connection: H2Client) -> None:
        """Nothing is on it: it waits for another request, unless it takes none."""
        if self.is_closed or connection not in self._usable:
            connection.close()
        else:
            connection.limit_idle_time(self.settings.idle_timeout)

    def retired(self, connection: H2Client) -> None:
        """It takes no new streams (`H2Owner`)."""
        if connection in self._usable:
            self._usable.remove(connection)
            if connection.is_aged:
                self.shared.on_drained(LEAVING)
            self._grow()

    def closed(self, connection: H2Client) -> None:
        self.retired(connection)
        super().closed(connection)

    def close(self) -> None:
        """Close what carries nothing; the rest follows when its last stream has ended."""
        super().close()
        for connection in list(self._connections):
            if not connection.streams:
                connection.close()
