"""gRPC's own layer over HTTP/2: message framing, and the few fields whose values have their own grammar.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, quoted below as "protocol".

    body       = *Message
    Message    = Compressed-Flag (1 byte, 0 or 1)  Message-Length (4 bytes, big endian)  that many bytes

The content of a message is not interpreted here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from meshproxy.codec.events import Headers

PREFIX_BYTES = 5

GZIP = b"gzip"
DEFLATE = b"deflate"
"""Values of `grpc-encoding`. What gRPC calls deflate is the zlib format (RFC 1950)."""


class MessagePart(msgspec.Struct):
    """Part of a message."""

    compressed: bool
    size: int
    """Length of the whole message as declared in its prefix: 0 to 2^32 - 1."""
    data: bytes
    end: bool
    """The message is complete with this part."""


class Misframed(msgspec.Struct):
    """The body is not valid gRPC; the rest is ignored."""

    reason: str


class Deframer:
    """Splits one body into messages without buffering them: a 16 MiB tensor passes through in parts.

    Attributes:
        messages: how many have begun.
    """

    __slots__ = ("_broken", "_compressed", "_left", "_prefix", "_size", "messages")

    def __init__(self) -> None:
        self.messages = 0
        self._prefix = b""  # of the message that is about to begin: 0 to 4 bytes
        self._compressed = False
        self._size = 0
        self._left = 0  # bytes of the current message still to come
        self._broken = False

    @property
    def is_idle(self) -> bool:
        """Between two messages: the body may end here."""
        return not self._left and not self._prefix

    @property
    def ahead(self) -> int:
        """Bytes to come of the current message."""
        return self._left

    def passed(self, size: int) -> None:
        """So many of them have come, not all, and were not fed."""
        self._left -= size

    def receive(self, data: bytes) -> list[MessagePart | Misframed]:
        """Bytes of the body, cut anywhere -> parts of messages, in order. A part is never empty, but for that of an
        empty message. `Misframed` is the last."""
        return list(self.parts(data))

    def parts(self, data: bytes) -> Iterator[MessagePart | Misframed]:
        """The same, one by one, for a reader that may give up: all must be taken before the next call."""
        position = 0
        stop = 0 if self._broken else len(data)
        while position < stop:
            if not self._left:
                prefix = self._prefix + data[position : position + PREFIX_BYTES - len(self._prefix)]
                position += len(prefix) - len(self._prefix)
                if len(prefix) < PREFIX_BYTES:
                    self._prefix = prefix
                    break
                self._prefix = b""
                if prefix[0] > 1:
                    self._broken = True
                    yield Misframed("the compressed-flag of a gRPC message is neither 0 nor 1")
                    break
                self.messages += 1
                self._compressed = prefix[0] == 1
                self._size = self._left = int.from_bytes(prefix[1:], "big")
                if not self._size:
                    yield MessagePart(self._compressed, 0, b"", True)
                    continue
            piece = data[position : position + self._left]
            if piece:
                position += len(piece)
                self._left -= len(piece)
                yield MessagePart(self._compressed, self._size, piece, not self._left)


def frame(message: bytes, *, compressed: bool = False) -> bytes:
    """One message with its prefix. It must be shorter than 4 GiB."""
    return (b"\x01" if compressed else b"\x00") + len(message).to_bytes(4, "big") + message


def is_grpc(content_type: bytes) -> bool:
    """Whether a content-type is gRPC's: `application/grpc`, alone or with `+format` or parameters (protocol, Requests).
    `application/grpc-web` is another protocol."""
    kind = content_type[:17].lower()
    return kind[:16] == b"application/grpc" and (len(kind) == 16 or kind[16] in b"+;")


def has_grpc(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the content-type among the fields of a message is gRPC's."""
    return any(name == b"content-type" and is_grpc(value) for name, value in headers)


_UNKNOWN = 2


def grpc_status(headers: Headers) -> int | None:
    """The value of `grpc-status` (protocol, Status): UNKNOWN if it is not a number of one or two digits, None if the
    field is missing."""
    for name, value in headers:
        if name == b"grpc-status":
            if value == b"0":
                return 0
            return int(value) if value.isdigit() and len(value) < 3 else _UNKNOWN
    return None


def forbids_retry(headers: Headers) -> bool:
    """A call that failed with these fields is not to be made again: its `grpc-retry-pushback-ms` is no number of
    milliseconds (gRPC proposal A6, Pushback)."""
    return any(name == b"grpc-retry-pushback-ms" and not value.isdigit() for name, value in headers)


_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def parse_timeout(value: bytes) -> float | None:
    """`grpc-timeout` in seconds; None if it is not one: at most eight digits and a unit (protocol, Timeout)."""
    unit, digits = _UNITS.get(value[-1:]), value[:-1]
    return int(digits) * unit if unit is not None and len(digits) <= 8 and digits.isdigit() else None


def format_timeout(seconds: float) -> bytes:
    """`grpc-timeout` for a time in seconds, in the finest unit whose number has at most eight digits, rounded down so
    that the next hop never waits longer than we do. A negative time becomes the shortest possible one."""
    nanoseconds = max(1, int(seconds * 1e9))
    for unit, scale in ((b"n", 1), (b"u", 10**3), (b"m", 10**6), (b"S", 10**9), (b"M", 60 * 10**9)):
        if nanoseconds // scale < 10**8:
            return b"%d%s" % (nanoseconds // scale, unit)
    return b"%dH" % min(nanoseconds // (3600 * 10**9), 10**8 - 1)


_ENCODED = re.compile(rb"[^ -$&-~]")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


def encode_message(text: str) -> bytes:
    """The value of `grpc-message`: UTF-8, with everything but printable ASCII, and `%`, percent-encoded (protocol,
    Status-Message)."""
    return _ENCODED.sub(_escape, text.encode("utf-8", "replace"))


_UNPRINTABLE = re.compile(rb"[^ -~]")


def with_printable_message(headers: Headers) -> Headers:
    """The same fields, with every byte of `grpc-message` percent-encoded that is not printable ASCII, as servers must
    send it (protocol, Status-Message). Of those that do not, grpc-js reads an empty message, and grpclib loses the
    connection."""
    for name, value in headers:
        if name == b"grpc-message" and _UNPRINTABLE.search(value):
            break
    else:
        return headers
    return tuple(
        (name, _UNPRINTABLE.sub(_escape, value)) if name == b"grpc-message" else (name, value)
        for name, value in headers
    )


def _escape(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]


def decode_message(value: bytes) -> str:
    """The text of a `grpc-message`. As the protocol requires, invalid escapes are kept as they are."""
    return _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), value).decode("utf-8", "replace")
