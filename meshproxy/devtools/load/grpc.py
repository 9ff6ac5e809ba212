"""One gRPC connection that makes a prepared unary call again and again, on as many streams at once as it has slots.

The header blocks are those that gRPC's C core sends (read off grpcio 1.85): everything but the token enters the dynamic
table with the first call, so later calls are a few index bytes and the token as a literal.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from meshproxy.codec.grpc import decode_message
from meshproxy.codec.h2.errors import ConnectionFault
from meshproxy.codec.h2.heads import HeadReader
from meshproxy.codec.h2.hpack import write_integer
from meshproxy.codec.limits import Limits
from meshproxy.codec.problem import MessageProblem
from meshproxy.devtools.load.frames import (
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    RST_STREAM,
    WINDOW,
    FramedConnection,
    frame,
    settings,
    small_data,
    window_update,
)
from meshproxy.devtools.load.varied import vary_message
from meshproxy.refusal import GrpcStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.codec.events import Headers
    from meshproxy.devtools.load.generator import Finished
    from meshproxy.devtools.load.varied import Ids

USER_AGENT = b"meshproxy-bench"
OK = (b"grpc-status", b"0")
CANCEL = (0x8).to_bytes(4, "big")
"""RFC 9113 section 7."""
PREFIX_BYTES = 5
"""Before every message: whether it is compressed, and its length."""


def string(value: bytes) -> bytes:
    """An HPACK string literal without Huffman coding (RFC 7541 section 5.2)."""
    return write_integer(len(value), 0x7F, 0) + value


def call_blocks(
    path: bytes, authority: bytes, metadata: tuple[tuple[bytes, bytes], ...], *, is_tls: bool = True
) -> tuple[bytes, bytes]:
    """The header block of the first call on a connection, and that of every later one."""
    post, scheme = b"\x83", b"\x87" if is_tls else b"\x86"
    indexed = (
        (b"\x44", path),
        (b"\x41", authority),
        (b"\x5f", b"application/grpc"),
        (b"\x40" + string(b"te"), b"trailers"),
        (b"\x40" + string(b"grpc-accept-encoding"), b"identity, deflate, gzip"),
        (b"\x7a", USER_AGENT),
    )
    never_indexed = b"".join(b"\x00" + string(name) + string(value) for name, value in metadata)
    literal = [name + string(value) for name, value in indexed]
    entries = [bytes((0x80 | 61 + len(indexed) - at,)) for at in range(len(indexed))]
    first = [*literal[:2], post, scheme, *literal[2:], never_indexed]
    later = [*entries[:2], post, scheme, *entries[2:], never_indexed]
    return b"".join(first), b"".join(later)


def grpc_message(message: bytes) -> bytes:
    """A message with the prefix of gRPC: not compressed, and its length."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def describe(status: int, headers: Headers) -> str:
    """What went wrong with a call, from what its response ended with: few words, the same for the same reason."""
    fields = dict(headers)
    refusal = fields.get(b"x-meshproxy-refusal")
    code = fields.get(b"grpc-status")
    if code is None:
        return f"HTTP status {status} without a gRPC status" if status != 200 else "ended without a gRPC status"
    try:
        name = GrpcStatus(int(code)).name
    except ValueError:
        name = f"gRPC status {code[:20]!r}"
    if code == b"0":
        return "ended with OK, but without a message"
    if refusal is not None:
        return f"{name}, refused by meshproxy: {refusal.decode('ascii', 'replace')}"
    return f"{name}: {decode_message(fields.get(b'grpc-message', b''))[:100]}".removesuffix(": ")


class GrpcSlot:
    """One of the concurrent calls of a connection (see `generator.Slot`)."""

    __slots__ = ("_connection", "answered", "begun", "has_head", "status", "stream")

    def __init__(self, connection: GrpcConnection) -> None:
        self.begun = 0.0
        self.answered = 0
        """Body bytes of the answer so far."""
        self.has_head = False
        self.status = 0
        self.stream = 0
        """Of the call under way, or of the last one."""
        self._connection = connection

    @property
    def is_open(self) -> bool:
        """Whether its connection is: nothing can begin otherwise."""
        return self._connection.is_open

    def begin(self) -> None:
        self._connection.call(self)

    def give_up(self) -> None:
        """End the call under way as clients do that have waited long enough; its `finished` is not called."""
        self._connection.give_up(self)


class GrpcConnection(FramedConnection):
    """The connection. A call has succeeded when a message came and the stream ended with status OK."""

    def __init__(
        self,
        blocks: tuple[bytes, bytes],
        message: bytes,
        streams: int,
        finished: Finished,
        make: Callable[[], Ids] | None = None,
    ) -> None:
        """
        Args:
            blocks: see `call_blocks`.
            message: of each call.
            finished: called with a slot and None, or with what went wrong.
            make: makes the ids of each call, which has another length then, too; None: all are alike.
        """
        super().__init__()
        self.slots = [GrpcSlot(self) for _ in range(streams)]
        self._first_block: bytes | None = blocks[0]
        self._block = blocks[1]
        self._message = message
        self._body = grpc_message(message)
        self._make = make
        self._finished = finished
        self._under_way: dict[int, GrpcSlot] = {}
        self._next_stream = 1
        self._heads = HeadReader(Limits())
        self._head = self._head_frame(self._block)
        self._data = small_data(END_STREAM, self._body)
        self.has_settings = asyncio.get_running_loop().create_future()

    @staticmethod
    def _head_frame(block: bytes) -> bytes:
        return frame(HEADERS, END_HEADERS, 0, block)

    def call(self, slot: GrpcSlot) -> None:
        if not self.is_open:
            self._finished(slot, self.closed_because)
            return
        stream = self._next_stream
        self._next_stream += 2
        self._under_way[stream] = slot
        slot.stream = stream
        slot.answered = 0
        slot.has_head = False
        if self._make is not None:
            self._vary(*self._make())
        head = self._head
        if self._first_block is not None:
            head = self._head_frame(self._first_block)
            self._first_block = None
        number = stream.to_bytes(4, "big")
        if self.has_room(len(self._body)):
            data = self._data
            self.send(b"".join((head[:5], number, head[9:], data[:5], number, data[9:])))
        else:
            self.send(b"".join((head[:5], number, head[9:])))
            self.send_body(stream, self._body, b"")

    def give_up(self, slot: GrpcSlot) -> None:
        """Reset the stream of a slot, if it is under way."""
        if self._under_way.pop(slot.stream, None) is not None:
            self.send(frame(RST_STREAM, 0, slot.stream, CANCEL))

    def _vary(self, number: int, request_id: bytes, trace: bytes) -> None:
        """The ids are literals that enter no table, as gRPC's C core sends metadata of the application."""
        fields = ((b"x-request-id", request_id), (b"traceparent", trace))
        literals = b"".join(b"\x00" + string(name) + string(value) for name, value in fields)
        self._head = self._head_frame(self._block + literals)
        self._body = grpc_message(vary_message(self._message, number))
        self._data = small_data(END_STREAM, self._body)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.send(
            PREFACE + settings(push=0, window=WINDOW, frame_bytes=WINDOW) + window_update(0, WINDOW - DEFAULT_WINDOW)
        )

    def on_settings(self) -> None:
        if not self.has_settings.done():
            self.has_settings.set_result(None)

    def on_headers(self, stream: int, block: bytes, end: bool) -> None:
        slot = self._under_way.get(stream)
        try:
            if slot is None:
                self._heads.skip(block)
            elif not slot.has_head:
                head = self._heads.response(block)
                if head.status >= 200:
                    slot.has_head = True
                    slot.status = head.status
                if end:
                    self._end(stream, slot, head.headers)
            elif end:
                self._end(stream, slot, self._heads.trailers(block))
        except (ConnectionFault, MessageProblem) as error:
            self._fail(f"a head that cannot be read: {error}")

    def on_data(self, stream: int, data: bytes, end: bool) -> None:
        slot = self._under_way.get(stream)
        if slot is not None:
            slot.answered += len(data)
            if end:
                self._end(stream, slot, ())

    def _end(self, stream: int, slot: GrpcSlot, headers: Headers) -> None:
        del self._under_way[stream]
        is_good = OK in headers and slot.answered >= PREFIX_BYTES
        self._finished(slot, None if is_good else describe(slot.status, headers))

    def on_reset(self, stream: int, code: int) -> None:
        slot = self._under_way.pop(stream, None)
        if slot is not None:
            self._finished(slot, f"RST_STREAM with code {code}")

    def on_closed(self, reason: str) -> None:
        if not self.has_settings.done():
            self.has_settings.set_exception(ConnectionError(reason))
        slots = list(self._under_way.values())
        self._under_way.clear()
        for slot in slots:
            self._finished(slot, reason)
