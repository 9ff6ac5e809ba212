from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings

from meshproxy.codec.events import RequestHead
from meshproxy.identity.caller import ANONYMOUS, Caller, Token
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.proxy.exchange import Exchange, ResponseFlags
from meshproxy.refusal import Reason, Refusal
from meshproxy.telemetry.json_lines import JsonLines
from meshproxy.telemetry.log_encoding import UtcClock
from meshproxy.telemetry.log_lines import VALUES
from meshproxy.transport.connection_info import ConnectionInfo
from tests.telemetry.hostile import exchanges
from tests.thorough import tries

if TYPE_CHECKING:
    from tests.telemetry.conftest import MakeExchange

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "access-log.md"


PARTS = tuple(name for name in VALUES if name.endswith("_time") and name != "start_time")


@pytest.fixture
def log() -> JsonLines:
    return JsonLines(UtcClock(1_700_000_000.0))


def read(line: bytes) -> dict[str, object]:
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert line.isascii()
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def test_a_line(log: JsonLines, make_exchange: MakeExchange) -> None:
    exchange = make_exchange(
        target=b"/v1/models/m:predict?token=secret",
        headers=(
            (b"authorization", b"Bearer secret"),
            (b"user-agent", b"curl/8"),
            (b"x-request-id", b"r-1"),
            (b"x-forwarded-for", b"192.0.2.1"),
        ),
        version="3",
        server_name="models.example",
        server="local",
        route="canary",
        permit_audits=("watch", "other"),
        effective_version="4",
    )
    found = read(log(exchange))
    assert [found.pop(name) for name in ("duration", *PARTS)] == pytest.approx(
        [3.0, 2.0, 0.0, 0.25, 0.0, 0.0, 0.25, 0.4, 0.1], abs=0.002
    )
    assert found == {
        "start_time": "2023-11-14T22:30:00.000000Z",
        "method": "POST",
        "path": "/v1/models/m:predict",
        "authority": "models:18500",
        "response_code": 200,
        "response_flags": "-",
        "response_code_details": "via_upstream",
        "refusal": None,
        "grpc_status": "OK",
        "bytes_received": 60,
        "bytes_sent": 300,
        "upstream_host": "127.0.0.1:8500",
        "upstream_cluster": "local",
        "route_name": "canary",
        "attempts": 1,
        "protocol": "HTTP/2",
        "direction": "inbound",
        "downstream_remote_address": "10.0.0.1:40000",
        "downstream_local_address": "10.0.0.2:18500",
        "requested_server_name": "models.example",
        "tls_version": "TLSv1.3",
        "peer_spiffe_id": "spiffe://dev.example/ns/pricing/sa/quoter",
        "jwt_issuer": "corp",
        "jwt_sub": "alice",
        "iam_role": None,
        "model": "half_plus_two",
        "model_version": "3",
        "forwarded_model": None,
        "forwarded_version": None,
        "effective_version": "4",
        "verb": "predict",
        "policy": "finance-team",
        "policy_audits": "watch,other",
        "policy_conditions": None,
        "user_agent": "curl/8",
        "request_id": "r-1",
        "x_forwarded_for": "192.0.2.1",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "span_id": "53995c3f42cd8ad8",
    }


def test_nothing_secret_is_in_a_line(log: JsonLines, make_exchange: MakeExchange) -> None:
    headers = ((b"authorization", b"Bearer secret"), (b"cookie", b"a=secret"), (b"proxy-authorization", b"secret"))
    line = log(make_exchange(target=b"/v1/models/m?access_token=secret?secret", headers=headers))
    assert b"secret" not in line


def test_a_request_that_was_refused_before_anything_was_known(log: JsonLines) -> None:
    # As `Pipeline.reject` leaves it behind.
    info = ConnectionInfo(direction="inbound", protocol="HTTP/1.1", remote="192.0.2.1:1", local="192.0.2.2:2")
    exchange = Exchange(RequestHead(1, b"", b"", b"", (), True), info, 1_000.0)
    exchange.refusal = Refusal(Reason.BAD_REQUEST, 'Bad request: a "quote"', limit="header_bytes")
    exchange.status = 400
    exchange.refused = 1_000.000_1
    exchange.finished = 1_000.000_5
    found = read(log(exchange))
    assert [found["duration"], found["decide_time"], found["write_time"]] == pytest.approx([0.5, 0.1, 0.4])
    assert found["response_code_details"] == 'Bad request: a "quote"'
    assert found["refusal"] == "bad-request"
    not_known = {
        *("grpc_status", *(set(PARTS) - {"read_time", "decide_time", "write_time"}), "upstream_host"),
        *("requested_server_name", "tls_version", "peer_spiffe_id", "jwt_issuer", "jwt_sub", "iam_role", "model"),
        *(
            "model_version",
            "forwarded_model",
            "forwarded_version",
            "effective_version",
            "verb",
            "policy",
            "policy_audits",
            "policy_conditions",
            "user_agent",
            "request_id",
            "x_forwarded_for",
        ),
        *("trace_id", "span_id", "method", "path", "authority", "upstream_cluster", "route_name"),
    }
    assert {name for name, value in found.items() if value is None} == not_known


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({"first_byte": 0.0}, {"upstream_body_time", "write_time"}),
        ({"first_byte": 0.0, "connected": 0.0}, {"upstream_service_time", "upstream_body_time", "write_time"}),
        ({"first_byte": 0.0, "connected": 0.0, "refused": 1_000.002}, {"upstream_service_time", "upstream_body_time"}),
    ],
)
def test_times_that_were_never_reached_are_null(
    log: JsonLines, make_exchange: MakeExchange, fields: dict[str, float], missing: set[str]
) -> None:
    found = read(log(make_exchange(**fields)))
    assert {name for name in ("duration", *PARTS) if found[name] is None} == missing


def test_the_rule_that_refused_counts_more_than_the_one_that_permitted(
    log: JsonLines, make_exchange: MakeExchange
) -> None:
    refusal = Refusal(Reason.PERMISSION_DENIED, "No.", rule="deny-all", audits=("watch",))
    found = read(log(make_exchange(refusal=refusal, grpc_status=7, flags=ResponseFlags.UH | ResponseFlags.DC)))
    assert (found["policy"], found["policy_audits"], found["grpc_status"]) == ("deny-all", "watch", "PERMISSION_DENIED")
    assert (found["refusal"], found["response_flags"]) == ("permission-denied", "UH,DC")
    found = read(log(make_exchange(refusal=Refusal(Reason.UPSTREAM_RESET, "Gone."), permit_audits=("watch",))))
    assert (found["policy"], found["policy_audits"]) == ("finance-team", "watch")


def test_the_conditions_of_the_decision_that_counts(log: JsonLines, make_exchange: MakeExchange) -> None:
    permitted = {"conditions": ("a: ipBlocks 10.0.0.0/8", 'b: header x: "1"')}
    denied = Refusal(Reason.PERMISSION_DENIED, "No.", rule="deny-all", conditions=("deny-all: header y: any value",))
    reset = Refusal(Reason.UPSTREAM_RESET, "Gone.")
    for refusal, expected in (
        (None, 'a: ipBlocks 10.0.0.0/8, b: header x: "1"'),
        (reset, 'a: ipBlocks 10.0.0.0/8, b: header x: "1"'),
        (denied, "deny-all: header y: any value"),
    ):
        found = read(log(make_exchange(refusal=refusal, **permitted)))
        assert found["policy_conditions"] == expected


def test_versions_labels_and_several_models(log: JsonLines, make_exchange: MakeExchange) -> None:
    assert read(log(make_exchange(label="canary")))["model_version"] == "canary"
    call = Call(Verb.RELOAD, (ModelRef("a", "1"), ModelRef("b")))
    found = read(log(make_exchange(call=call)))
    assert (found["model"], found["model_version"], found["verb"]) == ("a,b", None, "reload")
    found = read(log(make_exchange(call=Call(Verb.METRICS))))
    assert (found["model"], found["verb"]) == (None, "metrics")


def test_a_status_that_grpc_does_not_have(log: JsonLines, make_exchange: MakeExchange) -> None:
    assert read(log(make_exchange(grpc_status=99)))["grpc_status"] == "99"


def test_another_caller_on_the_same_connection_is_seen(log: JsonLines, make_exchange: MakeExchange) -> None:
    exchange = make_exchange()
    assert read(log(exchange))["jwt_sub"] == "alice"
    exchange.caller = Caller(exchange.caller.workload, Token("corp", "bob", {}, 2e9, "arn:aws:iam::1:role/x"))
    found = read(log(exchange))
    assert (found["jwt_sub"], found["iam_role"]) == ("bob", "arn:aws:iam::1:role/x")
    exchange.caller = ANONYMOUS
    assert read(log(exchange))["peer_spiffe_id"] is None


@settings(max_examples=tries(150))
@given(exchanges())
def test_whatever_stands_in_an_exchange_it_is_one_line_of_json(exchange: Exchange) -> None:
    log = JsonLines(UtcClock(1.7e9))
    line = log(exchange)
    assert log(exchange) == line  # remembered or not
    found = read(line)
    assert re.fullmatch(r"[\x20-\x7e]+", line[:-1].decode())
    assert found["response_code"] == exchange.status
    path = exchange.head.target.partition(b"?")[0]
    expected = path[:1_024].decode("utf-8", "backslashreplace") + ("..." if len(path) > 1_024 else "")
    assert found["path"] == (expected or None)


def test_each_direction_is_told(log: JsonLines, make_exchange: MakeExchange) -> None:
    assert read(log(make_exchange(direction="outbound")))["direction"] == "outbound"


def test_the_documentation_names_every_flag() -> None:
    (row,) = [line for line in DOCUMENTATION.read_text().splitlines() if line.startswith("| `response_flags`")]
    assert set(re.findall(r"`([A-Z]+)`", row)) == set(ResponseFlags.__members__)


def test_the_documentation_names_every_field(log: JsonLines, make_exchange: MakeExchange) -> None:
    documented = []
    for line in DOCUMENTATION.read_text().splitlines():
        if line.startswith("| `"):
            documented += re.findall(r"`(\w+)`", line.split("|")[1])
    assert documented == list(read(log(make_exchange())))


@pytest.mark.parametrize(
    ("chosen", "shown"),
    [
        (ModelRef("a", "4"), (None, "4")),
        (ModelRef("a", None, "canary"), (None, "canary")),
        (ModelRef("a"), (None, None)),
        (ModelRef("b"), ("b", None)),
        (ModelRef("b", "4"), ("b", "4")),
    ],
)
def test_the_model_and_version_that_a_route_chose_is_told_beside_the_one_that_was_asked(
    log: JsonLines, make_exchange: MakeExchange, chosen: ModelRef, shown: tuple[str | None, str | None]
) -> None:
    exchange = make_exchange(call=Call(Verb.PREDICT, (ModelRef("a"),)))
    exchange.forwarded = Call(Verb.PREDICT, (chosen,))
    found = read(log(exchange))
    assert (found["model"], found["model_version"]) == ("a", None)
    assert (found["forwarded_model"], found["forwarded_version"]) == shown
