"""What is kept of a finished exchange until its spans are encoded: a tuple of values that are there already.

An exchange refers to its connection and its buffers, and is gone when it was observed; so are the fields of its head,
which carry tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from meshproxy.telemetry.sampling import has_failed, is_kept

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.config.telemetry import Keep
    from meshproxy.identity.caller import Caller
    from meshproxy.inference.call import Call
    from meshproxy.proxy.exchange import AttemptRecord, Exchange, Note, ResponseFlags, TraceContext
    from meshproxy.refusal import Refusal
    from meshproxy.routing.split import Arm

PATH_BYTES = 1_024
"""Of a path, as in the access log."""
METHOD_BYTES = 32
AUTHORITY_BYTES = 256
"""A head may have 64 KiB, and 2,048 records wait."""
HEALTH = b"/grpc.health.v1.Health/"
"""Probes that fail come every few seconds as long as nobody acts on them: metrics tell."""
KEPT_EACH_SECOND = 100
"""Exchanges of traces that are not sampled: whoever provokes refusals decides how many there are."""


class SpanRecord(NamedTuple):
    """One exchange. Times are `time.monotonic()` seconds, as in `Exchange`."""

    trace: TraceContext
    started: float
    decided: float
    dequeued: float
    finished: float
    is_grpc: bool
    has_failed: bool
    method: bytes
    path: bytes
    """Without its query."""
    target: bytes
    """The path that was forwarded; without its query."""
    authority: bytes
    direction: str
    protocol: str
    remote: str
    is_tls: bool
    caller: Caller
    asked: Call | None
    forwarded: Call | None
    effective_version: str
    arm: Arm | None
    rule: str
    route: str
    server: str
    status: int
    grpc_status: int | None
    flags: ResponseFlags
    refusal: Refusal | None
    attempts: tuple[AttemptRecord, ...]
    notes: tuple[Note, ...]

    @property
    def spans(self) -> int:
        """How many it makes."""
        return 1 + len(self.attempts)


class SpanRecorder:
    """Observes finished exchanges, and hands on those that are sampled or kept anyway (`observer.Sink`)."""

    def __init__(self, keep: Keep, take: Callable[[SpanRecord], None], limited: Callable[[SpanRecord], None]) -> None:
        """
        Args:
            keep: what is kept although its trace is not sampled.
            take: gets a record; must be quick.
            limited: gets one that would be kept, but for `KEPT_EACH_SECOND`.
        """
        self._keep = keep
        self._take = take
        self._limited = limited
        self._second = 0.0
        self._kept = 0
        """In that second."""

    def __call__(self, exchange: Exchange) -> None:
        """Look at one exchange."""
        trace = exchange.trace
        if trace is None:
            return
        if trace.sampled:
            self._take(record_of(exchange, trace))
        elif is_kept(exchange, self._keep) and not exchange.head.target.startswith(HEALTH):
            second = exchange.finished // 1
            if second != self._second:
                self._second, self._kept = second, 0
            self._kept += 1
            (self._take if self._kept <= KEPT_EACH_SECOND else self._limited)(record_of(exchange, trace))


def record_of(exchange: Exchange, trace: TraceContext) -> SpanRecord:
    """What is kept of it."""
    head, connection = exchange.head, exchange.connection
    path = _path(head.target)
    return SpanRecord(
        trace,
        exchange.started,
        exchange.decided,
        exchange.dequeued,
        exchange.finished,
        exchange.is_grpc,
        has_failed(exchange),
        head.method[:METHOD_BYTES],
        path,
        path if exchange.target is head.target else _path(exchange.target),
        head.authority[:AUTHORITY_BYTES],
        connection.direction,
        connection.protocol,
        connection.remote,
        bool(connection.tls_version),
        exchange.caller,
        exchange.asked,
        exchange.forwarded,
        exchange.effective_version,
        exchange.arm,
        exchange.rule,
        exchange.route,
        exchange.server,
        exchange.status,
        exchange.grpc_status,
        exchange.flags,
        exchange.refusal,
        exchange.attempts,
        exchange.notes,
    )


def _path(target: bytes) -> bytes:
    return target.partition(b"?")[0][:PATH_BYTES]
