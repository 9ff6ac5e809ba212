"""Spans as an `ExportTraceServiceRequest` in protobuf, and what a collector answers.

https://github.com/open-telemetry/opentelemetry-proto, `trace/v1/trace.proto` and `collector/trace/v1`. Only what a span
of ours has is written: seventeen fields, which need no library (docs/decisions).
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

Value = str | bool | int
Attributes = tuple[tuple[str, Value], ...]

VALUE_CHARACTERS = 1_024
"""Of the text of one attribute."""

MEMO_ENTRIES = 1_024
MEMO_BYTES = 256
"""Of one entry: 1,024 of them are half a megabyte."""

_TIME = struct.Struct("<BQ").pack
_TIMES = struct.Struct("<BQBQ").pack
_FLAGS = struct.Struct("<BBI").pack
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_HAS_IS_REMOTE = 0x100
_IS_REMOTE = 0x200
_INT64 = (1 << 64) - 1


class SpanKind(Enum):
    """`Span.SpanKind`."""

    SERVER = 2
    CLIENT = 3


class Event(NamedTuple):
    """Something that happened during a span."""

    time: int
    """Nanoseconds since the epoch."""
    name: str
    attributes: Attributes = ()


class Span(NamedTuple):
    """One span. Ids are hex digits, times nanoseconds since the epoch."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    """Empty for the root of a trace."""
    is_parent_remote: bool
    sampled: bool
    state: bytes
    """Of `tracestate`."""
    name: str
    kind: SpanKind
    start: int
    end: int
    attributes: Attributes
    events: tuple[Event, ...] = ()
    error: str | None = None
    """Why it failed; may be empty. None: its status is not set."""


def varint(number: int) -> bytes:
    """A number from 0 to 2^64 - 1."""
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, value: bytes) -> bytes:
    """A field of bytes, text or a message."""
    return varint(number << 3 | _LENGTH) + varint(len(value)) + value


def _number(number: int, value: int) -> bytes:
    return varint(number << 3 | _VARINT) + varint(value & _INT64)


class _Attributes(dict[tuple[int, str, Value, type], bytes]):
    """Encoded attributes, most of which recur: 0.2 us instead of 2. Used as `attributes[number, key, value, type]`, as
    true equals 1."""

    def __missing__(self, wanted: tuple[int, str, Value, type]) -> bytes:
        number, key, value, _ = wanted
        if isinstance(value, bool):
            encoded = _number(2, value)
        elif isinstance(value, int):
            encoded = _number(3, value)
        else:
            encoded = field(1, value[:VALUE_CHARACTERS].encode("utf-8", "replace"))
        whole = field(number, field(1, key.encode()) + field(2, encoded))
        if len(whole) <= MEMO_BYTES:
            if len(self) >= MEMO_ENTRIES:
                self.clear()
            self[wanted] = whole
        return whole


_attributes = _Attributes()


def encode_attributes(number: int, attributes: Iterable[tuple[str, Value]]) -> bytes:
    """`KeyValue` messages as the repeated field `number`. What is not UTF-8 is replaced: nobody behind us checks."""
    return b"".join([_attributes[number, key, value, type(value)] for key, value in attributes])


def encode_span(span: Span) -> bytes:
    """A span as a field of `ScopeSpans`."""
    # The fields in the order of the message, each with its tag: 1 and 2, 3, 4, 5, 6, 7 and 8.
    parts = [b"\x0a\x10", bytes.fromhex(span.trace_id.decode()), b"\x12\x08", bytes.fromhex(span.span_id.decode())]
    flags = int(span.sampled)
    if span.state:
        parts.append(field(3, span.state))
    if span.parent_id:
        flags |= _HAS_IS_REMOTE | (_IS_REMOTE if span.is_parent_remote else 0)
        parts += (b"\x22\x08", bytes.fromhex(span.parent_id.decode()))
    parts += (
        field(5, span.name.encode("utf-8", "replace")),
        b"\x30" + span.kind.value.to_bytes(),
        _TIMES(0x39, max(0, span.start), 0x41, max(0, span.end)),
        encode_attributes(9, span.attributes),
    )
    for event in span.events:
        encoded = _TIME(0x09, max(0, event.time)) + field(2, event.name.encode())
        parts.append(field(11, encoded + encode_attributes(3, event.attributes)))
    if span.error is not None:
        message = field(2, span.error[:VALUE_CHARACTERS].encode("utf-8", "replace")) if span.error else b""
        parts.append(field(15, message + _number(3, 2)))
    parts.append(_FLAGS(0x85, 0x01, flags))
    return field(2, b"".join(parts))


def encode_request(resource: bytes, scope: bytes, spans: Iterable[bytes]) -> bytes:
    """The body of a request.

    Args:
        resource: `encode_attributes(1, ...)` of the resource.
        scope: `encode_scope` of the instrumentation.
        spans: of `encode_span`.
    """
    return field(1, field(1, resource) + field(2, field(1, scope) + b"".join(spans)))


def encode_scope(name: str, version: str) -> bytes:
    """An `InstrumentationScope`."""
    return field(1, name.encode()) + field(2, version.encode())


class PartialSuccess(NamedTuple):
    """What a collector did not take."""

    rejected: int
    message: str


def read_response(body: bytes) -> PartialSuccess:
    """Read an `ExportTraceServiceResponse`. Raises ValueError: it is none, so nobody has said that spans were taken."""
    rejected, message = 0, ""
    for number, value in _fields(body):
        if number == 1 and isinstance(value, bytes):
            for inner, found in _fields(value):
                if inner == 1 and isinstance(found, int):
                    rejected = found
                elif inner == 2 and isinstance(found, bytes):
                    message = found.decode("utf-8", "replace")
    return PartialSuccess(rejected, message)


def _fields(data: bytes) -> Iterable[tuple[int, int | bytes]]:
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        number, wire = tag >> 3, tag & 7
        value: int | bytes
        if wire == _VARINT:
            value, position = _read_varint(data, position)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(wire, -1)
            if wire == _LENGTH:
                size, position = _read_varint(data, position)
            if number == 0 or size < 0 or position + size > len(data):
                raise ValueError("it is no protobuf message")
            value, position = data[position : position + size], position + size
        yield number, value


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise ValueError("it is no protobuf message")
