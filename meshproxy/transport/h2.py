"""HTTP/2 on a socket, both roles: a connection and the streams that share it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from meshproxy.codec.events import (
    Data,
    Failed,
    GoneAway,
    Headers,
    Pong,
    Rejected,
    RequestHead,
    Reset,
    ResponseHead,
    Trailers,
    Writable,
)
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.h2.encoder import HeadTooLarge
from meshproxy.codec.h2.frames import DATA, HEADERS
from meshproxy.codec.role import Role
from meshproxy.transport.connection import Connection, Driving
from meshproxy.transport.stream import HeadRefused

if TYPE_CHECKING:
    import asyncio

    from meshproxy.codec.events import Event
    from meshproxy.transport.facts import ConnectionFacts
    from meshproxy.transport.h1 import Reject
    from meshproxy.transport.stream import Serve, Sink

NO_ERROR = 0x0
INTERNAL_ERROR = 0x2
CANCEL = 0x8
REFUSED_STREAM = 0x7
DRAIN_PING = b"draining"
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


class H2Stream:
    """One exchange on an HTTP/2 connection; both roles (`stream.Downstream`, `stream.Upstream`)."""

    __slots__ = ("_driver", "_ends_when_drained", "_is_held", "address", "ended", "facts", "id", "owed", "sink")

    def __init__(self, driver: H2Driver, number: int) -> None:
        self._driver = driver
        self.facts = facts = driver.facts
        self.address = facts.remote
        """The other end's."""
        self.id = number
        self.sink: Sink | None = None
        self.ended = 0
        """How many of the two messages have ended: at two the stream is forgotten."""
        self._is_held = False
        self._ends_when_drained = False
        self.owed = 0
        """Bytes that came and have not been credited."""

    def send_response(self, status: int, headers: Headers, end: bool, length: int | None = None) -> None:
        """Write a head. A client that does not take heads of this size gets none, and no other client hears of it."""
        driver = self._driver
        try:
            driver.codec.send_response(self.id, status, headers, end, length)
        except HeadTooLarge as problem:
            self._give_up(str(problem))
            return
        driver.touch()
        if end:
            driver.end_half(self)

    def stop_receiving(self) -> None:
        """The rest of the request is of no use: tell the client to stop sending it (RFC 9113 section 8.1)."""
        if self.ended < 2:
            self.reset(NO_ERROR)

    def stop_sending(self) -> None:
        """The rest of the request will not come."""
        self.reset(CANCEL)

    def send_request(self, head: RequestHead) -> None:
        """Write a request's head: from here on the stream has its id."""
        driver = self._driver
        try:
            self.id = driver.codec.send_request(
                head.method, driver.scheme, head.authority, head.target, head.headers, head.end, head.length
            )
        except HeadTooLarge as problem:
            raise HeadRefused(str(problem)) from problem
        driver.deadline = driver.heard  # in the past: the reaper's next look finds out when to look again
        driver.streams[self.id] = self
        driver.touch()
        if head.end:
            driver.end_half(self)

    def send_data(self, data: bytes, end: bool) -> bool:
        """Write a piece of the body, as far as the peer's windows and the socket allow."""
        driver = self._driver
        is_framed = driver.codec.send_data(self.id, data, end)
        driver.touch()
        if is_framed and not driver.is_paused:
            if end:
                driver.end_half(self)
            return True
        if is_framed:
            driver.waiting.append(self)
        self._is_held = True
        self._ends_when_drained = end
        return False

    def writable(self) -> None:
        """The codec has framed everything of this stream; the socket may still be full."""
        if self._driver.is_paused:
            self._driver.waiting.append(self)
        else:
            self.release()

    def release(self) -> None:
        """Nothing is held back any more."""
        sink = self.sink
        if self._is_held:
            self._is_held = False
            if self._ends_when_drained:
                self._driver.end_half(self)
            if sink is not None:
                sink.drained()

    def send_trailers(self, headers: Headers) -> bool:
        """End the message with these fields."""
        driver = self._driver
        try:
            driver.codec.send_trailers(self.id, headers)
        except HeadTooLarge as problem:
            self._give_up(str(problem))
            return True
        driver.touch()
        if self._is_held:
            self._ends_when_drained = True
            return False
        driver.end_half(self)
        return True

    def credit(self, size: int) -> None:
        """`size` bytes have left our hands; on a stream that is over they were forgiven."""
        if size <= self.owed:
            self.owed -= size
            driver = self._driver
            driver.codec.credit(self.id, size)
            if driver.codec.out:
                driver.touch()

    def _give_up(self, reason: str) -> None:
        sink = self.sink
        self.reset(INTERNAL_ERROR)
        if sink is not None:
            sink.reset_received(INTERNAL_ERROR, reason)

    def reset(self, code: int) -> None:
        """RST_STREAM."""
        driver = self._driver
        driver.codec.reset(self.id, code)
        driver.touch()
        driver.forget(self)


class H2Driver(Connection):
    """What both roles do: frames to streams, windows to `drained`, an end for everyone when the connection ends."""

    __slots__ = ("_most_unread", "codec", "heard", "scheme", "streams", "waiting")

    def __init__(self, role: Role, driving: Driving, facts: ConnectionFacts) -> None:
        super().__init__(driving, facts)
        self.heard = driving.loop.time()
        """When the peer last sent anything."""
        self.scheme = b"http"
        """Of the requests that go out here (RFC 9113 section 8.3.1)."""
        self.codec = H2Connection(role, driving.limits, self.heard, driving.h2_statistics)
        self.streams: dict[int, H2Stream] = {}
        self.waiting: list[H2Stream] = []
        """Streams whose bytes are framed while the socket is full."""
        # Every stream's data may wait for a slow reader; more can only be answers to requests of one that never reads.
        self._most_unread = driving.limits.streams * driving.limits.stream_window

    def attach(self, transport: asyncio.Transport) -> None:
        """Say our preface."""
        super().attach(transport)
        if self.facts.tls_version:
            self.scheme = b"https"
        self.touch()

    # What the peer does

    def receive(self, data: bytes) -> None:
        """Bytes came: hand their events to the streams."""
        if self.is_closing:
            return
        self.heard = now = self.driving.loop.time()
        self._dispatch(self.codec.receive(data, now))
        if self.codec.out:
            self.touch()

    def _dispatch(self, events: list[Event]) -> None:
        streams = self.streams
        for event in events:
            if type(event) is Data:
                stream = streams.get(event.stream)
                if stream is None or stream.sink is None:
                    self.codec.credit(event.stream, event.flow)
                    if stream is not None and event.end:
                        self.end_half(stream)
                else:
                    sink = stream.sink
                    stream.owed += event.flow
                    if event.end:
                        self.end_half(stream)
                    sink.data_received(event.data, event.flow, event.end)
            elif type(event) is RequestHead:
                self.head_received(event)
            elif type(event) is ResponseHead:
                stream = streams.get(event.stream)
                if stream is not None and stream.sink is not None:
                    sink = stream.sink
                    if event.end:
                        self.end_half(stream)
                    sink.head_received(event)
            elif type(event) is Trailers:
                stream = streams.get(event.stream)
                if stream is not None:
                    reader = stream.sink
                    self.end_half(stream)
                    if reader is not None:
                        reader.trailers_received(event.headers)
            elif type(event) is Writable:
                stream = streams.get(event.stream)
                if stream is not None:
                    stream.writable()
            elif type(event) is Reset:
                self._reset_received(event)
            else:
                self.connection_event(event)

    def _reset_received(self, event: Reset) -> None:
        stream = self.streams.get(event.stream)
        if stream is not None:
            sink = stream.sink
            self.forget(stream)
            if sink is not None:
                sink.reset_received(event.code, event.reason)

    def head_received(self, head: RequestHead) -> None:
        """A request came (server)."""
        raise NotImplementedError

    def connection_event(self, event: Event) -> None:
        """What concerns the whole connection."""
        if isinstance(event, Failed):
            if event.limit is not None:
                self.driving.on_limit(event.limit)
            self.fail(CANCEL, event.reason)
            self.close()

    def receive_eof(self) -> None:
        """The peer closed."""
        if not self.is_closing:
            self._dispatch(self.codec.receive_eof())
            self.fail(CANCEL, "the peer closed the connection")
            self.close()

    def lost(self, reason: str) -> None:
        """The socket is gone."""
        self.fail(CANCEL, reason)

    def fail(self, code: int, reason: str) -> None:
        """Every stream is over."""
        streams, self.streams = self.streams, {}
        self.waiting.clear()
        for stream in streams.values():
            sink, stream.sink = stream.sink, None
            if sink is not None:
                sink.reset_received(code, reason)

    # What we do

    def flush(self) -> None:
        """Write the frames gathered in the codec as one piece."""
        self._is_dirty = False
        if self.transport.is_closing():
            return
        output = self.codec.take_output()
        if output:
            self.transport.write(output)
            if self.is_paused and self.transport.get_write_buffer_size() > self._most_unread:
                self.driving.on_limit("unread_bytes")
                self.abort()

    def end_half(self, stream: H2Stream) -> None:
        """One of the two messages of `stream` has ended."""
        stream.ended += 1
        if stream.ended == 2:
            self.forget(stream)

    def forget(self, stream: H2Stream) -> None:
        """The stream is over. It lets go of its sink, which refers to it; and what is owed for it would be missing from
        the connection's window for ever."""
        stream.sink = None
        if stream.owed:
            stream.credit(stream.owed)
        if self.streams.pop(stream.id, None) is not None and not self.streams:
            self.became_idle()

    def became_idle(self) -> None:
        """No stream is left."""
        self.deadline = self.driving.loop.time() + self.driving.times.idle

    def drained(self) -> None:
        """The peer reads again: those who waited for the socket are told."""
        waiting, self.waiting = self.waiting, []
        for stream in waiting:
            stream.release()


class H2Server(H2Driver):
    """A client's connection."""

    __slots__ = ("_newest", "_reject", "_serve")

    def __init__(self, driving: Driving, facts: ConnectionFacts, serve: Serve, reject: Reject) -> None:
        super().__init__(Role.SERVER, driving, facts)
        self._newest = 0
        """The last request that was handed on."""
        self._serve = serve
        self._reject = reject

    def attach(self, transport: asyncio.Transport) -> None:
        """The clock for the first request starts with the connection."""
        super().attach(transport)
        self.became_idle()

    def head_received(self, head: RequestHead) -> None:
        """A request came. The codec bounds how many are open; of answers that nobody reads it knows nothing."""
        if len(self.streams) >= self.driving.limits.streams:
            self.driving.on_limit("streams")
            self.codec.reset(head.stream, REFUSED_STREAM)
            return
        self.deadline = 0.0
        self._newest = head.stream
        stream = H2Stream(self, head.stream)
        self.streams[head.stream] = stream
        if head.end:
            stream.ended = 1
        self._serve(stream, head)

    def connection_event(self, event: Event) -> None:
        """A request that the codec refused, the answer to our last PING, or the end."""
        if isinstance(event, Rejected):
            if event.limit is not None:
                self.driving.on_limit(event.limit)
            self._rejected(event)
        elif isinstance(event, Pong):
            if event.payload == DRAIN_PING:
                self.codec.go_away(final=True)
        elif not isinstance(event, GoneAway):
            super().connection_event(event)

    def _rejected(self, event: Rejected) -> None:
        """The codec ignores what else comes of the request."""
        stream = self.streams.get(event.stream)
        if stream is None:
            if event.stream > self._newest:
                self._newest = event.stream
                stream = self.streams[event.stream] = H2Stream(self, event.stream)
                stream.ended = 1
                self._reject(stream, event)
            return  # or it was answered before, within the same read
        sink = stream.sink
        self.end_half(stream)
        if sink is not None:
            sink.rejected(event)

    def drain(self) -> None:
        """The process is going away: announce it, and name the last stream once the client must have heard
        (RFC 9113 section 6.8: a PING's answer tells)."""
        self.codec.go_away(final=False)
        self.codec.ping(DRAIN_PING)
        self.touch()

    @property
    def is_idle(self) -> bool:
        """No request is under way, and every answer has been written."""
        return not self.streams and not self.transport.get_write_buffer_size()

    def overdue(self) -> None:
        """Idle for too long."""
        if not self.streams:
            self.codec.go_away(final=True)
            self.close()


class Owner(Protocol):
    """Where client connections come from: a pool."""

    def freed(self, connection: H2Client) -> None:
        """A stream has ended: there may be room for another."""

    def retired(self, connection: H2Client) -> None:
        """It takes no new streams."""

    def closed(self, connection: H2Client) -> None:
        """It is gone."""


class H2Client(H2Driver):
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

    def open(self) -> H2Stream:
        """A stream that gets its id with its head."""
        return H2Stream(self, 0)

    def connection_event(self, event: Event) -> None:
        """The server goes away, or the end."""
        if isinstance(event, GoneAway):
            self._owner.retired(self)
            for stream in [s for s in self.streams.values() if s.id > event.last_stream]:
                self._reset_received(Reset(stream.id, REFUSED_STREAM, GOING_AWAY, True))
            if not self.streams:
                self.close()
        elif isinstance(event, Pong):
            if self._is_doubted:
                self._is_doubted = False
                self._owner.freed(self)
        else:
            super().connection_event(event)

    def forget(self, stream: H2Stream) -> None:
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
                self.fail(CANCEL, f"the server did not answer a PING within {times.ping_timeout:g} s")
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
