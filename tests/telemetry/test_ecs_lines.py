from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings

from meshproxy.proxy.exchange import Exchange, ResponseFlags
from meshproxy.refusal import Reason, Refusal
from meshproxy.telemetry.ecs_lines import EcsLines
from meshproxy.telemetry.log_encoding import UtcClock
from tests.telemetry.hostile import exchanges
from tests.telemetry.test_json_lines import DOCUMENTATION
from tests.thorough import tries

if TYPE_CHECKING:
    from tests.telemetry.conftest import MakeExchange


@pytest.fixture
def lines() -> EcsLines:
    return EcsLines(UtcClock(1_700_000_000.0))


def read(line: bytes) -> dict[str, Any]:
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs)
        return dict(pairs)

    found = json.loads(line, object_pairs_hook=once)
    assert isinstance(found, dict)
    return found


def test_a_line(lines: EcsLines, make_exchange: MakeExchange) -> None:
    headers = ((b"user-agent", b"curl/8"), (b"x-request-id", b"r-1"))
    found = read(lines(make_exchange(headers=headers, version="3", server="local", server_name="models.example")))
    times = {name: found.pop(name) for name in list(found) if name.startswith("meshproxy.time.")}
    assert times == {
        f"meshproxy.time.{name}": pytest.approx(value, abs=0.002)
        for name, value in (
            ("upstream", 2.0), ("read", 0.0), ("decide", 0.25), ("queue", 0.0), ("retry", 0.0), ("connect", 0.25),
            ("body", 0.4), ("write", 0.1),
        )
    }  # fmt: skip
    assert found.pop("event.duration") == pytest.approx(3_000_000, abs=1)
    assert found == {
        "@timestamp": "2023-11-14T22:30:00.000000Z",
        "ecs.version": "9.4.0",
        "event.kind": "event",
        "event.category": ["web"],
        "event.type": ["access", "allowed"],
        "event.dataset": "meshproxy.access",
        "event.outcome": "success",
        "http.request.body.bytes": 60,
        "http.response.body.bytes": 300,
        "meshproxy.forwarded_for": None,
        "http.request.id": "r-1",
        "meshproxy.upstream.address": "127.0.0.1:8500",
        "http.version": "2",
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.path": "/tensorflow.serving.PredictionService/Predict",
        "url.domain": "models",
        "user_agent.original": "curl/8",
        "network.protocol": "grpc",
        "network.direction": "inbound",
        "client.address": "10.0.0.1",
        "client.port": 40000,
        "server.address": "10.0.0.2",
        "server.port": 18500,
        "tls.version": "1.3",
        "tls.client.server_name": "models.example",
        "user.id": "alice",
        "rule.name": "finance-team",
        "meshproxy.grpc_status": "OK",
        "meshproxy.attempts": 1,
        "meshproxy.server": "local",
        "meshproxy.caller.spiffe_id": "spiffe://dev.example/ns/pricing/sa/quoter",
        "meshproxy.caller.issuer": "corp",
        "meshproxy.verb": "predict",
        "meshproxy.model.name": "half_plus_two",
        "meshproxy.model.version": "3",
        "trace.id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "span.id": "53995c3f42cd8ad8",
    }


def test_outcomes(lines: EcsLines, make_exchange: MakeExchange) -> None:
    denied = Refusal(Reason.PERMISSION_DENIED, "No.", rule="default-deny")
    found = read(lines(make_exchange(refusal=denied, grpc_status=7, trace=None)))
    assert (found["event.outcome"], found["event.type"]) == ("failure", ["access", "denied"])
    assert (found["error.type"], found["error.message"]) == ("permission-denied", "No.")
    assert "trace.id" not in found
    found = read(lines(make_exchange(refusal=Refusal(Reason.OVERLOADED, "Full."), flags=ResponseFlags.UO)))
    assert (found["event.type"], found["meshproxy.flags"]) == (["access", "allowed"], "UO")
    assert read(lines(make_exchange(grpc_status=14)))["event.outcome"] == "failure"
    assert read(lines(make_exchange(grpc_status=5)))["event.outcome"] == "success"


@settings(max_examples=tries(150))
@given(exchanges())
def test_whatever_stands_in_an_exchange_it_is_one_line_of_json(exchange: Exchange) -> None:
    line = EcsLines(UtcClock(1.7e9))(exchange)
    assert re.fullmatch(rb"[\x20-\x7e]+\n", line)
    found = read(line)
    assert found.get("http.response.status_code", 0) == exchange.status
    assert found["ecs.version"] == "9.4.0"


def test_the_documentation_names_every_field(lines: EcsLines, make_exchange: MakeExchange) -> None:
    page = DOCUMENTATION.read_text()
    section = page[page.index("## ECS") : page.index("## Formats and filters")]
    refusal = Refusal(Reason.PERMISSION_DENIED, "No.", rule="default-deny")
    for exchange in (
        make_exchange(server_name="a", version="1", route="r", server="s", effective_version="2"),
        make_exchange(refusal=refusal),
    ):
        for name in read(lines(exchange)):
            short = name.removeprefix("meshproxy")
            assert any(f"`{each}`" in section for each in (name, short, short.removeprefix(".time"))), name
