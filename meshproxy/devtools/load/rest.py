"""One keep-alive HTTP/1.1 connection that sends a prepared request again and again, one at a time.

Reads responses with a content-length or in chunks (RFC 9112 section 6), at the least cost per request: the head of a
response is looked up whole, since servers repeat theirs but for the date.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.devtools.load.generator import Finished

PIECE = 262_144
"""A large body goes to the socket in pieces of this size, so that it feels `pause_writing`."""
_HEADS = 256
_UNTIL_CLOSE = -1
_CHUNKED = -2


class Head(NamedTuple):
    """What the head of a response says, as far as a load generator minds."""

    status: int
    length: int
    """Of the body: -2 is chunked, -1 until the connection closes."""
    refusal: str | None
    """Why meshproxy answered instead of the model server (`x-meshproxy-refusal`)."""


def read_head(head: bytes) -> Head:
    """Reads a response head, without the empty line at its end.

    Raises:
        ValueError: this is no HTTP/1.1 response.
    """
    lines = head.split(b"\r\n")
    if not lines[0].startswith(b"HTTP/1."):
        raise ValueError(f"not an HTTP/1.1 response: {lines[0][:60]!r}")
    status = int(lines[0][9:12])
    length = 0 if status in (204, 304) else _UNTIL_CLOSE
    refusal = None
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        lower = name.lower()
        if lower == b"content-length":
            length = int(value)
        elif lower == b"transfer-encoding" and b"chunked" in value.lower():
            length = _CHUNKED
        elif lower == b"x-meshproxy-refusal":
            refusal = value.strip().decode("ascii", "replace")
    return Head(status, length, refusal)


def read_request_length(head: bytes) -> int:
    """The length of the body that a request head announces: -2 is chunked."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        lower = name.lower()
        if lower == b"content-length":
            return int(value)
        if lower == b"transfer-encoding" and b"chunked" in value.lower():
            return _CHUNKED
    return 0


def chunks_end(data: bytes) -> int:
    """Where a chunked body that starts at 0 ends, trailers included; -1 if it is not whole yet.

    Raises:
        ValueError: a chunk size is no hexadecimal number.
    """
    at = 0
    while True:
        line = data.find(b"\r\n", at)
        if line < 0:
            return -1
        size = int(data[at:line].partition(b";")[0], 16)
        if size == 0:
            if data.startswith(b"\r\n", line + 2):
                return line + 4
            end = data.find(b"\r\n\r\n", line + 2)
            return end + 4 if end >= 0 else -1
        at = line + 2 + size + 2


class RestConnection(asyncio.Protocol):
    """A connection, and at the same time its only slot (see `generator.Slot`)."""

    def __init__(self, request: bytes, finished: Finished, make: Callable[[], bytes] | None = None) -> None:
        """
        Args:
            request: head and body as they go on the wire.
            finished: called with this slot and None, or with what went wrong.
            make: makes each request instead; None: all are alike.
        """
        self.transport: asyncio.Transport
        self.begun = 0.0
        self.is_open = False
        self._request = request
        self._make = make
        self._finished = finished
        self._unsent = memoryview(b"")
        self._closed_because = "the connection was never opened"
        self._is_busy = False
        self._is_paused = False
        self._heads: dict[bytes, Head] = {}
        self._received: list[bytes] = []
        """Of the head, or of a chunked body, until it is whole."""
        self._head = Head(0, 0, None)
        self._missing = 0
        """Body bytes still to come; negative as `read_head` says."""
        self._has_head = False

    def begin(self) -> None:
        if not self.is_open:
            self._finished(self, self._closed_because)
            return
        self._is_busy = True
        if self._make is not None:
            self._request = self._make()
        if len(self._request) <= PIECE:
            self.transport.write(self._request)
        else:
            self._unsent = memoryview(self._request)
            self._send_pieces()

    def _send_pieces(self) -> None:
        while self._unsent and not self._is_paused:
            piece, self._unsent = self._unsent[:PIECE], self._unsent[PIECE:]
            self.transport.write(piece)

    def _finish(self, error: str | None) -> None:
        self._is_busy = False
        self._has_head = False
        self._received.clear()
        self._finished(self, error)

    def _finish_by_status(self) -> None:
        status, _, refusal = self._head
        if status == 200:
            self._finish(None)
        else:
            self._finish(f"status {status}" + (f", refused by meshproxy: {refusal}" if refusal else ""))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        # After `_fail` this comes too, with nothing new to say.
        if self.is_open:
            self._closed_because = str(exc) if exc else "closed by the peer"
        self.is_open = False
        if self._is_busy:
            if self._has_head and self._missing == _UNTIL_CLOSE:
                self._finish_by_status()
            else:
                self._finish(self._closed_because)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._send_pieces()

    def data_received(self, data: bytes) -> None:
        if not self._is_busy:
            self._fail("bytes that no request asked for")
            return
        if not self._has_head:
            if self._received:
                data = b"".join((*self._received, data))
                self._received.clear()
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._received.append(data)
                return
            head = data[:end]
            try:
                known = self._heads.get(head) or self._learn(head)
            except ValueError as error:
                self._fail(str(error))
                return
            if known.status < 200:
                rest = data[end + 4 :]
                if rest:
                    self.data_received(rest)
                return
            self._head = known
            self._missing = known.length
            self._has_head = True
            data = data[end + 4 :]
        if self._missing >= 0:
            self._missing -= len(data)
            if self._missing < 0:
                self._fail("more bytes than the declared body")
            elif self._missing == 0:
                self._finish_by_status()
        elif self._missing == _CHUNKED:
            self._received.append(data)
            if data[-1:] != b"\n":
                return
            try:
                end = chunks_end(b"".join(self._received))
            except ValueError as error:
                self._fail(f"bad chunk: {error}")
                return
            if end >= 0:
                self._finish_by_status()

    def _learn(self, head: bytes) -> Head:
        known = read_head(head)
        if len(self._heads) >= _HEADS:
            self._heads.clear()
        self._heads[head] = known
        return known

    def _fail(self, reason: str) -> None:
        self.transport.abort()
        self.is_open = False
        self._closed_because = reason
        if self._is_busy:
            self._finish(reason)
