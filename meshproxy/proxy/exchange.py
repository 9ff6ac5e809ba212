"""One request of a client, from its head to the last byte of its answer: what is written down about it on the way.

Integers, timestamps and references only. Nothing is formatted before the exchange is over; then `observer(exchange)`
reads it once. Times are `time.monotonic()` seconds; 0.0 means that the point was never reached.
"""

from __future__ import annotations

from meshproxy.codec.events import RequestHead
from meshproxy.identity.caller import NOBODY, Caller
from meshproxy.inference.call import Call
from meshproxy.refusal import Refusal
from meshproxy.transport.facts import ConnectionFacts


class Exchange:
    """The record of one exchange."""

    __slots__ = (
        "attempts",
        "bytes_received",
        "bytes_sent",
        "call",
        "caller",
        "connected",
        "connection",
        "decided",
        "finished",
        "first_byte",
        "flags",
        "grpc_status",
        "head",
        "is_grpc",
        "permit_audits",
        "refusal",
        "route",
        "rule",
        "server",
        "started",
        "status",
        "trace",
        "upstream",
    )

    def __init__(self, head: RequestHead, connection: ConnectionFacts, started: float) -> None:
        self.head = head
        self.connection = connection
        self.is_grpc = False
        self.caller: Caller = NOBODY
        self.call: Call | None = None
        """What the request turned out to ask for; None if it was refused before that was known."""
        self.rule = ""
        """The binding that permitted it."""
        self.permit_audits: tuple[str, ...] = ()
        self.refusal: Refusal | None = None
        """Why we answered ourselves, if we did."""
        self.trace: TraceContext | None = None
        self.route = ""
        """The document that said where to; empty if none did."""
        self.server = ""
        """The `ModelServer` that was chosen."""
        self.upstream = ""
        """Address of the endpoint that answered, or was tried last."""
        self.attempts = 0
        self.status = 0
        """HTTP status sent to the client; 0 if it was gone before there was one."""
        self.grpc_status: int | None = None
        self.flags = ""
        """Envoy's response flags (UF, UC, UT, DC, NR, ...), comma separated; empty if all went well."""
        self.bytes_received = 0
        self.bytes_sent = 0
        self.started = started
        """The head had been read."""
        self.decided = 0.0
        """Caller, model, policy and route were known."""
        self.connected = 0.0
        """An upstream connection was at hand and the request's head was written to it."""
        self.first_byte = 0.0
        """The upstream's response head had been read."""
        self.finished = 0.0
        """The last byte had been handed to the client's connection."""


class TraceContext:
    """W3C Trace Context of one exchange (https://www.w3.org/TR/trace-context/): theirs carried on, or one of ours."""

    __slots__ = ("parent_id", "sampled", "span_id", "state", "trace_id")

    def __init__(self, trace_id: bytes, parent_id: bytes, span_id: bytes, sampled: bool, state: bytes = b"") -> None:
        self.trace_id = trace_id
        """32 lower-case hex digits."""
        self.parent_id = parent_id
        """The caller's span, 16 hex digits; empty if we started the trace."""
        self.span_id = span_id
        """Our server span: what the model server sees as its parent."""
        self.sampled = sampled
        self.state = state
        """The value of `tracestate` to forward; empty if there is none."""
