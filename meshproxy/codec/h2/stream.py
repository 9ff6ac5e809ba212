"""One stream: what each side may still send on it, and what a frame means that comes too early or too late.

RFC 9113 section 5.1, without the states that only server push has:

                        +--------+
                        |  idle  |
                        +--------+
                             | HEADERS
                             v
                        +--------+
             END_STREAM |        | END_STREAM
             received   |  open  | sent
           +------------|        |------------+
           v            +--------+            v
      +----------+           |           +----------+
      |   half-  |           |           |   half-  |
      |  closed  |           | RST_STREAM|  closed  |
      | (remote) |           |           | (local)  |
      +----------+           v           +----------+
           | END_STREAM +--------+  END_STREAM  |
           | sent       |        |  received    |
           +----------->| closed |<-------------+
             RST_STREAM |        | RST_STREAM
                        +--------+

The three states in the middle are two independent halves (`Stream.receives` and `Stream.sends`), each of which goes
HEAD -> BODY -> ENDED, so that the order of head, body and trailers is part of the state. A stream object exists in
these states only. Streams without one are idle or closed, and `VERDICTS` says how a frame on them is taken.

Deviations: a request that is rejected with a response stays IGNORED until the response has ended.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from meshproxy.codec.h2.frames import DATA, HEADERS, RST_STREAM, WINDOW_UPDATE
from meshproxy.codec.pieces import join

# States of a half.
HEAD = 0
"""Waiting for a head."""
BODY = 1
"""Data or trailers may follow."""
IGNORED = 2
"""Input is dropped (receiving only)."""
ENDED = 3
"""END_STREAM was sent or received."""


class Past(Enum):
    """Why there is no stream object for an id."""

    IDLE = "nothing was sent on it yet"
    SKIPPED = "a higher one was opened first"
    FINISHED = "both sides sent END_STREAM"
    RESET_BY_PEER = "the peer sent RST_STREAM"
    RESET_BY_US = "we sent RST_STREAM"


class Verdict(Enum):
    """How a frame is taken that came too early or too late."""

    IGNORE = "the peer could not know"
    STREAM_CLOSED = "stream error STREAM_CLOSED"
    CONNECTION_CLOSED = "connection error STREAM_CLOSED"
    VIOLATION = "connection error PROTOCOL_ERROR"


VERDICTS: dict[Past, dict[int, Verdict]] = {
    # HEADERS on an idle stream opens it if the peer is a client; the caller handles that.
    Past.IDLE: {
        DATA: Verdict.VIOLATION,
        HEADERS: Verdict.VIOLATION,
        RST_STREAM: Verdict.VIOLATION,
        WINDOW_UPDATE: Verdict.VIOLATION,
    },
    # Section 5.1.1: ids must increase.
    Past.SKIPPED: {
        DATA: Verdict.CONNECTION_CLOSED,
        HEADERS: Verdict.VIOLATION,
        RST_STREAM: Verdict.IGNORE,
        WINDOW_UPDATE: Verdict.IGNORE,
    },
    Past.FINISHED: {
        DATA: Verdict.CONNECTION_CLOSED,
        HEADERS: Verdict.CONNECTION_CLOSED,
        RST_STREAM: Verdict.IGNORE,
        WINDOW_UPDATE: Verdict.IGNORE,
    },
    Past.RESET_BY_PEER: {
        DATA: Verdict.STREAM_CLOSED,
        HEADERS: Verdict.STREAM_CLOSED,
        RST_STREAM: Verdict.IGNORE,
        WINDOW_UPDATE: Verdict.IGNORE,
    },
    Past.RESET_BY_US: {
        DATA: Verdict.IGNORE,
        HEADERS: Verdict.IGNORE,
        RST_STREAM: Verdict.IGNORE,
        WINDOW_UPDATE: Verdict.IGNORE,
    },
}
"""What became of the stream -> type of the frame -> verdict. PRIORITY is ignored in every state."""

KEPT_RESETS = 2_048
"""Resets that are remembered. A peer with 1,024 concurrent streams cannot have more of them on the way."""
KEPT_GAPS = 16


class History:
    """Which streams of one side have closed, and how. Only those that are not FINISHED take memory."""

    __slots__ = ("_gaps", "_resets", "last")

    def __init__(self) -> None:
        self.last = 0
        """The highest id that was opened."""
        self._resets: dict[int, Past] = {}
        self._gaps: deque[tuple[int, int]] | None = None

    def opened(self, stream: int) -> None:
        """`stream`, higher than all before, was opened; the ids it left out never can be."""
        if stream - self.last > 2:
            if self._gaps is None:
                self._gaps = deque(maxlen=KEPT_GAPS)
            self._gaps.append((self.last, stream))
        self.last = stream

    def reset(self, stream: int, past: Past) -> None:
        """The stream ended by RST_STREAM."""
        resets = self._resets
        if len(resets) >= KEPT_RESETS:
            del resets[next(iter(resets))]
        resets[stream] = past

    def ended(self, stream: int) -> None:
        """END_STREAM came on a stream that we had reset: it is finished, and nothing else may follow."""
        del self._resets[stream]

    def rest(self) -> None:
        """Forget the peer's resets: it sends nothing on a stream after them, unless it breaks the protocol, and then
        its connection ends with the next frame instead of the stream."""
        self._resets = {stream: past for stream, past in self._resets.items() if past is Past.RESET_BY_US}

    def past(self, stream: int) -> Past:
        """What became of a stream that is not open."""
        if stream > self.last or not stream & 1:  # streams with even ids do not exist: push is disabled
            return Past.IDLE
        past = self._resets.get(stream)
        if past is None:
            if self._gaps is not None and any(low < stream < high for low, high in self._gaps):
                return Past.SKIPPED
            return Past.FINISHED
        return past


class BufferedData:
    """Data that a stream has buffered until the peer extends its windows."""

    __slots__ = ("end", "offset", "pieces", "trailers")

    def __init__(self) -> None:
        self.pieces: deque[bytes | bytearray] = deque()
        self.offset = 0
        """How much of the first piece has been framed."""
        self.end = False
        """END_STREAM goes with the last byte."""
        self.trailers: bytes | None = None
        """The block that ends the stream instead."""

    def add(self, data: bytes) -> None:
        """Buffer a piece."""
        pieces = self.pieces
        # Frames of the first piece may be part of the output as views: it must not change.
        joined = join(pieces[-1], data) if len(pieces) > 1 else None
        if joined is not None:
            pieces[-1] = joined
        else:
            pieces.append(data)


class Stream:
    """An open stream. Windows may be negative after the peer has lowered SETTINGS_INITIAL_WINDOW_SIZE."""

    __slots__ = (
        "allowance",
        "held",
        "id",
        "is_head",
        "opened",
        "owed",
        "receives",
        "room",
        "sends",
        "to_come",
        "to_go",
        "window",
    )

    def __init__(self, number: int, receives: int, sends: int, room: int, window: int) -> None:
        self.id = number
        self.receives = receives
        self.sends = sends
        self.room = room
        """Bytes that the peer may still send before we extend its window."""
        self.owed = 0
        """Bytes that were consumed since we last extended its window."""
        self.window = window
        """Bytes that we may still send before the peer extends our window."""
        self.to_come: int | None = None
        """Bytes left of the content-length that the peer declared."""
        self.to_go: int | None = None
        """Bytes left of the content-length that we declared."""
        self.allowance: int | None = None
        """Bytes left of `Limits.body_bytes`."""
        self.is_head = False
        """The method is HEAD: the response may declare a length, and has no body."""
        self.opened = 0.0
        """When a client opened it."""
        self.held: BufferedData | None = None
