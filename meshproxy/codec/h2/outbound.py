"""The sending half: heads, data within the peer's windows, WINDOW_UPDATE, RST_STREAM, PING and GOAWAY."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

from meshproxy.codec.events import Event, Headers, Writable
from meshproxy.codec.h2 import frames
from meshproxy.codec.h2.budgets import Statistics
from meshproxy.codec.h2.encoder import Encoder, HeadTooLarge
from meshproxy.codec.h2.errors import ConnectionFault, ErrorCode
from meshproxy.codec.h2.frames import END_STREAM, MAX_WINDOW, header_frames, pack_header
from meshproxy.codec.h2.stream import BODY, ENDED, HEAD, IGNORED, BufferedData, History, Past, Stream
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import LocalProtocolError, Role

UNTOLD_STREAMS = 100
"""How many streams a client opens before it has read the server's SETTINGS (RFC 9113 section 6.5.2 asks servers to
allow no fewer)."""

BULK = 16_384
"""A piece of a body of more bytes takes longer to copy than to write apart from the header of its frame."""
EXPLAINING_BYTES = 512
"""A DATA frame at least this large explains WINDOW_UPDATE frames; smaller ones are what a dribbling peer asks for
(CVE-2019-9511)."""


class OutboundFrames:
    """The sending half of a connection, and what both halves share: streams, windows, statistics."""

    __slots__ = (
        "_encoder",
        "_explained",
        "_final_stream",
        "_has_grown",
        "_history",
        "_is_server",
        "_limits",
        "_next_stream",
        "_opens",
        "_owed",
        "_peer_frame_bytes",
        "_peer_last_stream",
        "_peer_streams",
        "_peer_window",
        "_role",
        "_room",
        "_stream_room",
        "_streams",
        "_waiting",
        "_window",
        "frames_received",
        "is_bulky",
        "is_closed",
        "live",
        "most_streams",
        "out",
        "output_bytes",
        "statistics",
    )

    def __init__(self, role: Role, limits: Limits, statistics: Statistics | None) -> None:
        self._role = role
        self._is_server = role is Role.SERVER
        """A member of an enumeration takes 0.1 us to look up on CPython 3.11."""
        self._limits = limits
        self.out: list[bytes | memoryview] = []
        """Frames waiting to be written, in order. Whoever writes them leaves another list."""
        self.is_bulky = False
        """One of them is larger than `BULK`. Reset with `out`."""
        self.output_bytes = 0
        """How much of it answers control frames of the peer. Reset with `out`."""
        self.statistics = statistics if statistics is not None else Statistics()
        self.frames_received = [0] * 11
        """By type (`frames.NAMES`); the last counts all types that RFC 9113 does not know."""
        self.is_closed = False
        """The connection has failed or the peer has closed it: nothing more is read, commands do nothing."""
        self._encoder = Encoder()
        # Streams.
        self._streams: dict[int, Stream] = {}
        self.live: Collection[int] = self._streams
        """The ids of the streams that are open after the last read, also of those that its events are yet to open."""
        self._history = History()
        self._next_stream = 1
        self._peer_streams = UNTOLD_STREAMS
        self._opens = not self._is_server
        """Streams may still be opened, as far as the peer takes any."""
        self.most_streams = UNTOLD_STREAMS if self._opens else 0
        """How many streams that we have opened may be open at once; 0 for good once none may be opened any more."""
        self._peer_last_stream: int | None = None
        """From the peer's GOAWAY."""
        self._final_stream: int | None = None
        """From our own, once it is final."""
        # What the peer may send: of the whole connection, and on a new stream.
        self._room = max(limits.connection_window, frames.DEFAULT_WINDOW)
        self._owed = 0
        self._stream_room = max(limits.stream_window, frames.DEFAULT_WINDOW)
        """Until the peer has acknowledged a smaller window it may use the default (RFC 9113 section 6.5.3)."""
        # What we may send: of the whole connection, on a new stream, in a frame.
        self._window = frames.DEFAULT_WINDOW
        self._peer_window = frames.DEFAULT_WINDOW
        self._peer_frame_bytes = frames.DEFAULT_FRAME_BYTES
        self._waiting: OrderedDict[int, Stream] | None = None
        """Streams that hold data back, next in turn first."""
        self._has_grown = False
        """The peer has extended a window, and nothing has been framed since."""
        self._explained = 0
        """Frames since the last control frame of the peer that give it reason to send such."""

    # Questions

    @property
    def is_idle(self) -> bool:
        """No stream is open."""
        return not self._streams

    @property
    def requests(self) -> int:
        """How many heads the client has sent, trailers too: of the ids of its streams it may leave out any number."""
        return self.frames_received[frames.HEADERS]

    @property
    def can_open(self) -> bool:
        """`send_request` may be called: the peer takes another stream."""
        return len(self._streams) < self.most_streams

    @property
    def is_barren(self) -> bool:
        """The peer takes no stream at present, whatever has ended (RFC 9113 section 5.1.2:
        SETTINGS_MAX_CONCURRENT_STREAMS 0)."""
        return self._peer_streams == 0

    def take_output(self) -> bytes:
        output = b"".join(self.out)
        self.out = []
        self.output_bytes = 0
        self.is_bulky = False
        return output

    # Commands: messages

    def send_request(
        self,
        method: bytes,
        scheme: bytes,
        authority: bytes,
        target: bytes,
        headers: Headers,
        end: bool,
        length: int | None = None,
        trace: bytes | None = None,
    ) -> int:
        """Open a stream with the head of a request.

        Args:
            end: there is no body.
            length: the content-length to declare; the body must have it.
            trace: the value of `traceparent`, to be sent last.

        Returns:
            The stream's id.

        Raises:
            LocalProtocolError: no stream can be opened, or a field is not one that a message may have.
            HeadTooLarge: the peer does not take a head of this size; no stream was opened.
        """
        if not self.can_open:
            raise LocalProtocolError("no stream can be opened")
        if end and length:
            raise LocalProtocolError("a length and no body")
        block = self._encoder.request(method, scheme, authority, target, headers, length, trace)
        number = self._next_stream
        self._next_stream += 2
        if number == frames.MAX_STREAM_ID:
            self._open_no_more()
        self._history.last = number
        stream = Stream(number, HEAD, ENDED if end else BODY, self._stream_room, self._peer_window)
        stream.is_head = method == b"HEAD"
        stream.to_go = length
        self._streams[number] = stream
        self.statistics.requests += 1
        self._explained += 1
        self.out.append(header_frames(number, block, end, self._peer_frame_bytes))
        return number

    def send_response(self, stream: int, status: int, headers: Headers, end: bool, length: int | None = None) -> None:
        """Send the head of a response, or an interim one (`status` below 200).

        Args:
            end: there is no body; a `length` is then what the body would have had (HEAD, 304).
            length: the content-length to declare.

        Raises:
            LocalProtocolError: a final head was sent before, or a field is not one that a message may have.
            HeadTooLarge: the peer does not take a head of this size; nothing was sent.
        """
        ours = self._streams.get(stream)
        if ours is None:
            return
        if ours.sends != HEAD or not self._is_server or (end and status < 200):
            raise LocalProtocolError("a head out of order")
        block = self._encoder.response(status, headers, length)
        self._explained += 1
        end = end or (ours.is_head and status >= 200)
        self.out.append(header_frames(stream, block, end, self._peer_frame_bytes))
        if end:
            self._end(ours)
        elif status >= 200:
            ours.sends = BODY
            ours.to_go = 0 if status == 304 else length  # what the length of a 304 counts does not follow it

    def send_data(self, stream: int, data: bytes, end: bool) -> bool:
        """Send a piece of a body.

        Returns:
            True if all of it was framed. False if some is held back until the peer extends its windows; then `Writable`
            tells.

        Raises:
            LocalProtocolError: before the head, after the end, or not the length that was declared.
        """
        ours = self._streams.get(stream)
        if ours is None or (ours.is_head and ours.sends == ENDED and self._is_server):
            return True  # a response to HEAD has no body (RFC 9110 section 9.3.2)
        held = ours.held
        if ours.sends != BODY or (held is not None and held.end):
            raise LocalProtocolError("data out of order")
        size = len(data)
        if ours.to_go is not None:
            ours.to_go -= size
            if ours.to_go < 0 or (end and ours.to_go):
                raise LocalProtocolError("not the length that was declared")
        if held is None:
            if not size or (size <= ours.window and size <= self._window and size <= self._peer_frame_bytes):
                # One frame: most messages.
                ours.window -= size
                self._window -= size
                if end:
                    self.out.append(pack_header(size << 8, END_STREAM, stream))
                    self.out.append(data)
                    self._end(ours)
                elif size:
                    self.out.append(pack_header(size << 8, 0, stream))
                    self.out.append(data)
                    if size > BULK:
                        self.is_bulky = True
                self._explained += size >= EXPLAINING_BYTES or end
                return True
            room = min(ours.window, self._window)
            if size <= room:
                self._frame(ours, data, 0, size, end)
                if end:
                    self._end(ours)
                return True
            ours.held = held = BufferedData()
            if self._waiting is None:
                self._waiting = OrderedDict()
            self._waiting[stream] = ours
            if room > 0:
                self._frame(ours, data, 0, room, False)
                held.offset = room
        if size:
            held.add(data)
        held.end = end
        return False

    def send_trailers(self, stream: int, headers: Headers) -> None:
        """End a message with trailers, after any buffered data. Raises as `send_response`."""
        ours = self._streams.get(stream)
        if ours is None or (ours.is_head and ours.sends == ENDED and self._is_server):
            return
        held = ours.held
        if ours.sends != BODY or ours.to_go or (held is not None and held.end):
            raise LocalProtocolError("trailers out of order")
        block = self._encoder.trailers(headers)
        if held is None:
            self._send_trailers(ours, block)
        else:
            held.trailers = block
            held.end = True

    def held(self, stream: int) -> int:
        """Bytes of the stream that are held back until the peer extends its windows."""
        ours = self._streams.get(stream)
        held = ours.held if ours is not None else None
        return sum(map(len, held.pieces)) - held.offset if held is not None else 0

    def refuse(self, stream: int, status: int, headers: Headers) -> None:
        """Answer a request with a head, without looking at the rest of it; one larger than the peer accepts resets the
        stream."""
        ours = self._streams.pop(stream, None)
        if ours is not None and self._send_refusal(stream, status, headers) and ours.receives != ENDED:
            self._send_reset(stream, ErrorCode.NO_ERROR)

    def _send_refusal(self, stream: int, status: int, headers: Headers) -> bool:
        try:
            block = self._encoder.response(status, headers, None)
        except HeadTooLarge:
            self._send_reset(stream, ErrorCode.ENHANCE_YOUR_CALM)
            return False
        self.out.append(header_frames(stream, block, True, self._peer_frame_bytes))
        return True

    def was_given_up(self, stream: int) -> bool:
        """Whether the peer has reset the stream."""
        return self._history.past(stream) is Past.RESET_BY_PEER

    def reset(self, stream: int, code: int) -> None:
        """Abort a stream, and drop its buffered data."""
        if self._streams.pop(stream, None) is not None:
            self._send_reset(stream, code)

    def credit(self, stream: int, size: int) -> None:
        """Return `size` bytes of flow. A window is extended once half of it has been used: a small exchange costs no
        WINDOW_UPDATE."""
        if self.is_closed:
            return
        ours = self._streams.get(stream)
        if ours is not None and ours.receives == BODY:
            ours.owed += size
            if ours.owed * 2 >= self._limits.stream_window:
                self.out.append(frames.window_update(stream, ours.owed))
                ours.room += ours.owed
                ours.owed = 0
        self._owed += size
        if self._owed * 2 >= self._limits.connection_window:
            self._extend_window()

    # Commands: the connection

    def ping(self, payload: bytes) -> None:
        """Send a PING; its acknowledgement is `Pong` with the same 8 bytes."""
        if len(payload) != 8:
            raise LocalProtocolError("a PING carries 8 bytes")
        if not self.is_closed:
            self.out.append(frames.ping(payload, ack=False))

    def go_away(self, code: int = 0, reason: str = "", *, final: bool) -> None:
        """Send GOAWAY (RFC 9113 section 6.8).

        Args:
            final: False announces it: new streams are still served, since the peer may have sent them already. True
                names the last stream that is served, and ignores later ones.
        """
        if self.is_closed:
            return
        if not final:
            if self._final_stream is None:
                self.out.append(frames.goaway(frames.MAX_STREAM_ID, code, reason))
            return
        if self._final_stream is None:
            self._final_stream = self._last_of_peer
            self._open_no_more()
        self.out.append(frames.goaway(self._final_stream, code, reason))

    # Shared with the receiving half

    @property
    def _last_of_peer(self) -> int:
        """The highest stream that the peer has opened."""
        return self._history.last if self._is_server else 0

    def _open_no_more(self) -> None:
        """The connection is on its way to its end, or its ids are used up."""
        self._opens = False
        self.most_streams = 0

    def return_credit(self, size: int) -> None:
        """`credit`, for a stream that has ended: extend the connection's window, in steps of half of it."""
        self._owed += size
        if self._owed * 2 >= self._limits.connection_window:
            self._extend_window()

    def _extend_window(self) -> None:
        """Let the peer send as much as has been consumed."""
        self.out.append(frames.window_update(0, self._owed))
        self._room += self._owed
        self._owed = 0

    def _answer(self, frame: bytes) -> None:
        """Queue the response to a control frame. Raises ConnectionFault if the peer does not read them."""
        self.output_bytes += len(frame)
        if self.output_bytes > self._limits.output_bytes:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "the peer does not read", "output_bytes")
        self.out.append(frame)

    def _send_reset(self, stream: int, code: int) -> None:
        """Send RST_STREAM on a stream that was removed from the table."""
        self._forget(stream, Past.RESET_BY_US)
        self.statistics.resets_sent += 1
        self.out.append(frames.rst_stream(stream, code))

    def _forget(self, stream: int, past: Past) -> None:
        """A stream that is no longer in the table was reset."""
        self._history.reset(stream, past)
        if self._waiting is not None:
            self._waiting.pop(stream, None)

    def _end(self, stream: Stream) -> None:
        """END_STREAM was sent."""
        stream.sends = ENDED
        if stream.receives == ENDED:
            del self._streams[stream.id]
        elif stream.receives == IGNORED:
            # Rejected and answered: the client need not send the rest (RFC 9113 section 8.1).
            del self._streams[stream.id]
            self._send_reset(stream.id, ErrorCode.NO_ERROR)

    def _send_trailers(self, stream: Stream, block: bytes) -> None:
        self._explained += 1
        self.out.append(header_frames(stream.id, block, True, self._peer_frame_bytes))
        self._end(stream)

    def _frame(self, stream: Stream, data: bytes | bytearray, start: int, stop: int, end: bool) -> None:
        """Frame data[start:stop], which fits into both windows, in frames as large as the peer takes."""
        stream.window -= stop - start
        self._window -= stop - start
        # Views, not slices: 1.1 µs for each frame of 16 KiB until it is part of the output; copied twice it is 10 µs.
        view = memoryview(data)
        append = self.out.append
        number = stream.id
        step = self._peer_frame_bytes
        while stop - start > step:
            append(pack_header(step << 8, 0, number))
            append(view[start : start + step])
            start += step
            self._explained += 1
        append(pack_header(stop - start << 8, END_STREAM if end else 0, number))
        append(view[start:stop])
        self._explained += stop - start >= EXPLAINING_BYTES

    def _pump(self, stream: Stream, most: int, events: list[Event]) -> int:
        """Frame up to `most` buffered bytes of a stream. Returns their number, or -1 if the buffer is empty now."""
        held = stream.held
        assert held is not None
        assert self._waiting is not None
        framed = 0
        while held.pieces:
            piece = held.pieces[0]
            left = len(piece) - held.offset
            size = min(left, stream.window, self._window, most - framed)
            if size <= 0:
                return framed
            is_last = size == left and len(held.pieces) == 1
            end = is_last and held.end and held.trailers is None
            self._frame(stream, piece, held.offset, held.offset + size, end)
            framed += size
            if size == left:
                held.pieces.popleft()
                held.offset = 0
            else:
                held.offset += size
        stream.held = None
        del self._waiting[stream.id]
        if held.trailers is not None:
            self._send_trailers(stream, held.trailers)
        elif held.end:
            self._end(stream)
        events.append(Writable(stream.id))
        return -1

    def _pump_all(self, events: list[Event]) -> None:
        """Windows have grown: every stream that waits gets a frame in turn.

        Once for all that came together: framed update by update, the buffered data would be sent in frames of whatever
        each allows. A peer that answers every DATA frame by an update gets ever smaller ones, and its updates become a
        flood that nothing explains.
        """
        self._has_grown = False
        waiting = self._waiting
        if waiting is None:
            return
        stuck = 0
        while self._window > 0 and stuck < len(waiting):
            stream = next(iter(waiting.values()))
            waiting.move_to_end(stream.id)
            most = self._peer_frame_bytes if len(waiting) > 1 else MAX_WINDOW
            stuck = 0 if self._pump(stream, most, events) else stuck + 1
