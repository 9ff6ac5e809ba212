"""What the drivers of both HTTP versions share: the socket, batched output, backpressure, deadlines, closing."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import sys
import termios
from dataclasses import dataclass, field
from time import thread_time
from typing import TYPE_CHECKING, Any

from meshproxy.codec.h2.budgets import Statistics
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.notices import Notices
from meshproxy.transport.overload import Overload
from meshproxy.transport.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.codec.limits import Limits
    from meshproxy.transport.outbox import Outbox
    from meshproxy.transport.reaper import Reaper


REST_SECONDS = 5.0
"""See `Times.rest`."""
READ_BYTES = 98_304
"""The size of a read. Plain protocols get up to 256 KiB from uvloop: a quarter more bytes per CPU second than with
64 KiB, but 30 MB more memory with 32 large bodies in flight. 96 KiB give a tenth more, for 4 MB. It stays below 128
KiB, from which malloc maps pages for each piece until its threshold has adapted."""
LARGE_READ = 16_384
"""The output of a read of this size is written at once: batched any further, it would be copied and fill memory."""
LEAST_READ = 1_024
"""The smallest read, of connections whose reads are expensive."""
READ_SECONDS = 0.001
"""Processor time of a read, with what decrypts it, beyond which others go before the next one: that of a slice of
HTTP/2. Ordinary reads take less: 256 KiB of a body that is passed on half a millisecond."""
TWO_RECORDS = 2 * (5 + 16_384 + 256) + 256
"""Encrypted bytes among which a record with data ends, wherever it began (RFC 8446 section 5.2), and what uvloop adds
when it says how many there are."""
BODY_BYTES = 262_144
"""The size of a read within the body of a request that is passed on as it is (`BodyBuffer`). uvloop reads as much of
TLS at once, and decrypts all of it in one turn of the loop then: in two or three otherwise, pausing the socket
meanwhile. Of an answer it is `READ_BYTES`: TLS keeps memory for each connection for the largest write."""
EVERYTHING = sys.maxsize
UNREAD = 65_536
"""Bytes that TLS may buffer while reading is paused."""
TCP_STATE = struct.Struct("@2xBB52xI")
"""Of `struct tcp_info` of linux/tcp.h: `tcpi_retransmits` and `tcpi_probes`, which an acknowledgement sets to 0, and
`tcpi_last_ack_recv` in ms."""
REPEATS = 2
"""The answer to one may still be on its way."""
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
UNWRITTEN = 65_536
"""Bytes that may wait for the socket before `pause_writing`: asyncio's default. uvloop's is 512 KiB over TLS, which
took 43 MB for 32 slow readers of 16 MiB responses."""


@dataclass(frozen=True, slots=True)
class Times:
    """Time limits of a connection, in seconds."""

    handshake: float = 5.0
    """TLS handshake, and the first byte before it."""
    head: float = 10.0
    """From the first byte of a request head (or from the start of the connection) to its last (slowloris)."""
    idle: float = 75.0
    """Without a request. A little above the 60 s for which load balancers keep connections, so that they close first
    and no request crosses our close."""
    rest: float = field(init=False, default=0.0)
    """Without a request, after which a client's connection gives up what it holds to spare work: what it remembers, up
    to 30 KB of heads and fields, and what a large body has used of its buffer. The next request costs 50 us more."""
    linger: float = 2.0
    """After a response that was sent before the end of the request, the rest of the request is read and dropped while
    some of it comes in each period of so long, so that closing does not reset the connection before the response is
    read: many clients send the whole of a request first."""
    linger_most: float = 30.0
    """In all (nginx: `lingering_time`)."""
    ping_after: float = 5.0
    """Silence on an HTTP/2 connection to a server with open streams before a keepalive PING."""
    ping_timeout: float = 4.0
    """For its acknowledgement. Together less than 10 s, including two periods of the reaper."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rest", min(REST_SECONDS, self.idle))


class ConnectionContext:
    """What all connections of a process share."""

    __slots__ = (
        "answers",
        "buffer",
        "h2_statistics",
        "limits",
        "loop",
        "notices",
        "on_drained",
        "on_limit",
        "outbox",
        "overload",
        "pending",
        "reaper",
        "remembers_heads",
        "requests",
        "times",
        "turns",
        "write_bytes",
    )

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        outbox: Outbox,
        reaper: Reaper,
        limits: Limits,
        times: Times,
        on_limit: Callable[[str], None],
        turns: Turns | None = None,
    ) -> None:
        """`turns`: of the event loop; None: nobody else takes any."""
        self.loop = loop
        self.outbox = outbox
        self.reaper = reaper
        self.limits = limits
        self.times = times
        self.on_limit = on_limit
        """Called with the name of each limit that a peer exceeds."""
        self.on_drained: Callable[[str], None] = lambda reason: None
        """Called for each connection that is given up because of its age, with the reason (`certificate_age`)."""
        self.h2_statistics = Statistics()
        """Of all HTTP/2 connections together."""
        self.notices = Notices()
        self.turns = (turns or Turns(loop, outbox.flush)).queue()
        """Connections with more input than is processed at once."""
        self.pending = 0
        """Bytes of it, of all of them."""
        self.write_bytes = EVERYTHING
        """What one write of an HTTP/2 connection may be at most; more is written in several. For servers of thousands
        of connections that are idle: TLS keeps as much memory for each as its largest write took."""
        self.remembers_heads = True
        """Heads of HTTP/2 are kept for clients that repeat them. Not for thousands that send two or three in all."""
        self.overload = Overload(loop, self.turns, self.h2_statistics, on_limit)
        self.buffer = memoryview(bytearray(READ_BYTES))
        """The receive buffer of all connections: the data is copied out before the next read."""
        self.requests = BodyBuffer(BODY_BYTES)
        self.answers = BodyBuffer(READ_BYTES)


class BodyBuffer:
    """Where connections read bodies that nobody looks at. What was read is passed on as a view. A socket that accepts
    all of it, which is the rule, does so before the next read; while a view is left, the next read gets another buffer,
    and this one goes with its last view."""

    __slots__ = ("_buffer", "least", "size")

    def __init__(self, size: int) -> None:
        self._buffer = bytearray(size)
        self.size = size
        self.least = size // 2
        """Bytes from which a read is passed on as a view: what waits for a socket holds twice its size at most."""

    def take(self) -> memoryview:
        """A buffer of which there are no views."""
        try:
            self._buffer.pop()  # refused while there is a view: its size is fixed then
        except BufferError:
            self._buffer = bytearray(self.size)
        else:
            self._buffer.append(0)
        return memoryview(self._buffer)

    def read(self, size: int) -> memoryview:
        """The first `size` bytes of the buffer that was taken last."""
        return memoryview(self._buffer)[:size]


def keep_alive(sock: socket.socket, idle: int = 10, interval: int = 5) -> None:
    """Set TCP keepalive: a peer whose host is down is detected after `idle` seconds and three probes, `interval` apart.

    That is within half a minute, also during a request, but not while bytes wait to be acknowledged (`unheard`).
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def unheard(transport: asyncio.Transport) -> float:
    """For how many seconds the peer's kernel has acknowledged nothing, although ours has sent the same bytes or probes
    `REPEATS` times, else 0.0. Also 0.0 where nobody can tell, as with UNIX sockets. Costs a system call.

    TCP_USER_TIMEOUT is not the same: it also ends a connection whose peer acknowledges but does not read. Such a peer
    may be heard rarely, since the kernel probes a closed window ever more slowly.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return 0.0
    try:
        state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_STATE.size)
    except OSError:
        return 0.0
    retransmits, probes, heard = TCP_STATE.unpack(state)
    return heard / 1e3 if max(retransmits, probes) >= REPEATS else 0.0


def has_unread(transport: asyncio.Transport) -> bool:
    """Some of what was written has not been taken by the peer's kernel, whose buffer is full as the peer does not read.
    What comes with a response acknowledges all that the peer had read by then. Costs a system call."""
    if transport.get_write_buffer_size():
        return True
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return False
    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder) > 0


def read_rest(transport: asyncio.Transport) -> list[bytes]:
    """What the peer had sent before the connection failed. asyncio drops it when a write fails first; the kernel still
    has it. Without TLS only."""
    sock = transport.get_extra_info("socket")
    if sock is None or transport.get_extra_info("ssl_object") is not None:
        return []
    pieces = []
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as rest:
        rest.setblocking(False)
        while data := rest.recv(READ_BYTES):
            pieces.append(data)
    return pieces


class ClosedTransport(asyncio.Transport):
    """The transport of a lost connection: ignores every command."""

    def is_closing(self) -> bool:
        return True

    def write(self, data: object) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


CLOSED_TRANSPORT = ClosedTransport()


class Reading(asyncio.BufferedProtocol):
    """Reads at most `READ_BYTES` at once, and less of who makes that expensive.

    libuv reads up to 32 times in a row as long as each read fills its buffer, and of TLS uvloop decrypts up to 256 KiB
    each time, in which there may be 11,000 records of one byte. So a read that took long makes way for others
    (`give_way`), and later ones are smaller until they take little again. Of TLS there may be no data at all: OpenSSL
    puts no bound to key updates, of which no client needs more than a few. A connection with two large reads of nothing
    else is closed.
    """

    __slots__ = ("_began", "_has_nothing", "_most", "is_encrypted", "shared")

    def __init__(self, shared: ConnectionContext) -> None:
        self.shared = shared
        self.is_encrypted = False
        self._most = READ_BYTES
        """Bytes of a read: fewer if the last ones were expensive."""
        self._began: float | None = None
        """`thread_time()` when a read began that is weighed."""
        self._has_nothing = False
        """No data has come of a read that must have had some."""

    def get_buffer(self, sizehint: int) -> memoryview:
        """asyncio: the buffer for the next read. `sizehint`: of TLS, what is about to be decrypted. Raises OSError, as
        a broken socket does."""
        is_large = self.is_encrypted and sizehint > TWO_RECORDS
        if is_large or self._most < READ_BYTES:
            self._began = thread_time()
            if is_large:
                if self._has_nothing:
                    self.shared.on_limit("tls_records_without_data")
                    raise ConnectionAbortedError("too many TLS records without data")
                self._has_nothing = True
            return self.shared.buffer[: self._most]
        return self.shared.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio: data is in the buffer."""
        self.data_received(self.shared.buffer[:nbytes].tobytes())
        if self._began is not None:
            self._weigh_read(nbytes, self._began)

    def _weigh_read(self, nbytes: int, began: float) -> None:
        seconds, self._began = thread_time() - began, None
        self._has_nothing = False
        if seconds > READ_SECONDS:
            self._most = max(LEAST_READ, int(min(nbytes, READ_BYTES) * READ_SECONDS / seconds))
        elif self._most < READ_BYTES:
            if seconds < READ_SECONDS / 2:
                self._most = min(2 * self._most, READ_BYTES)
        else:
            return
        self.give_way()

    def give_way(self) -> None:
        """Read no more before other connections have had their turns."""

    def data_received(self, data: bytes) -> None:
        """Process the data of one read."""
        raise NotImplementedError


class Connection(Reading):
    """Base of the drivers: `receive` takes input, `write` batches output.

    Registered with the reaper from `attach`, when the connection is established, until the connection is lost.
    """

    __slots__ = (
        "_gathered",
        "_left",
        "deadline",
        "info",
        "is_closing",
        "is_dirty",
        "is_paused",
        "on_lost",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, shared: ConnectionContext, info: ConnectionInfo) -> None:
        super().__init__(shared)
        self.info = info
        self.transport = CLOSED_TRANSPORT
        self.deadline = 0.0
        self.on_lost: Callable[[Any], None] | None = None
        """Called once when the connection is lost."""
        self.is_closing = False
        """We are closing: further input is ignored."""
        self._gathered: list[bytes] = []
        """Output; none unless `is_dirty`."""
        self.is_dirty = False
        """Output has been gathered: the outbox will flush it."""
        self.is_paused = False
        """The socket accepts no output at present."""
        self._left = 0
        """When closing: bytes that were unsent at the last check."""

    # Implemented by drivers

    def receive(self, data: bytes) -> None:
        """Process input, within a batch."""
        raise NotImplementedError

    def receive_eof(self) -> None:
        """The peer closed its half; within a batch."""
        raise NotImplementedError

    def lost(self, reason: str) -> None:
        """The connection was lost: reset every open stream."""
        raise NotImplementedError

    def drained(self) -> None:
        """The socket accepts output again: resume what was paused."""
        raise NotImplementedError

    def overdue(self) -> None:
        """The deadline has passed, and was reset to 0.0."""
        raise NotImplementedError

    def expire(self, now: float) -> None:
        """The deadline has passed (`reaper.Expirable`). A peer that does not read cannot keep the connection open."""
        self.deadline = 0.0
        if self.is_closing and (left := self.transport.get_write_buffer_size()) < self._left:
            # The peer is slow but reads: a truncated last response would look like a complete one.
            self._left = left
            self.deadline = now + self.shared.times.linger
        elif self.is_closing or self.is_paused:
            self.abort()
        else:
            self.overdue()

    # Called by asyncio

    def attach(self, transport: asyncio.Transport) -> None:
        """Start on a connected transport."""
        self.transport = transport
        self.is_encrypted = bool(self.info.tls_version)
        transport.set_write_buffer_limits(high=UNWRITTEN)
        if hasattr(transport, "set_read_buffer_limits"):  # TLS buffers 256 KiB by default while reading is paused
            transport.set_read_buffer_limits(high=UNREAD)
        self.shared.reaper.add(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected, with the HTTP version known."""
        self.attach(transport)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Process one read as a batch. Its output is written at the end of the loop iteration, or at once if it is
        large."""
        outbox = self.shared.outbox
        if len(data) < LARGE_READ:
            self.receive(data)
            if outbox.room <= 0:
                outbox.flush()
            return
        outbox.begin()
        try:
            self.receive(data)
        finally:
            outbox.flush()

    def eof_received(self) -> bool:
        """asyncio: the peer closed its half. True keeps our half open."""
        outbox = self.shared.outbox
        outbox.begin()
        try:
            self.receive_eof()
        finally:
            outbox.flush()
        return not self.is_closing

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection was lost."""
        if self.transport is CLOSED_TRANSPORT:
            return  # it was given up
        self.shared.reaper.discard(self)
        self.is_closing = True
        self._gathered.clear()
        outbox = self.shared.outbox
        outbox.begin()
        try:
            self.lost(str(exc) if exc else "the connection was closed")
        finally:
            # The transport refers to us. In a reference cycle it would keep its buffers, up to 1 MB over TLS, until the
            # next garbage collection. Nor is our own output written any more: a transport of uvloop whose opening was
            # cancelled is closed without saying so, and raises.
            self.transport = CLOSED_TRANSPORT
            # First, whatever `on_lost` does: while a batch is open, nobody else's output is written.
            outbox.flush()
            if self.on_lost is not None:
                self.on_lost(self)

    def pause_writing(self) -> None:
        """asyncio: the write buffer is full."""
        self.is_paused = True

    def resume_writing(self) -> None:
        """asyncio: the write buffer has drained."""
        self.is_paused = False
        outbox = self.shared.outbox
        outbox.begin()
        try:
            self.drained()
        finally:
            outbox.flush()

    # Output

    def write(self, data: bytes) -> None:
        """Queue `data` to be written at the end of the batch."""
        if self.is_dirty:
            self._gathered.append(data)
            return
        self._gathered = [data]
        self.is_dirty = True
        outbox = self.shared.outbox
        outbox.dirty.append(self)  # `add`, without its call
        outbox.room -= 1
        if not outbox.is_due:
            outbox.wait()

    @property
    def queued(self) -> int:
        """How many pieces of output wait for the end of the batch."""
        return len(self._gathered)

    def take_back(self, queued: int) -> None:
        """Drop what was written since there were so many pieces: it had been written before."""
        del self._gathered[queued:]

    def touch(self) -> None:
        """There is output to be flushed at the end of the batch."""
        if not self.is_dirty:
            self.is_dirty = True
            outbox = self.shared.outbox
            outbox.dirty.append(self)  # `add`, without its call
            outbox.room -= 1
            if not outbox.is_due:
                outbox.wait()

    def flush(self) -> None:
        """Write the queued output in one call (`outbox.Flushable`): over TLS each call makes at least one record."""
        self.is_dirty = False
        gathered = self._gathered
        if not gathered or self.transport.is_closing():
            gathered.clear()
            return
        self._gathered = []
        # A single piece is not copied; of a view, `join` alone would make bytes.
        self.transport.write(b"".join(gathered) if gathered[1:] else gathered[0])

    def close(self) -> None:
        """Flush, then close. The transport sends what it has buffered first, as long as the peer reads some of it in
        each period of `Times.linger`."""
        self.is_closing = True
        self.deadline = self.shared.loop.time() + self.shared.times.linger
        self.flush()
        # At a second close asyncio's transport over TLS forgets its protocol, and every later question raises.
        if not self.transport.is_closing():
            self._left = self.transport.get_write_buffer_size()
            self.transport.close()

    def give_up(self) -> None:
        """Close a connection that was being opened and is not wanted any more, as far as it got. If `create_connection`
        is cancelled after `connection_made`, uvloop closes the socket and never calls `connection_lost`."""
        if self.transport is not CLOSED_TRANSPORT:
            self.abort()
            self.connection_lost(None)

    def abort(self) -> None:
        """Close at once and drop unsent output. With RST, since an orderly close could be taken for the end of a
        body."""
        self.is_closing = True
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()
