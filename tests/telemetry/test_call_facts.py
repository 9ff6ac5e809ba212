from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meshproxy.identity.caller import ANONYMOUS, Caller, Token
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.refusal import Reason, Refusal
from meshproxy.telemetry import call_facts
from meshproxy.telemetry.sampling import is_refused

if TYPE_CHECKING:
    from meshproxy.proxy.exchange import Exchange
    from tests.telemetry.conftest import MakeExchange


def facts(exchange: Exchange) -> dict[str, str]:
    return {name: fact(exchange) for name, fact in call_facts.GROUPS.items()}


def test_an_ordinary_call(make_exchange: MakeExchange) -> None:
    assert facts(make_exchange(version="3", route="canary", server="local")) == {
        "model": "half_plus_two",
        "version": "3",
        "verb": "predict",
        "caller": "spiffe://dev.example/ns/pricing/sa/quoter (corp:alice)",
        "route": "canary",
        "server": "local",
        "endpoint": "127.0.0.1:8500",
        "code": "OK",
        "protocol": "gRPC",
    }


def test_a_call_that_is_not_known(make_exchange: MakeExchange) -> None:
    exchange = make_exchange(call=None, caller=ANONYMOUS, is_grpc=False, grpc_status=None, status=0, upstream="")
    assert facts(exchange) == {
        "model": "_none",
        "version": "_none",
        "verb": "_none",
        "caller": "anonymous",
        "route": "_none",
        "server": "_none",
        "endpoint": "_none",
        "code": "0",
        "protocol": "REST",
    }


def test_what_was_forwarded_counts(make_exchange: MakeExchange) -> None:
    exchange = make_exchange()
    exchange.forwarded = Call(Verb.PREDICT, (ModelRef("other", None, "canary"),))
    assert (call_facts.model(exchange), call_facts.version(exchange)) == ("other", "canary")
    exchange.forwarded = None
    assert (call_facts.model(exchange), call_facts.version(exchange)) == ("half_plus_two", "latest")


def test_the_version_that_answered(make_exchange: MakeExchange) -> None:
    assert call_facts.version(make_exchange(effective_version="7")) == "7"
    assert call_facts.version(make_exchange(effective_version="7", label="stable")) == "stable"


def test_several_models_are_one_word(make_exchange: MakeExchange) -> None:
    models = tuple(ModelRef(f"m{number}") for number in range(6))
    exchange = make_exchange(call=Call(Verb.MULTI_INFERENCE, models))
    assert call_facts.model(exchange) == "m0,m1,m2,m3,..."
    assert call_facts.version(exchange) == "_other"


def test_words_are_cut(make_exchange: MakeExchange) -> None:
    exchange = make_exchange(
        model="m" * 9_000, version="v" * 9_000, caller=Caller(None, Token("i", "s" * 9_000, {}, 1))
    )
    assert max(map(len, facts(exchange).values())) == call_facts.CHARACTERS


def test_a_status_without_a_name(make_exchange: MakeExchange) -> None:
    assert call_facts.code(make_exchange(grpc_status=99)) == "99"
    assert call_facts.code(make_exchange(grpc_status=None, status=503)) == "503"


def test_what_a_caller_is_known_by(make_exchange: MakeExchange) -> None:
    assert call_facts.caller_names(make_exchange().caller) == [
        "spiffe://dev.example/ns/pricing/sa/quoter",
        "pricing/quoter",
        "alice",
        "corp:alice",
    ]
    role = Token("aws", "x", {}, 1.0, iam_role="arn:aws:iam::1:role/r")
    assert call_facts.caller_names(Caller(None, role)) == ["x", "aws:x", "arn:aws:iam::1:role/r"]
    assert call_facts.caller_names(ANONYMOUS) == ["anonymous"]


@pytest.mark.parametrize(
    ("fields", "refused", "denied"),
    [
        ({}, False, False),
        ({"refusal": Refusal(Reason.PERMISSION_DENIED, "No.")}, True, True),
        ({"refusal": Refusal(Reason.RATE_LIMITED, "No.")}, True, False),
        ({"is_refused_remotely": True, "grpc_status": 7}, True, True),
        ({"is_refused_remotely": True, "grpc_status": 8}, True, False),
        ({"is_refused_remotely": True, "is_grpc": False, "grpc_status": None, "status": 403}, True, True),
        ({"is_refused_remotely": True, "is_grpc": False, "grpc_status": None, "status": 503}, True, False),
        ({"grpc_status": 7}, False, False),  # the model server's own
    ],
)
def test_refusals(make_exchange: MakeExchange, fields: dict[str, object], refused: bool, denied: bool) -> None:
    exchange = make_exchange(**fields)
    assert (is_refused(exchange), call_facts.is_denied(exchange)) == (refused, denied)
