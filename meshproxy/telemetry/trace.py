"""W3C Trace Context: the caller's trace is continued with the sidecar's span, or a new one is started.

https://www.w3.org/TR/trace-context/ (Recommendation, version 00). What cannot be read exactly is not repaired:
a new trace begins, as section 3.2.2.3 requires.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from meshproxy.proxy.exchange import TraceContext

HEX = b"0123456789abcdef"
ZERO_TRACE = b"0" * 32
ZERO_SPAN = b"0" * 16

STATE_BYTES = 512
"""What section 3.3.1.5 asks to carry at least, and all that we carry."""
STATE_MEMBERS = 32

POOL_BYTES = 6_144
"""Random bytes fetched at once: the ids of 256 exchanges for one system call, 0.02 us an exchange instead of 0.6."""
SPAN = 16
BOTH = 48
"""Digits of a span's id; of that and of a trace's behind it."""

STATE_MEMBER = re.compile(
    rb"""
    (?: [a-z0-9][a-z0-9_*/-]{0,255}
      | [a-z0-9][a-z0-9_*/-]{0,240} @ [a-z][a-z0-9_*/-]{0,13} )   # a vendor, or a tenant of a vendor's system
    = [\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256}                        # printable, without comma and equals sign
    """,
    re.VERBOSE,
)


class Tracer:
    """Makes the trace context of each exchange.

    Args:
        ratio: of the traces that start here, how many are sampled: 0.0 to 1.0. Theirs keep the caller's decision.
    """

    def __init__(self, ratio: float = 0.0) -> None:
        self._digits = b""
        self._left = 0
        """Exchanges for which they hold ids."""
        # The last 56 bits of a trace id decide (OpenTelemetry, "TraceIdRatioBased"), so that all who ask the same
        # ratio sample the same traces. Fixed-width hex digits compare like the numbers; `g` is above all of them.
        rejected = round((1.0 - min(max(ratio, 0.0), 1.0)) * 2**56)
        self._threshold = b"%014x" % rejected if rejected < 2**56 else b"g"

    def carry(self, parent: bytes | None, states: Sequence[bytes] = ()) -> tuple[TraceContext, bytes]:
        """Continue a request's trace with a span of ours, or start one.

        Args:
            parent: the value of its only `traceparent`, if it has one.
            states: the values of its `tracestate` fields; they are passed on with a valid parent only.

        Returns:
            The context, and the value of the `traceparent` to forward: it names our span.
        """
        if not self._left:
            self._fetch()
        self._left -= 1
        begin = self._left * BOTH
        middle = begin + SPAN
        span_id = self._digits[begin:middle]
        if parent is not None and _is_valid(parent):
            trace_id = parent[3:35]
            sampled = parent[54] in b"13579bdf"
            state = _read_state(states) if states else b""
            context = TraceContext(trace_id, parent[36:52], span_id, sampled, state)
        else:
            trace_id = self._digits[middle : begin + BOTH]
            sampled = trace_id[18:] >= self._threshold
            context = TraceContext(trace_id, b"", span_id, sampled)
        own = b"00-%b-%b-01" if sampled else b"00-%b-%b-00"
        return context, own % (trace_id, span_id)

    def _fetch(self) -> None:
        digits = ZERO_SPAN
        while ZERO_SPAN in digits:  # an id of zeros is none
            digits = os.urandom(POOL_BYTES).hex().encode()
        self._digits = digits
        self._left = POOL_BYTES * 2 // BOTH


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
