"""HTTP/2 on a socket: what both roles have in common."""

from __future__ import annotations

import logging
from time import thread_time
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from meshproxy.codec.events import (
    Data,
    Failed,
    Headers,
    Reset,
    Trailers,
    Writable,
)
from meshproxy.codec.h2.connection import SLICE_FRAMES, H2Connection
from meshproxy.codec.h2.encoder import HeadTooLarge
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.role import Role
from meshproxy.transport.connection import EVERYTHING, Connection, ConnectionContext
from meshproxy.transport.stream import Sink

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Sequence

    from meshproxy.codec.events import Event
    from meshproxy.transport.connection_info import ConnectionInfo

logger = logging.getLogger(__name__)

SinkT = TypeVar("SinkT", bound=Sink)
StreamT = TypeVar("StreamT", bound="H2Stream[Any]")

MOST_PENDING = 131_072
"""Bytes of input that wait for the connection's turn, from which on no more is read, once `MOST_PENDING_OF_ALL` wait.
What is read is looked at for resets: how many clients have given up shows while what they asked for is still
waiting."""
MOST_PENDING_OF_ALL = 8 * 1_048_576
"""The same of all connections together: a second of 8,000 calls with a token each."""
MOST_PENDING_OF_ONE = 4 * 1_048_576
"""The same of one, however little waits on others. It takes up to 1.7 times as much (`codec.h2.connection.TAKEN`)."""
FEW = 4
"""Pieces of output that are not joined if one of them is large: to copy that takes longer. Over TLS each piece is a
record of its own, as the few bytes by which a header makes it longer than so many records would be, too."""
MOST_UNREAD = 67_108_864
"""Bytes that may wait for a peer that does not read, however many streams are open."""


MUCH = 4_096
"""Bytes of a read whose first slice is weighed; later slices always are. Two looks at the clock take 0.6 us."""


class Slices(NamedTuple):
    """How much of a read is processed at once."""

    first: int
    """Frames of the first slice of a connection: what they cost is not known yet."""
    most: int
    """Frames."""
    seconds: float
    """Processor time, about. A connection whose slices take longer gets fewer frames in each (`H2Driver._weigh`); one
    frame is the least."""
    turn: float
    """Processor time of the slices together after which others have their turns."""


REQUESTS = Slices(8, SLICE_FRAMES, 0.001, 0.0)
"""Of what a client sends: two or three ordinary calls on a slow processor."""
SHED_REQUESTS = Slices(8, 1_024, 0.003, 0.0)
"""The same while requests are shed: the more are refused at once, the less each takes."""
ANSWERS = Slices(128, 128, 0.003, 0.005)
"""Of what a server sends. A hundred ordinary answers do not wait: a turn comes once in an iteration of the loop, which
is long under load."""


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
            self.give_up(str(problem))
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

    def give_up(self, reason: str) -> None:
        """The peer does not take this message: end the stream at both ends."""
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


def end_streams(streams: Iterable[H2Stream[Any]], code: int, reason: str) -> None:
    """Reset streams of a connection that has ended, towards their sinks."""
    for stream in streams:
        sink, stream.sink = stream.sink, None
        if sink is not None:
            sink.reset_received(code, reason)


class H2Driver(Connection, Generic[StreamT]):
    """What both roles have in common: dispatches events to streams, and ends every stream with the connection."""

    reads_ahead: ClassVar[bool]
    """Reads go on while input waits for its turn."""

    __slots__ = ("_most_unread", "_pending", "codec", "last_read", "scheme", "streams", "waiting")

    def __init__(self, role: Role, shared: ConnectionContext, info: ConnectionInfo) -> None:
        super().__init__(shared, info)
        self.last_read = shared.loop.time()
        """`loop.time()` of the last read."""
        self.scheme = b"http"
        """`:scheme` of requests that we send (RFC 9113 section 8.3.1)."""
        self.codec = H2Connection(role, shared.limits, self.last_read, shared.h2_statistics)
        self.codec.slice_frames = self.slices.first
        if not shared.remembers_heads:
            self.codec.remember_nothing()
        self.streams: dict[int, StreamT] = {}
        self.waiting: list[StreamT] = []
        """Streams whose data is framed, to be reported as drained once the socket accepts output again."""
        # All streams may have a full window waiting for a slow reader. More can only be heads: the peer does not read.
        self._pending = 0
        """Bytes of `ConnectionContext.pending` that are of this connection."""
        self._most_unread = min(shared.limits.streams * shared.limits.stream_window, MOST_UNREAD)

    def attach(self, transport: asyncio.Transport) -> None:
        """Send the connection preface."""
        super().attach(transport)
        if self.info.tls_version:
            self.scheme = b"https"
        self.touch()

    # Received from the peer

    def data_received(self, data: bytes) -> None:
        """As the base. Most reads are one small message or a few: they come here in one step."""
        codec = self.codec
        is_large = len(data) >= MUCH or codec.has_more
        if is_large:
            super().data_received(data)
        elif not self.is_closing:
            shared = self.shared
            self.last_read = now = shared.loop.time()
            if codec.joins:
                self.dispatch_whole(codec.receive(data, now))
            else:
                self._dispatch(codec.receive(data, now))
            if codec.out and not self.is_dirty:
                self.touch()
            if codec.has_more:
                self.go_on()
            if shared.outbox.room <= 0:
                shared.outbox.flush()

    def receive(self, data: bytes) -> None:
        """Dispatch the events of a large read, or of what is left of one, to the streams."""
        if self.is_closing:
            return
        self.last_read = now = self.shared.loop.time()
        codec = self.codec
        if codec.has_more and data:
            looks = self.reads_ahead and not self.shared.overload.is_shedding  # else they are no news
            codec.statistics.resets_waiting += codec.postpone(data, looks=looks)
            self._hold(codec.pending)
            return
        began = thread_time()
        until = began + self.slices.turn
        while True:
            if codec.joins:
                self.dispatch_whole(codec.receive(data, now))
            else:
                self._dispatch(codec.receive(data, now))
            if codec.out:
                self.touch()
            ended = thread_time()
            self._weigh(ended - began)
            if not codec.has_more or ended >= until or self.is_closing:
                break
            began, data = ended, b""
        if codec.has_more:
            self._wait()
        elif self._pending:
            self._hold(0)

    def go_on(self) -> None:
        """A small read had more than a slice."""
        self._wait()

    def _wait(self) -> None:
        """For the turn of this connection: input is left."""
        self._hold(self.codec.pending)
        self.shared.turns.add(self._take_turn)

    def _hold(self, pending: int) -> None:
        """So many bytes wait for the turn of this connection."""
        shared, before = self.shared, self._pending
        shared.pending += pending - before
        self._pending = pending
        if pending > before:
            most = MOST_PENDING if shared.pending > MOST_PENDING_OF_ALL else MOST_PENDING_OF_ONE
            if pending > most or not self.reads_ahead:
                self.transport.pause_reading()

    @property
    def slices(self) -> Slices:
        """How much of a read is processed at once, at present."""
        raise NotImplementedError

    def caught_up(self) -> None:
        """All input that waited has been processed."""

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
            self.caught_up()
            self.transport.resume_reading()

    def give_way(self) -> None:
        if not self.is_closing:
            self.transport.pause_reading()
            self.shared.turns.add(self._read_on)

    def _read_on(self) -> None:
        if not self.is_closing and not self.codec.has_more:  # else it is done when that has been processed
            self.transport.resume_reading()

    def _weigh(self, seconds: float) -> None:
        """Fit the slices of this connection to what the last one took: frames of one kind cost a hundred times as much
        as others, and who sends them is not to take more of each iteration of the loop than others do."""
        codec, slices = self.codec, self.slices
        frames = codec.slice_frames
        if seconds > slices.seconds:
            codec.slice_frames = max(1, int(frames * slices.seconds / seconds))
        elif seconds < slices.seconds / 2 and codec.has_more:
            codec.slice_frames = min(2 * frames, slices.most)

    def _dispatch(self, events: Sequence[Event]) -> None:
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

    def dispatch_whole(self, events: list[Event]) -> None:
        """The same, if requests may take the express lane: some of the events may be a message that came whole, or
        make one (`codec.joins`)."""
        raise NotImplementedError

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
            self._hold(0)
            self.fail(ErrorCode.CANCEL, "the peer closed the connection")
            self.close()

    def lost(self, reason: str) -> None:
        self.shared.turns.discard(self._take_turn)
        self._hold(0)
        self.fail(ErrorCode.CANCEL, reason)

    def fail(self, code: int, reason: str) -> None:
        """Reset every stream towards its sink."""
        streams, self.streams = self.streams, {}
        self.waiting.clear()
        end_streams(streams.values(), code, reason)

    # Commands

    def flush(self) -> None:
        """Write all frames that the codec has queued in one call."""
        self.is_dirty = False
        if self.transport.is_closing():
            return
        codec, most = self.codec, self.shared.write_bytes
        pieces, is_bulky = codec.out, codec.is_bulky
        if not pieces:
            return
        codec.out, codec.output_bytes, codec.is_bulky = [], 0, False  # `take_output`, without its call
        if is_bulky and most is EVERYTHING and len(pieces) <= FEW:
            self.transport.writelines(pieces)
        else:
            output = b"".join(pieces)
            if most is EVERYTHING or len(output) <= most:
                self.transport.write(output)
            else:
                for start in range(0, len(output), most):
                    self.transport.write(output[start : start + most])
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
