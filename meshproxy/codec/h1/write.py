"""Serialises messages. Framing fields are written only here, from arguments, never from `headers`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Protocol

from meshproxy.codec.events import Headers
from meshproxy.codec.h1.head import without_forbidden
from meshproxy.codec.headers import FRAMING
from meshproxy.codec.role import LocalProtocolError


class BodyWriter(Protocol):
    """Frames a body."""

    def write(self, data: bytes, end: bool) -> bytes:
        """Frame a piece. Raises `LocalProtocolError` if it is not what the head declared."""

    def write_trailers(self, headers: Headers) -> bytes:
        """End the body, with trailers if the framing can carry them."""


class LengthWriter:
    """A body with a content-length."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self._left = length

    def write(self, data: bytes, end: bool) -> bytes:
        self._left -= len(data)
        if self._left < 0 or (end and self._left):
            raise LocalProtocolError("the body is not as long as its head declared")
        return data

    def write_trailers(self, headers: Headers) -> bytes:
        return self.write(b"", True)


class ChunkedWriter:
    """A chunked body: one chunk per call."""

    __slots__ = ()

    def write(self, data: bytes, end: bool) -> bytes:
        if data:
            return b"".join((b"%x\r\n" % len(data), data, b"\r\n0\r\n\r\n" if end else b"\r\n"))
        # An empty chunk would end the body.
        return b"0\r\n\r\n" if end else b""

    def write_trailers(self, headers: Headers) -> bytes:
        return b"0\r\n%b\r\n" % write_fields(without_forbidden(headers))


class EofWriter:
    """A body that ends with the connection, for HTTP/1.0."""

    __slots__ = ()

    def write(self, data: bytes, end: bool) -> bytes:
        return data

    def write_trailers(self, headers: Headers) -> bytes:
        return b""


class NoWriter:
    """A response without a body: to HEAD, 204 and 304 (RFC 9110 section 6.4.1)."""

    __slots__ = ()

    def write(self, data: bytes, end: bool) -> bytes:
        return b""

    def write_trailers(self, headers: Headers) -> bytes:
        return b""


# Stateless: shared by all messages.
_IN_CHUNKS = ChunkedWriter()
_UNTIL_EOF = EofWriter()
NOTHING = NoWriter()

CLOSE = b"connection: close\r\n"
KEEP_ALIVE = b"connection: keep-alive\r\n"
_CHUNKED = b"transfer-encoding: chunked\r\n"
_EMPTY = b"content-length: 0\r\n"
_LENGTH = b"content-length: %d\r\n"
KEPT_BLOCKS = 256
KEPT_BLOCK_BYTES = 4_096
"""Cached lists of fields, of all connections: a megabyte at most."""
KEPT_LINES = 1_024
KEPT_LINE_BYTES = 512
"""Cached request lines, of all connections: a megabyte at most, including their keys."""
_BLOCKS: dict[Headers, bytes] = {}
_LINES: dict[tuple[bytes, bytes, bytes], bytes] = {}
_USUALLY_WITH_BODY = frozenset((b"POST", b"PUT", b"PATCH"))


def frame_request(method: bytes, end: bool, length: int | None) -> tuple[bytes, BodyWriter]:
    """The framing fields and the writer of a request's body (RFC 9110 section 8.6)."""
    if end:
        if length:
            raise LocalProtocolError("a request with a length but no body")
        return _EMPTY if length == 0 or method in _USUALLY_WITH_BODY else b"", NOTHING
    if length is not None:
        return _LENGTH % length, LengthWriter(length)
    return _CHUNKED, _IN_CHUNKS


def frame_response(
    status: int, method: bytes, end: bool, length: int | None, to_http10: bool
) -> tuple[bytes, BodyWriter, bool]:
    """The framing fields and the writer of a final response's body, and whether it ends with the connection
    (RFC 9112 section 6.3)."""
    if method == b"HEAD" or status == 304:
        return b"" if length is None else _LENGTH % length, NOTHING, False
    if status == 204:
        return b"", NOTHING, False
    if end:
        if length:
            raise LocalProtocolError("a response with a length but no body")
        return _EMPTY, NOTHING, False
    if length is not None:
        return _LENGTH % length, LengthWriter(length), False
    if to_http10:
        return b"", _UNTIL_EOF, True
    return _CHUNKED, _IN_CHUNKS, False


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""  # the space before it stays (RFC 9112 section 4)
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase.encode("ascii"))


_STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}


def write_request_head(
    method: bytes, target: bytes, authority: bytes, headers: Headers, framing: bytes, trace: bytes | None = None
) -> bytes:
    """The head of a request. `framing`: complete field lines; `trace`: the value of `traceparent`, written last. Raises
    `LocalProtocolError`."""
    line = _LINES.get((method, target, authority)) or _write_line(method, target, authority)
    if trace is None:
        return b"".join((line, write_fields(headers), framing, b"\r\n"))
    if b"\n" in trace or b"\r" in trace or b"\0" in trace:
        raise LocalProtocolError("a field holds CR, LF or NUL")
    return b"".join((line, write_fields(headers), framing, b"traceparent: ", trace, b"\r\n\r\n"))


def _write_line(method: bytes, target: bytes, authority: bytes) -> bytes:
    """The request line and the host field. Cached: 0.1 us instead of 0.5."""
    line = b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (method, target, authority)
    if line.count(b" ") != 3 or line.count(b"\n") != 2 or line.count(b"\r") != 2:
        raise LocalProtocolError("method, target or authority holds white space")
    if len(line) <= KEPT_LINE_BYTES:
        if len(_LINES) >= KEPT_LINES:
            _LINES.clear()
        _LINES[method, target, authority] = line
    return line


def write_response_head(status: int, headers: Headers, framing: bytes) -> bytes:
    """The head of a response. `framing`: complete field lines. Raises `LocalProtocolError`."""
    line = _STATUS_LINES.get(status)
    if line is None:
        raise LocalProtocolError(f"{status} is not a status code")
    return b"".join((line, write_fields(headers), framing, b"\r\n"))


def write_fields(headers: Headers) -> bytes:
    """Field lines. Raises `LocalProtocolError` for a field that would split into two or frame the message: the last
    defence against request splitting, whatever the layers above let through.

    The same few lists are sent again and again, so their lines are cached: 0.1 us instead of 1.3.
    """
    block = _BLOCKS.get(headers)
    if block is None:
        block = _write_fields(headers)
        if len(block) <= KEPT_BLOCK_BYTES:
            if len(_BLOCKS) >= KEPT_BLOCKS:
                _BLOCKS.clear()
            _BLOCKS[headers] = block
    return block


def _write_fields(headers: Headers) -> bytes:
    lines = [name + b": " + value + b"\r\n" for name, value in headers]
    block = b"".join(lines)
    count = len(lines)
    if block.count(b"\n") != count or block.count(b"\r") != count or b"\0" in block:
        raise LocalProtocolError("a field holds CR, LF or NUL")
    if not FRAMING.isdisjoint([name for name, _ in headers]):
        raise LocalProtocolError("a field frames the message or belongs to the connection")
    return block
