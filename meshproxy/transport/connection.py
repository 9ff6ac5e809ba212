"""What the drivers of both HTTP versions share: a socket, gathered output, backpressure, a deadline, an end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshproxy.codec.h2.budgets import Statistics
from meshproxy.transport.facts import ConnectionFacts

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.codec.limits import Limits
    from meshproxy.transport.outbox import Outbox
    from meshproxy.transport.reaper import Reaper


READ_BYTES = 98_304
"""What one read may bring. Plain protocols get up to 256 KiB from uvloop: a quarter more bytes for each CPU second than
64 KiB bring, but 30 MB more with 32 large bodies under way. 96 KiB bring a tenth more, for 4 MB. Below 128 KiB, from
where malloc maps pages for a piece until it has learned."""
LARGE_READ = 16_384
"""What a read of this size leaves behind is not gathered further: it would be joined, and fill memory."""
UNREAD = 65_536
"""Bytes that TLS may hold for a reader that has paused."""
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
UNWRITTEN = 65_536
"""Bytes that may wait for the socket before `pause_writing`: asyncio's own measure, but uvloop takes 512 KiB over TLS,
which made 32 slow readers of 16 MiB answers worth 43 MB."""


@dataclass(frozen=True, slots=True)
class Times:
    """Time limits of a connection, in seconds."""

    handshake: float = 5.0
    """TLS handshake, and the first byte before it."""
    head: float = 10.0
    """From a request head's first byte (or from the connection's first moment) to its last: slowloris."""
    idle: float = 75.0
    """Without a request under way. A little above the 60 s that load balancers keep connections for, so that they
    close first and no request crosses our closing."""
    linger: float = 2.0
    """After an answer that came before the request's end, bytes of the request are read and dropped for so long, so
    that closing does not reset the connection under the answer."""
    ping_after: float = 5.0
    """Of silence on an HTTP/2 connection to a server that owes us answers, until it is asked whether it lives."""
    ping_timeout: float = 4.0
    """For the answer to that. Together less than 10 s, with two looks of the reaper."""


class Driving:
    """What every connection of one process shares: handed to each driver by the assembly."""

    __slots__ = ("buffer", "h2_statistics", "limits", "loop", "on_limit", "outbox", "reaper", "times")

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        outbox: Outbox,
        reaper: Reaper,
        limits: Limits,
        times: Times,
        on_limit: Callable[[str], None],
    ) -> None:
        self.loop = loop
        self.outbox = outbox
        self.reaper = reaper
        self.limits = limits
        self.times = times
        self.on_limit = on_limit
        """Told the name of every limit that a peer exceeded."""
        self.h2_statistics = Statistics()
        """Of all HTTP/2 connections together."""
        self.buffer = memoryview(bytearray(READ_BYTES))
        """Every connection is read into it: what a read brought is taken out before the next."""


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel notice a peer whose host is gone, within half a minute, also while a request waits for it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


class Gone(asyncio.Transport):
    """The transport of a connection that is lost: closed, and deaf to commands."""

    def is_closing(self) -> bool:
        return True

    def write(self, data: object) -> None:
        """Nobody is there."""

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Nothing comes."""

    def resume_reading(self) -> None:
        """Nothing comes."""

    def close(self) -> None:
        """It is."""

    def abort(self) -> None:
        """It is."""


GONE = Gone()


class Reading(asyncio.BufferedProtocol):
    """Reads at most `READ_BYTES` at once."""

    __slots__ = ("driving",)

    driving: Driving

    def get_buffer(self, sizehint: int) -> memoryview:
        """asyncio: where to read to."""
        return self.driving.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio: so much was read."""
        self.data_received(self.driving.buffer[:nbytes].tobytes())

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        raise NotImplementedError


class Connection(Reading):
    """A connection with a driver's half left open: `receive` takes bytes, `write` gathers output.

    Lifetime: made when the connection stands (`attach`), discarded from the reaper when the socket is gone.
    """

    __slots__ = (
        "_gathered",
        "_left",
        "deadline",
        "facts",
        "is_closing",
        "is_dirty",
        "is_paused",
        "on_lost",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, driving: Driving, facts: ConnectionFacts) -> None:
        self.driving = driving
        self.facts = facts
        self.deadline = 0.0
        self.on_lost: Callable[[Any], None] | None = None
        """Told once when the socket is gone."""
        self.is_closing = False
        """We have decided to close: nothing that is received counts any more."""
        self._gathered: list[bytes] = []
        self.is_dirty = False
        """Output has been gathered: the outbox will flush it."""
        self.is_paused = False
        """The socket takes no more."""
        self._left = 0
        """When closing: what the peer had not taken at the last look."""

    # The driver's half

    def receive(self, data: bytes) -> None:
        """Bytes came, within a batch."""
        raise NotImplementedError

    def receive_eof(self) -> None:
        """The peer will send no more, within a batch."""
        raise NotImplementedError

    def lost(self, reason: str) -> None:
        """The socket is gone: every stream that is still alive must hear of it."""
        raise NotImplementedError

    def drained(self) -> None:
        """The socket takes output again: release what was held back."""
        raise NotImplementedError

    def overdue(self) -> None:
        """The deadline has passed, which was set to 0.0."""
        raise NotImplementedError

    def expire(self, now: float) -> None:
        """The deadline has passed (`reaper.Mortal`). A peer that does not read cannot keep us from closing."""
        self.deadline = 0.0
        if self.is_closing and (left := self.transport.get_write_buffer_size()) < self._left:
            # Slow, but it reads: cutting its last answer short would look like the end of it.
            self._left = left
            self.deadline = now + self.driving.times.linger
        elif self.is_closing or self.is_paused:
            self.abort()
        else:
            self.overdue()

    # asyncio's half

    def attach(self, transport: asyncio.Transport) -> None:
        """Take over a connected transport."""
        self.transport = transport
        transport.set_write_buffer_limits(high=UNWRITTEN)
        if hasattr(transport, "set_read_buffer_limits"):  # TLS reads on for 256 KiB when its reader pauses
            transport.set_read_buffer_limits(high=UNREAD)
        self.driving.reaper.add(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: a connection that needed no detection."""
        self.attach(transport)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Read one batch; what it leaves behind is written at the end of the loop's turn, or at once if it is large."""
        outbox = self.driving.outbox
        outbox.begin()
        try:
            self.receive(data)
        finally:
            if len(data) < LARGE_READ:
                outbox.end()
            else:
                outbox.flush()

    def eof_received(self) -> bool:
        """asyncio: the peer's half is closed. True keeps ours open until we close it."""
        outbox = self.driving.outbox
        outbox.begin()
        try:
            self.receive_eof()
        finally:
            outbox.flush()
        return not self.is_closing

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the socket is gone."""
        self.driving.reaper.discard(self)
        self.is_closing = True
        self._gathered.clear()
        outbox = self.driving.outbox
        outbox.begin()
        try:
            self.lost(str(exc) if exc else "the connection was closed")
        finally:
            if self.on_lost is not None:
                self.on_lost(self)
            outbox.flush()
            # The transport refers to us: left in a circle, it would keep its buffers, up to 1 MB over TLS, until the
            # garbage collector comes by.
            self.transport = GONE

    def pause_writing(self) -> None:
        """asyncio: the peer reads more slowly than we write."""
        self.is_paused = True

    def resume_writing(self) -> None:
        """asyncio: the peer has caught up."""
        self.is_paused = False
        outbox = self.driving.outbox
        outbox.begin()
        try:
            self.drained()
        finally:
            outbox.flush()

    # Output

    def write(self, data: bytes) -> None:
        """Gather `data`; it is written when the batch is over."""
        self._gathered.append(data)
        if not self.is_dirty:
            self.touch()

    def touch(self) -> None:
        """There is output to be collected when the batch is over."""
        if not self.is_dirty:
            self.is_dirty = True
            self.driving.outbox.add(self)

    def flush(self) -> None:
        """Write what was gathered as one piece (`outbox.Flushable`): over TLS a piece is at least a record."""
        self.is_dirty = False
        gathered = self._gathered
        if not gathered or self.transport.is_closing():
            gathered.clear()
            return
        self.transport.write(b"".join(gathered))  # of a single piece no copy is made
        gathered.clear()

    def close(self) -> None:
        """Write what was gathered, then close; what the transport still holds is sent first, as long as the peer takes
        some of it every now and then (`Times.linger`)."""
        self.is_closing = True
        self.deadline = self.driving.loop.time() + self.driving.times.linger
        self.flush()
        self._left = self.transport.get_write_buffer_size()
        self.transport.close()

    def abort(self) -> None:
        """Close at once and drop what was not sent. By RST, so that the peer sees a break where an end of the
        connection could be the end of a body."""
        self.is_closing = True
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()
