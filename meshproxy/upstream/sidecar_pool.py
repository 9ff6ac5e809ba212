"""REST calls to another sidecar: connections of HTTP/1.1 where calls are frequent, streams of HTTP/2 else.

A call over HTTP/1.1 costs both sidecars less than half of one over HTTP/2, but it has a connection to itself, and a
connection begins with a handshake of TLS. So one is opened after as many calls without one as a handshake costs (rent
or buy: never twice the least that would have been possible), and calls never wait for one: they go over HTTP/2
meanwhile. What HTTP/2 promises remains: few connections however many calls are in flight, the queue and its limit,
pauses after failures, and calls that are cancelled in numbers cost no handshake each.

See `docs/decisions/0033-http-1-between-sidecars.md`.
"""

from __future__ import annotations

from asyncio import CancelledError, sleep
from typing import TYPE_CHECKING

from msgspec.structs import replace

from meshproxy.transport.connector import connect_h1
from meshproxy.upstream.pool import H1Pool

if TYPE_CHECKING:
    from meshproxy.transport.client import StreamWaiter
    from meshproxy.transport.connector import PeerSecurity
    from meshproxy.transport.h1_client import H1Client
    from meshproxy.upstream.pool import H2Pool

CALLS_PER_CONNECTION = 16
"""Calls that found no idle connection, after which one is opened: a handshake costs both sidecars 2 ms together, and
HTTP/1.1 saves 0.14 ms of a call."""
MOST = 64
"""Connections to one sidecar."""
IDLE_SECONDS = 4.0
"""How long a connection is kept without a call. Shorter than a sidecar that drains waits for one more request on an
idle connection (`drain.LAST_REQUEST_SECONDS`) if it is given the time: then its end never meets a call."""
SETTLING_SECONDS = 0.1
"""How long a connection waits for its first call. With TLS 1.3 a client finishes before the server has verified its
certificate, and over HTTP/1.1 nothing says that it has: one that refuses us has closed by then."""


class SidecarPool(H1Pool):
    """The pool for REST of an endpoint that is a sidecar. Nobody waits in it: who finds no connection gets a stream."""

    def __init__(self, streams: H2Pool, peer: PeerSecurity | None) -> None:
        """
        Args:
            streams: connections of HTTP/2 to the same sidecar.
            peer: TLS for HTTP/1.1; None: plaintext.
        """
        settings = streams.settings
        mine = replace(settings, idle_timeout=min(IDLE_SECONDS, settings.idle_timeout))
        super().__init__(streams.shared, streams.address, mine, peer)
        self.streams = self.beside = streams
        streams.beside = self
        self._missed = 0
        """Calls that found no idle connection since the last one was opened."""

    def acquire(self, waiter: StreamWaiter) -> None:
        """Serve `waiter` with an idle connection, or as `streams` can."""
        connection = self._take()
        if connection is not None:
            waiter.acquired(connection)
            return
        self._missed += 1
        if self._missed >= CALLS_PER_CONNECTION and self._has_room() and not self.is_closed:
            now = self.shared.loop.time()
            if not self.is_pausing(now):
                self._missed = 0
                self._begin_one(now)
        self.streams.acquire(waiter)

    def released(self, connection: H1Client) -> None:
        """A connection is free (`H1Owner`). Calls that wait for one of HTTP/2 may need its place."""
        super().released(connection)
        if self.streams._waiting:
            self.streams._grow()

    def give_way(self) -> None:
        """Close an idle connection, unless one is closing already: calls that find none are streams."""
        if any(connection.is_closing for connection in self._connections):
            return
        if (idle := self._take()) is not None:
            idle.close()

    def _has_room(self) -> bool:
        """One connection is left to HTTP/2, on which everybody can be served."""
        return self.size < MOST and self.size + max(self.streams.size, 1) < self.settings.max_connections

    def withdraw(self, waiter: StreamWaiter) -> None:
        """`waiter` waits no longer."""
        self.streams.withdraw(waiter)

    async def _connect(self) -> H1Client:
        connection = await connect_h1(self.shared, self.address, self, self.settings.connect_timeout, self.peer)
        try:
            await sleep(SETTLING_SECONDS)
        except CancelledError:
            connection.give_up()
            raise
        return connection
