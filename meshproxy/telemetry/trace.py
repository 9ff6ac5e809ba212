"""W3C Trace Context: a caller's trace is continued with a span of ours.

https://www.w3.org/TR/trace-context/ (Recommendation, version 00). Where spans are not exported, a request without a
trace stays without one: the sampled flag of a `traceparent` that we made up would decide for every parent-based sampler
behind us. Where they are, the sidecar is the one that samples, and begins the trace. What cannot be read exactly is
dropped, as section 3.2.2.3 asks.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from meshproxy.proxy.exchange import TraceContext

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from meshproxy.codec.events import Headers
    from meshproxy.config.telemetry import Traces
    from meshproxy.proxy.exchange import Exchange
    from meshproxy.telemetry.b3 import B3Propagator
    from meshproxy.telemetry.sampling import Sampler

HEX = b"0123456789abcdef"
ZERO_TRACE = b"0" * 32
ZERO_SPAN = b"0" * 16

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"

SAMPLED = b"00-%b-%b-01"
NOT_SAMPLED = b"00-%b-%b-00"

STATE_BYTES = 512
"""What section 3.3.1.5 asks to carry at least, and all that we carry."""
STATE_MEMBERS = 32

POOL_BYTES = 2_048
"""Random bytes fetched at once: 256 span ids for one system call, 0.02 us a request instead of 0.6."""
SPAN = 16
"""Hexadecimal digits of a span id."""

STATE_MEMBER = re.compile(
    rb"""
    (?: [a-z0-9][a-z0-9_*/-]{0,255}
      | [a-z0-9][a-z0-9_*/-]{0,240} @ [a-z][a-z0-9_*/-]{0,13} )   # a vendor, or a tenant of a vendor's system
    = [\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256}                        # printable, without comma and equals sign
    """,
    re.VERBOSE,
)


class Tracer:
    """Continues the traces of requests, and begins them where there is a sampler.

    Args:
        sampler: decides which traces are sampled; None: spans are not exported, and the caller's flag is passed on.
        record: gets the exchanges of the traces that this tracer continues or begins; with a sampler only.
        b3: how traces of Zipkin's format are read and written; None: their fields are passed on. With a sampler only.
    """

    def __init__(
        self,
        sampler: Sampler | None = None,
        record: Callable[[Exchange], None] | None = None,
        b3: B3Propagator | None = None,
    ) -> None:
        self._sampler = sampler
        self._record = record
        self._b3 = b3
        self._inject = b3.write if b3 is not None else None
        self.is_recording = sampler is not None
        self.reads_b3 = b3 is not None
        self._digits = b""
        self._left = 0
        """Span ids that `_digits` still holds."""

    def carry(self, parent: bytes, states: Sequence[bytes] = ()) -> tuple[TraceContext, bytes] | None:
        """Continue a request's trace with a span of ours.

        Args:
            parent: the value of its only `traceparent`.
            states: the values of its `tracestate` fields; they are passed on with a valid parent only.

        Returns:
            The context, and the value of the `traceparent` to forward: it names our span. None if `parent` is invalid:
            there is no trace, and neither field may be forwarded.
        """
        return self.go_on(parent, states) if _is_valid(parent) else None

    def go_on(self, parent: bytes, states: Sequence[bytes] = ()) -> tuple[TraceContext, bytes]:
        """As `carry`, for a `parent` that is known to be valid."""
        span_id = self.span_id()
        trace_id = parent[3:35]
        sampled = parent[54] in b"13579bdf"
        if self._sampler is not None:
            sampled = self._sampler.decide(trace_id, sampled)
        state = _read_state(states) if states else b""
        own = SAMPLED if sampled else NOT_SAMPLED
        context = TraceContext(trace_id, parent[36:52], span_id, sampled, state, self._record, self._inject)
        return context, own % (trace_id, span_id)

    def begin(self, b3: Headers = ()) -> tuple[TraceContext, bytes]:
        """Begin a trace with a span of ours, or continue one of B3; it needs a sampler.

        Args:
            b3: the fields of that format. What cannot be read of them begins a trace of its own.
        """
        assert self._sampler is not None
        parent = None
        inject = self._inject
        if b3 and self._b3 is not None:
            parent = self._b3.read(b3)
            if parent is not None and parent.is_debug:
                inject = self._b3.write_debug
        if self._left < 3:
            self._fetch()
        self._left -= 3
        begin = self._left * SPAN
        digits = self._digits[begin : begin + 3 * SPAN]
        trace_id, parent_id, span_id = digits[: 2 * SPAN], b"", digits[2 * SPAN :]
        if parent is None:
            sampled = self._sampler.decide(trace_id, None)
        else:
            trace_id, parent_id = parent.trace_id or trace_id, parent.span_id
            sampled = parent.is_debug or self._sampler.decide(trace_id, parent.sampled)
        own = SAMPLED if sampled else NOT_SAMPLED
        context = TraceContext(trace_id, parent_id, span_id, sampled, b"", self._record, inject)
        return context, own % (trace_id, span_id)

    def attempt(self, trace: TraceContext) -> tuple[bytes, bytes]:
        """The id of an attempt's span, and the `traceparent` that names it as the parent."""
        span_id = self.span_id()
        return span_id, (SAMPLED if trace.sampled else NOT_SAMPLED) % (trace.trace_id, span_id)

    def span_id(self) -> bytes:
        """The random id of another span, 16 hex digits."""
        if not self._left:
            self._fetch()
        self._left -= 1
        begin = self._left * SPAN
        return self._digits[begin : begin + SPAN]

    def _fetch(self) -> None:
        digits = ZERO_SPAN
        while ZERO_SPAN in digits:  # an id of zeros is none
            digits = os.urandom(POOL_BYTES).hex().encode()
        self._digits = digits
        self._left = POOL_BYTES * 2 // SPAN


def record_trace(exchange: Exchange) -> None:
    """Pass an exchange to whoever records its trace (`observer.Sink`)."""
    trace = exchange.trace
    if trace is not None and trace.record is not None:
        trace.record(exchange)


def is_wanted(traces: Traces | None, environ: Mapping[str, str]) -> bool:
    """Whether a collector is named, by the mesh or in the environment: otherwise nothing of the export is loaded."""
    return traces is not None or bool(environ.get(ENDPOINT) or environ.get(TRACES_ENDPOINT))


def _is_valid(parent: bytes) -> bool:
    """Whether a `traceparent` is one (section 3.2): of version 00, or the part that later versions share with it."""
    core = parent[:55]
    # Nothing but hex digits around dashes, and those at their places. What a later version appends begins with a dash.
    return (
        core.translate(None, HEX) == b"---"
        and len(core) == 55
        and core[2] == core[35] == core[52] == 0x2D
        and core[3:35] != ZERO_TRACE
        and core[36:52] != ZERO_SPAN
        and (len(parent) == 55 if core.startswith(b"00") else not core.startswith(b"ff") and parent[55:56] in b"-")
    )


def _read_state(states: Sequence[bytes]) -> bytes:
    """The lists of all `tracestate` fields as one (section 3.3); empty if they may not be passed on."""
    state = b",".join(states) if len(states) > 1 else states[0]
    if len(state) > STATE_BYTES:
        return b""
    members = [stripped for member in state.split(b",") if (stripped := member.strip(b" \t"))]
    if len(members) > STATE_MEMBERS or not all(map(STATE_MEMBER.fullmatch, members)):
        return b""
    return b",".join(members)
