"""The access log: one JSON line for every completed exchange, with the field names of Envoy and Istio, and further
ones.

It never contains the `authorization` field, the query (both carry tokens), or bodies. Fields that do not apply are
null, so every line has the same fields; docs/access-log.md lists them.

`AccessLog.format` is the table of fields: a field is one line there, its name beside how it is read. The line is one
f-string, since a call for each field would cost more than the whole line (3.4 us); values that recur (the two ends of
a connection, a path, a user agent) are quoted once and kept in bounded caches.
"""

from __future__ import annotations

from meshproxy.identity.caller import Caller
from meshproxy.inference.call import Call, Verb
from meshproxy.proxy.exchange import NO_FLAGS, Exchange
from meshproxy.proxy.time_split import TimeSplit, split_time
from meshproxy.refusal import GrpcStatus, Reason
from meshproxy.telemetry.line_writer import LineWriter
from meshproxy.telemetry.log_encoding import MEMO_CHARACTERS, MICROSECONDS, NULL, Quoted, UtcClock, quote
from meshproxy.transport.connection_info import ConnectionInfo

MEMO_ENTRIES = 512
"""Connections whose fields are cached, a kilobyte each plus the claims of their callers; and calls."""

LOGGED_HEADERS = frozenset({b"user-agent", b"x-request-id", b"x-forwarded-for"})
VIA_UPSTREAM = '"response_code_details":"via_upstream","refusal":null'
DIRECT = '"response_code_details":"direct_response","refusal":null'
NO_RESPONSE = '"response_code_details":null,"refusal":null'
PARTS = (
    "read_time",
    "decide_time",
    "queue_time",
    "retry_time",
    "connect_time",
    "upstream_service_time",
    "upstream_body_time",
    "write_time",
)
"""The fields of `TimeSplit`, in order. Envoy has one of them: `%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%`."""
TIMES = ",".join([f'"{name}":%.3f' for name in ("duration", *PARTS)])
"""`%` formats floats in 80 % of the time that an f-string takes."""
NO_FLAG = quote("-")
AS_ASKED = '"forwarded_model":null,"forwarded_version":null'
NO_CALL = '"model":null,"model_version":null,"verb":null'
NO_TRACE = b'"trace_id":null,"span_id":null}\n'
TRACE = b'"trace_id":"%b","span_id":"%b"}\n'
REASONS = {reason: quote(reason.label) for reason in Reason}
VERBS = {verb: quote(verb.value) for verb in Verb}


class _GrpcStatuses(dict[int | None, str]):
    """Names of gRPC statuses; the number of one that has none."""

    def __missing__(self, status: int | None) -> str:
        return quote(str(status))


GRPC_STATUSES = _GrpcStatuses({None: NULL} | {status.value: quote(status.name) for status in GrpcStatus})


class AccessLog:
    """Writes completed exchanges as lines.

    Args:
        writer: takes the lines; flushing and closing it is up to the caller.
        clock: converts the times of an exchange to wall clock times.
    """

    def __init__(self, writer: LineWriter, clock: UtcClock) -> None:
        self._writer = writer
        self._clock = clock
        self._bytes = Quoted()
        self._text = Quoted()
        self._calls = _Calls()
        self._connections = _Connections()

    def __call__(self, exchange: Exchange) -> None:
        """Write the line of one exchange."""
        self._writer.write(self.format(exchange))

    def format(self, exchange: Exchange) -> bytes:
        """The line, with its line feed."""
        head = exchange.head
        quoted = self._bytes
        path = head.target
        if b"?" in path:
            path = path[: path.index(b"?")]
        started = exchange.started
        times = _format_times(exchange.finished - started, split_time(exchange))
        clock = self._clock
        wall = started + clock.offset
        second = wall // 1
        prefix = clock.prefix if second == clock.second else clock.tick(second)
        is_from_upstream = exchange.refusal is None and exchange.upstream and exchange.status
        details = VIA_UPSTREAM if is_from_upstream else self._format_refusal(exchange)
        # Up to 30 parts of an f-string are put together in one go; beyond that CPython joins a list.
        outcome = (
            f'{{"start_time":"{prefix}.{MICROSECONDS % ((wall - second) * 1_000_000)}Z",'
            f'"method":{quoted[head.method]},'
            f'"path":{quoted[path]},'
            f'"authority":{quoted[head.authority]},'
            f'"response_code":{exchange.status},'
            f'"response_flags":{NO_FLAG if exchange.flags is NO_FLAGS else quote(str(exchange.flags))},'
            f"{details},"
            f'"grpc_status":{GRPC_STATUSES[exchange.grpc_status]},'
            f'"bytes_received":{exchange.bytes_received},'
            f'"bytes_sent":{exchange.bytes_sent},'
            f"{times},"
        )
        trace = exchange.trace
        return (outcome + self._format_context(exchange)).encode("ascii") + (
            NO_TRACE if trace is None else TRACE % (trace.trace_id, trace.span_id)
        )

    def _format_context(self, exchange: Exchange) -> str:
        """The fields about upstream, client, call, policy and request headers."""
        text = self._text
        agent = request_id = forwarded = NULL
        for name, value in exchange.head.headers:
            if name in LOGGED_HEADERS:
                if name == b"user-agent":
                    agent = self._bytes[value]
                elif name == b"x-request-id":
                    request_id = quote(value)
                else:
                    forwarded = quote(value)
        caller, connection = self._connections[exchange.connection]
        if caller is not exchange.caller:
            connection = self._format_connection(exchange.connection, exchange.caller)
        call = exchange.asked
        if call is None:
            called = NO_CALL
        elif len(call.models) == 1:
            model = call.models[0]
            called = self._calls[call.verb, model.name, model.version, model.label]
        else:
            called = _format_models(call)
        forwarded_call = exchange.forwarded
        refusal = exchange.refusal
        audits = exchange.permit_audits if refusal is None else refusal.audits or exchange.permit_audits
        conditions = exchange.conditions if refusal is None or refusal.rule is None else refusal.conditions
        return (
            f'"upstream_host":{text[exchange.upstream]},'
            f'"upstream_cluster":{text[exchange.server]},'
            f'"route_name":{text[exchange.route]},'
            f'"attempts":{len(exchange.attempts)},'
            f"{connection},"
            f"{called},"
            f"{AS_ASKED if forwarded_call is call else _format_forwarded(call, forwarded_call)},"
            f'"policy":{text[exchange.rule if refusal is None else refusal.rule or exchange.rule]},'
            f'"policy_audits":{text[",".join(audits)] if audits else NULL},'
            f'"policy_conditions":{quote(", ".join(conditions)) if conditions else NULL},'
            f'"user_agent":{agent},'
            f'"request_id":{request_id},'
            f'"x_forwarded_for":{forwarded},'
        )

    def _format_refusal(self, exchange: Exchange) -> str:
        """Why the response was generated locally."""
        refusal = exchange.refusal
        if refusal is None:
            return DIRECT if exchange.status else NO_RESPONSE
        return f'"response_code_details":{self._text[refusal.message]},"refusal":{REASONS[refusal.reason]}'

    def _format_connection(self, info: ConnectionInfo, caller: Caller) -> str:
        """The fields of the downstream connection and its caller, cached."""
        fields = (
            f'"protocol":{quote(info.protocol)},'
            f'"direction":{quote(info.direction)},'
            f'"downstream_remote_address":{quote(info.remote)},'
            f'"downstream_local_address":{quote(info.local)},'
            f'"requested_server_name":{quote(info.server_name or None)},'
            f'"tls_version":{quote(info.tls_version or None)},'
            f"{format_caller(caller)}"
        )
        if len(self._connections) >= MEMO_ENTRIES:
            self._connections.clear()
        self._connections[info] = caller, fields
        return fields


class _Connections(dict[ConnectionInfo, tuple[Caller | None, str]]):
    """The fields of connections, cached with the caller that they name. The caller is compared by identity: most
    exchanges of a connection share it, and comparing by value costs as much as formatting."""

    def __missing__(self, info: ConnectionInfo) -> tuple[Caller | None, str]:
        return None, ""


class _Calls(dict[tuple[Verb, str, str | None, str | None], str]):
    """The fields of calls of one model, cached. Used as `calls[verb, name, version, label]`."""

    def __missing__(self, key: tuple[Verb, str, str | None, str | None]) -> str:
        verb, name, version, label = key
        wanted = label if version is None else version
        fields = f'"model":{quote(name or None)},"model_version":{quote(wanted or None)},"verb":{VERBS[verb]}'
        if len(self) >= MEMO_ENTRIES:
            self.clear()
        if len(name) + len(wanted or "") <= MEMO_CHARACTERS:
            self[key] = fields
        return fields


def _format_forwarded(asked: Call | None, forwarded: Call | None) -> str:
    """The model, version or label that the route chose instead of what the client named."""
    if asked is None or forwarded is None or not forwarded.models:
        return AS_ASKED
    model = forwarded.models[0]
    name = model.name if model.name != asked.models[0].name else None
    version = model.label if model.version is None else model.version
    return f'"forwarded_model":{quote(name)},"forwarded_version":{quote(version or None)}'


def _format_models(call: Call) -> str:
    """The fields of a call of several models, or of none."""
    names = quote(",".join([model.name for model in call.models]) or None)
    return f'"model":{names},"model_version":null,"verb":{VERBS[call.verb]}'


def format_caller(caller: Caller) -> str:
    """The fields that identify the caller."""
    workload = caller.workload
    token = caller.token
    return (
        f'"peer_spiffe_id":{quote(workload.spiffe_id if workload is not None else None, limit=2_048)},'
        f'"jwt_issuer":{quote(token.issuer if token is not None else None)},'
        f'"jwt_sub":{quote(token.subject if token is not None else None)},'
        f'"iam_role":{quote(token.iam_role if token is not None else None)}'
    )


def _format_times(duration: float, parts: TimeSplit) -> str:
    """Milliseconds; null for what was never reached."""
    read, decide, queue, retry, connect, upstream, body, write = parts
    if (
        queue is not None
        and retry is not None
        and connect is not None
        and upstream is not None
        and body is not None
        and write is not None
    ):
        return TIMES % (
            duration * 1_000,
            read * 1_000,
            decide * 1_000,
            queue * 1_000,
            retry * 1_000,
            connect * 1_000,
            upstream * 1_000,
            body * 1_000,
            write * 1_000,
        )
    named = zip(PARTS, parts, strict=True)
    texts = [f'"{name}":{NULL if part is None else f"{part * 1_000:.3f}"}' for name, part in named]
    return ",".join((f'"duration":{duration * 1_000:.3f}', *texts))
