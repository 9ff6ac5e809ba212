"""A channel of the sidecar itself to one server: a single connection, opened when a stream is wanted, over TCP or a
UNIX socket.

Pools (`upstream/pool.py`) spread the requests of clients over many connections and endpoints; a channel is for what a
sidecar itself calls: its control plane, the SPIFFE Workload API, token issuers, collectors. When the connection
is lost or its server goes away, the next stream opens another one. A channel does not retry or back off: its user does,
and is notified (`ChannelEvent`).
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from meshproxy.codec.limits import Limits
from meshproxy.transport.connect_failures import UNIX, ConnectError
from meshproxy.transport.connection import ConnectionContext, Times
from meshproxy.transport.connector import PeerSecurity, connect_h1, connect_h2
from meshproxy.transport.h1_client import H1Client
from meshproxy.transport.h2_client import H2Client
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import Reaper

if TYPE_CHECKING:
    from types import TracebackType

    from meshproxy.transport.client import StreamWaiter
    from meshproxy.transport.stream import Upstream

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 60.0
CLOSE_SECONDS = 1.0
"""How long `close` waits for the server, before it closes the connection without it."""

_HOST_PORT = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})")


class Target(msgspec.Struct, frozen=True):
    """Where a channel connects to.

    Attributes:
        address: `host:port`, or `unix:` and the absolute path of a UNIX socket, as `transport/connector.py` takes it.
        security: TLS; None for plain text. Its context decides whether the host's name is checked; over a UNIX socket
            there is none, unless it has a `server_name`.
    """

    address: str
    security: PeerSecurity | None = None

    @classmethod
    def parse(cls, text: str, security: PeerSecurity | None = None) -> Target:
        """Read `host:port`, `[IPv6]:port`, `unix:/path` or `unix:///path` (gRPC name syntax). Raises ValueError."""
        if text.startswith("unix:"):
            path = text.removeprefix("unix:").removeprefix("//")
            if not path.startswith("/") or path.startswith("//") or "\0" in path:
                raise ValueError(f"{text!r} is not unix:/path")
            return cls(UNIX + path, security)
        match = _HOST_PORT.fullmatch(text)
        if match is None or not 0 < int(match[2]) < 65_536:
            raise ValueError(f"{text!r} is neither host:port nor unix:/path")
        return cls(text, security)


def own_connections(times: Times | None = None) -> ConnectionContext:
    """What the connections of channels share. Its reaper does not run: start it where connections outlive a call, whose
    deadline bounds everything else."""
    loop = asyncio.get_running_loop()
    return ConnectionContext(
        loop=loop,
        outbox=Outbox(loop),
        reaper=Reaper(loop),
        limits=Limits(),
        times=times if times is not None else Times(),
        on_limit=lambda limit: None,  # of a server that we chose: the error of the call names it
    )


class ChannelEvent(Enum):
    """What happened to the connection."""

    CONNECTED = "connected"
    GOING_AWAY = "going-away"
    """The server sent GOAWAY, or its certificate has expired: open streams may end, new ones use a new connection. What
    becomes of this one is not reported any more: its streams are."""
    LOST = "lost"
    """It was closed without that, or after the idle timeout; open streams have failed."""


ClientT = TypeVar("ClientT", H1Client, H2Client)


class Channel(Generic[ClientT]):
    """What both HTTP versions share (`client.StreamSource`, `H1Owner`, `H2Owner`)."""

    def __init__(
        self,
        shared: ConnectionContext,
        target: Target,
        *,
        connect_timeout: float = CONNECT_SECONDS,
        idle_timeout: float = IDLE_SECONDS,
        on_event: Callable[[ChannelEvent], None] = lambda event: None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            shared: what connections share; its reaper closes idle ones and notices dead ones.
            target: where to.
            connect_timeout: seconds, TLS and the HTTP/2 handshake included.
            idle_timeout: seconds without a stream, after which the connection is closed.
            on_event: called for each event of the connection; must not raise.
        """
        self.address = target.address
        self._shared = shared
        self._target = target
        self._connect_timeout = connect_timeout
        self._idle_timeout = idle_timeout
        self._on_event = on_event
        self._waiting: deque[StreamWaiter] = deque()
        self._opening: asyncio.Task[None] | None = None
        self._current: ClientT | None = None
        """Takes new streams."""
        self._live: set[ClientT] = set()
        """The current one, and those that end with their last stream."""
        self._is_closed = False
        self._all_gone = asyncio.Event()

    async def __aenter__(self) -> Channel[ClientT]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # client.StreamSource

    def acquire(self, waiter: StreamWaiter) -> None:
        """Give `waiter` a stream of the connection, which is opened for it if there is none."""
        if self._is_closed:
            waiter.acquire_failed(ConnectError(f"the channel to {self.address} is closed"))
            return
        stream = self._take() if not self._waiting else None
        if stream is not None:
            waiter.acquired(stream)
        else:
            self._waiting.append(waiter)
            self._open_if_needed()

    def withdraw(self, waiter: StreamWaiter) -> None:
        """`waiter` does not wait any longer."""
        if waiter in self._waiting:
            self._waiting.remove(waiter)

    async def close(self) -> None:
        """Close the connection, and fail open streams and takers that wait for one. Returns when it is closed."""
        opening = self._opening
        self._stop()
        if opening is not None:
            await asyncio.gather(opening, return_exceptions=True)
        for connection in tuple(self._live):
            self._end(connection)
        if self._live:
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._all_gone.wait()
            except TimeoutError:
                for connection in tuple(self._live):
                    connection.abort()
                await self._all_gone.wait()

    def abort(self) -> None:
        """As `close`, at once: over TLS without a close_notify, so that there is no wait for the server's."""
        self._stop()
        for connection in tuple(self._live):
            connection.transport.abort()

    def _stop(self) -> None:
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
        self._fail_waiting(ConnectError(f"the channel to {self.address} is closed"))

    # What differs between the versions

    def _take(self) -> Upstream | None:
        """A stream, if one can be opened now."""
        raise NotImplementedError

    async def _connect(self) -> ClientT:
        """Raises ConnectError."""
        raise NotImplementedError

    def _end(self, connection: ClientT) -> None:
        """Send GOAWAY or close_notify, and close."""
        connection.close()

    # Opening

    def _open_if_needed(self) -> None:
        if self._waiting and self._current is None and self._opening is None and not self._is_closed:
            self._opening = self._shared.loop.create_task(self._open())

    async def _open(self) -> None:
        error: ConnectError | None = None
        try:
            connection = await self._connect()
            if connection.is_closing:
                error = ConnectError(f"{self.address} closed the connection at once")
        except ConnectError as refused:
            error = refused
        except Exception as mistake:  # or those that wait would wait until their deadlines
            error = ConnectError(f"{self.address} cannot be reached: {mistake!r}")
            error.__cause__ = mistake
        finally:
            self._opening = None
        if error is not None:
            self._fail_waiting(error)
            return
        self._current = connection
        self._live.add(connection)
        self._all_gone.clear()
        self._on_event(ChannelEvent.CONNECTED)
        self._opened(connection)

    def _opened(self, connection: ClientT) -> None:
        """Hand out streams of a new connection."""
        raise NotImplementedError

    def _hand_out(self) -> None:
        while self._waiting and (stream := self._take()) is not None:
            taker = self._waiting.popleft()
            try:
                taker.acquired(stream)
            except Exception as error:
                taker.crashed(error)

    def _fail_waiting(self, error: ConnectError) -> None:
        waiting, self._waiting = self._waiting, deque()
        for taker in waiting:
            taker.acquire_failed(error)

    # H1Owner and H2Owner

    def closed(self, connection: ClientT) -> None:
        """A connection is gone; one that was never handed over is the connector's to report."""
        if connection not in self._live:
            return
        self._live.discard(connection)
        if not self._live:
            self._all_gone.set()
        if connection is self._current:
            self._current = None
            self._on_event(ChannelEvent.LOST)
            self._open_if_needed()


class H1Channel(Channel[H1Client]):
    """HTTP/1.1: one exchange at a time; others wait for it."""

    _is_free = False

    def _take(self) -> H1Client | None:
        connection = self._current
        if connection is None or not self._is_free or connection.is_closing:
            return None
        self._is_free = False
        return connection

    async def _connect(self) -> H1Client:
        return await connect_h1(self._shared, self.address, self, self._connect_timeout, self._target.security)

    def _opened(self, connection: H1Client) -> None:
        self.released(connection)

    def released(self, connection: H1Client) -> None:
        """The exchange is complete (`H1Owner`)."""
        self._is_free = True
        connection.deadline = self._shared.loop.time() + self._idle_timeout
        self._hand_out()

    def closed(self, connection: H1Client) -> None:
        """A connection has closed."""
        self._is_free = False
        super().closed(connection)


class H2Channel(Channel[H2Client]):
    """HTTP/2: as many streams at a time as the server allows; others wait."""

    def _take(self) -> Upstream | None:
        connection = self._current
        return connection.open() if connection is not None and connection.can_open else None

    async def _connect(self) -> H2Client:
        return await connect_h2(self._shared, self.address, self, self._connect_timeout, self._target.security)

    def _end(self, connection: H2Client) -> None:
        connection.codec.go_away(final=True)
        connection.close()

    def _opened(self, connection: H2Client) -> None:
        self.stream_closed(connection)

    def stream_closed(self, connection: H2Client) -> None:
        """A stream has ended (`H2Owner`)."""
        if connection is self._current:
            self._hand_out()
        if connection.streams or connection.is_closing:
            return
        if connection is self._current:
            connection.limit_idle_time(self._idle_timeout)
        else:
            connection.close()

    def retired(self, connection: H2Client) -> None:
        """The connection takes no new streams (`H2Owner`)."""
        if connection is self._current:
            self._current = None
            self._on_event(ChannelEvent.GOING_AWAY)
            self._open_if_needed()
