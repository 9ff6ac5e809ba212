"""The access log: one JSON line for every exchange, in the field names of Envoy and Istio, and what we know besides.

Never in it: the `authorization` field, the query (tokens travel in both), bodies. Fields that do not apply are null, so
that every line has the same ones; docs/access-log.md lists them.

A line costs 3.3 us (3.7 with an `x-request-id`), of which 1.4 are one `%` operation over a template: what comes again
(the two ends of a connection, a path, an agent) is quoted once and remembered in bounded memos.
"""

from __future__ import annotations

from meshproxy.identity.caller import Caller
from meshproxy.inference.call import Verb
from meshproxy.proxy.exchange import Exchange
from meshproxy.refusal import GrpcStatus, Reason
from meshproxy.telemetry.line_writer import LineWriter
from meshproxy.telemetry.log_encoding import NULL, Quoted, UtcClock, quote
from meshproxy.transport.facts import ConnectionFacts

MEMO_ENTRIES = 512
"""Connections whose ends are remembered: a kilobyte each, and what their callers' tokens take."""

LOGGED_FIELDS = frozenset({b"user-agent", b"x-request-id", b"x-forwarded-for"})

TEMPLATE = (
    b'{"start_time":"%%b.%%06dZ","method":%%b,"path":%%b,"authority":%%b,"response_code":%%d,"response_flags":%%b,'
    b'"response_code_details":%%b,"refusal":%%b,"grpc_status":%%b,"bytes_received":%%d,"bytes_sent":%%d,'
    b'"duration":%(time)b,"decide_time":%(time)b,"connect_time":%(time)b,"upstream_service_time":%(time)b,'
    b'"write_time":%(time)b,"upstream_host":%%b,"upstream_cluster":%%b,"route_name":%%b,"attempts":%%d,%%b,'
    b'"model":%%b,"model_version":%%b,"verb":%%b,"policy":%%b,"policy_audits":%%b,"user_agent":%%b,"request_id":%%b,"x_forwarded_for":%%b,'
    b"%%b}\n"
)
LINE = TEMPLATE % {b"time": b"%.3f"}
"""For an exchange that came to its end: five times that are floats, in milliseconds."""
LINE_UNFINISHED = TEMPLATE % {b"time": b"%b"}
"""For one that did not: its times are texts, null where they were never reached."""
CONNECTION = (
    b'"protocol":%b,"direction":%b,"downstream_remote_address":%b,"downstream_local_address":%b,'
    b'"requested_server_name":%b,"tls_version":%b,%b'
)
CALLER = b'"peer_spiffe_id":%b,"jwt_issuer":%b,"jwt_sub":%b,"iam_role":%b'
TRACE = b'"trace_id":"%b","span_id":"%b"'
NO_TRACE = b'"trace_id":null,"span_id":null'
VIA_UPSTREAM = b'"via_upstream"'
REASONS = {reason: quote(reason.label) for reason in Reason}
VERBS = {verb: quote(verb.value) for verb in Verb}
GRPC_STATUSES: dict[int | None, bytes] = {None: NULL} | {status.value: quote(status.name) for status in GrpcStatus}


class AccessLog:
    """Writes exchanges that are over to a sink.

    Args:
        sink: where the lines go; its timer and its end are the caller's.
        clock: turns the times of an exchange into those of the wall.
    """

    def __init__(self, sink: LineWriter, clock: UtcClock) -> None:
        self._sink = sink
        self._clock = clock
        self._bytes = Quoted()
        self._text = Quoted()
        # Compared by identity: exchanges of a connection share its facts and, mostly, the caller; comparing those by
        # value costs as much as formatting them.
        self._ends: dict[ConnectionFacts, tuple[Caller, bytes]] = {}

    def __call__(self, exchange: Exchange) -> None:
        """Write the line of one exchange."""
        self._sink.write(self.format(exchange))

    def format(self, exchange: Exchange) -> bytes:
        """The line, with its line feed."""
        head = exchange.head
        quoted = self._bytes
        text = self._text
        path = head.target
        if b"?" in path:
            path = path[: path.index(b"?")]
        agent = request_id = forwarded = NULL
        for name, value in head.headers:
            if name in LOGGED_FIELDS:
                if name == b"user-agent":
                    agent = quoted[value]
                elif name == b"x-request-id":
                    request_id = quote(value)
                else:
                    forwarded = quote(value)
        ends = self._ends.get(exchange.connection)
        if ends is None or ends[0] is not exchange.caller:
            ends = self._format_ends(exchange.connection, exchange.caller)
        call = exchange.call
        model_name = version = verb = NULL
        if call is not None:
            verb = VERBS[call.verb]
            if len(call.models) == 1:
                model = call.models[0]
                model_name = text[model.name]
                version = text[model.label if model.version is None else str(model.version)]
            else:
                model_name = text[",".join(model.name for model in call.models)]
        refusal = exchange.refusal
        if refusal is None:
            details = VIA_UPSTREAM if exchange.status else NULL
            refused = NULL
            rule = exchange.rule
            audits = exchange.permit_audits
        else:
            details = text[refusal.message]
            refused = REASONS[refusal.reason]
            rule = refusal.rule or exchange.rule
            audits = refusal.audits or exchange.permit_audits
        trace = exchange.trace
        started = exchange.started
        decided = exchange.decided
        connected = exchange.connected
        first_byte = exchange.first_byte
        finished = exchange.finished
        line = LINE
        duration: float | bytes = (finished - started) * 1_000
        decide: float | bytes = (decided - started) * 1_000
        connect: float | bytes = (connected - decided) * 1_000
        upstream: float | bytes = (first_byte - connected) * 1_000
        write: float | bytes = (finished - first_byte) * 1_000
        if not (decided and connected and first_byte and finished):
            duration = _milliseconds(started, finished)
            decide = _milliseconds(started, decided)
            connect = _milliseconds(decided, connected)
            upstream = _milliseconds(connected, first_byte)
            write = _milliseconds(first_byte, finished)
            line = LINE_UNFINISHED
        grpc_status = exchange.grpc_status
        clock = self._clock
        wall = started + clock.offset
        second = int(wall)
        return line % (
            clock.prefix if second == clock.second else clock.tick(second),
            (wall - second) * 1_000_000,
            quoted[head.method],
            quoted[path],
            quoted[head.authority],
            exchange.status,
            text[exchange.flags or "-"],
            details,
            refused,
            GRPC_STATUSES.get(grpc_status) or quote(str(grpc_status)),
            exchange.bytes_received,
            exchange.bytes_sent,
            duration,
            decide,
            connect,
            upstream,
            write,
            text[exchange.upstream],
            text[exchange.server],
            text[exchange.route],
            exchange.attempts,
            ends[1],
            model_name,
            version,
            verb,
            text[rule],
            text[",".join(audits)] if audits else NULL,
            agent,
            request_id,
            forwarded,
            NO_TRACE if trace is None else TRACE % (trace.trace_id, trace.span_id),
        )

    def _format_ends(self, facts: ConnectionFacts, caller: Caller) -> tuple[Caller, bytes]:
        formatted = CONNECTION % (
            quote(facts.protocol),
            quote(facts.direction),
            quote(facts.remote),
            quote(facts.local),
            quote(facts.server_name or None),
            quote(facts.tls_version or None),
            format_caller(caller),
        )
        if len(self._ends) >= MEMO_ENTRIES:
            self._ends.clear()
        ends = self._ends[facts] = caller, formatted
        return ends


def format_caller(caller: Caller) -> bytes:
    """The fields that say who called."""
    workload = caller.workload
    token = caller.token
    return CALLER % (
        quote(workload.spiffe_id if workload is not None else None, limit=2_048),
        quote(token.issuer if token is not None else None),
        quote(token.subject if token is not None else None),
        quote(token.iam_role if token is not None else None),
    )


def _milliseconds(begin: float, end: float) -> bytes:
    return b"%.3f" % ((end - begin) * 1_000) if begin and end else NULL
