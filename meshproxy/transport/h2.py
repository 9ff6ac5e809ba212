"""HTTP/2 on a socket: what both roles have in common, and the server."""

from __future__ import annotations

import logging
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from meshproxy.codec.events import (
    Data,
    Failed,
    GoneAway,
    Headers,
    Pong,
    Rejected,
    RequestHead,
    Reset,
    Trailers,
    Writable,
)
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.h2.encoder import HeadTooLarge
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.role import Role
from meshproxy.transport.connection import Connection, ConnectionContext
from meshproxy.transport.stream import RequestSink, Sink

if TYPE_CHECKING:
    import asyncio

    from meshproxy.codec.events import Event
    from meshproxy.transport.connection_info import ConnectionInfo
    from meshproxy.transport.stream import Reject, Serve

logger = logging.getLogger(__name__)

SinkT = TypeVar("SinkT", bound=Sink)
StreamT = TypeVar("StreamT", bound="H2Stream[Any]")

UNREAD_BUDGET = 1_048_576
"""Bytes that may wait for a client that does not read before it is refused further streams."""
MOST_UNREAD = 67_108_864
"""Bytes that may wait for it in all, however many streams are open."""
DRAIN_PING = b"draining"


class H2Stream(Generic[SinkT]):
    """One exchange on an HTTP/2 connection: what both roles have in common."""

    __slots__ = ("_driver", "_ends_when_drained", "_is_held", "ended", "id", "info", "owed", "sink")

    def __init__(self, driver: H2Driver[Any], number: int) -> None:
        self._driver = driver
        self.info = driver.info
        self.id = number
        self.sink: SinkT | None = None
        self.ended = 0
        """How many of the two messages have ended; at two the stream is closed."""
        self._is_held = False
        self._ends_when_drained = False
        self.owed = 0
        """Bytes received and not yet credited."""

    def send_data(self, data: bytes, end: bool) -> bool:
        """Write part of the body, as far as the peer's windows and the socket allow."""
        driver = self._driver
        is_framed = driver.codec.send_data(self.id, data, end)
        if not driver.is_dirty:
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
        """The codec has framed all buffered data of this stream; the socket may still be full."""
        if self._driver.is_paused:
            self._driver.waiting.append(self)
        else:
            self.release()

    def release(self) -> None:
        """Nothing is buffered any more: report it to the sink."""
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
        if not driver.is_dirty:
            driver.touch()
        if self._is_held:
            self._ends_when_drained = True
            return False
        driver.end_half(self)
        return True

    def credit(self, size: int) -> None:
        """See `stream.Stream`. The credit of a closed stream was returned when it closed."""
        if size <= self.owed:
            self.owed -= size
            driver = self._driver
            driver.codec.credit(self.id, size)
            if driver.codec.out:
                driver.touch()

    def _give_up(self, reason: str) -> None:
        sink = self.sink
        self.reset(ErrorCode.INTERNAL_ERROR)
        if sink is not None:
            sink.reset_received(ErrorCode.INTERNAL_ERROR, reason)

    def reset(self, code: int) -> None:
        """RST_STREAM."""
        driver = self._driver
        driver.codec.reset(self.id, code)
        driver.touch()
        driver.forget(self)


class H2Driver(Connection, Generic[StreamT]):
    """What both roles have in common: dispatches events to streams, and ends every stream with the connection."""

    __slots__ = ("_most_unread", "codec", "last_read", "scheme", "streams", "waiting")

    def __init__(self, role: Role, shared: ConnectionContext, info: ConnectionInfo) -> None:
        super().__init__(shared, info)
        self.last_read = shared.loop.time()
        """`loop.time()` of the last read."""
        self.scheme = b"http"
        """`:scheme` of requests that we send (RFC 9113 section 8.3.1)."""
        self.codec = H2Connection(role, shared.limits, self.last_read, shared.h2_statistics)
        self.streams: dict[int, StreamT] = {}
        self.waiting: list[StreamT] = []
        """Streams whose data is framed, to be reported as drained once the socket accepts output again."""
        # All streams may have a full window waiting for a slow reader. More can only be heads: the peer does not read.
        self._most_unread = min(shared.limits.streams * shared.limits.stream_window, MOST_UNREAD)

    def attach(self, transport: asyncio.Transport) -> None:
        """Send the connection preface."""
        super().attach(transport)
        if self.info.tls_version:
            self.scheme = b"https"
        self.touch()

    # Received from the peer

    def receive(self, data: bytes) -> None:
        """Dispatch the events of `data` to the streams."""
        if self.is_closing:
            return
        self.last_read = now = self.shared.loop.time()
        codec = self.codec
        if codec.has_more and data:
            codec.postpone(data)
            return
        self._dispatch(codec.receive(data, now))
        if codec.out:
            self.touch()
        if codec.has_more:
            if data:
                self.transport.pause_reading()
            self.shared.turns.add(self._take_turn)

    def _take_turn(self) -> None:
        """Process more of a read that was too much at once: other connections have had their turns."""
        if self.is_closing:
            return
        try:
            self.data_received(b"")
        except Exception:
            logger.exception("internal error in an HTTP/2 connection")  # as asyncio logs what a read raises
            self.abort()
        if not self.codec.has_more and not self.is_closing:
            self.transport.resume_reading()

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
                self.reset_received(event)
            else:
                self.handle(event)

    def reset_received(self, event: Reset) -> None:
        stream = self.streams.get(event.stream)
        if stream is not None:
            sink = stream.sink
            self.forget(stream)
            if sink is not None:
                sink.reset_received(event.code, event.reason)

    def handle(self, event: Event) -> None:
        """Handle an event of one role or of the whole connection."""
        if isinstance(event, Failed):
            if event.limit is not None:
                self.shared.on_limit(event.limit)
            self.fail(ErrorCode.CANCEL, event.reason)
            self.close()

    def receive_eof(self) -> None:
        if not self.is_closing:
            self._dispatch(self.codec.receive_eof())
            self.fail(ErrorCode.CANCEL, "the peer closed the connection")
            self.close()

    def lost(self, reason: str) -> None:
        self.fail(ErrorCode.CANCEL, reason)

    def fail(self, code: int, reason: str) -> None:
        """Reset every stream towards its sink."""
        streams, self.streams = self.streams, {}
        self.waiting.clear()
        for stream in streams.values():
            sink, stream.sink = stream.sink, None
            if sink is not None:
                sink.reset_received(code, reason)

    # Commands

    def flush(self) -> None:
        """Write all frames that the codec has queued in one call."""
        self.is_dirty = False
        if self.transport.is_closing():
            return
        output = self.codec.take_output()
        if output:
            self.transport.write(output)
            if self.is_paused and self.transport.get_write_buffer_size() > self._most_unread:
                self.shared.on_limit("unread_bytes")
                self.abort()

    def end_half(self, stream: StreamT) -> None:
        """One of the two messages of `stream` has ended."""
        stream.ended += 1
        if stream.ended == 2:
            self.forget(stream)

    def forget(self, stream: StreamT) -> None:
        """Close the stream: drop the reference cycle with its sink, and return its outstanding credit, which would be
        missing from the connection's window permanently."""
        stream.sink = None
        if stream.owed:
            stream.credit(stream.owed)
        if self.streams.pop(stream.id, None) is not None and not self.streams:
            self.became_idle()

    def became_idle(self) -> None:
        """The last stream has closed: start the idle time limit."""
        self.deadline = self.shared.loop.time() + self.shared.times.idle

    def drained(self) -> None:
        """The socket accepts output again: tell the streams that waited for it."""
        waiting, self.waiting = self.waiting, []
        for stream in waiting:
            stream.release()


class H2ServerStream(H2Stream[RequestSink]):
    """A request of a client (`stream.Downstream`)."""

    __slots__ = ()

    _driver: H2Server

    def send_response(self, status: int, headers: Headers, end: bool, length: int | None = None) -> None:
        """Write a head (`stream.Downstream`). One larger than the client accepts resets this stream only."""
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
        """Tell the client to stop sending the request (RFC 9113 section 8.1)."""
        if self.ended < 2:
            self.reset(ErrorCode.NO_ERROR)

    def close_connection(self) -> None:
        """GOAWAY, behind the response that is about to be written (`stream.Downstream`)."""
        self._driver.shared.loop.call_soon(self._driver.announce)


class Departure(Enum):
    """How far a client has been asked to leave its connection (`H2Server`)."""

    NONE = "none"
    DUE = "due"
    ANNOUNCED = "announced"
    FINAL = "final"


# Looked up once: a member costs 0.4 us on Python 3.11.
_NONE, _DUE, _ANNOUNCED, _FINAL = Departure


class H2Server(H2Driver[H2ServerStream]):
    """A client's connection. How it is asked to leave (RFC 9113 section 6.8):

    departure  event                                    next
    NONE       `drain`                                  DUE
    DUE        no stream is open, after `delay`         ANNOUNCED: GOAWAY without a last stream, and a PING
    DUE        some are, after `patience`               ANNOUNCED
    NONE DUE   `announce`                               ANNOUNCED
    ANNOUNCED  PING acknowledged                        FINAL: GOAWAY with the last stream; later ones are ignored
    either     no stream for `Times.linger`             closed

    Nothing is announced before the first request: clients (grpcio, grpc-js, grpclib) take a GOAWAY that comes earlier
    for a failure to connect, and fail the calls that wait for the connection. With `patience` it waits until no stream
    is open: grpclib 0.4 closes the connection when GOAWAY arrives. `close` sends the final GOAWAY.
    """

    __slots__ = ("_departure", "_leaves_at", "_leaves_by", "_newest", "_reject", "_serve")

    def __init__(self, shared: ConnectionContext, info: ConnectionInfo, serve: Serve, reject: Reject) -> None:
        super().__init__(Role.SERVER, shared, info)
        self._newest = 0
        """The highest stream id that was served or rejected."""
        self._departure = _NONE
        self._leaves_at = inf
        """`loop.time()` from which the client is asked to leave between two requests."""
        self._leaves_by = inf
        """`loop.time()` from which open streams do not matter."""
        self._serve = serve
        self._reject = reject

    def attach(self, transport: asyncio.Transport) -> None:
        """Start the idle time limit with the connection."""
        super().attach(transport)
        self.became_idle()

    def handle(self, event: Event) -> None:
        """Serve a request, reject one, or finish a drain when its PING is acknowledged."""
        if type(event) is RequestHead:
            if event.stream not in self.codec.live and self.codec.was_given_up(event.stream):
                return  # reset within the same read: the client has left, and nothing is done for it
            if len(self.streams) >= self.shared.limits.streams:
                # The codec bounds open streams; those whose responses wait for the socket are counted here only.
                self.shared.on_limit("streams")
                self.codec.reset(event.stream, ErrorCode.REFUSED_STREAM)
                return
            if self.is_paused and self.transport.get_write_buffer_size() > UNREAD_BUDGET:
                self.shared.on_limit("unread_bytes")
                self.codec.reset(event.stream, ErrorCode.REFUSED_STREAM)
                return
            self.deadline = 0.0
            self._newest = event.stream
            stream = H2ServerStream(self, event.stream)
            self.streams[event.stream] = stream
            if self._departure is _DUE:
                self._consider()
            if event.end:
                stream.ended = 1
            self._serve(stream, event)
        elif isinstance(event, Rejected):
            if event.limit is not None:
                self.shared.on_limit(event.limit)
            self._rejected(event)
        elif isinstance(event, Pong):
            if event.payload == DRAIN_PING and self._departure is _ANNOUNCED:
                self._departure = _FINAL
                self.codec.go_away(final=True)
        elif not isinstance(event, GoneAway):
            if isinstance(event, Failed) and not event.by_peer:
                self._log("closed the HTTP/2 connection", event.reason)
            super().handle(event)

    def _log(self, what: str, reason: str) -> None:
        shared, remote = self.shared, self.info.remote
        message = f"{what} from {remote}: the client broke the protocol ({reason}): correct or update the client"
        shared.notices.info(logger, f"{remote.rpartition(':')[0]} {reason}", shared.loop.time(), message)

    def _rejected(self, event: Rejected) -> None:
        """The codec ignores the rest of the request."""
        if event.is_reset:
            self._log("reset an HTTP/2 stream", event.reason)
            self._reject(H2ServerStream(self, event.stream), event)
            return
        stream = self.streams.get(event.stream)
        if stream is None:
            if event.stream > self._newest:
                self._newest = event.stream
                stream = self.streams[event.stream] = H2ServerStream(self, event.stream)
                stream.ended = 1
                self._reject(stream, event)
            return  # otherwise it was answered before, within the same read
        sink = stream.sink
        self.end_half(stream)
        if sink is not None:
            sink.rejected(event)

    # Asking the client to leave

    def drain(self, delay: float = 0.0, patience: float = 0.0) -> None:
        """The process is shutting down: ask the client to leave after `delay` seconds, at a moment without open
        streams if there is one within further `patience` seconds."""
        if not self.is_announced:
            self._departure = _DUE
            self._leaves_at = self.shared.loop.time() + delay
            self._leaves_by = self._leaves_at + patience
            self._consider()

    def announce(self) -> None:
        """Announce GOAWAY. The last stream is named one round trip later, which the PING measures: the client may have
        sent requests meanwhile."""
        if not self.is_announced and not self.is_closing:
            self._departure = _ANNOUNCED
            self.codec.go_away(final=False)
            self.codec.ping(DRAIN_PING)
            self.touch()
            self._consider()

    def _consider(self) -> None:
        """See whether it is time to ask the client to leave, or to close; otherwise, when it will be."""
        if not self._newest:
            return
        now = self.shared.loop.time()
        if self._departure is _DUE:
            due = self._leaves_by if self.streams else self._leaves_at
            if now >= due:
                self.announce()
            else:
                self.deadline = due
        elif not self.streams:
            self.deadline = now + self.shared.times.linger

    @property
    def is_announced(self) -> bool:
        """The client knows that it should send no more requests."""
        return self._departure is _ANNOUNCED or self._departure is _FINAL

    @property
    def is_idle(self) -> bool:
        """No stream is open, and every response has been written."""
        return not self.streams and not self.codec.has_more and not self.transport.get_write_buffer_size()

    def became_idle(self) -> None:
        """The last stream has closed: start the idle time limit. A client that is asked to leave is asked by the next
        sweep: GOAWAY in one read with the end of a response makes grpclib lose the response."""
        now = self.shared.loop.time()
        if self._departure is _NONE:
            self.deadline = now + self.shared.times.idle
        elif self._departure is _DUE:
            self.deadline = max(now, self._leaves_at)
        else:
            self.deadline = now + self.shared.times.linger

    def expire(self, now: float) -> None:
        """The deadline has passed: the idle time limit, or one of the departure (see the table above)."""
        if self.is_closing or self._departure is _NONE or not self._newest:
            super().expire(now)
            return
        self.deadline = 0.0
        if self._departure is _DUE:
            self.announce()
        elif not self.streams:
            self.close()  # and not abort, as a peer that reads slowly would be otherwise

    def overdue(self) -> None:
        """The idle time limit was exceeded."""
        if not self.streams:
            self.close()

    def close(self) -> None:
        """Name the last stream, so that the client may repeat later requests elsewhere, and close."""
        if self._departure is not _FINAL:
            self._departure = _FINAL
            self.codec.go_away(final=True)
        super().close()
