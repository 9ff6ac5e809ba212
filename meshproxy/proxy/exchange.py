"""The record of one exchange: a client's request, from its head to the last byte of its answer.

Integers, timestamps and references only. Nothing is formatted while the exchange lasts; `observer(exchange)` reads the
record once, at its end. Times are `time.monotonic()` seconds; 0.0 means that the point was never reached.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, IntFlag
from typing import NamedTuple

from meshproxy.codec.events import Headers, RequestHead
from meshproxy.identity.caller import ANONYMOUS, Caller
from meshproxy.inference.call import Call
from meshproxy.refusal import Refusal
from meshproxy.routing.failure import Failure
from meshproxy.routing.split import Arm
from meshproxy.transport.connection_info import ConnectionInfo


class ResponseFlags(IntFlag):
    """What went wrong, in Envoy's letters (access log, `%RESPONSE_FLAGS%`). `str()` gives them comma separated."""

    UH = 1
    """No endpoint could be called."""
    UF = 2
    """Connecting to the endpoint failed."""
    UO = 4
    """A limit of ours was reached: connections, pending requests, concurrency."""
    NR = 8
    """No route, or no ModelServer selected."""
    UC = 16
    """The endpoint broke off."""
    UPE = 32
    """The endpoint's answer broke the protocol."""
    UT = 64
    """A time limit passed before the answer was whole."""
    DC = 128
    """The client broke off."""
    DT = 256
    """The client stopped reading."""
    SI = 512
    """The answer stopped: `idleTimeout`."""
    RL = 1024
    """Rate limited."""
    DI = 2048
    """Fault injected: delayed."""
    FI = 4096
    """Fault injected: aborted."""
    DPE = 8192
    """The request broke the protocol."""

    def __str__(self) -> str:
        return ",".join([flag.name or "" for flag in ResponseFlags if flag in self])


NO_FLAGS = ResponseFlags(0)
"""Compare with `is`: an IntFlag's truth costs a Python call."""


class Happening(Enum):
    """What else happened to a request, beside its attempts and its refusal."""

    ENDPOINTS_SKIPPED = "endpoints.skipped"
    """An endpoint was picked, or none was, while some could not be (`Cluster.skipped`)."""
    RETRY_SKIPPED = "retry.skipped"
    """An attempt failed in a way that is retried, and was not."""
    LIMIT = "limit"
    """A limit was reached after the answer had begun: it was broken off."""


class Note(NamedTuple):
    """Something that happened."""

    at: float
    what: Happening
    facts: tuple[tuple[str, str | int], ...]


class AttemptRecord:
    """One attempt at an endpoint, written when its outcome has been reported to the endpoint."""

    __slots__ = (
        "ended",
        "endpoint",
        "failure",
        "first_byte",
        "grpc_status",
        "is_cancelled",
        "is_tls",
        "sent",
        "span_id",
        "started",
        "status",
    )

    def __init__(
        self,
        endpoint: str,
        started: float,
        sent: float,
        first_byte: float,
        ended: float,
        failure: Failure | None,
        is_cancelled: bool,
        status: int = 0,
        grpc_status: int | None = None,
        span_id: bytes = b"",
        is_tls: bool = False,
    ) -> None:
        self.endpoint = endpoint
        """Its address."""
        self.started = started
        """The endpoint had been picked."""
        self.sent = sent
        """The request's head was written."""
        self.first_byte = first_byte
        """The response's head had been read."""
        self.ended = ended
        self.failure = failure
        """What the endpoint was blamed for; None: nothing."""
        self.is_cancelled = is_cancelled
        """The answer was not wanted any more before it was known how it went."""
        self.status = status
        """HTTP status of the answer; 0 if there was none."""
        self.grpc_status = grpc_status
        """What a gRPC call ended with, as far as that was known by then."""
        self.span_id = span_id
        """The client span that the endpoint saw as its parent, 16 hex digits; empty if nothing was sent, or spans are
        not exported."""
        self.is_tls = is_tls


class Exchange:
    """The record of one exchange."""

    __slots__ = (
        "arm",
        "asked",
        "attempts",
        "bytes_received",
        "bytes_sent",
        "caller",
        "conditions",
        "connected",
        "connection",
        "decided",
        "dequeued",
        "effective_version",
        "finished",
        "first_byte",
        "flags",
        "forwarded",
        "grpc_status",
        "head",
        "is_grpc",
        "is_refused_remotely",
        "notes",
        "permit_audits",
        "read",
        "reading",
        "received",
        "refusal",
        "refused",
        "retried",
        "route",
        "rule",
        "server",
        "started",
        "status",
        "target",
        "trace",
        "upstream",
    )

    def __init__(self, head: RequestHead, connection: ConnectionInfo, started: float) -> None:
        self.head = head
        self.connection = connection
        self.is_grpc = False
        self.caller: Caller = ANONYMOUS
        self.asked: Call | None = None
        """The call as the client made it; None if the request was refused before that was known."""
        self.forwarded: Call | None = None
        """The call as it goes to the model server: `asked`, or with the version that the route chose."""
        self.target = head.target
        """The path to forward, rebuilt from what was authorised."""
        self.effective_version = ""
        """The version that the answer names, where `forwarded` names none; empty where it names none either, or was not
        one of gRPC."""
        self.arm: Arm | None = None
        """The arm of the route's split that was chosen; None if there is no split."""
        self.rule = ""
        """The binding that permitted the call (`policy.decide.Permit.rule`)."""
        self.permit_audits: tuple[str, ...] = ()
        """The `audit` bindings that matched it."""
        self.conditions: tuple[str, ...] = ()
        """The conditions of bindings that were met (`policy.decide.Permit.conditions`)."""
        self.refusal: Refusal | None = None
        """Why the sidecar answered itself, if it did."""
        self.is_refused_remotely = False
        """The answer is a refusal of the sidecar in front of the model server (`x-meshproxy-refusal`)."""
        self.trace: TraceContext | None = None
        """None if the request brought no valid one, and none was begun for it."""
        self.route = ""
        """The `ModelRoute` that matched; empty if none did."""
        self.server = ""
        """The `ModelServer` that was chosen."""
        self.upstream = ""
        """Address of the endpoint that answered, or was tried last."""
        self.attempts: tuple[AttemptRecord, ...] = ()
        """Those that were made, in the order in which they ended."""
        self.notes: tuple[Note, ...] = ()
        """What else happened, of what seldom does."""
        self.status = 0
        """HTTP status sent to the client; 0 if the client left before there was one."""
        self.grpc_status: int | None = None
        self.flags = NO_FLAGS
        self.bytes_received = 0
        self.bytes_sent = 0
        # Points in time, in this order. `time_split` says where the time between them went.
        self.started = started
        """The head had been read."""
        self.reading = 0.0
        """The caller was known, and the body was needed to know the model; 0.0 if method and path name it."""
        self.read = 0.0
        """The body had named the model."""
        self.decided = 0.0
        """Caller, model, policy and route were known."""
        self.dequeued = 0.0
        """A wait for its turn was over, in the queue of `concurrency` or for an injected delay; 0.0: there was none."""
        self.retried = 0.0
        """The last attempt began, if it was not the first; once the model server answers, the one that is answered."""
        self.connected = 0.0
        """An upstream connection was available to that attempt, and the request's head was written to it."""
        self.received = 0.0
        """The request's body had been read to its end; 0.0 if that was before `connected`, infinity if it never was."""
        self.refused = 0.0
        """The sidecar was to answer itself, with `refusal`."""
        self.first_byte = 0.0
        """The upstream's response head had been read; 0.0 also if that was of gRPC, and nothing followed it."""
        self.finished = 0.0
        """The last byte had been handed to the client's connection."""

    @property
    def ended(self) -> float:
        """When the last attempt ended; 0.0: there was none."""
        return self.attempts[-1].ended if self.attempts else 0.0

    def note(self, at: float, what: Happening, *facts: tuple[str, str | int]) -> None:
        """Note that something has happened."""
        self.notes = (*self.notes, Note(at, what, facts))


class LiveExchange(Exchange):
    """An exchange in flight, as the reaper sees it (`reaper.Expirable`)."""

    __slots__ = ("deadline",)

    deadline: float
    """When it is looked at next."""

    def expire(self, now: float) -> None:
        """`deadline` has passed."""
        raise NotImplementedError


class TraceContext:
    """W3C Trace Context of one exchange (https://www.w3.org/TR/trace-context/): the caller's, with our span."""

    __slots__ = ("inject", "is_exported", "parent_id", "record", "sampled", "span_id", "state", "trace_id")

    def __init__(
        self,
        trace_id: bytes,
        parent_id: bytes,
        span_id: bytes,
        sampled: bool,
        state: bytes = b"",
        record: Callable[[Exchange], None] | None = None,
        inject: Callable[[Headers, bytes], Headers] | None = None,
    ) -> None:
        self.trace_id = trace_id
        """32 lower-case hex digits."""
        self.parent_id = parent_id
        """The caller's span, 16 hex digits; empty if the trace begins here."""
        self.span_id = span_id
        """The sidecar's server span. The model server sees it as its parent, or the span of the attempt where spans are
        exported."""
        self.sampled = sampled
        self.state = state
        """The value of `tracestate` to forward; empty if there is none."""
        self.record = record
        """Gets the exchange when it has ended, whatever a reload has changed meanwhile; None: spans are not
        exported."""
        self.inject = inject
        """Adds the trace in another format to the fields of a forwarded head, given its `traceparent`; None: in
        none."""
        self.is_exported = False
        """Its spans wait to be exported: who looks for the trace will find it."""
