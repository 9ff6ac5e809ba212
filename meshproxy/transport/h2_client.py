"""HTTP/2 to a server: streams that we open, and whether the server is still alive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from meshproxy.codec.events import GoneAway, Pong, Reset, ResponseHead
from meshproxy.codec.h2.encoder import HeadTooLarge
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.h2.frames import DATA, HEADERS
from meshproxy.codec.role import Role
from meshproxy.transport.connection import Driving
from meshproxy.transport.h2 import H2Driver, H2Stream
from meshproxy.transport.stream import HeadRefused, ResponseSink

if TYPE_CHECKING:
    from meshproxy.codec.events import Event, RequestHead
    from meshproxy.transport.facts import ConnectionFacts

LIFE_PING = b"are you?"
GOING_AWAY = "the server is going away"
"""The reason with which streams end that a GOAWAY says the server never looked at."""
QUICK_PINGS = 2
"""How many may follow each other quickly while a server sends no message. gRPC servers take the first, count the next
ones within 5 minutes as strikes and leave at the third (`too_many_pings`; grpc-core's ping_abuse_policy, grpc-go's
enforcement policy, grpc-java's KeepAliveEnforcer). One of those is kept for a message that crosses a PING: the server
counts from the PING, we from the message."""
RARE_PING = 310.0
"""Seconds from one PING to the next after those: more than the 5 minutes, however the two clocks run."""


class Owner(Protocol):
    """Where client connections come from: a pool."""

    def freed(self, connection: H2Client) -> None:
        """A stream has ended: there may be room for another."""

    def retired(self, connection: H2Client) -> None:
        """It takes no new streams."""

    def closed(self, connection: H2Client) -> None:
        """It is gone."""


class H2ClientStream(H2Stream[ResponseSink]):
    """A request to a server (`stream.Upstream`)."""

    __slots__ = ("address",)

    def __init__(self, driver: H2Client, number: int) -> None:
        super().__init__(driver, number)
        self.address = driver.facts.remote

    def stop_sending(self) -> None:
        """The rest of the request will not come."""
        self.reset(ErrorCode.CANCEL)

    def send_request(self, head: RequestHead) -> None:
        """Write a request's head: from here on the stream has its id."""
        driver = self._driver
        try:
            self.id = driver.codec.send_request(
                head.method, driver.scheme, head.authority, head.target, head.headers, head.end, head.length, head.trace
            )
        except HeadTooLarge as problem:
            raise HeadRefused(str(problem)) from problem
        driver.deadline = driver.heard  # in the past: the reaper's next look finds out when to look again
        driver.streams[self.id] = self
        driver.touch()
        if head.end:
            driver.end_half(self)


class H2Client(H2Driver[H2ClientStream]):
    """A connection to a server, shared by many requests.

    While streams are open, a server that is silent is asked for a sign of life: kernels notice a host that is gone, but
    neither a process that hangs nor a path that loses everything before the retransmissions end, after 15 minutes. The
    PINGs are as rare as gRPC servers demand, so that a model may think for as long as it likes: of a connection that
    brings no message any more, a death after the second PING is found by the kernel or by the request's own deadline.
    """

    __slots__ = ("_is_doubted", "_messages", "_owner", "_pinged", "_pings", "good_until")

    def __init__(self, driving: Driving, facts: ConnectionFacts, owner: Owner) -> None:
        super().__init__(Role.CLIENT, driving, facts)
        self._owner = owner
        self.good_until = 0.0
        """`loop.time()` at which the server's certificate ceases to be valid; 0.0 if it never does, or there is none.
        Counted from the moment of the handshake: a clock that is set later moves no connection's end."""
        self._is_doubted = False
        """A PING of ours is not answered yet."""
        self._pinged = 0.0
        """When the last one went out."""
        self._pings = 0
        """How many went out since the last message."""
        self._messages = 0
        """Frames of messages that had come at the last look."""

    @property
    def can_open(self) -> bool:
        """Another stream may be opened."""
        return (
            not self.is_closing
            and not self._is_doubted
            and self.codec.can_open
            and (not self.good_until or self.driving.loop.time() < self.good_until)
        )

    @property
    def is_barren(self) -> bool:
        """Nothing is under way, and yet the server takes no stream: it allows none at present (RFC 9113 section 5.1.2:
        SETTINGS_MAX_CONCURRENT_STREAMS 0)."""
        return not self.streams and not self.is_closing and not self.codec.can_open

    def open(self) -> H2ClientStream:
        """A stream that gets its id with its head."""
        return H2ClientStream(self, 0)

    def handle(self, event: Event) -> None:
        """The head of a response; the server goes away, or the end."""
        if type(event) is ResponseHead:
            stream = self.streams.get(event.stream)
            if stream is not None and stream.sink is not None:
                sink = stream.sink
                if event.end:
                    self.end_half(stream)
                sink.head_received(event)
        elif isinstance(event, GoneAway):
            self._owner.retired(self)
            for number in [number for number in self.streams if number > event.last_stream]:
                self.reset_received(Reset(number, ErrorCode.REFUSED_STREAM, GOING_AWAY, True))
            if not self.streams:
                self.close()
        elif isinstance(event, Pong):
            if self._is_doubted:
                self._is_doubted = False
                self._owner.freed(self)
        else:
            super().handle(event)

    def forget(self, stream: H2ClientStream) -> None:
        """The stream is over: there is room for another."""
        super().forget(stream)
        if not self.is_closing:
            self._owner.freed(self)

    def became_idle(self) -> None:
        """No stream is left. If the server is going away, that was what it waited for."""
        super().became_idle()
        if not self.codec.can_open and not self.is_closing:
            self.close()

    def lost(self, reason: str) -> None:
        """The socket is gone."""
        self._owner.closed(self)
        super().lost(reason)

    def rest(self, seconds: float) -> None:
        """Nothing is under way: close after so long without a request, or when the certificate expires, or when the
        PING that went out before is not answered."""
        deadline = self.driving.loop.time() + seconds
        if self._is_doubted:
            deadline = min(deadline, self._pinged + self.driving.times.ping_timeout)
        self.deadline = min(deadline, self.good_until) if self.good_until else deadline

    def expire(self, now: float) -> None:
        """The deadline has passed: of a busy connection, the moment to look whether its server lives."""
        if self.streams and not self.is_closing:
            self._watch(now)
        else:
            super().expire(now)

    def _watch(self, now: float) -> None:
        """Streams are open."""
        times = self.driving.times
        if self._pinged > self.heard:
            left = self.transport.get_write_buffer_size()
            if left < self._left:
                # Slow, but it reads: the PING waits behind what it has not read.
                self._left = left
                self._pinged = now
            due = self._pinged + times.ping_timeout
            if now >= due:
                self.fail(ErrorCode.CANCEL, f"the server did not answer a PING within {times.ping_timeout:g} s")
                self.abort()
                return
        else:
            self._is_doubted = False
            due = self.heard + self._patience()
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
                self._owner.retired(self)
        self.deadline = due

    def _patience(self) -> float:
        """Seconds of silence until the next PING; doubled after one that was followed by no message."""
        counts = self.codec.frames_received
        messages = counts[HEADERS] + counts[DATA]
        if messages != self._messages:
            self._messages = messages
            self._pings = 0
        if self._pings < QUICK_PINGS:
            return self.driving.times.ping_after * (1 << self._pings)
        return RARE_PING

    def overdue(self) -> None:
        """Idle for too long."""
        if not self.streams:
            self.codec.go_away(final=True)
            self.close()
