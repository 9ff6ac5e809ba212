"""Names and attributes of spans, by the semantic conventions 1.45.0."""

from __future__ import annotations

import pytest

from meshproxy.identity.caller import ANONYMOUS
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.proxy.exchange import AttemptRecord, Happening, Note, ResponseFlags, TraceContext
from meshproxy.refusal import Reason, Refusal
from meshproxy.routing.failure import Failure
from meshproxy.routing.split import Arm
from meshproxy.telemetry.otlp import Event, Span, SpanKind, Value
from meshproxy.telemetry.span_record import SpanRecord, record_of
from meshproxy.telemetry.spans import MEMO_ATTEMPTS, MEMO_ENTRIES, MEMO_PATH, RECURRING, _kinds, spans_of
from tests.telemetry.conftest import MakeExchange

TRACE = TraceContext(b"1" * 32, b"2" * 16, b"3" * 16, True, b"vendor=1")
OFFSET = 1_000_000.0
NEW = b"9" * 16


def attempt(
    started: float,
    ended: float,
    failure: Failure | None = None,
    status: int = 200,
    grpc: int | None = 0,
    span: bytes = b"4" * 16,
    is_tls: bool = False,
) -> AttemptRecord:
    is_sent = bool(span)
    times = (started + 0.1, started + 0.2) if is_sent else (0.0, 0.0)
    return AttemptRecord("[::1]:8500", started, *times, ended, failure, False, status, grpc, span, is_tls)


def spans(make_exchange: MakeExchange, **fields: object) -> list[Span]:
    return spans_of(record_of(make_exchange(trace=TRACE, **fields), TRACE), OFFSET, lambda: NEW)


def facts(span: Span) -> dict[str, Value]:
    """All attributes."""
    assert span.recurring is not None
    return dict(span.recurring.attributes + span.attributes)


def rest(make_exchange: MakeExchange, path: bytes, **fields: object) -> list[Span]:
    return spans(make_exchange, is_grpc=False, grpc_status=None, protocol="HTTP/1.1", target=path, **fields)


def test_a_call_over_grpc(make_exchange: MakeExchange) -> None:
    server, client = spans(make_exchange, attempts=(attempt(1_000.0, 1_000.5),))
    assert (server.trace_id, server.parent_id, server.span_id) == (b"1" * 32, b"2" * 16, b"3" * 16)
    assert (server.kind, server.is_parent_remote, server.sampled, server.state) == (
        SpanKind.SERVER, True, True, b"vendor=1",
    )  # fmt: skip
    assert server.name == "tensorflow.serving.PredictionService/Predict"
    assert (server.start, server.end) == (1_001_000_000_000_000, 1_001_000_003_000_000)
    assert facts(server) == {
        "rpc.system.name": "grpc",
        "rpc.method": "tensorflow.serving.PredictionService/Predict",
        "server.address": "models",
        "server.port": 18500,
        "network.peer.address": "10.0.0.1",
        "network.peer.port": 40000,
        "rpc.status_code": "OK",
        "meshproxy.direction": "inbound",
        "meshproxy.verb": "predict",
        "meshproxy.model.name": "half_plus_two",
        "meshproxy.model.signature": "serving_default",
        "meshproxy.caller.spiffe_id": "spiffe://dev.example/ns/pricing/sa/quoter",
        "meshproxy.caller.subject": "alice",
        "meshproxy.rule": "finance-team",
    }
    assert (server.error, server.events) == (None, ())
    assert (client.parent_id, client.span_id, client.is_parent_remote) == (b"3" * 16, b"4" * 16, False)
    assert (client.kind, client.name, client.error) == (SpanKind.CLIENT, server.name, None)
    assert facts(client) == {
        "rpc.system.name": "grpc",
        "rpc.method": "tensorflow.serving.PredictionService/Predict",
        "server.address": "models",
        "server.port": 18500,
        "network.peer.address": "::1",
        "network.peer.port": 8500,
        "rpc.status_code": "OK",
    }
    assert client.events == (
        Event(1_001_000_100_000_000, "meshproxy.request.sent"),
        Event(1_001_000_200_000_000, "meshproxy.response.begun"),
    )


@pytest.mark.parametrize(
    ("call", "path", "route"),
    [
        (Call(Verb.PREDICT, (ModelRef("m"),)), b"/v1/models/m:predict", "/v1/models/{model}:predict"),
        (
            Call(Verb.CLASSIFY, (ModelRef("m", "3"),)),
            b"/v1/models/m/versions/3:classify",
            "/v1/models/{model}/versions/{version}:classify",
        ),
        (
            Call(Verb.METADATA, (ModelRef("m", label="canary"),)),
            b"/v1/models/m/labels/canary/metadata",
            "/v1/models/{model}/labels/{label}/metadata",
        ),
        (Call(Verb.STATUS, (ModelRef("m"),)), b"/v1/models/m", "/v1/models/{model}"),
    ],
)
def test_a_route_has_no_names_in_it(make_exchange: MakeExchange, call: Call, path: bytes, route: str) -> None:
    server, _ = rest(make_exchange, path, call=call)
    found = facts(server)
    assert server.name == f"POST {route}"
    assert found["http.route"] == route
    assert found["url.path"] == path.decode()
    assert (found["http.request.method"], found["url.scheme"], found["network.protocol.version"]) == (
        "POST", "https", "1.1",
    )  # fmt: skip
    assert found["http.response.status_code"] == 200


def test_what_nobody_knows_makes_no_names(make_exchange: MakeExchange) -> None:
    exchange = make_exchange(is_grpc=False, target=b"/\xff/random", call=None, status=404, attempts=())
    exchange.head.method = b"BREW"
    (server,) = spans_of(record_of(exchange, TRACE), OFFSET, lambda: NEW)
    assert server.name == "HTTP"
    found = facts(server)
    assert (found["http.request.method"], found["http.request.method_original"]) == ("_OTHER", "BREW")
    assert found["url.path"] == "/\ufffd/random"
    assert "http.route" not in found
    for call in (None, Call(Verb.UNLISTED)):
        (server,) = spans(make_exchange, target=b"/any.Service/Method", call=call, attempts=())
        assert server.name == "_OTHER"
        assert facts(server)["rpc.method_original"] == "any.Service/Method"


def test_a_call_over_rest_says_where_it_went(make_exchange: MakeExchange) -> None:
    record = record_of(
        make_exchange(
            is_grpc=False,
            target=b"/v1/models/m:predict?key=secret",
            attempts=(attempt(1_000.0, 1_000.5, is_tls=True),),
            call=Call(Verb.PREDICT, (ModelRef("m"),)),
        ),
        TRACE,
    )
    client = spans_of(record._replace(target=b"/v1/models/m/versions/3:predict"), OFFSET, lambda: NEW)[1]
    assert facts(client) == {
        "http.request.method": "POST",
        "url.full": "https://models:18500/v1/models/m/versions/3:predict",
        "url.template": "/v1/models/{model}:predict",
        "server.address": "models",
        "server.port": 18500,
        "network.peer.address": "::1",
        "network.peer.port": 8500,
        "http.response.status_code": 200,
    }


@pytest.mark.parametrize(
    ("authority", "endpoint", "expected"),
    [
        (b"models", "10.0.0.1:8501", ("http://models/v1/models/m", "models", 8501, "10.0.0.1", 8501)),
        (b"", "10.0.0.1:8501", ("http://10.0.0.1:8501/v1/models/m", "10.0.0.1", 8501, "10.0.0.1", 8501)),
        (b"a:80", "unix:/run/rest.sock", ("http://a:80/v1/models/m", "a", 80, "/run/rest.sock", None)),
        (b"a", "unix:/run/rest.sock", ("http://a/v1/models/m", "a", None, "/run/rest.sock", None)),
    ],
)
def test_the_server_is_who_is_asked_for_and_the_peer_who_was_reached(
    make_exchange: MakeExchange, authority: bytes, endpoint: str, expected: tuple[object, ...]
) -> None:
    made = attempt(1_000.0, 1_000.5)
    made.endpoint = endpoint
    exchange = make_exchange(is_grpc=False, target=b"/v1/models/m", attempts=(made,))
    exchange.head.authority = authority
    client = spans_of(record_of(exchange, TRACE), OFFSET, lambda: NEW)[1]
    names = "url.full", "server.address", "server.port", "network.peer.address", "network.peer.port"
    assert tuple(map(facts(client).get, names)) == expected


def test_of_a_head_that_was_refused_nothing_is_said(make_exchange: MakeExchange) -> None:
    refusal = Refusal(Reason.BAD_REQUEST, "Bad request: the head is malformed.")
    for is_grpc, name in ((False, "HTTP"), (True, "_OTHER")):
        exchange = make_exchange(
            is_grpc=is_grpc, target=b"", call=None, status=400, grpc_status=3, refusal=refusal, attempts=()
        )
        exchange.head.method = exchange.head.authority = b""
        (server,) = spans_of(record_of(exchange, TRACE), OFFSET, lambda: NEW)
        assert server.name == name
        assert {key for key in facts(server) if key.startswith(("http", "url", "rpc", "server"))} == (
            {"rpc.system.name", "rpc.method", "rpc.status_code"}
            if is_grpc
            else {"http.request.method", "url.scheme", "http.response.status_code"}
        )


def test_a_wait_for_its_turn_has_two_ends(make_exchange: MakeExchange) -> None:
    server = spans(make_exchange, decided=1_000.001, dequeued=1_000.002)[0]
    assert server.events == (
        Event(1_001_000_001_000_000, "meshproxy.queued"),
        Event(1_001_000_002_000_000, "meshproxy.dequeued"),
    )


CHANGES: dict[str, object] = {
    "is_grpc": False,
    "has_failed": True,
    "method": b"GET",
    "path": b"/v1/models/other",
    "target": b"/v1/models/m/versions/3",
    "authority": b"elsewhere",
    "direction": "outbound",
    "protocol": "HTTP/1.1",
    "remote": "10.0.0.9:1",
    "is_tls": False,
    "caller": ANONYMOUS,
    "asked": Call(Verb.CLASSIFY, (ModelRef("m"),)),
    "forwarded": Call(Verb.PREDICT, (ModelRef("m", "4"),)),
    "effective_version": "7",
    "arm": Arm(1, "canary"),
    "rule": "other",
    "route": "other",
    "server": "other",
    "status": 503,
    "grpc_status": 14,
    "flags": ResponseFlags.UC,
}


@pytest.mark.parametrize("is_grpc", [False, True])
def test_what_is_remembered_of_a_kind_of_request_is_not_said_of_another(
    make_exchange: MakeExchange, is_grpc: bool
) -> None:
    made = record_of(make_exchange(is_grpc=is_grpc, target=b"/v1/models/m", attempts=(attempt(0, 1),)), TRACE)
    assert SpanRecord._fields[RECURRING] == tuple(CHANGES)
    records = [made, *(made._replace(**{name: value}) for name, value in CHANGES.items())]  # type: ignore[arg-type]
    known = [[facts(span) for span in spans_of(record, OFFSET, lambda: NEW)] for record in records * 2]
    for record, remembered in zip(records * 2, known, strict=True):
        _kinds.clear()
        assert [facts(span) for span in spans_of(record, OFFSET, lambda: NEW)] == remembered
    changed = attempt(0, 1), attempt(0, 1, Failure.TIMEOUT), attempt(0, 1, None, 503), attempt(0, 1, is_tls=True)
    for each in changed:
        before = facts(spans_of(made._replace(attempts=(each,)), OFFSET, lambda: NEW)[1])
        _kinds.clear()
        assert facts(spans_of(made._replace(attempts=(each,)), OFFSET, lambda: NEW)[1]) == before


def test_what_is_remembered_is_bounded(make_exchange: MakeExchange) -> None:
    """MEMO_ENTRIES, MEMO_ATTEMPTS, MEMO_PATH. Callers choose paths and are refused for endless reasons."""
    made = record_of(make_exchange(), TRACE)
    refusal = Refusal(Reason.PERMISSION_DENIED, "No.")
    for number in range(3 * MEMO_ENTRIES):
        for record in (
            made._replace(path=b"/%d" % number),
            made._replace(path=b"/%d" % number + b"x" * MEMO_PATH),
            made._replace(path=b"/%d" % number, refusal=refusal),
        ):
            spans_of(record, OFFSET, lambda: NEW)
    assert len(_kinds) <= MEMO_ENTRIES
    for number in range(2 * MEMO_ATTEMPTS):
        spans_of(made._replace(attempts=(attempt(0, 1, status=100 + number),)), OFFSET, lambda: NEW)
    assert max(len(kind.attempts) for kind in _kinds.values()) == MEMO_ATTEMPTS
    assert all(len(str(key)) < 2_000 for key in _kinds)


def test_what_else_happened_is_an_event(make_exchange: MakeExchange) -> None:
    notes = (
        Note(1_000.001, Happening.ENDPOINTS_SKIPPED, (("circuit_open", 2),)),
        Note(1_000.002, Happening.RETRY_SKIPPED, (("reason", "gateway-error"), ("skip", "budget"))),
    )
    server = spans(make_exchange, notes=notes)[0]
    assert server.events == (
        Event(1_001_000_001_000_000, "meshproxy.endpoints.skipped", (("meshproxy.circuit_open", 2),)),
        Event(
            1_001_000_002_000_000,
            "meshproxy.retry.skipped",
            (("meshproxy.reason", "gateway-error"), ("meshproxy.skip", "budget")),
        ),
    )


def test_a_retry_is_a_span_and_an_event(make_exchange: MakeExchange) -> None:
    attempts = (
        attempt(1_000.0, 1_000.1, Failure.CONNECT, 0, None, b""),
        attempt(1_000.2, 1_000.6, Failure.GATEWAY, 503, None, b"5" * 16),
        attempt(1_000.7, 1_000.9, None, 200, None, b"6" * 16),
    )
    server, first, second, third = rest(make_exchange, b"/v1/models/m:predict", attempts=attempts)
    assert [(event.name, event.attributes) for event in server.events] == [
        ("meshproxy.retry", (("meshproxy.reason", "connect-failure"),)),
        ("meshproxy.retry", (("meshproxy.reason", "gateway-error"),)),
    ]
    assert [each.span_id for each in (first, second, third)] == [NEW, b"5" * 16, b"6" * 16]
    assert [facts(each).get("http.request.resend_count") for each in (first, second, third)] == [None, 1, 2]
    assert [facts(each).get("error.type") for each in (first, second, third)] == [
        "connect-failure", "503", None,
    ]  # fmt: skip
    assert [each.error for each in (first, second, third)] == ["", "", None]
    assert first.events == ()
    assert {each.parent_id for each in (first, second, third)} == {server.span_id}


def test_a_hedge_is_told_from_a_retry_and_the_order_is_that_of_beginnings(make_exchange: MakeExchange) -> None:
    late, early = attempt(1_000.5, 1_000.6, span=b"6" * 16), attempt(1_000.0, 1_000.7, span=b"5" * 16)
    late.is_cancelled = True
    server, first, second = spans(make_exchange, attempts=(late, early))
    assert [event.name for event in server.events] == ["meshproxy.hedge"]
    assert (first.span_id, second.span_id) == (b"5" * 16, b"6" * 16)
    assert "meshproxy.attempt.cancelled" not in facts(first)
    assert facts(second)["meshproxy.attempt.cancelled"] is True


def test_a_refusal_is_an_event(make_exchange: MakeExchange) -> None:
    refusal = Refusal(Reason.RATE_LIMITED, "Too many requests.", limit="rate", rule="deny-all")
    (server,) = spans(make_exchange, refusal=refusal, grpc_status=8, attempts=())
    assert server.error is None  # RESOURCE_EXHAUSTED is the caller's
    (event,) = server.events
    assert (event.name, dict(event.attributes)) == (
        "meshproxy.refusal",
        {"meshproxy.refusal": "rate-limited", "meshproxy.message": "Too many requests.", "meshproxy.limit": "rate"},
    )
    assert facts(server)["meshproxy.rule"] == "deny-all"


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"grpc_status": 14}, "UNAVAILABLE", ""),
        ({"grpc_status": 2}, "UNKNOWN", ""),
        ({"flags": ResponseFlags.UC}, "UC", ""),
        ({"grpc_status": 14, "refusal": Refusal(Reason.NO_UPSTREAM, "None.")}, "no-upstream", "None."),
        ({"is_grpc": False, "grpc_status": None, "status": 502}, "502", ""),
    ],
)
def test_errors_have_a_type(make_exchange: MakeExchange, fields: dict[str, object], kind: str, message: str) -> None:
    server = spans(make_exchange, **fields)[0]
    assert facts(server)["error.type"] == kind
    assert server.error == message


@pytest.mark.parametrize(("status", "failed"), [(404, True), (399, False), (500, True)])
def test_of_a_client_every_status_from_400_is_an_error(make_exchange: MakeExchange, status: int, failed: bool) -> None:
    server, client = rest(
        make_exchange, b"/v1/models/m", attempts=(attempt(1_000.0, 1_000.1, None, status, None),), status=status
    )
    assert (client.error is not None) is failed
    assert (server.error is not None) is (status >= 500)


def test_the_version_that_answered_is_there_where_the_response_named_it(make_exchange: MakeExchange) -> None:
    found = [facts(spans(make_exchange, effective_version=version)[0]) for version in ("7", "", "8")]
    assert [each.get("meshproxy.model.effective_version") for each in found] == ["7", None, "8"]


def test_what_a_route_has_done(make_exchange: MakeExchange) -> None:
    asked, sent = Call(Verb.PREDICT, (ModelRef("m"),)), Call(Verb.PREDICT, (ModelRef("m2", "4"),))
    server = spans(
        make_exchange, asked=asked, forwarded=sent, arm=Arm(1, "canary", "4"), route="split", server="canary"
    )[0]
    found = facts(server)
    assert (found["meshproxy.model.name"], found["meshproxy.forwarded.name"]) == ("m", "m2")
    assert found["meshproxy.forwarded.version"] == "4"
    assert (found["meshproxy.arm"], found["meshproxy.route"], found["meshproxy.server"]) == (
        "canary/4", "split", "canary",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        (b"", {}),
        (b"models", {"server.address": "models"}),
        (b"[::1]", {"server.address": "::1"}),
        (b"models:x", {"server.address": "models:x"}),
        (b"[::1]:80", {"server.address": "::1", "server.port": 80}),
    ],
)
def test_addresses(make_exchange: MakeExchange, authority: bytes, expected: dict[str, object]) -> None:
    exchange = make_exchange()
    exchange.head.authority = authority
    server = spans_of(record_of(exchange, TRACE), OFFSET, lambda: NEW)[0]
    assert {key: value for key, value in facts(server).items() if key.startswith("server.")} == expected
