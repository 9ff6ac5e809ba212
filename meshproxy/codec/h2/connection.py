"""HTTP/2 (RFC 9113), both roles: input becomes events, commands become frames in `out`.

Layers, each built on the one before: `outbound.OutboundFrames` sends and holds what both directions share,
`control.ControlFrames` takes the frames that carry no message, `messages.MessageFrames` those that do, and
`H2Connection` finds the frames in the input. `whole.WholeMessages` and `joined.JoinedFrames`, above the first and the
second, are short cuts for messages that are sent or received whole.

A violation is raised where it is found, as `ConnectionFault` or `StreamFault`, and becomes `Failed` or `Reset` in
`receive`, together with a GOAWAY or RST_STREAM. Frames that cost the peer nothing are limited by budgets;
`codec/limits.py` names the attack that each limit prevents.
"""

from __future__ import annotations

from collections.abc import Callable

from meshproxy.codec.events import Event, Failed
from meshproxy.codec.h2 import frames
from meshproxy.codec.h2.budgets import Statistics
from meshproxy.codec.h2.control import ANY_FRAME, our_settings
from meshproxy.codec.h2.errors import ConnectionFault, ErrorCode, StreamFault
from meshproxy.codec.h2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    FRAME_HEADER,
    FRAME_HEADER_BYTES,
    HEADERS,
    PADDED,
    PREFACE,
    RST_STREAM,
    UNKNOWN,
)
from meshproxy.codec.h2.messages import LARGE, MessageFrames
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role

SLICE_FRAMES = 32
"""Frames that are processed at once, at most, of what a client sends: 16 small gRPC calls. One read can have 10,000
frames."""
LOOKED_FRAMES = 8_192
"""Of a read that is postponed, which are looked at: 2 ms. 96 KiB of small calls, each with a reset, have 4,600, and
what is left of the read before is looked at with the first."""
WHOLE = 262_144
"""Bytes of a frame of any other type, or with padding, if `Limits.frame_bytes` are more: it is read whole, and each
read copies what has come of it."""

TAKEN = 262_144
"""Bytes of postponed input that are taken up in one turn: if it were all of it, all would be there twice."""

NOWHERE, LOST = -1, -2

unpack_header = FRAME_HEADER.unpack_from


class H2Connection(MessageFrames):
    """One HTTP/2 connection, at either end. Commands and questions: `outbound.OutboundFrames`."""

    __slots__ = (
        "_at",
        "_frame_bytes",
        "_looked_at",
        "_postponed",
        "_preface",
        "_tail",
        "_unlooked",
        "has_more",
        "slice_frames",
    )

    def __init__(self, role: Role, limits: Limits, now: float, statistics: Statistics | None = None) -> None:
        """`statistics` may be shared with other connections."""
        super().__init__(role, limits, now, statistics)
        self._frame_bytes = limits.frame_bytes
        self._preface = PREFACE if role is Role.SERVER else b""
        """The part of the client's preface that has not been received."""
        self._tail = b""
        """The incomplete frame at the end of the input, or what `has_more` is about."""
        self._at = 0
        """How much of that has been processed. It is not cut off: each slice would copy all that is left."""
        self._postponed = bytearray()
        """Input behind that (`postpone`)."""
        self.slice_frames = SLICE_FRAMES
        """Frames that are processed at once."""
        self._looked_at = NOWHERE
        """Where in the input that is postponed next the next frame begins; `NOWHERE`: none has been looked at yet;
        `LOST`: it is not known."""
        self._unlooked = b""
        """A part of its header that has been postponed."""
        self.has_more = False
        """Input has not been processed that may have complete frames: other connections should get their turn before
        the next `receive`."""
        if role is Role.CLIENT:
            self.out.append(PREFACE)
        self.out.append(frames.settings(our_settings(role, limits)))
        if self._room > frames.DEFAULT_WINDOW:
            self.out.append(frames.window_update(0, self._room - frames.DEFAULT_WINDOW))

    # Bytes in, events out

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Process input.

        Args:
            data: any number of bytes; what is left of the last frame is kept for the next call.
            now: seconds, of a clock that does not go back.

        Returns:
            The events, in order, of `SLICE_FRAMES` frames at most, and of a whole message before them. Consecutive DATA
            frames of a stream are one event. `Failed` is the last.
        """
        if self.is_closed:
            return []
        self._now = now
        if not self.out:
            self.output_bytes = 0
        events: list[Event] = []
        tail = self._tail
        start, size = 0, len(data)
        try:
            if (
                self.joins
                and not tail
                and not self._rest
                and self._expected == ANY_FRAME
                and not self._reader.changes_table
                and size >= FRAME_HEADER_BYTES
            ):
                # Most reads of a connection with one call at a time are one whole message and nothing else.
                word, flags, stream = unpack_header(data)
                stop = FRAME_HEADER_BYTES + (word >> 8)
                if flags == END_HEADERS and word & 0xFF == HEADERS and stop <= size and word >> 8 <= self._frame_bytes:
                    join = self._join_request if self._is_server else self._join_response
                    start = join(stream, data, FRAME_HEADER_BYTES, stop, size, events)
                    if start == size:
                        return events
            if self._preface:
                data = self._read_preface(data)
            if self.has_more:
                self.has_more = False
                if data:
                    self.postpone(data, looks=False)
                data, start = tail, self._at
            elif self._rest:
                start = self._read_rest(data, events)
            elif tail:
                if len(data) > frames.DEFAULT_FRAME_BYTES and len(tail) >= FRAME_HEADER_BYTES:
                    # Finish the frame alone, rather than copy all of a large piece for the sake of its first bytes.
                    start = FRAME_HEADER_BYTES + (unpack_header(tail)[0] >> 8) - len(tail)
                if 0 < start <= len(data):
                    self._read_frames(tail + data[:start], 0, events)
                else:
                    start = 0
                    data = tail + data
            stop = self._read_frames(data, start, events)
            if self._postponed and not self.has_more:
                # In the same turn, or something would be left over for as long as a little came between two of them.
                postponed = self._postponed
                data = data[stop:] + bytes(postponed[:TAKEN])
                del postponed[:TAKEN]
                stop = self._read_frames(data, self._read_rest(data, events) if self._rest else 0, events)
                if postponed:
                    self.has_more = True
            if self.has_more:
                self._tail, self._at = data, stop
            else:
                self._tail = data[stop:]
                self._looked_at = NOWHERE
            if self._has_grown:
                self._pump_all(events)
        except ConnectionFault as fault:
            events.append(self._fail(fault))
        if self._runs:
            for event, pieces in self._runs:
                event.data = b"".join(pieces)
            self._runs.clear()
        return events

    def postpone(self, data: bytes, *, looks: bool = True) -> int:
        """Keep input for later: it came although there is more than enough already (`has_more`).

        Args:
            looks: at what it is. Once it was False, or a read had more than `LOOKED_FRAMES`, nothing is looked at until
                all that waits has been processed.

        Returns:
            How many RST_STREAM frames there are in the input that has neither been processed nor looked at before: the
            client has given up so many requests.
        """
        self._postponed += data
        if not looks or self._looked_at == LOST:
            self._looked_at = LOST
            return 0
        if self._looked_at == NOWHERE:  # what is left of the read before, too
            self._looked_at, self._unlooked = 0, self._tail[self._at :]
        if self._unlooked:
            data = self._unlooked + data
        at, size, found, left = self._looked_at, len(data), 0, LOOKED_FRAMES
        while left and size - at >= FRAME_HEADER_BYTES:
            word = unpack_header(data, at)[0]
            found += word & 0xFF == RST_STREAM
            at += FRAME_HEADER_BYTES + (word >> 8)
            left -= 1
        self._unlooked = data[at:] if left else b""
        self._looked_at = max(at - size, 0) if left else LOST
        if found:
            self._note_given_up(found)
        return found

    @property
    def pending(self) -> int:
        """Bytes of input that is held."""
        return len(self._tail) + len(self._postponed)

    def receive_eof(self) -> list[Event]:
        if self.is_closed:
            return []
        was_idle = self.is_idle
        self._close()
        return [] if was_idle else [Failed(ErrorCode.NO_ERROR, "the peer closed the connection", by_peer=True)]

    def _read_preface(self, data: bytes) -> bytes:
        preface = self._preface
        if data.startswith(preface):
            self._preface = b""
            return data[len(preface) :]
        if preface.startswith(data):
            self._preface = preface[len(data) :]
            return b""
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "not the HTTP/2 connection preface")

    def _read_frames(self, data: bytes, at: int, events: list[Event]) -> int:
        """Process every complete frame from `at` on. Returns the start of the first incomplete one."""
        size = len(data)
        counts = self.frames_received
        left = self.slice_frames
        joins, is_server = self.joins and not self._reader.changes_table, self._is_server
        while size - at >= FRAME_HEADER_BYTES:
            if not left:
                self.has_more = True
                return at
            left -= 1
            word, flags, stream = unpack_header(data, at)
            length = word >> 8
            if length > self._frame_bytes:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame larger than SETTINGS_MAX_FRAME_SIZE")
            start = at + FRAME_HEADER_BYTES
            at = start + length
            kind = word & 0xFF
            if at > size and (kind != DATA or flags & PADDED or size - start < LARGE):
                if length > WHOLE and (kind != DATA or flags & PADDED):
                    raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a frame that is read whole is too large")
                return start - FRAME_HEADER_BYTES
            if kind > CONTINUATION:
                kind = UNKNOWN
            if self._expected != ANY_FRAME and kind != self._expected:
                expected = frames.NAMES[self._expected]
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{frames.NAMES[kind]} where {expected} must come")
            if joins and left and flags == END_HEADERS and kind == HEADERS:
                join = self._join_request if is_server else self._join_response
                after = join(stream, data, start, at, size, events)
                if after:
                    left -= 1
                    at = after
                    continue
            counts[kind] += 1
            if at > size:
                self._rest, self._rest_of = at - size, 0
            try:
                HANDLERS[kind](self, flags, stream & 0x7FFFFFFF, data, start, at, events)
            except StreamFault as fault:
                self._break(fault, events)
            if at > size:
                return size
        return at

    def _fail(self, fault: ConnectionFault) -> Failed:
        """End the connection, with GOAWAY unless the peer ended it."""
        if not fault.is_of_peer:
            self.statistics.connections_failed += 1
            self.out.append(frames.goaway(self._last_of_peer, fault.code, fault.reason))
        self._close()
        return Failed(fault.code, fault.reason, fault.limit, fault.is_of_peer)

    def _close(self) -> None:
        self.is_closed = True
        self._open_no_more()
        self._streams.clear()
        self._waiting = None
        self._block = None
        self._tail = b""
        self._postponed = bytearray()
        self._rest = 0


Handler = Callable[[H2Connection, int, int, bytes, int, int, list[Event]], None]

HANDLERS: tuple[Handler, ...] = (
    H2Connection._on_data,
    H2Connection._on_headers,
    H2Connection._on_priority,
    H2Connection._on_rst_stream,
    H2Connection._on_settings,
    H2Connection._on_push_promise,
    H2Connection._on_ping,
    H2Connection._on_goaway,
    H2Connection._on_window_update,
    H2Connection._on_continuation,
    H2Connection._on_unknown,
)
"""By type of frame."""
