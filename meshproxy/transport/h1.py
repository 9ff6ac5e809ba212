"""HTTP/1.1 on a socket: what both roles have in common. The connection is the stream: it carries one exchange at a
time."""

from __future__ import annotations

from time import thread_time
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from meshproxy.codec.h1.connection import H1Connection
from meshproxy.codec.role import Role
from meshproxy.transport.connection import LARGE_READ, READ_BYTES, Connection, ConnectionContext
from meshproxy.transport.stream import Sink

if TYPE_CHECKING:
    from meshproxy.codec.events import Headers
    from meshproxy.codec.limits import Limits
    from meshproxy.transport.connection_info import ConnectionInfo

SinkT = TypeVar("SinkT", bound=Sink)


class Ride(Protocol):
    """An exchange that passes both its connections without their codecs (`proxy.express`). It is the `ride` of both;
    whatever happens but a whole answer makes an ordinary exchange of it, with `H1Server.unfold` and a sink for each."""

    def answered(self, data: bytes) -> bool:
        """The server sent this. False: the ride has unfolded, and `data` is for the ordinary exchange."""

    def client_acted(self) -> None:
        """Unfold: the client sent something, or is gone."""

    def client_leaves(self) -> None:
        """Unfold: the client is to be asked to leave."""

    def server_left(self) -> None:
        """Unfold: the connection to the server has ended."""


class H1Driver(Connection, Generic[SinkT]):
    """What both roles have in common: one sink at a time, backpressure by pausing the socket."""

    __slots__ = (
        "_bodies",
        "_codec",
        "_is_passing",
        "_is_reading",
        "_owed",
        "_wants_drained",
        "_window",
        "ride",
        "sink",
    )

    def __init__(self, role: Role, shared: ConnectionContext, info: ConnectionInfo) -> None:
        super().__init__(shared, info)
        self._codec = H1Connection(role, shared.limits)
        self.sink: SinkT | None = None
        """Reads the current message; None between exchanges."""
        self.ride: Ride | None = None
        """The exchange that passes the codec by."""
        self._owed = 0
        # One read returns up to 96 KiB, so more than this may be received; an HTTP/2 window cannot be exceeded.
        self._window = shared.limits.stream_window // 4
        self._is_reading = True
        self._is_passing = False
        """The next read goes to `_bodies`."""
        self._bodies = shared.requests if role is Role.SERVER else shared.answers
        self._wants_drained = False

    def get_buffer(self, sizehint: int) -> memoryview:
        """asyncio: the buffer for the next read; a larger one within a body whose sink has `passes_on`, and it is True:
        it writes what it gets to another HTTP/1.1 connection, and neither looks at it nor keeps it."""
        buffer = Connection.get_buffer(self, sizehint)
        self._is_passing = (
            self._codec.left >= self._bodies.least
            and getattr(self.sink, "passes_on", False)
            and len(buffer) == READ_BYTES
        )
        return self._bodies.take() if self._is_passing else buffer

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio: data is in the buffer."""
        if nbytes >= LARGE_READ and self._began is None:
            self._began = thread_time()
        if self._is_passing:
            view = self._bodies.read(nbytes)
            is_long = self._bodies.least <= nbytes <= self._codec.left
            self.data_received(view if is_long else view.tobytes())  # type: ignore[arg-type]
        else:
            self.data_received(self.shared.buffer[:nbytes].tobytes())
        if self._began is not None:
            self._weigh_read(nbytes, self._began)

    def give_way(self) -> None:
        if not self.is_closing:
            self._stop_reading()
            self.shared.turns.add(self._take_turn)

    def _take_turn(self) -> None:
        if not self._is_reading and not self.is_closing:
            self._read_on()

    @property
    def limits(self) -> Limits:
        """Those of this connection; `shared.limits` are for new ones, after a reload."""
        return self._codec.limits

    def credit(self, size: int) -> None:
        """Resume reading once less than half a window is outstanding (`stream.Stream`)."""
        if size < self._owed:
            self._owed -= size
        else:
            self._owed = 0
        if not self._is_reading:
            self._read_on()

    def _clear_credit(self) -> None:
        """The exchange has ended: outstanding credit must not stop the next one."""
        self._owed = 0
        if not self._is_reading:
            self._read_on()

    def _read_on(self) -> None:
        if self._owed < self._window // 2 and not self._codec.held:
            self._is_reading = True
            self.transport.resume_reading()

    def _wait_for_credit(self) -> None:
        """Stop reading: too much credit is outstanding. Checked after the data was passed on, since most is credited at
        once, and every pause and resume costs a system call (epoll_ctl)."""
        if not self.is_closing:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self.transport.pause_reading()

    def send_data(self, data: bytes, end: bool) -> bool:
        """Write part of the body (`stream.Stream`)."""
        if self.sink is None or self.is_closing:
            return True
        self.write(self._codec.send_data(data, end))
        if end:
            self._message_sent()
        elif self.is_paused:
            self._wants_drained = True
            return False
        return True

    def send_trailers(self, headers: Headers) -> bool:
        """End the body (`stream.Stream`). Always True, as for the end of a body: what the socket has not accepted
        delays the next exchange instead (`is_paused`)."""
        if self.sink is not None and not self.is_closing:
            self.write(self._codec.send_trailers(headers))
            self._message_sent()
        return True

    def _message_sent(self) -> None:
        """Our message is complete. Only a server has to act on it."""

    def drained(self) -> None:
        if self._wants_drained:
            self._wants_drained = False
            if self.sink is not None:
                self.sink.drained()

    def reset(self, code: int) -> None:
        """Abort the connection, so that the message is visibly incomplete (`stream.Stream`)."""
        self.sink = None
        if not self.is_closing:
            self.abort()

    def _end_sink(self, code: int, reason: str) -> None:
        sink, self.sink = self.sink, None
        if sink is not None:
            sink.reset_received(code, reason)
