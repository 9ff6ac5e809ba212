"""Exchanges in which a caller, or a model server, has chosen every text."""

from __future__ import annotations

from hypothesis import strategies as st

from meshproxy.codec.events import RequestHead
from meshproxy.identity.caller import Caller, Token, Workload
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.proxy.exchange import AttemptRecord, Exchange, ResponseFlags, TraceContext
from meshproxy.refusal import Reason, Refusal
from meshproxy.transport.connection_info import ConnectionInfo

TEXTS = st.text(max_size=40) | st.sampled_from(
    ["\n{}", "\x1b]0;x\x07", "\ud800", '"', "\\", "\x7f\x00\x9b", "a" * 9_000, 'x" 200 - y="', " ", "-", "a=b c=d"]
)
BYTES = st.binary(max_size=40) | st.sampled_from(
    [b'"\r\n{"a":1}', b"\xff\xfe", b"\x1b[2J", b"\\", b"%s%d%b", b"\xf0" * 9_000, b'" 200 "', b" ", b"-"]
)


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    """One that has ended, somehow."""
    method, authority, target, agent, request_id, forwarded = [draw(BYTES) for _ in range(6)]
    remote, server_name, spiffe_id, subject, model, label, rule, message, route, upstream = [
        draw(TEXTS) for _ in range(10)
    ]
    info = ConnectionInfo(
        direction="inbound", protocol="HTTP/2", remote=remote, local="", server_name=server_name, tls_version=""
    )
    headers = ((b"user-agent", agent), (b"x-request-id", request_id), (b"x-forwarded-for", forwarded))
    exchange = Exchange(RequestHead(1, method, authority, target, headers, True), info, 1_000.0)
    exchange.caller = Caller(Workload(spiffe_id, "", None, None, 0.0), Token("corp", subject, {}, 0.0))
    exchange.asked = Call(Verb.PREDICT, (ModelRef(model, None, label),))
    exchange.forwarded = draw(st.sampled_from([exchange.asked, None, Call(Verb.PREDICT, (ModelRef(rule, label),))]))
    exchange.rule, exchange.route, exchange.upstream = rule, route, upstream
    exchange.permit_audits, exchange.conditions = (rule, rule), (message,)
    exchange.refusal = draw(st.sampled_from([None, Refusal(Reason.INTERNAL, message, rule=rule)]))
    exchange.trace = draw(st.sampled_from([None, TraceContext(b"4" * 32, b"", b"5" * 16, True)]))
    exchange.status = draw(st.integers(0, 999))
    exchange.grpc_status = draw(st.none() | st.integers())
    exchange.bytes_sent = draw(st.integers(0, 2**63))
    exchange.flags = ResponseFlags(draw(st.integers(0, 8191)))
    moments = st.floats(1_000, 1_001) | st.floats(1, 1e9) | st.just(0.0)
    exchange.reading, exchange.read, exchange.decided, exchange.dequeued = [draw(moments) for _ in range(4)]
    exchange.retried, exchange.connected, exchange.received, exchange.refused = [draw(moments) for _ in range(4)]
    exchange.first_byte, exchange.finished = draw(moments), draw(moments)
    if draw(st.booleans()):
        exchange.attempts = (AttemptRecord("", 1_000.0, 1_000.0, exchange.first_byte, draw(moments), None, False),)
    return exchange
