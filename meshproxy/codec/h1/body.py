"""Readers of bodies without a content-length (RFC 9112 sections 6 and 7): chunked, or ended by the connection.
A body with a content-length needs no reader: the connection counts it.

A reader is made for one message. `feed(data, at)` consumes the part of `data[at:]` that belongs to the body; `is_done`
means that the message is complete, `problem` that it is malformed. What follows is the next message, or an incomplete
element, which must be passed again with more data.

Bytes of a body are copied once, by the slice or the join; a block that is body from end to end is not copied at all.
"""

from __future__ import annotations

import re
from typing import Protocol

from meshproxy.codec.events import Headers
from meshproxy.codec.h1.head import check_fields, parse_trailers
from meshproxy.codec.headers import MAX_LENGTH, TOKEN
from meshproxy.codec.limits import Limits
from meshproxy.codec.problem import Malformed, MessageProblem, Unacceptable


class BodyReader(Protocol):
    """What the connection needs of the body it reads."""

    is_done: bool
    problem: MessageProblem | None
    trailers: Headers

    def feed(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Returns the piece of body in `data[at:]` and where reading stopped."""


class EofReader:
    """A response that ends with its connection (RFC 9112 section 6.3, item 8). The connection sets `is_done`."""

    __slots__ = ("_limit", "_room", "is_done", "problem", "trailers")

    def __init__(self, limits: Limits) -> None:
        self._limit = self._room = limits.body_bytes
        self.is_done = False
        self.problem: MessageProblem | None = None
        self.trailers: Headers = ()

    def feed(self, data: bytes, at: int) -> tuple[bytes, int]:
        piece = data[at:]
        if self._room is not None:
            if len(piece) > self._room:
                self.problem = _too_large(self._limit)
                piece = piece[: self._room]
            self._room -= len(piece)
        return piece, len(data)


_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16}+)\r\n")
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}(?![0-9A-Fa-f])")
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
_EXTENSIONS = re.compile(
    rb"(?:[ \t]*+;[ \t]*+" + TOKEN + rb"++(?:[ \t]*+=[ \t]*+(?:" + TOKEN + rb"++|" + _QUOTED + rb"))?+)*+"
)
_RUNS = {size: re.compile(rb"(?s:%x\r\n.{%d}\r\n)*+" % (size, size)) for size in range(1, 16)}
"""Chunks of one size in a row, as long as the size is one digit."""

_SIZE_LINE, _CONTENT, _CONTENT_END, _TRAILERS = range(4)


class ChunkedReader:
    """A body in chunks (RFC 9112 section 7.1). Extensions are read over, and bounded for the whole body
    (CVE-2024-22019)."""

    __slots__ = (
        "_checked",
        "_extension_room",
        "_left",
        "_limits",
        "_room",
        "_seen",
        "_step",
        "is_done",
        "problem",
        "trailers",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._room = limits.body_bytes
        self._extension_room = limits.chunk_extension_bytes
        self._step = _SIZE_LINE
        self._left = 0
        """Bytes of the current chunk still to come."""
        self._checked = 0
        """How much of the trailers has been found well-formed."""
        self._seen = 0
        """How much of them is known not to hold their end."""
        self.is_done = False
        self.problem: MessageProblem | None = None
        self.trailers: Headers = ()

    def feed(self, data: bytes, at: int) -> tuple[bytes, int]:
        pieces: list[bytes | memoryview] = []
        try:
            at = self._read(data, at, pieces)
        except MessageProblem as problem:
            self.problem = problem
            at = len(data)
        if len(pieces) == 1:
            return bytes(pieces[0]), at
        return b"".join(pieces), at

    def _read(self, data: bytes, at: int, pieces: list[bytes | memoryview]) -> int:
        size = len(data)
        while True:
            step = self._step
            if step == _CONTENT:
                end = at + self._left
                if end > size:
                    pieces.append(_cut(data, at, size))
                    self._left = end - size
                    return size
                pieces.append(_cut(data, at, end))
                at = end
                self._step = step = _CONTENT_END
            if step == _CONTENT_END:
                if not data.startswith(b"\r\n", at):
                    if at == size or (at + 1 == size and data[at] == 13):
                        return at
                    raise Malformed("a chunk is not followed by CR LF")
                at += 2
                self._step = step = _SIZE_LINE
            if step == _SIZE_LINE:
                match = _CHUNK.match(data, at)
                if match is not None:
                    length = int(match[1], 16)
                    start = match.end()
                else:
                    start, length = self._read_size_line(data, at)
                    if not start:
                        return at
                if 0 < length < 16 and start == at + 3 and data.startswith(data[at:start], start + length + 2):
                    stop = self._find_run(data, at, length)
                    if stop > at:
                        pieces.append(_take_run(data, at, stop, length))
                        at = stop
                        continue
                at = start
                if length:
                    self._begin(length)
                    continue
                self._step = _TRAILERS
            return self._read_trailers(data, at)

    def _find_run(self, data: bytes, at: int, length: int) -> int:
        """Where the row of chunks of this length ends that begins at `at`, as far as there is room for them; `at` if
        there is none."""
        match = _RUNS[length].match(data, at)
        stop = at if match is None else match.end()
        if self._room is not None:
            stop = min(stop, at + self._room // length * (length + 5))
            self._room -= (stop - at) // (length + 5) * length
        return stop

    def _begin(self, length: int) -> None:
        if length > MAX_LENGTH:
            raise Malformed("the size of a chunk is out of range")
        if self._room is not None:
            if length > self._room:
                raise _too_large(self._limits.body_bytes)
            self._room -= length
        self._left = length
        self._step = _CONTENT

    def _read_size_line(self, data: bytes, at: int) -> tuple[int, int]:
        """Read a size line with extensions, or half of one. Returns where the chunk begins (0: the line has no end yet)
        and its size."""
        end = data.find(b"\n", at) + 1
        line = data[at : end or len(data)]
        if not line:
            return 0, 0
        match = _SIZE.match(line)
        rest = b"" if match is None else line[match.end() :]
        # What comes behind the size shows at once whether this is an extension, nothing yet, or rubbish.
        if match is None or (rest and rest[0] not in b" \t;\r"):
            raise Malformed("the size of a chunk is not a hexadecimal number")
        if len(rest) > self._extension_room + 2:
            limit = self._limits.chunk_extension_bytes
            raise Unacceptable(413, f"the chunk extensions are larger than {limit} bytes", "chunk_extension_bytes")
        if not end:
            return 0, 0
        if not rest.endswith(b"\r\n"):
            raise Malformed("the size line of a chunk does not end with CR LF")
        if _EXTENSIONS.fullmatch(rest, 0, len(rest) - 2) is None:
            raise Malformed("the extension of a chunk is malformed")
        self._extension_room -= len(rest) - 2
        return end, int(match[0], 16)

    def _read_trailers(self, data: bytes, at: int) -> int:
        if not self._checked and data.startswith(b"\r\n", at):
            self.is_done = True
            return at + 2
        section = data[at:]
        end = section.find(b"\r\n\r\n", max(self._seen - 3, 0)) + 4
        if end < 4:
            self._seen = len(section)
            self._checked = check_fields(section, self._checked, self._limits)
            return at
        section = section[:end]
        check_fields(section, self._checked, self._limits)
        self.trailers = parse_trailers(section[:-2])
        self.is_done = True
        return at + end


def _cut(data: bytes, start: int, end: int) -> bytes | memoryview:
    """A piece for the join to copy; what is small is cheaper copied at once."""
    return data[start:end] if end - start < 1024 else memoryview(data)[start:end]


def _take_run(data: bytes, start: int, stop: int, size: int) -> bytes:
    """The content of chunks of one size that follow each other. A million chunks of one byte cost 20 ms this way and
    600 ms one by one: a peer that dribbles must not cost much more than one that does not."""
    stride = size + 5
    content = bytearray((stop - start) // stride * size)
    for offset in range(size):
        content[offset::size] = data[start + 3 + offset : stop : stride]
    return bytes(content)


def _too_large(limit: int | None) -> MessageProblem:
    return Unacceptable(413, f"the body is larger than {limit} bytes", "body_bytes")
