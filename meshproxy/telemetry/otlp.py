"""Spans as an `ExportTraceServiceRequest` in protobuf, and what a collector answers.

https://github.com/open-telemetry/opentelemetry-proto, `trace/v1/trace.proto` and `collector/trace/v1`. Only what a span
of ours has is written: nineteen fields, which need no library (docs/decisions).
"""

from __future__ import annotations

import struct
from binascii import unhexlify
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from meshproxy.inference.protobuf import LENGTH, VARINT, FieldWalker
from meshproxy.inference.unary import write_bytes, write_varint
from meshproxy.refusal import Refusal

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
_PARTIAL_SUCCESS, _REJECTED_SPANS, _ERROR_MESSAGE = 1 << 3 | LENGTH, 1 << 3 | VARINT, 2 << 3 | LENGTH
"""Tags of the response."""
_HAS_IS_REMOTE = 0x100
_IS_REMOTE = 0x200
_INT64 = (1 << 64) - 1


class SpanKind(Enum):
    """`Span.SpanKind`."""

    SERVER = 2
    CLIENT = 3

    __hash__ = object.__hash__  # members are single: by identity, in C


_KINDS = {kind: b"\x30" + kind.value.to_bytes() for kind in SpanKind}


class Event(NamedTuple):
    """Something that happened during a span."""

    time: int
    """Nanoseconds since the epoch."""
    name: str
    attributes: Attributes = ()


class Recurring:
    """Attributes that many spans have in common, encoded once. Of the 20 of a usual span all are."""

    __slots__ = ("attributes", "encoded")

    def __init__(self, attributes: Attributes) -> None:
        self.attributes = attributes
        self.encoded = encode_attributes(9, attributes)


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
    recurring: Recurring | None = None
    """More of its attributes."""


_SCHEMA_URL = write_bytes(3, b"https://opentelemetry.io/schemas/1.45.0")
"""Of `ScopeSpans` and `ResourceSpans`: which release of the semantic conventions gave the names."""


def _number(number: int, value: int) -> bytes:
    return write_varint(number << 3 | VARINT) + write_varint(value & _INT64)


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
            encoded = write_bytes(1, value[:VALUE_CHARACTERS].encode("utf-8", "replace"))
        whole = write_bytes(number, write_bytes(1, key.encode()) + write_bytes(2, encoded))
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
    """A span as a field of `ScopeSpans`: 4 us with two events."""
    (
        trace_id, span_id, parent_id, is_parent_remote, sampled, state, name, kind, start, end, attributes, events,
        error, recurring,
    ) = span  # fmt: skip
    # The fields in the order of the message, each with its tag: 1 and 2, 3, 4, 5, 6, 7 and 8.
    parts = [b"\x0a\x10", unhexlify(trace_id), b"\x12\x08", unhexlify(span_id)]
    flags = int(sampled)
    if state:
        parts.append(write_bytes(3, state))
    if parent_id:
        flags |= _HAS_IS_REMOTE | (_IS_REMOTE if is_parent_remote else 0)
        parts += (b"\x22\x08", unhexlify(parent_id))
    parts += (_encode_name(name), _KINDS[kind], _TIMES(0x39, max(0, start), 0x41, max(0, end)))
    if recurring is not None:
        parts.append(recurring.encoded)
    if attributes:
        parts.append(encode_attributes(9, attributes))
    for time, event, facts in events:
        begin, rest = _encode_event(event)
        if facts:
            parts.append(write_bytes(11, _TIME(0x09, max(0, time)) + rest + encode_attributes(3, facts)))
        else:
            parts += (begin, _TIME(0x09, max(0, time)), rest)
    if error is not None:
        message = write_bytes(2, error[:VALUE_CHARACTERS].encode("utf-8", "replace")) if error else b""
        parts.append(write_bytes(15, message + _number(3, 2)))
    parts.append(_FLAGS(0x85, 0x01, flags))
    return write_bytes(2, b"".join(parts))


@lru_cache(MEMO_ENTRIES)
def _encode_name(name: str) -> bytes:
    return write_bytes(5, name.encode("utf-8", "replace"))


@lru_cache(MEMO_ENTRIES)
def _encode_event(name: str) -> tuple[bytes, bytes]:
    """What is before the time of an event without attributes, and what follows the time."""
    rest = write_bytes(2, name.encode())
    return write_varint(11 << 3 | LENGTH) + write_varint(9 + len(rest)), rest


def encode_request(resource: bytes, scope: bytes, spans: Iterable[bytes]) -> bytes:
    """The body of a request.

    Args:
        resource: `encode_attributes(1, ...)` of the resource.
        scope: `encode_scope` of the instrumentation.
        spans: of `encode_span`.
    """
    scope_spans = write_bytes(1, scope) + b"".join(spans) + _SCHEMA_URL
    return write_bytes(1, write_bytes(1, resource) + write_bytes(2, scope_spans) + _SCHEMA_URL)


def encode_scope(name: str, version: str) -> bytes:
    """An `InstrumentationScope`."""
    return write_bytes(1, name.encode()) + write_bytes(2, version.encode())


class PartialSuccess(NamedTuple):
    """What a collector did not take."""

    rejected: int
    message: str


def read_response(body: bytes) -> PartialSuccess:
    """Read an `ExportTraceServiceResponse`. Raises ValueError: it is none, so nobody has said that spans were taken."""
    rejected, message = 0, ""
    walker = FieldWalker()
    try:
        for _, partial in walker.read(body, {_PARTIAL_SUCCESS}, 0):
            assert isinstance(partial, bytes)
            for _, found in walker.read(partial, {_REJECTED_SPANS, _ERROR_MESSAGE}, 1):
                if isinstance(found, int):
                    rejected = found
                else:
                    message = found.decode("utf-8", "replace")
    except Refusal as error:
        raise ValueError(error.message) from None
    return PartialSuccess(rejected, message)
