"""HTTP/2 (RFC 9113), both roles: input becomes events, commands become frames in `out`.

Layers, each built on the one before: `outbound.OutboundFrames` sends and holds what both directions share,
`control.ControlFrames` takes the frames that carry no message, `H2Connection` takes those that do. Between them
`whole.WholeMessages` and `joined.JoinedFrames` are short cuts, for messages that are sent or received whole.

A violation is raised where it is found, as `ConnectionFault` or `StreamFault`, and becomes `Failed` or `Reset` in
`receive`, together with a GOAWAY or RST_STREAM. Frames that cost the peer nothing are limited by budgets;
`codec/limits.py` names the attack that each limit prevents.
"""

from __future__ import annotations

from collections.abc import Callable

from meshproxy.codec.events import (
    Data,
    Event,
    Failed,
    Rejected,
    ResponseHead,
    Trailers,
)
from meshproxy.codec.h2 import frames
from meshproxy.codec.h2.budgets import Statistics
from meshproxy.codec.h2.control import ANY_FRAME, our_settings
from meshproxy.codec.h2.errors import ConnectionFault, ErrorCode, StreamFault
from meshproxy.codec.h2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    FRAME_HEADER_BYTES,
    HEADERS,
    PADDED,
    PREFACE,
    PRIORITY_FLAG,
    RST_STREAM,
    UNKNOWN,
    WORD,
)
from meshproxy.codec.h2.joined import JoinedFrames
from meshproxy.codec.h2.stream import BODY, ENDED, HEAD, IGNORED, Past, Stream, Verdict
from meshproxy.codec.limits import Limits
from meshproxy.codec.problem import Malformed, Unacceptable
from meshproxy.codec.role import Role

SLICE_FRAMES = 32
"""Frames that are processed at once, at most, of what a client sends: 16 small gRPC calls. One read can have 10,000
frames."""
LOOKED_FRAMES = 8_192
"""Of a read that is postponed, which are looked at: 2 ms. 96 KiB of small calls, each with a reset, have 4,600, and
what is left of the read before is looked at with the first."""
LARGE = 4_096
"""A DATA frame of this size is probably followed by others of its stream, and is not copied before they are known. Of
one that comes in several reads so much is not waited for: it is passed on as it comes."""
WHOLE = 262_144
"""Bytes of a frame of any other type, or with padding, if `Limits.frame_bytes` are more: it is read whole, and each
read copies what has come of it."""

TAKEN = 262_144
"""Bytes of postponed input that are taken up in one turn: if it were all of it, all would be there twice."""

NOWHERE, LOST = -1, -2

unpack_header = FRAME_HEADER.unpack_from


class Block:
    """A header block without END_HEADERS so far."""

    __slots__ = ("count", "end", "fragments", "is_self_dependent", "size", "stream")

    def __init__(self, stream: int, end: bool, is_self_dependent: bool, fragment: bytes) -> None:
        self.stream = stream
        self.end = end
        self.is_self_dependent = is_self_dependent
        self.fragments = [fragment]
        self.count = 0
        """CONTINUATION frames so far."""
        self.size = len(fragment)
        """Bytes of all fragments."""


class H2Connection(JoinedFrames):
    """One HTTP/2 connection, at either end. Commands and questions: `outbound.OutboundFrames`."""

    __slots__ = (
        "_at",
        "_block",
        "_frame_bytes",
        "_looked_at",
        "_postponed",
        "_preface",
        "_rest",
        "_rest_ends",
        "_rest_of",
        "_runs",
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
        self._rest = 0
        """Bytes to come of a DATA frame whose begin has been passed on."""
        self._rest_of = 0
        """Its stream; 0: the frame was refused, and the rest is dropped."""
        self._rest_ends = False
        """It has END_STREAM."""
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
        self._block: Block | None = None
        self._runs: list[tuple[Data, list[bytes | memoryview]]] = []
        """Data events made of several frames, to be joined before they are given out."""
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

    def _read_rest(self, data: bytes, events: list[Event]) -> int:
        """More of a DATA frame whose begin has been passed on. Returns where it ends in `data`."""
        size = min(self._rest, len(data))
        self._rest -= size
        stream = self._rest_of
        if not stream or not size:
            return size
        ours = self._streams.get(stream)
        if ours is None or ours.receives != BODY:
            self.return_credit(size)  # it was reset meanwhile
            return size
        end = self._rest_ends and not self._rest
        if end:
            self._end_received(ours)
        event = Data(stream, data, size, end)
        if size < len(data):
            self._runs.append((event, [memoryview(data)[:size]]))
        events.append(event)
        return size

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

    # DATA

    def _on_data(self, flags: int, stream: int, data: bytes, start: int, stop: int, events: list[Event]) -> None:
        """RFC 9113 section 6.1; flow control section 6.9. A frame that goes on beyond `data` (`_rest`) is checked as a
        whole, and what has come of it is passed on."""
        if not stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA on stream 0")
        flow = stop - start
        if flags & PADDED:
            start, stop = strip_padding(data, start, stop)
        self._room -= flow
        if self._room < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window allows")
        ours = self._streams.get(stream)
        if ours is None or ours.receives != BODY:
            self._refuse_data(ours, stream, flags, flow)
            return
        ours.room -= flow
        size = stop - start
        end = flags & END_STREAM != 0
        if ours.room < 0:
            self.return_credit(flow)
            raise StreamFault(stream, ErrorCode.FLOW_CONTROL_ERROR, "more data than the stream's window allows")
        if ours.to_come is not None:
            ours.to_come -= size
            if ours.to_come < 0 or (end and ours.to_come):
                self.return_credit(flow)
                raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR, "the body is not as long as content-length")
        elif ours.allowance is not None:
            ours.allowance -= size
            if ours.allowance < 0:
                self.return_credit(flow)
                self._reject_body(ours, end, events)
                return
        if self._rest:
            self._rest_of, self._rest_ends = stream, end
            flow -= self._rest
            size -= self._rest
            stop = len(data)
            end = False
        elif end:
            ours.receives = ENDED
            if ours.sends == ENDED:
                del self._streams[stream]
        elif not size:
            self._count_empty()
            self.credit(stream, flow)  # padding
            return
        self._empty_frames = 0
        self._explained += 1
        last = events[-1] if events else None
        if type(last) is Data and last.stream == stream:
            # The layers above handle one event instead of the 16 of a large read.
            if not self._runs or self._runs[-1][0] is not last:
                self._runs.append((last, [last.data]))
            self._runs[-1][1].append(memoryview(data)[start:stop])
            last.flow += flow
            last.end = end
        elif size < LARGE or end:
            events.append(Data(stream, data[start:stop], flow, end))
        else:
            event = Data(stream, b"", flow, False)
            self._runs.append((event, [memoryview(data)[start:stop]]))
            events.append(event)

    def _refuse_data(self, ours: Stream | None, stream: int, flags: int, flow: int) -> None:
        """DATA on a stream that does not receive any. Its share of the connection's window is returned."""
        end = flags & END_STREAM != 0
        if not flow and not end:
            self._count_empty()
        if ours is None:
            verdict = self._past(stream, DATA)
            self.return_credit(flow)
            if verdict is Verdict.STREAM_CLOSED:
                raise StreamFault(stream, ErrorCode.STREAM_CLOSED, "DATA after RST_STREAM")
            if end:
                self._history.ended(stream)
            return
        self.return_credit(flow)
        if ours.receives == HEAD:
            raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR, "DATA before a head")
        if ours.receives == ENDED:
            raise StreamFault(stream, ErrorCode.STREAM_CLOSED, "DATA after END_STREAM")
        if end:
            ours.receives = ENDED

    def _count_empty(self) -> None:
        """Count a DATA frame without data or END_STREAM (CVE-2019-9518)."""
        self._empty_frames += 1
        if self._empty_frames > self._limits.empty_frames:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many empty DATA frames", "empty_frames")

    def _reject_body(self, ours: Stream, end: bool, events: list[Event]) -> None:
        reason = f"the body is larger than {self._limits.body_bytes} bytes"
        if not self._is_server:
            raise StreamFault(ours.id, ErrorCode.ENHANCE_YOUR_CALM, reason)
        ours.receives = ENDED if end else IGNORED
        if ours.sends == ENDED:
            del self._streams[ours.id]
            self._send_reset(ours.id, ErrorCode.NO_ERROR)
        events.append(Rejected(ours.id, 413, reason, "body_bytes"))

    # HEADERS and CONTINUATION

    def _on_headers(self, flags: int, stream: int, data: bytes, start: int, stop: int, events: list[Event]) -> None:
        """RFC 9113 section 6.2."""
        if not stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & PADDED:
            start, stop = strip_padding(data, start, stop)
        is_self_dependent = False
        if flags & PRIORITY_FLAG:
            if stop - start < 5:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS is too short for its priority")
            is_self_dependent = WORD.unpack_from(data, start)[0] & 0x7FFFFFFF == stream
            start += 5
        end = flags & END_STREAM != 0
        if flags & END_HEADERS:
            self._on_block(stream, end, data[start:stop], is_self_dependent, events)
        else:
            self._block = Block(stream, end, is_self_dependent, data[start:stop])
            self._expected = CONTINUATION

    def _on_continuation(
        self, flags: int, stream: int, data: bytes, start: int, stop: int, events: list[Event]
    ) -> None:
        """RFC 9113 section 6.10; CVE-2024-27316 and its family."""
        block = self._block
        if block is None or block.stream != stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS before it")
        block.count += 1
        block.size += stop - start
        most = self._limits.continuation_frames
        if block.count > most or block.size > (most + 1) * frames.DEFAULT_FRAME_BYTES:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many CONTINUATION frames", "continuation_frames")
        block.fragments.append(data[start:stop])
        if flags & END_HEADERS:
            self._block = None
            self._expected = ANY_FRAME
            self._on_block(stream, block.end, b"".join(block.fragments), block.is_self_dependent, events)

    def _on_block(self, stream: int, end: bool, block: bytes, is_self_dependent: bool, events: list[Event]) -> None:
        """Process a complete header block. It is decoded in any case, to keep the table in sync."""
        opens = self._is_server and stream > self._history.last and stream & 1
        ours = None if opens else self._streams.get(stream)
        try:
            if ours is None:
                if opens:
                    self._open(stream, end, block, is_self_dependent, events)
                    return
                verdict = self._past(stream, HEADERS)
                self._spend_control()
                self._spend_fields(self._reader.skip(block))
                if verdict is Verdict.STREAM_CLOSED:
                    raise StreamFault(stream, ErrorCode.STREAM_CLOSED, "HEADERS after RST_STREAM")
            elif ours.receives == HEAD:
                self._on_response(ours, end, block, events)
            elif ours.receives == BODY:
                self._on_trailers(ours, end, block, events)
            else:
                self._spend_control()
                self._spend_fields(self._reader.skip(block))
                if ours.receives == ENDED:
                    raise StreamFault(stream, ErrorCode.STREAM_CLOSED, "HEADERS after END_STREAM")
                if end:
                    ours.receives = ENDED
        except Malformed as problem:
            self.statistics.heads_malformed += 1
            if ours is None:
                events.append(Rejected(stream, problem.status, problem.reason, is_reset=True))
            raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR, str(problem)) from None
        except Unacceptable as problem:
            # Not the head of a request: it cannot be answered.
            self.statistics.heads_rejected += 1
            self._spend_fields(problem.fields)
            raise StreamFault(stream, ErrorCode.ENHANCE_YOUR_CALM, problem.reason) from None
        if is_self_dependent:
            raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")

    def _open(self, stream: int, end: bool, block: bytes, is_self_dependent: bool, events: list[Event]) -> None:
        """A client opens a stream. Raises Malformed."""
        history = self._history
        if stream - history.last > 2:
            history.opened(stream)
        else:
            history.last = stream  # `opened`, without its call
        if self._final_stream is not None:
            self._spend_fields(self._reader.skip(block))
            history.reset(stream, Past.RESET_BY_US)
            self._spend_control()
            return
        limits = self._limits
        if len(self._streams) >= limits.streams:
            self._spend_fields(self._reader.skip(block))
            self.statistics.streams_refused += 1
            raise StreamFault(stream, ErrorCode.REFUSED_STREAM, "too many streams")
        try:
            head = self._reader.request(stream, end, block)
        except Unacceptable as problem:
            self.statistics.heads_rejected += 1
            self._spend_fields(problem.fields)
            self._streams[stream] = Stream(
                stream, ENDED if end else IGNORED, HEAD, self._stream_room, self._peer_window
            )
            events.append(Rejected(stream, problem.status, problem.reason, problem.limit, problem.is_grpc))
            return
        if is_self_dependent:
            raise Malformed("a stream depends on itself")
        if end and head.length:
            raise Malformed("a content-length without a body")
        ours = Stream(stream, ENDED if end else BODY, HEAD, self._stream_room, self._peer_window)
        ours.is_head = head.method == b"HEAD"
        ours.to_come = head.length
        ours.allowance = limits.body_bytes
        ours.opened = self._now
        self._streams[stream] = ours
        self._explained += 1
        self.statistics.requests += 1
        events.append(head)

    def _on_response(self, ours: Stream, end: bool, block: bytes, events: list[Event]) -> None:
        """A head from a server, interim or final. Raises Malformed, Unacceptable."""
        status, headers, length = self._reader.responses.get(block) or self._reader.response(block)
        if status < 200:
            if end:
                raise Malformed("an interim response that ends the stream")
            self._spend_control()
        else:
            has_body = not (ours.is_head or status == 304 or status == 204)
            ours.to_come = length if has_body else 0
            self._explained += 1
            ours.allowance = self._limits.body_bytes
            ours.receives = BODY
            if end:
                if ours.to_come:
                    raise Malformed("a content-length without a body")
                self._end_received(ours)
        events.append(ResponseHead(ours.id, status, headers, end, length))

    def _on_trailers(self, ours: Stream, end: bool, block: bytes, events: list[Event]) -> None:
        """Fields after a body. Raises Malformed, Unacceptable."""
        known = self._reader.kept_trailers.get(block)
        headers = known if known is not None else self._reader.trailers(block)
        if not end:
            raise Malformed("trailers that do not end the stream")
        if ours.to_come:
            raise Malformed("the body is not as long as content-length")
        self._explained += 1
        self._end_received(ours)
        events.append(Trailers(ours.id, headers))

    def _end_received(self, ours: Stream) -> None:
        ours.receives = ENDED
        if ours.sends == ENDED:
            del self._streams[ours.id]


def strip_padding(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """Where the payload of a padded frame begins and ends (RFC 9113 section 6.1). Raises ConnectionFault."""
    if start == stop:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without a padding length")
    stop -= data[start]
    start += 1
    if stop < start:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding longer than the frame")
    return start, stop


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
