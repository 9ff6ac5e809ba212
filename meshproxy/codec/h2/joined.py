"""Whole messages, read in one step: what the express lane reads (`proxy.express`).

A message is whole if all its frames came in one read and in a row, each as most peers send it, and its blocks are those
of messages before. Each command comes to the same state as the handlers of these frames in a row
(`messages.MessageFrames`), or does nothing: what is out of the ordinary is left to them, and so are violations.
"""

from __future__ import annotations

from typing import Protocol

from meshproxy.codec.events import Event, Headers, WholeRequest, WholeResponse
from meshproxy.codec.h2.budgets import Statistics
from meshproxy.codec.h2.control import ControlFrames
from meshproxy.codec.h2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    FRAME_HEADER_BYTES,
    HEADERS,
    pack_header,
)
from meshproxy.codec.h2.patience import Patience
from meshproxy.codec.h2.shape import HeadShape
from meshproxy.codec.h2.stream import ENDED, HEAD, Stream
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role

LAST_HEADERS = END_HEADERS | END_STREAM
NOTHING = 0

unpack_header = FRAME_HEADER.unpack_from


class Client(Protocol):
    """Whose request it is: a connection."""

    @property
    def patience(self) -> Patience | None:
        """See `ControlFrames.patience`."""

    @property
    def requests(self) -> int:
        """How many it has sent."""


class Gate(Protocol):
    """Decides which requests are begun while there is no time for all of them (`transport.overload`)."""

    is_shedding: bool
    """There is not."""

    def admits(self, client: Client) -> bool:
        """Whether a request that has come is begun."""

    def refusal(self, headers: Headers) -> tuple[int, Headers]:
        """Status and fields of the response to one that is not, which has these fields."""


class JoinedFrames(ControlFrames):
    """The part of the receiving half that reads whole messages.

    Both commands take the HEADERS frame that a message begins with: its stream, and its payload data[start:stop],
    without padding, priority, or CONTINUATION frames behind it. They return where what follows the message begins, or
    `NOTHING`.
    """

    __slots__ = ("_empty_frames", "gate", "joins")

    def __init__(self, role: Role, limits: Limits, now: float, statistics: Statistics | None) -> None:
        super().__init__(role, limits, now, statistics)
        self._empty_frames = 0
        """DATA frames in a row that carried nothing and ended nothing."""
        self.joins = False
        """Whole messages are one event each."""
        self.gate: Gate | None = None
        """Asked about each whole request, as server: those that it does not admit are no events."""

    def _join_request(self, number: int, data: bytes, start: int, stop: int, size: int, events: list[Event]) -> int:
        """As server: a request, HEADERS and DATA. `size`: of `data`."""
        if size - stop < FRAME_HEADER_BYTES:
            return NOTHING
        word, flags, stream = unpack_header(data, stop)
        flow: int = word >> 8
        begin = stop + FRAME_HEADER_BYTES
        end = begin + flow
        limits, history, streams = self._limits, self._history, self._streams
        most = limits.body_bytes
        if (
            word & 0xFF != DATA
            or flags != END_STREAM
            or stream != number
            or end > size
            or not 0 < flow <= limits.frame_bytes
            or flow > self._room
            or flow > self._stream_room
            or (most is not None and flow > most)
            or not number & 1
            or not 0 < number - history.last <= 2
            or self._final_stream is not None
            or len(streams) >= limits.streams
        ):
            return NOTHING
        found = self._reader.find(data[start:stop])
        if found is None:
            return NOTHING
        shape, values = found
        length = shape.parsed.length
        if length is not None and length != flow:
            return NOTHING
        history.last = number
        self._room -= flow
        counts = self.frames_received
        counts[HEADERS] += 1
        counts[DATA] += 1
        self._explained += 2
        self._empty_frames = 0
        self.statistics.requests += 1
        gate = self.gate
        if gate is not None and gate.is_shedding and not gate.admits(self):
            self._refuse_whole(number, shape, gate)
            self.return_credit(flow)
            return end
        ours = streams[number] = Stream(number, ENDED, HEAD, self._stream_room - flow, self._peer_window)
        ours.is_head = shape.parsed.method == b"HEAD"
        ours.opened = self._now
        if length is not None:
            ours.to_come, ours.allowance = 0, most
        elif most is not None:
            ours.allowance = most - flow
        events.append(WholeRequest(shape.head(number, False, values), data[begin:end], flow))
        return end

    def _refuse_whole(self, number: int, shape: HeadShape, gate: Gate) -> None:
        """Answer a request that is not admitted."""
        if shape.refusal is None:
            shape.refusal = self._encoder.kept_response(*gate.refusal(shape.parsed.headers), None)
        block, size = shape.refusal
        if size <= self._encoder.most and size <= self._peer_frame_bytes:  # a block of literals is shorter than that
            self.out.append(pack_header(len(block) << 8 | HEADERS, LAST_HEADERS, number) + block)
        else:
            self._send_refusal(number, *gate.refusal(shape.parsed.headers))

    def _join_response(self, number: int, data: bytes, start: int, stop: int, size: int, events: list[Event]) -> int:
        """As client: a response of gRPC, HEADERS, DATA and trailers, to a request that has been sent."""
        ours = self._streams.get(number)
        if (
            ours is None
            or ours.receives != HEAD
            or ours.sends != ENDED
            or ours.is_head
            or size - stop < 2 * FRAME_HEADER_BYTES
        ):
            return NOTHING
        head = self._reader.responses.get(data[start:stop])
        if head is None:
            return NOTHING
        status, headers, length = head
        word, flags, stream = unpack_header(data, stop)
        flow: int = word >> 8
        begin = stop + FRAME_HEADER_BYTES
        end = begin + flow
        limits = self._limits
        if (
            word & 0xFF != DATA
            or flags
            or stream != number
            or end + FRAME_HEADER_BYTES > size
            or not 0 < flow <= limits.frame_bytes
            or flow > self._room
            or flow > ours.room
            or limits.body_bytes is not None
            or (length is not None and length != flow)
            or status != 200
        ):
            return NOTHING
        word, flags, stream = unpack_header(data, end)
        begins = end + FRAME_HEADER_BYTES
        after: int = begins + (word >> 8)
        if word & 0xFF != HEADERS or flags != LAST_HEADERS or stream != number or after > size:
            return NOTHING
        trailers = self._reader.kept_trailers.get(data[begins:after])
        if trailers is None:
            return NOTHING
        self._room -= flow
        del self._streams[number]
        counts = self.frames_received
        counts[HEADERS] += 2
        counts[DATA] += 1
        self._explained += 3
        self._empty_frames = 0
        events.append(WholeResponse(number, status, headers, length, data[begin:end], flow, trailers))
        return after
