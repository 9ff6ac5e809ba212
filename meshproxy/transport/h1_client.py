"""HTTP/1.1 to a server: one request at a time, and a pool in between."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Protocol

from meshproxy.codec.events import Data, Failed, RequestHead, ResponseHead, Trailers
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.role import Role
from meshproxy.transport.connection import has_unread, read_rest, unheard
from meshproxy.transport.h1 import H1Driver
from meshproxy.transport.stream import ResponseSink

if TYPE_CHECKING:
    from meshproxy.codec.events import Event
    from meshproxy.transport.connection import ConnectionContext
    from meshproxy.transport.connection_info import ConnectionInfo

ASKED = 1e-9
"""The deadline of a connection to a server when a request begins. It has passed: the next sweep begins to watch the
path, and a request that is over by then costs nothing."""
LONG = 16_384
"""A request body up to this size fits into the buffers of any server's socket."""


class H1Owner(Protocol):
    """The pool that a connection belongs to."""

    def released(self, connection: H1Client) -> None:
        """The connection is free for another request."""

    def closed(self, connection: H1Client) -> None:
        """The connection was lost or closed."""


class H1Client(H1Driver[ResponseSink]):
    """A connection to a server. Carries one request at a time, and returns to `owner` in between.

    There is no PING. TCP keepalive finds a host that is down once it has acknowledged the request; before that the
    kernel sends it again for 15 minutes. So a request whose host acknowledges nothing, for as long as HTTP/2 waits for
    a PING, is given up. A process that hangs is not found: its kernel acknowledges.
    """

    __slots__ = ("_is_long", "_owner", "_watched", "address", "good_until")

    def __init__(self, shared: ConnectionContext, info: ConnectionInfo, owner: H1Owner) -> None:
        super().__init__(Role.CLIENT, shared, info)
        self._owner = owner
        self.address = info.remote
        self.good_until = inf
        """`loop.time()` from which it is given up between two requests: before its certificates expire."""
        self._is_long = False
        """The request is so long that the server may respond before it has read it."""
        self._watched = 0.0
        """`loop.time()` since which this request's path is watched."""

    # Received from the server

    def receive(self, data: bytes) -> None:
        """Dispatch the events of `data`. On an idle connection, data is a violation: the connection is aborted."""
        if self.is_closing or (self.ride is not None and self.ride.answered(data)):
            return
        if self.sink is None:
            self.abort()
            return
        self._dispatch(self._codec.receive(data))

    def _dispatch(self, events: list[Event]) -> None:
        for event in events:
            sink = self.sink
            if sink is None:
                return
            if type(event) is Data:
                self._owed += event.flow
                if event.end:
                    self._complete()
                sink.data_received(event.data, event.flow, event.end)
                if self._owed >= self._window:
                    self._wait_for_credit()
            elif type(event) is ResponseHead:
                if event.end:
                    self._complete()
                sink.head_received(event)
            elif type(event) is Trailers:
                self._complete()
                sink.trailers_received(event.headers)
            elif type(event) is Failed:
                if event.limit is not None:
                    self.shared.on_limit(event.limit)
                self._end_sink(ErrorCode.CANCEL if event.by_peer else ErrorCode.PROTOCOL_ERROR, event.reason)
                self.abort()

    def _complete(self) -> None:
        """The response is complete. The connection is released before the last event is passed on, so that its receiver
        may use it again. A connection whose request is still being sent, or not read by the server, cannot be reused:
        the next request would wait behind the rest."""
        self.sink = None
        self._clear_credit()
        if self._codec.is_idle and not self._codec.must_close and not (self._is_long and has_unread(self.transport)):
            self._owner.released(self)
        else:
            self.close()

    def receive_eof(self) -> None:
        """The server closed its half: the end of a close-delimited body, of an idle connection, or an error."""
        if not self.is_closing:
            if self.ride is not None:
                self.ride.server_left()
            self._dispatch(self._codec.receive_eof())
            self._end_sink(ErrorCode.CANCEL, "the server closed the connection before its answer was complete")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection was lost. If a write failed, because the server has closed, its response may still be
        unread: a server that answers before the end of a request often does so."""
        try:
            if self.ride is not None:
                self.ride.server_left()
            if exc is not None and self.sink is not None and not self.is_closing:
                self._codec.close_after_message()  # it must not return to the pool
                for data in read_rest(self.transport):
                    self.data_received(data)
        finally:
            super().connection_lost(exc)

    def lost(self, reason: str) -> None:
        self._owner.closed(self)
        self._end_sink(ErrorCode.CANCEL, reason)

    # Commands

    def send_request(self, head: RequestHead) -> None:
        """Write a request's head (`stream.Upstream`)."""
        self.deadline = ASKED
        self._is_long = not head.end and (head.length is None or head.length > LONG)
        self.write(
            self._codec.send_request(
                head.method, head.target, head.authority, head.headers, head.end, head.length, head.trace
            )
        )

    def stop_sending(self) -> None:
        """Nothing to do: `_complete` has closed the connection (`stream.Upstream`)."""

    def expire(self, now: float) -> None:
        """A deadline has passed: the idle time limit, or during a request a look at the path is due."""
        if self.is_closing or (self.sink is None and self.ride is None):
            super().expire(now)
            return
        if self.deadline == ASKED:
            self._watched = now
            silence = 0.0
        else:
            silence = min(unheard(self.transport), now - self._watched)
        limit = self.shared.times.ping_after + self.shared.times.ping_timeout
        if silence < limit:
            self.deadline = now + limit - silence
            return
        self.abort()
        self.connection_lost(TimeoutError(f"the server's host acknowledged nothing for {limit:g} s"))

    def overdue(self) -> None:
        """The idle time limit was exceeded: close before the server does."""
        self.close()
