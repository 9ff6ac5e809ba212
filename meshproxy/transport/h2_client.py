"""HTTP/2 to a server: the streams that we open, and keepalive PINGs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from meshproxy.codec.events import Data, GoneAway, Pong, Reset, ResponseHead, Trailers, WholeResponse
from meshproxy.codec.h2.encoder import HeadTooLarge
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.h2.frames import DATA, HEADERS
from meshproxy.codec.role import Role
from meshproxy.transport.connection import ConnectionContext
from meshproxy.transport.h2 import ANSWERS, H2Driver, H2Stream
from meshproxy.transport.stream import HeadRefused, ResponseSink

if TYPE_CHECKING:
    from meshproxy.codec.events import Event, RequestHead
    from meshproxy.transport.connection_info import ConnectionInfo

LIFE_PING = b"are you?"
GOING_AWAY = "the server is going away"
"""The reset reason of streams that a GOAWAY excludes: the server has not processed them."""
QUICK_PINGS = 2
"""PINGs that may follow each other quickly while a server sends no message. gRPC servers accept the first, count the
next ones within 5 minutes as strikes and leave at the third (`too_many_pings`; grpc-core's ping_abuse_policy, grpc-go's
enforcement policy, grpc-java's KeepAliveEnforcer). One of those is kept for a message that crosses a PING: the server
counts from the PING, we from the message."""
RARE_PING = 310.0
"""Seconds between later PINGs: more than the 5 minutes, with a margin for the two clocks."""


class H2Owner(Protocol):
    """The pool that a connection belongs to."""

    def stream_closed(self, connection: H2Client) -> None:
        """A stream has closed: another may be opened."""

    def retired(self, connection: H2Client) -> None:
        """The connection accepts no new streams."""

    def closed(self, connection: H2Client) -> None:
        """The connection was lost or closed."""


class Ride(Protocol):
    """Takes the answer to a request of the express lane (`proxy.express`) if it is whole. Until it unfolds it is the
    stream's sink, too."""

    def answered(self, answer: WholeResponse) -> bool:
        """The whole answer came in one read. False: the ride has unfolded, and it is for the stream's sink."""


class H2ClientStream(H2Stream[ResponseSink]):
    """A request to a server (`stream.Upstream`)."""

    __slots__ = ("address", "ride")

    _driver: H2Client

    def __init__(self, driver: H2Client, number: int) -> None:
        # As the base, without its call.
        self._driver = driver
        self.info = info = driver.info
        self.id = number
        self.sink = None
        self.ended = 0
        self._is_held = self._ends_when_drained = False
        self.owed = 0
        self.address = info.remote
        self.ride: Ride | None = None
        """Who takes a whole answer, while the request is on the express lane."""

    def ride_over(self, flow: int) -> None:
        """A whole answer was taken, within a read of the connection: the stream has ended, and its credit is
        returned."""
        driver = self._driver
        codec = driver.codec
        codec.return_credit(flow)
        self.ride = self.sink = None
        streams = driver.streams  # `forget`, without its calls: nothing is owed any more
        del streams[self.id]
        if not streams and not codec.most_streams:
            driver.became_idle()  # else the pool limits its idle time
        if not driver.is_closing:
            driver.owner.stream_closed(driver)

    def stop_sending(self) -> None:
        """Reset the stream (`stream.Upstream`)."""
        self.reset(ErrorCode.CANCEL)

    def send_request(self, head: RequestHead) -> None:
        """Write the head of the request (`stream.Upstream`). Sets `id`."""
        driver = self._driver
        try:
            self.id = driver.codec.send_request(
                head.method, driver.scheme, head.authority, head.target, head.headers, head.end, head.length, head.trace
            )
        except HeadTooLarge as problem:
            raise HeadRefused(str(problem)) from problem
        driver.deadline = driver.last_read  # in the past: the next sweep computes when the next PING is due
        driver.streams[self.id] = self
        driver.touch()
        if head.end:
            driver.end_half(self)


class H2Client(H2Driver[H2ClientStream]):
    """A connection to a server, shared by many requests.

    While streams are open, a silent server gets PINGs. TCP keepalive detects a host that is down, but neither a process
    that hangs nor, before its retransmissions end after 15 minutes, a path that drops every packet. The PINGs are as
    rare as gRPC servers require, so that a model may compute for any time. Once two PINGs were followed by no message,
    a failure is detected by the kernel or by the deadline of the request.
    """

    reads_ahead = False
    slices = ANSWERS

    __slots__ = ("_is_doubted", "_messages", "_pinged", "_pings", "good_until", "owner")

    def __init__(self, shared: ConnectionContext, info: ConnectionInfo, owner: H2Owner) -> None:
        super().__init__(Role.CLIENT, shared, info)
        self.owner = owner
        self.good_until = 0.0
        """`loop.time()` until which it takes new streams, well before the first of both certificates expires; 0.0 for
        ever. Fixed at the handshake, so that later changes of the wall clock have no effect."""
        self._is_doubted = False
        """A PING has not been acknowledged yet."""
        self._pinged = 0.0
        """`loop.time()` of the last PING."""
        self._pings = 0
        """PINGs since the last message."""
        self._messages = 0
        """HEADERS and DATA frames received at the last check."""

    @property
    def can_open(self) -> bool:
        """Another stream may be opened."""
        return (
            not self.is_closing
            and not self._is_doubted
            and len(self.codec.live) < self.codec.most_streams  # `codec.can_open`, without its call
            and (not self.good_until or self.shared.loop.time() < self.good_until)
        )

    @property
    def is_aged(self) -> bool:
        """It takes no new streams because one of its certificates expires soon."""
        return self.good_until != 0.0 and self.shared.loop.time() >= self.good_until

    @property
    def refuses_streams(self) -> bool:
        """No stream is open, and the server allows none at present. A GOAWAY says nothing of other connections:
        requests may wait for the one that replaces this."""
        return not self.streams and not self.is_closing and self.codec.is_barren

    def open(self) -> H2ClientStream:
        """A new stream. It gets its id with the head of the request."""
        return H2ClientStream(self, 0)

    def send_call(self, block: bytes, body: bytes, size: int) -> H2ClientStream:
        """A stream on which a whole request has been sent (`WholeMessages.send_call`), as `H2ClientStream.send_request`
        and `send_data` do it."""
        number = self.codec.send_call(block, body, size)
        stream = self.streams[number] = H2ClientStream(self, number)
        stream.ended = 1
        self.codec.joins = True
        self.deadline = self.last_read
        self.touch()
        return stream

    def dispatch_whole(self, events: list[Event]) -> None:
        """A whole answer to a request of the express lane is one event, or three in a row."""
        taken = 0
        for at, event in enumerate(events):
            if at < taken:
                continue
            if type(event) is ResponseHead and at + 2 < len(events):
                data, trailers = events[at + 1], events[at + 2]
                if (
                    type(data) is Data
                    and type(trailers) is Trailers
                    and data.stream == trailers.stream == event.stream
                    and not data.end
                ):
                    event = WholeResponse(
                        event.stream, event.status, event.headers, event.length, data.data, data.flow, trailers.headers
                    )
                    taken = at + 3
            if type(event) is WholeResponse:
                stream = self.streams.get(event.stream)
                ride = stream.ride if stream is not None else None
                if ride is None or not ride.answered(event):
                    self._dispatch(event.apart())
            else:
                self._dispatch((event,))

    def handle(self, event: Event) -> None:
        """Handle the head of a response, a GOAWAY or the acknowledgement of a PING."""
        if type(event) is ResponseHead:
            stream = self.streams.get(event.stream)
            if stream is not None and stream.sink is not None:
                sink = stream.sink
                if event.end:
                    self.end_half(stream)
                sink.head_received(event)
        elif isinstance(event, GoneAway):
            self.owner.retired(self)
            for number in [number for number in self.streams if number > event.last_stream]:
                self.reset_received(Reset(number, ErrorCode.REFUSED_STREAM, GOING_AWAY, True))
            if not self.streams:
                self.close()
        elif isinstance(event, Pong):
            if self._is_doubted:
                self._is_doubted = False
                self.owner.stream_closed(self)
        else:
            super().handle(event)

    def forget(self, stream: H2ClientStream) -> None:
        """Close the stream, and tell the pool that another may be opened."""
        super().forget(stream)
        if not self.is_closing:
            self.owner.stream_closed(self)

    def became_idle(self) -> None:
        """The last stream has closed. Close the connection too if the server accepts no more."""
        self.deadline = self.shared.loop.time() + self.shared.times.idle  # as the base, without its call
        if not self.codec.most_streams and not self.is_closing:
            self.close()

    def go_on(self) -> None:
        """As the base. A small read is one turn, however many frames it has."""
        self.receive(b"")

    def receive_eof(self) -> None:
        self._process_all()
        super().receive_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection was lost. What had come by then counts."""
        try:
            self._process_all()
        finally:
            super().connection_lost(exc)

    def _process_all(self) -> None:
        """Process what is left of a read, whoever waits: it came before the end."""
        while self.codec.has_more and not self.is_closing:
            self.receive(b"")

    def lost(self, reason: str) -> None:
        self.owner.closed(self)
        super().lost(reason)

    def limit_idle_time(self, seconds: float) -> None:
        """The connection is idle: close it after `seconds` without a request, when it is `is_aged`, or when an
        earlier PING stays unacknowledged."""
        deadline = self.shared.loop.time() + seconds
        if self._is_doubted:
            deadline = min(deadline, self._pinged + self.shared.times.ping_timeout)
        self.deadline = min(deadline, self.good_until) if self.good_until else deadline

    def expire(self, now: float) -> None:
        """The deadline has passed. With open streams that is the time of a keepalive check."""
        if self.streams and not self.is_closing:
            self._watch(now)
        else:
            super().expire(now)

    def _watch(self, now: float) -> None:
        """Send a PING to a silent server, or give it up. Sets the next deadline."""
        times = self.shared.times
        if self._pinged > self.last_read:
            left = self.transport.get_write_buffer_size()
            if left < self._left:
                # The server is slow but reads: the PING is queued behind unread data.
                self._left = left
                self._pinged = now
            due = self._pinged + times.ping_timeout
            if now >= due:
                self.fail(ErrorCode.CANCEL, f"the server did not answer a PING within {times.ping_timeout:g} s")
                self.abort()
                return
        else:
            self._is_doubted = False
            due = self.last_read + self._ping_interval()
            if now >= due:
                self.codec.ping(LIFE_PING)
                self.touch()
                self._is_doubted = True
                self._pings += 1
                self._pinged = now
                self._left = self.transport.get_write_buffer_size()
                due = now + times.ping_timeout
        if self.good_until:
            if now < self.good_until:
                due = min(due, self.good_until)
            else:
                self.owner.retired(self)
        self.deadline = due

    def _ping_interval(self) -> float:
        """Seconds of silence until the next PING; doubled after a PING that no message followed."""
        counts = self.codec.frames_received
        messages = counts[HEADERS] + counts[DATA]
        if messages != self._messages:
            self._messages = messages
            self._pings = 0
        if self._pings < QUICK_PINGS:
            return self.shared.times.ping_after * (1 << self._pings)
        return RARE_PING

    def overdue(self) -> None:
        """The idle time limit was exceeded."""
        if not self.streams:
            self.codec.go_away(final=True)
            self.close()
