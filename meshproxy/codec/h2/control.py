"""The frames that carry no message: SETTINGS, PING, GOAWAY, WINDOW_UPDATE, RST_STREAM, PRIORITY, and unknown ones."""

from __future__ import annotations

from meshproxy.codec.events import Event, GoneAway, Pong, Reset
from meshproxy.codec.h2 import frames
from meshproxy.codec.h2.budgets import Budget, Statistics
from meshproxy.codec.h2.errors import ConnectionFault, ErrorCode, StreamFault
from meshproxy.codec.h2.frames import ACK, MAX_WINDOW, RST_STREAM, SETTING, TWO_WORDS, WINDOW_UPDATE, WORD
from meshproxy.codec.h2.heads import HeadReader
from meshproxy.codec.h2.patience import Patience
from meshproxy.codec.h2.stream import BODY, VERDICTS, Past, Verdict
from meshproxy.codec.h2.whole import WholeMessages
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role

ANY_FRAME = -1

EXPLAINED_FRAMES = 4
"""Control frames that one HEADERS or DATA frame, either way, may cause: updates of two windows, a PING
that measures the path, and one in reserve."""

REASON_CHARACTERS = 128


def our_settings(role: Role, limits: Limits) -> list[tuple[int, int]]:
    """Our first SETTINGS (RFC 9113 section 6.5.2), without values that are the default."""
    values = [
        (frames.HEADER_TABLE_SIZE, limits.header_table_bytes, frames.DEFAULT_TABLE_BYTES),
        (frames.ENABLE_PUSH, 0, 0 if role is Role.SERVER else 1),
        (frames.MAX_CONCURRENT_STREAMS, limits.streams, None if role is Role.SERVER else limits.streams),
        (frames.INITIAL_WINDOW_SIZE, limits.stream_window, frames.DEFAULT_WINDOW),
        (frames.MAX_FRAME_SIZE, limits.frame_bytes, frames.DEFAULT_FRAME_BYTES),
        (frames.MAX_HEADER_LIST_SIZE, limits.header_bytes, None),
    ]
    return [(identifier, value) for identifier, value, default in values if value != default]


PATIENCE = 0.2
"""Seconds: the reset of a request that was open for so long is that of a client that has given up. How many there are
is bounded by the limit of open streams, so it is not counted against the client as a rapid reset (CVE-2023-44487)."""

# Looked up once: a member costs 0.3 us on Python 3.11.
FINISHED, RESET_BY_US = Past.FINISHED, Past.RESET_BY_US


class ControlFrames(WholeMessages):
    """The part of the receiving half that keeps the connection in order.

    Every handler takes (flags, stream, data, start, stop, events): the payload is data[start:stop].
    """

    __slots__ = (
        "_control_budget",
        "_expected",
        "_fields_budget",
        "_now",
        "_reader",
        "_reset_budget",
        "_unacknowledged",
        "patience",
    )

    def __init__(self, role: Role, limits: Limits, now: float, statistics: Statistics | None) -> None:
        super().__init__(role, limits, statistics)
        self._now = now
        self._reader = HeadReader(limits)
        self._expected = frames.SETTINGS
        """The only type of frame that may come next: SETTINGS first, CONTINUATION within a header block."""
        self._unacknowledged = 1
        """SETTINGS frames of ours that the peer has not acknowledged."""
        self._control_budget = Budget(limits.control_rate, limits.control_burst, now)
        self._reset_budget = Budget(limits.resets_rate, limits.resets_burst, now)
        self._fields_budget: Budget | None = None
        """Made when it is needed: most connections never do."""
        self.patience: Patience | None = None
        """Of the client, as server; None: it has reset nothing, or not for long."""

    def rest(self) -> None:
        """No stream is open and none is expected soon: give up the memory that only spares work."""
        self._encoder.rest()
        self._reader.rest()
        self._history.rest()
        self.patience = None

    def forget_heads(self) -> None:
        """See `HeadReader.forget`."""
        self._reader.forget()

    def remember_nothing(self) -> None:
        """Few heads are expected in all, either way: do not keep what would spare work if they were repeated."""
        self._encoder.remembers = self._reader.remembers = False

    # Budgets

    def _spend_control(self) -> None:
        """A frame came that costs the peer nothing (CVE-2019-9512, 9513, 9515)."""
        earned = self._explained * EXPLAINED_FRAMES
        self._explained = 0
        if not self._control_budget.spend(self._now, earned):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many control frames", "control_rate")

    def _spend_reset(self) -> None:
        """A stream ended by reset: the peer's (CVE-2023-44487) or one that it made us send (CVE-2025-8671).
        Only clients are watched, since only they open streams; resets on our own command do not count."""
        if self._is_server and not self._reset_budget.spend(self._now):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many streams are reset", "resets_rate")

    def _note_given_up(self, count: int) -> None:
        """The peer has reset so many of its requests."""
        if self._is_server:
            if self.patience is None:
                self.patience = Patience(self.requests, self._now)
            self.patience.gave_up(count, self.requests, self._now)

    def _spend_fields(self, count: int) -> None:
        """A head with so many fields was decoded and refused (CVE-2016-6581, CVE-2024-7246)."""
        if not count:
            return
        budget = self._fields_budget
        if budget is None:
            limits = self._limits
            budget = self._fields_budget = Budget(limits.refused_fields_rate, limits.refused_fields_burst, self._now)
        if not budget.spend(self._now, cost=count):
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM, "too many fields in heads that exceed a limit", "refused_fields_rate"
            )

    # Streams that are not there (any more)

    def _past(self, stream: int, kind: int) -> Verdict:
        """How a frame of this type is taken on a stream that is not in the table. Raises what the verdict demands."""
        past = self._history.past(stream)
        verdict = VERDICTS[past][kind]
        if verdict is Verdict.VIOLATION:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{frames.NAMES[kind]} on a stream: {past.value}")
        if verdict is Verdict.CONNECTION_CLOSED:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"{frames.NAMES[kind]} on a stream: {past.value}")
        return verdict

    def _break(self, fault: StreamFault, events: list[Event]) -> None:
        """The peer broke a rule on one stream."""
        stream = self._streams.pop(fault.stream, None)
        self._send_fault(fault.stream, fault.code)
        if stream is not None:
            events.append(Reset(fault.stream, fault.code, fault.reason, False))

    def _send_fault(self, stream: int, code: ErrorCode) -> None:
        self._forget(stream, Past.RESET_BY_US)
        self.statistics.resets_sent += 1
        self._answer(frames.rst_stream(stream, code))
        self._spend_reset()

    # Handlers

    def _on_priority(self, flags: int, stream: int, data: bytes, start: int, stop: int, events: list[Event]) -> None:
        """RFC 9113 section 6.3: deprecated, so nothing but its form is looked at."""
        self._spend_control()
        if not stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        is_idle = stream not in self._streams and self._history.past(stream) is Past.IDLE
        if stop - start != 5:
            code, reason = ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not 5 bytes long"
        elif WORD.unpack_from(data, start)[0] & 0x7FFFFFFF == stream:
            code, reason = ErrorCode.PROTOCOL_ERROR, "a stream depends on itself"
        else:
            return
        if is_idle:  # there is nothing that RST_STREAM could be sent on
            raise ConnectionFault(code, reason)
        raise StreamFault(stream, code, reason)

    def _on_rst_stream(self, flags: int, stream: int, data: bytes, start: int, stop: int, events: list[Event]) -> None:
        """RFC 9113 section 6.4."""
        if not stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on stream 0")
        if stop - start != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not 4 bytes long")
        ours = self._streams.pop(stream, None)
        if ours is None:
            past = self._history.past(stream)
            if past is not FINISHED:  # else it crossed our answer, as it often does while clients give up
                self._past(stream, RST_STREAM)
                if past is RESET_BY_US:
                    # What crossed our own reset was to be ignored; after this one nothing can be on the way.
                    self._history.reset(stream, Past.RESET_BY_PEER)
            self.statistics.resets_late += 1
            self._note_given_up(1)
            self._spend_control()
            return
        self._forget(stream, Past.RESET_BY_PEER)
        self.statistics.resets_received += 1
        self._note_given_up(1)
        code = WORD.unpack_from(data, start)[0]
        events.append(Reset(stream, code, "the peer reset the stream", True))
        if self._now - ours.opened < PATIENCE:
            self._spend_reset()

    def _on_settings(self, flags: int, stream: int, data: bytes, start: int, stop: int, events: list[Event]) -> None:
        """RFC 9113 section 6.5."""
        if stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        is_first = self._expected == frames.SETTINGS
        if flags & ACK:
            if stop != start:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement with a payload")
            if is_first:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is an acknowledgement")
            if self._unacknowledged:
                self._unacknowledged -= 1
                self._acknowledged()
            else:
                self._spend_control()
            return
        if (stop - start) % SETTING.size:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS is not a multiple of 6 bytes long")
        if stop - start > frames.DEFAULT_FRAME_BYTES:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "SETTINGS is larger than 16 KiB")
        if is_first:
            self._expected = ANY_FRAME
            self._take_streams(frames.MAX_STREAM_ID)  # unless changed below
        else:
            self._spend_control()
        # Of a repeated parameter the last value applies (section 6.5.3); windows are adjusted once.
        values = {}
        for identifier, value in SETTING.iter_unpack(data[start:stop]):
            check_setting(identifier, value, self._role)
            values[identifier] = value
        self._answer(frames.SETTINGS_ACK)
        self._apply(values)

    def _apply(self, values: dict[int, int]) -> None:
        if frames.MAX_CONCURRENT_STREAMS in values:
            self._take_streams(values[frames.MAX_CONCURRENT_STREAMS])
        if frames.MAX_FRAME_SIZE in values:
            self._peer_frame_bytes = values[frames.MAX_FRAME_SIZE]
        if frames.MAX_HEADER_LIST_SIZE in values:
            self._encoder.limit(values[frames.MAX_HEADER_LIST_SIZE])
        if frames.INITIAL_WINDOW_SIZE in values:
            # Section 6.9.2: windows of open streams move by the difference, below zero if it must be.
            change = values[frames.INITIAL_WINDOW_SIZE] - self._peer_window
            self._peer_window += change
            for stream in self._streams.values():
                stream.window += change
                if stream.window > MAX_WINDOW:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31 - 1")
            self._has_grown = True

    def _take_streams(self, most: int) -> None:
        """The peer takes so many at once."""
        self._peer_streams = most
        if self._opens:
            self.most_streams = most

    def _acknowledged(self) -> None:
        """The peer has taken up our SETTINGS: what is below the defaults may be insisted on from here."""
        self._reader.allow_table(self._limits.header_table_bytes)
        change = self._limits.stream_window - self._stream_room
        if change:
            self._stream_room += change
            for stream in self._streams.values():
                stream.room += change
        if self._limits.stream_window > frames.DEFAULT_WINDOW:
            self._wake()

    def _wake(self) -> None:
        """Extend the window of a stream on which the peer has sent as much as it may without our SETTINGS. Some clients
        (Ruby's http-2) take up the larger window, and yet hold the rest of the body until a WINDOW_UPDATE."""
        for number, stream in self._streams.items():
            if stream.receives == BODY and self._limits.stream_window - stream.room >= frames.DEFAULT_WINDOW:
                extension = max(stream.owed, 1)
                self.out.append(frames.window_update(number, extension))
                stream.room += extension
                stream.owed -= extension

    def _on_push_promise(
        self, flags: int, stream: int, data: bytes, start: int, stop: int, events: list[Event]
    ) -> None:
        """RFC 9113 sections 6.6 and 8.4: clients cannot push, and our SETTINGS disable it for servers."""
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE")

    def _on_ping(self, flags: int, stream: int, data: bytes, start: int, stop: int, events: list[Event]) -> None:
        """RFC 9113 section 6.7."""
        if stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if stop - start != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING is not 8 bytes long")
        self._spend_control()
        payload = data[start:stop]
        if flags & ACK:
            events.append(Pong(payload))
        else:
            self._answer(frames.ping(payload, ack=True))

    def _on_goaway(self, flags: int, stream: int, data: bytes, start: int, stop: int, events: list[Event]) -> None:
        """RFC 9113 section 6.8."""
        if stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if stop - start < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is shorter than 8 bytes")
        self._spend_control()
        last, code = TWO_WORDS.unpack_from(data, start)
        last &= 0x7FFFFFFF
        if self._peer_last_stream is not None and last > self._peer_last_stream:
            # What was above the first number may have been sent elsewhere already.
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY raises the last stream of an earlier one")
        self._peer_last_stream = last
        self._open_no_more()
        text = data[start + 8 : min(stop, start + 8 + REASON_CHARACTERS)].decode("latin-1")
        reason = "".join([character if " " <= character <= "~" else "?" for character in text])
        if not self._is_server:
            for unseen in [number for number in self._streams if number > last]:
                del self._streams[unseen]
                self._forget(unseen, Past.RESET_BY_US)
        events.append(GoneAway(last, code, reason))
        if ErrorCode.NO_ERROR < code <= ErrorCode.HTTP_1_1_REQUIRED:  # section 7: unknown codes do nothing special
            raise ConnectionFault(code, reason, is_of_peer=True)

    def _on_window_update(
        self, flags: int, stream: int, data: bytes, start: int, stop: int, events: list[Event]
    ) -> None:
        """RFC 9113 section 6.9."""
        if stop - start != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not 4 bytes long")
        self._spend_control()
        increment = WORD.unpack_from(data, start)[0] & 0x7FFFFFFF
        if not stream:
            if not increment:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE with an increment of 0")
            self._window += increment
            if self._window > MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31 - 1")
            self._has_grown = True
            return
        ours = self._streams.get(stream)
        if ours is None:
            self._past(stream, WINDOW_UPDATE)
            if not increment:  # no crossing on the wire explains it, and there is no stream to break
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE with an increment of 0")
            return
        if not increment:
            raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE with an increment of 0")
        ours.window += increment
        if ours.window > MAX_WINDOW:
            raise StreamFault(stream, ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31 - 1")
        self._has_grown = True

    def _on_unknown(self, flags: int, stream: int, data: bytes, start: int, stop: int, events: list[Event]) -> None:
        """RFC 9113 section 5.5: ignored, but not without end."""
        self._spend_control()


def check_setting(identifier: int, value: int, role: Role) -> None:
    """Raise ConnectionFault for a value that the setting cannot have (RFC 9113 section 6.5.2)."""
    if identifier == frames.ENABLE_PUSH:
        if value > (1 if role is Role.SERVER else 0):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "an invalid SETTINGS_ENABLE_PUSH")
    elif identifier == frames.INITIAL_WINDOW_SIZE:
        if value > MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "an invalid SETTINGS_INITIAL_WINDOW_SIZE")
    elif identifier == frames.MAX_FRAME_SIZE and not frames.DEFAULT_FRAME_BYTES <= value <= frames.MAX_FRAME_BYTES:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "an invalid SETTINGS_MAX_FRAME_SIZE")
