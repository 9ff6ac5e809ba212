"""B3 propagation: the trace of a caller that is instrumented for Zipkin, and fields for servers that are.

https://github.com/openzipkin/b3-propagation. Both formats are read, the single field before the several ones, as the
specification of OpenTelemetry asks of a B3 propagator; which of them is written is configured. The parent's id
(`x-b3-parentspanid`) is not: a server has no use for its grandparent. What cannot be read exactly is no trace.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from meshproxy.proxy.headers import B3_FIELDS

if TYPE_CHECKING:
    from collections.abc import Collection

    from meshproxy.codec.events import Headers

_TRACE_ID = re.compile(rb"(?!0+\Z)(?:[0-9a-f]{16}){1,2}")
"""Of 64 or 128 bits, and not all zeros."""
_SPAN_ID = re.compile(rb"(?!0{16})[0-9a-f]{16}")
_SINGLE = re.compile(rb"([0-9a-f]+)-([0-9a-f]+)(?:-([01d])(?:-([0-9a-f]{16}))?)?")
_DECISIONS = {b"0": False, b"false": False, b"1": True, b"true": True}
"""Of `x-b3-sampled`; the words are those of tracers from before the specification."""


class B3Format(Enum):
    """How a trace is written."""

    SINGLE = "single"
    """`b3: {trace id}-{span id}-{decision}`."""
    MULTI = "multi"
    """`x-b3-traceid`, `x-b3-spanid`, and `x-b3-sampled` or `x-b3-flags`."""


class B3Context(NamedTuple):
    """What a caller said."""

    trace_id: bytes
    """32 hex digits: one of 64 bits is padded. Empty if the caller only decided about sampling."""
    span_id: bytes
    """16 hex digits, or empty."""
    sampled: bool | None
    """None: the decision is left to whom it calls."""
    is_debug: bool = False
    """It is sampled whatever a sampler says, everywhere on its way."""


def read_b3(fields: Headers) -> B3Context | None:
    """Read the B3 fields of a request; None if they are none, or malformed."""
    values: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in values:
            return None
        values[name] = value
    single = values.get(b"b3")
    found = _read_single(single) if single is not None else None
    return found if found is not None else _read_multi(values)


def _read_single(value: bytes) -> B3Context | None:
    if value in (b"0", b"1", b"d"):
        return B3Context(b"", b"", value != b"0", value == b"d")
    match = _SINGLE.fullmatch(value)
    if match is None:
        return None
    decision = match[3]
    return _context(match[1], match[2], None if decision is None else decision != b"0", decision == b"d")


def _read_multi(values: dict[bytes, bytes]) -> B3Context | None:
    word = values.get(b"x-b3-sampled")
    is_debug = values.get(b"x-b3-flags") == b"1"
    sampled = _DECISIONS.get(word.lower()) if word is not None else None
    if word is not None and sampled is None:
        return None
    if is_debug:
        sampled = True
    trace_id, span_id = values.get(b"x-b3-traceid"), values.get(b"x-b3-spanid")
    if trace_id is None and span_id is None:
        return B3Context(b"", b"", sampled, is_debug) if sampled is not None else None
    return _context(trace_id or b"", span_id or b"", sampled, is_debug)


def _context(trace_id: bytes, span_id: bytes, sampled: bool | None, is_debug: bool) -> B3Context | None:
    if not _TRACE_ID.fullmatch(trace_id) or not _SPAN_ID.fullmatch(span_id):
        return None
    return B3Context(trace_id.rjust(32, b"0"), span_id, sampled, is_debug)


class B3Propagator:
    """Reads traces, and writes them in the place of those that a request came with.

    Args:
        formats: those that are written.
    """

    __slots__ = ("_formats",)

    def __init__(self, formats: Collection[B3Format]) -> None:
        self._formats = frozenset(formats)

    def read(self, fields: Headers) -> B3Context | None:
        """As `read_b3`."""
        return read_b3(fields)

    def write(self, headers: Headers, trace_parent: bytes) -> Headers:
        """The fields to forward (`exchange.TraceContext.inject`).

        Args:
            trace_parent: the `traceparent` that says the same.
        """
        sampled = trace_parent[54:]
        return self._write(headers, trace_parent, sampled, (b"x-b3-sampled", sampled))

    def write_debug(self, headers: Headers, trace_parent: bytes) -> Headers:
        """As `write`, for a trace that is sampled everywhere."""
        return self._write(headers, trace_parent, b"d", (b"x-b3-flags", b"1"))

    def _write(self, headers: Headers, parent: bytes, decision: bytes, field: tuple[bytes, bytes]) -> Headers:
        trace_id, span_id = parent[3:35], parent[36:52]
        fields = [each for each in headers if each[0] not in B3_FIELDS]
        if B3Format.SINGLE in self._formats:
            fields.append((b"b3", b"%b-%b-%b" % (trace_id, span_id, decision)))
        if B3Format.MULTI in self._formats:
            fields += ((b"x-b3-traceid", trace_id), (b"x-b3-spanid", span_id), field)
        return tuple(fields)
