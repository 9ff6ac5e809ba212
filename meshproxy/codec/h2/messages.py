"""The frames that carry messages: DATA, HEADERS and CONTINUATION (RFC 9113 sections 6.1, 6.2 and 6.10).

A frame alone comes here; a whole message of frames in a row is taken by `joined.JoinedFrames` before.
"""

from __future__ import annotations

from meshproxy.codec.events import Data, Event, Rejected, ResponseHead, Trailers
from meshproxy.codec.h2 import frames
from meshproxy.codec.h2.budgets import Statistics
from meshproxy.codec.h2.control import ANY_FRAME
from meshproxy.codec.h2.errors import ConnectionFault, ErrorCode, StreamFault
from meshproxy.codec.h2.frames import CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, PRIORITY_FLAG, WORD
from meshproxy.codec.h2.joined import JoinedFrames
from meshproxy.codec.h2.stream import BODY, ENDED, HEAD, IGNORED, Past, Stream, Verdict
from meshproxy.codec.limits import Limits
from meshproxy.codec.problem import Malformed, Unacceptable
from meshproxy.codec.role import Role

LARGE = 4_096
"""A DATA frame of this size is probably followed by others of its stream, and is not copied before they are known. Of
one that comes in several reads so much is not waited for: it is passed on as it comes."""


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


class MessageFrames(JoinedFrames):
    """The part of the receiving half that takes frames with a message, one at a time."""

    __slots__ = ("_block", "_rest", "_rest_ends", "_rest_of", "_runs")

    def __init__(self, role: Role, limits: Limits, now: float, statistics: Statistics | None) -> None:
        super().__init__(role, limits, now, statistics)
        self._block: Block | None = None
        self._rest = 0
        """Bytes to come of a DATA frame whose begin has been passed on."""
        self._rest_of = 0
        """Its stream; 0: the frame was refused, and the rest is dropped."""
        self._rest_ends = False
        """It has END_STREAM."""
        self._runs: list[tuple[Data, list[bytes | memoryview]]] = []
        """Data events made of several frames, to be joined before they are given out (`H2Connection.receive`)."""

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
