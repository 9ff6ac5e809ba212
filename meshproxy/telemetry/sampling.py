"""Which requests' spans are exported: the decision at the head of a trace, and the one at the end of a request.

Samplers of the OpenTelemetry specification (https://opentelemetry.io/docs/specs/otel/trace/sdk/#sampling):
`ParentBased` and `TraceIdRatioBased`. The ratio is compared with the low 64 bits of the trace id, as the SDK for Python
does, and that for Go with 63 of them: programs that sample one trace at the same ratio come to the same result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.proxy.exchange import NO_FLAGS, ResponseFlags

if TYPE_CHECKING:
    from meshproxy.config.telemetry import Keep
    from meshproxy.proxy.exchange import Exchange

GRPC_ERRORS = frozenset({2, 4, 12, 13, 14, 15})
"""Statuses that are errors of a server span (semantic conventions 1.45.0, gRPC): UNKNOWN, DEADLINE_EXCEEDED,
UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS."""
BROKEN = (
    ResponseFlags.UF | ResponseFlags.UC | ResponseFlags.UPE | ResponseFlags.UT | ResponseFlags.DT | ResponseFlags.SI
)
"""What is an error whatever status the client has received before."""


class Sampler:
    """Decides for a trace where this process comes to it.

    Args:
        ratio: from 0 to 1.
        follows_parent: the caller's decision counts, if there is one; `ratio` is for traces that begin here.
    """

    __slots__ = ("_below", "follows_parent", "ratio")

    def __init__(self, ratio: float, follows_parent: bool = True) -> None:
        self.ratio = ratio
        self.follows_parent = follows_parent
        bound = round(ratio * 2**64)
        # Hex digits of one length and case are in the order of their numbers; "g" is above them all.
        self._below = b"%016x" % bound if bound < 2**64 else b"g"

    def decide(self, trace_id: bytes, parent: bool | None) -> bool:
        """Whether the trace is sampled.

        Args:
            trace_id: 32 lower-case hex digits.
            parent: the `sampled` flag of the caller; None if the trace begins here.
        """
        if parent is not None and self.follows_parent:
            return parent
        return trace_id[16:] < self._below


def has_failed(exchange: Exchange) -> bool:
    """Whether its server span is an error. A client that left is none: over gRPC that is CANCELLED."""
    flags = exchange.flags
    if flags is not NO_FLAGS:  # to compare bits costs 1 us
        if flags & ResponseFlags.DC:
            return False
        if flags & BROKEN:
            return True
    status = exchange.status
    if exchange.is_grpc:
        return exchange.grpc_status in GRPC_ERRORS if exchange.grpc_status is not None else status != 200
    return status >= 500 or status == 0


def is_refused(exchange: Exchange) -> bool:
    """Whether a sidecar answered it, this one or the one in front of the model server."""
    return exchange.refusal is not None or exchange.is_refused_remotely


def is_kept(exchange: Exchange, keep: Keep) -> bool:
    """Whether a finished exchange is exported although its trace is not sampled."""
    if keep.refusals and is_refused(exchange):
        return True
    if keep.errors and has_failed(exchange):
        return True
    return keep.slower_than is not None and exchange.finished - exchange.started > keep.slower_than
