"""HTTP/1.1 from a client: its requests, one at a time, their time limits, and when it is asked to leave."""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Protocol

from meshproxy.codec.events import Data, Failed, Headers, Rejected, RequestHead, Trailers
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.role import Role
from meshproxy.transport.h1 import H1Driver
from meshproxy.transport.stream import RequestSink
from meshproxy.transport.tls_buffer import give_back

if TYPE_CHECKING:
    import asyncio

    from meshproxy.codec.events import Event
    from meshproxy.transport.connection import ConnectionContext
    from meshproxy.transport.connection_info import ConnectionInfo
    from meshproxy.transport.stream import Reject, Serve


class Lane(Protocol):
    """Carries requests of one client's connection past its codec."""

    def carry(self, downstream: H1Server, data: bytes) -> bool:
        """Between two requests the client sent this. False: it is for the codec."""

    def follow(self, downstream: H1Server) -> None:
        """What `carry` did not take has passed the codec."""


class ServerState(Enum):
    """Where a client's connection is between two requests (`H1Server`)."""

    IDLE = "idle"
    HEAD = "head"
    SERVING = "serving"
    LINGERING = "lingering"


# Looked up once: a member costs 0.4 us on Python 3.11.
_IDLE, _HEAD, _SERVING, _LINGERING = ServerState


class H1Server(H1Driver[RequestSink]):
    """A client's connection. `serve` takes its requests, one at a time; `reject` answers those the codec rejects.

    state      event                                    next state
    IDLE       first byte of a request head             HEAD: `Times.head` runs
    IDLE       `Times.idle` (at first `Times.head`)     closed; after `Times.rest` it holds less
    IDLE HEAD  head complete                            SERVING: `serve`
    IDLE HEAD  head rejected by the codec               SERVING: `reject`
    HEAD       `Times.head` exceeded                    408 by `reject`, closed
    SERVING    response and request complete            IDLE, or closed if either side asked for it
    SERVING    response complete, request is not        LINGERING: `Times.linger` runs
    LINGERING  request complete                         IDLE, or closed
    LINGERING  nothing more for `Times.linger`, or      closed
               `Times.linger_most` exceeded

    An abort, a failure or the end of the connection leaves every state; `is_closing` is then True.

    A client that is asked to leave (`drain`) learns it from `connection: close` in the next response head.
    """

    __slots__ = (
        "_has_come",
        "_has_rested",
        "_is_fresh",
        "_leaves_at",
        "_lingers_until",
        "_reject",
        "_serve",
        "_state",
        "is_leaving",
        "lane",
    )

    def __init__(self, shared: ConnectionContext, info: ConnectionInfo, serve: Serve, reject: Reject) -> None:
        super().__init__(Role.SERVER, shared, info)
        self._serve = serve
        self._reject = reject
        self._state = _IDLE
        self.lane: Lane | None = None
        self._is_fresh = False
        """Nothing has passed the codec since a ride began, so another one may begin (`H1Connection.is_fresh`)."""
        self.is_leaving = False
        """The next response asks the client to leave."""
        self._leaves_at = inf
        """`loop.time()` from which the client is asked to leave."""
        self._has_come = False
        """While lingering: some of the request, since the last look."""
        self._has_rested = True
        """It holds no more than it must. The first head has a time limit of its own."""
        self._lingers_until = 0.0

    def attach(self, transport: asyncio.Transport) -> None:
        """Start the time limit of the first head with the connection."""
        super().attach(transport)
        self.deadline = self.shared.loop.time() + self.shared.times.head

    # Received from the client

    def receive(self, data: bytes) -> None:
        """Dispatch the events of `data`. The codec holds back pipelined requests."""
        if self.is_closing:
            return
        codec, lane = self._codec, self.lane
        if self.ride is not None:
            self.ride.client_acted()
            if self.transport.is_closing():
                return
        elif (
            lane is not None
            and (self._is_fresh or (self._state is _IDLE and codec.is_fresh))
            and lane.carry(self, data)
        ):
            return
        self._is_fresh = False
        self._dispatch(codec.receive(data))
        if codec.held:
            self._next()
        elif self._state is _IDLE:
            self._look_for_head()
        if lane is not None:
            lane.follow(self)

    def _look_for_head(self) -> None:
        """If part of the next head has been received, start its time limit; later parts do not restart it."""
        codec = self._codec
        if codec.is_over and not codec.is_idle and not codec.must_close:
            self._state = _HEAD
            self.deadline = self.shared.loop.time() + self.shared.times.head

    def _dispatch(self, events: list[Event]) -> None:
        for event in events:
            if type(event) is RequestHead:
                self.deadline = 0.0
                self._state = _SERVING
                self._serve(self, event)
            elif type(event) is Data:
                self._owed += event.flow
                if self.sink is None:
                    self.credit(event.flow)
                else:
                    self.sink.data_received(event.data, event.flow, event.end)
                    if self._owed >= self._window:
                        self._wait_for_credit()
            elif type(event) is Trailers:
                if self.sink is not None:
                    self.sink.trailers_received(event.headers)
            elif type(event) is Rejected:
                self._rejected(event)
            elif type(event) is Failed:
                self._end_sink(ErrorCode.CANCEL, event.reason)
                self.abort()
        if self._state is _LINGERING:
            self._has_come = True
            self._message_sent()

    def _rejected(self, rejected: Rejected) -> None:
        if rejected.limit is not None:
            self.shared.on_limit(rejected.limit)
        if self.sink is not None:
            self.sink.rejected(rejected)
        elif self._state is not _LINGERING:
            self._state = _SERVING
            self._reject(self, rejected)

    def receive_eof(self) -> None:
        """The client closed its half: abandon the request, since the response would not be read."""
        if self.ride is not None:
            self.ride.client_acted()
        self._end_sink(ErrorCode.CANCEL, "the client closed the connection")
        self.close()

    def lost(self, reason: str) -> None:
        if self.ride is not None:
            self.ride.client_acted()
        self._end_sink(ErrorCode.CANCEL, reason)

    # A ride

    def ride_over(self, answer: bytes, now: float) -> int:
        """Write the whole answer of the ride: the connection is idle, as after `_message_sent`. Returns the number of
        the request."""
        self.ride = None
        self._is_fresh = True
        self._has_rested = False
        self.deadline = now + self.shared.times.rest
        if now >= self._leaves_at:
            self.is_leaving = True
        if self.is_paused:
            self._stop_reading()
        self.write(answer)
        codec = self._codec
        codec.number += 1
        return codec.number

    def unfold(self, data: bytes) -> RequestHead:
        """The ride becomes an ordinary exchange. `data`: its request, as it came. Returns the head; the body has been
        received, and its credit returned."""
        self.ride = None
        self._is_fresh = False
        self._state = _SERVING
        head = self._codec.receive(data)[0]
        assert type(head) is RequestHead
        return head

    # Commands

    def send_response(self, status: int, headers: Headers, end: bool, length: int | None = None) -> None:
        """Write a head (`stream.Downstream`). A client that pipelines is asked to leave with the last answer."""
        if not self.is_closing:
            if self.is_leaving and status >= 200 and not self._codec.held:
                self._codec.close_after_message()
            self.write(self._codec.send_response(status, headers, end, length))
            if end:
                self._message_sent()

    @property
    def unread(self) -> int:
        """Bytes that wait for the socket (`stream.Downstream`)."""
        return self.transport.get_write_buffer_size()

    def stop_receiving(self) -> None:
        """Nothing to do: after the response `_linger` drops the rest of the request (`stream.Downstream`)."""

    def close_connection(self) -> None:
        """`connection: close` in the response that is about to be written (`stream.Downstream`)."""
        self.is_leaving = True

    def drain(self, delay: float = 0.0, patience: float = 0.0) -> None:
        """The process is shutting down: after `delay` seconds, the next response asks the client to leave. There is no
        better moment to be patient for, as with HTTP/2."""
        if self.ride is not None:
            self.ride.client_leaves()
        if delay:
            self._leaves_at = self.shared.loop.time() + delay
        else:
            self.is_leaving = True

    @property
    def is_announced(self) -> bool:
        """The client knows that it should send no more requests."""
        return self.is_leaving and self._codec.must_close

    @property
    def is_idle(self) -> bool:
        """No request is being received or served, none is pipelined, and every response has been written."""
        return (
            self.sink is None
            and self.ride is None
            and self._state is not _HEAD
            and not self._codec.held
            and not self.transport.get_write_buffer_size()
        )

    # Between two requests

    def _message_sent(self) -> None:
        """The response has been written: begin the next request, close, or wait for the rest of this request."""
        if self.is_closing:
            return
        self.sink = None
        self._clear_credit()
        codec = self._codec
        if codec.is_over:
            self._state = _IDLE
            if codec.must_close:
                self.close()
                return
            now = self.shared.loop.time()
            self._has_rested = False
            self.deadline = now + self.shared.times.rest
            if now >= self._leaves_at:
                self.is_leaving = True
            if self.is_paused:
                self._stop_reading()
            if codec.held:
                self.shared.loop.call_soon(self._continue)
        elif self._state is not _LINGERING:
            self._linger()

    def _continue(self) -> None:
        self.shared.outbox.begin()
        try:
            self._next()
        finally:
            self.shared.outbox.flush()

    def _next(self) -> None:
        """Begin a pipelined request once the previous response has been written to the socket; stop reading while one
        waits (CVE-2013-4450: a client that sends requests and never reads)."""
        codec = self._codec
        if self.sink is None and codec.is_over and not self.is_closing and not self.is_paused:
            self._dispatch(codec.next_message())
            if self._state is _IDLE:
                self._look_for_head()
        if codec.held:
            self._stop_reading()
        elif not self._is_reading:
            self._read_on()

    def _take_turn(self) -> None:
        if self.sink is not None or not self.is_paused:  # else `drained` goes on
            super()._take_turn()

    def _linger(self) -> None:
        """Drop the rest of the request without closing: a close would reset the connection before the client has read
        the response. If no request can follow, say so by closing our half (RFC 9112 section 9.6), which TLS cannot."""
        self._state = _LINGERING
        if self._codec.must_close and self.transport.can_write_eof():
            self.flush()
            self.transport.write_eof()
        now, times = self.shared.loop.time(), self.shared.times
        self._has_come = False
        self._lingers_until = now + times.linger_most
        self.deadline = now + times.linger

    def drained(self) -> None:
        """The client reads again: begin the request that waited for it."""
        super().drained()
        self._next()

    def expire(self, now: float) -> None:
        """A deadline has passed: of memory, or one of the table above."""
        if self._state is _IDLE and not self._has_rested and not self.is_closing:
            self._has_rested = True
            self.deadline += self.shared.times.idle - self.shared.times.rest
            if self.deadline > now:
                if self.info.tls_version:
                    give_back(self.transport)
                return
        super().expire(now)

    def overdue(self) -> None:
        """A time limit was exceeded (see the table above)."""
        if self._state is _LINGERING and self._has_come and (now := self.shared.loop.time()) < self._lingers_until:
            self._has_come = False
            self.deadline = min(now + self.shared.times.linger, self._lingers_until)
            return
        if self._state is _HEAD:
            self.shared.outbox.begin()
            try:
                self._dispatch(self._codec.give_up_head(408, "the request head was not received in time", "head_time"))
            finally:
                self.shared.outbox.flush()
        self.close()
