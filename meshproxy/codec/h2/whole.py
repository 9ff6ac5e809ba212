"""Whole messages, sent at once from blocks that were encoded before: what the express lane writes (`proxy.express`).

Each command comes to the same frames and the same state as the ordinary ones in a row, or does nothing.
"""

from __future__ import annotations

from meshproxy.codec.h2.encoder import Encoder
from meshproxy.codec.h2.frames import (
    END_HEADERS,
    END_STREAM,
    HEADERS,
    MAX_STREAM_ID,
    pack_three_headers,
    pack_two_headers,
)
from meshproxy.codec.h2.outbound import EXPLAINING_BYTES, OutboundFrames
from meshproxy.codec.h2.stream import ENDED, HEAD, Stream

LAST_HEADERS = END_HEADERS | END_STREAM


class PreparedAnswer:
    """The blocks around the body of an answer."""

    __slots__ = ("head", "head_word", "size", "trailers", "trailers_word")

    def __init__(self, head: tuple[bytes, int], trailers: tuple[bytes, int]) -> None:
        """Blocks, and the sizes of what they say, as RFC 9113 section 10.5.1 counts them."""
        self.head, head_size = head
        self.trailers, trailers_size = trailers
        self.size = max(head_size, trailers_size)
        self.head_word = len(self.head) << 8 | HEADERS
        """Length and type of the frame."""
        self.trailers_word = len(self.trailers) << 8 | HEADERS


class WholeMessages(OutboundFrames):
    """The part of the sending half that sends whole messages."""

    __slots__ = ()

    @property
    def encoder(self) -> Encoder:
        """Encodes the heads of this connection."""
        return self._encoder

    def takes_call(self, size: int, length: int) -> bool:
        """Whether the peer takes a request at once with a head of this size at most (as RFC 9113 section 10.5.1 counts
        it) and a body of this length, if it takes one."""
        most = self._peer_frame_bytes
        return (
            length <= self._peer_window
            and length <= self._window
            and length <= most
            and size <= most  # a block of literals is shorter than that
            and size <= self._encoder.most
        )

    def send_call(self, block: bytes, body: bytes, length: int) -> int:
        """Open a stream with a request and its whole body, as `send_request` and `send_data` do. Returns its id.
        `can_open` and `takes_call` are true.

        Args:
            block: of its head, which says nothing of a length, or the length of `body`.
            body: at least one byte.
            length: its length.
        """
        number = self._next_stream
        self._next_stream = number + 2
        if number == MAX_STREAM_ID:
            self._open_no_more()
        self._history.last = number
        stream = self._streams[number] = Stream(number, HEAD, ENDED, self._stream_room, self._peer_window)
        stream.window -= length
        self._window -= length
        self.statistics.requests += 1
        self._explained += 2
        headers = pack_two_headers(len(block) << 8 | HEADERS, END_HEADERS, number, length << 8, END_STREAM, number)
        self.out += headers[:9], block, headers[9:], body
        return number

    def send_answer(self, number: int, answer: PreparedAnswer, body: bytes, length: int) -> bool:
        """End a stream, whose request has been received whole, with a whole answer, as `send_response`, `send_data` and
        `send_trailers` do. False: the client does not take it at once, and nothing was done.

        Args:
            body: at least one byte.
            length: its length.
        """
        stream = self._streams.get(number)
        most = self._peer_frame_bytes
        if (
            stream is None
            or stream.receives != ENDED
            or stream.sends != HEAD
            or stream.is_head
            or length > stream.window
            or length > self._window
            or length > most
            or answer.size > most  # blocks of literals are shorter than that
            or answer.size > self._encoder.most
        ):
            return False
        self._window -= length
        self._explained += 3 if length >= EXPLAINING_BYTES else 2
        del self._streams[number]
        frames = pack_three_headers(
            answer.head_word, END_HEADERS, number, length << 8, 0, number, answer.trailers_word, LAST_HEADERS, number
        )
        self.out += frames[:9], answer.head, frames[9:18], body, frames[18:], answer.trailers
        return True
