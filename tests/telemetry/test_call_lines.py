"""Lines as the writers of both logs write them are read as the calls that they were written of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from meshproxy.audit.chain import NOTHING_BEFORE, constant_part, join
from meshproxy.audit.lines import Kind
from meshproxy.identity.caller import Caller, Token, Workload
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.policy.compare import Verdict
from meshproxy.refusal import Reason, Refusal
from meshproxy.telemetry.access_log import make_lines
from meshproxy.telemetry.audit import CallLines
from meshproxy.telemetry.audit_writer import own_body
from meshproxy.telemetry.call_lines import LINE_BYTES, CallLine, Skipped, read_call_line
from meshproxy.telemetry.log_encoding import UtcClock
from tests.thorough import tries

if TYPE_CHECKING:
    from meshproxy.proxy.exchange import Exchange
    from tests.telemetry.conftest import MakeExchange

CLOCK = UtcClock(1_700_000_000.0)
DENIED = Refusal(Reason.PERMISSION_DENIED, "No.", rule="default-deny", audits=("watch", "look"))
FORMATS = ("json", "text", "ecs", "audit")


def lines(exchange: Exchange) -> dict[str, bytes]:
    """The line of each format."""
    body = CallLines(CLOCK)(exchange, Kind.DENIED if exchange.refusal else Kind.AUDITED)
    return {
        **{name: make_lines(name, CLOCK)(exchange) for name in ("json", "text", "ecs")},
        "audit": join(1, constant_part("w", "00" * 8), NOTHING_BEFORE, body),
    }


def told(line: bytes) -> CallLine:
    found = read_call_line(line)
    assert isinstance(found, CallLine), found
    return found


def test_every_format_tells_the_same(make_exchange: MakeExchange) -> None:
    workload = Workload("spiffe://other.example/x", "other.example", None, None, 2e9)
    callers = {
        "token": Caller(None, Token("sts", 'a"lice =b', {"groups": ["x"]}, 2e9, "arn:aws:iam::1:role/r")),
        "both": Caller(workload, Token("corp", "bob", {}, 2e9)),
        "nobody": Caller(),
    }
    for caller in callers.values():
        for refusal, verdict in ((None, Verdict(True, "finance-team")), (DENIED, Verdict(False, "default-deny"))):
            exchange = make_exchange(caller=caller, refusal=refusal, version="3", permit_audits=("watch", "look"))
            for name, line in lines(exchange).items():
                found = told(line)
                observed = found.observed
                assert str(observed.caller) == str(caller)
                assert (observed.caller.token is None) == (caller.token is None)
                if caller.token is not None and observed.caller.token is not None:
                    assert observed.caller.token.iam_role == caller.token.iam_role
                signature = "serving_default" if name == "audit" else None
                assert observed.call == Call(Verb.PREDICT, (ModelRef("half_plus_two", "3", None, signature),))
                assert observed.is_signature_known is (name == "audit")
                assert (observed.address, observed.recorded) == ("10.0.0.1:0", verdict)
                assert observed.audits == ("watch", "look")
                assert found.time == "2023-11-14T22:30:00.000000Z"


@pytest.mark.parametrize(
    ("target", "model", "known"),
    [
        (b"/v1/models/m/labels/stable:predict", ModelRef("m", label="stable"), True),
        (b"/v1/models/m/versions/3:predict", ModelRef("m", version="3"), True),
        (b"/v1/models/labels/metadata", ModelRef("labels"), True),
        (b"/tensorflow.serving.PredictionService/Predict", ModelRef("m", label="stable"), False),
        (b"/inference.GRPCInferenceService/ModelInfer", ModelRef("m", version="v3-b"), False),
        (b"/v2/models/m/versions/v3-b/infer", ModelRef("m", version="v3-b"), True),
    ],
)
def test_version_or_label(make_exchange: MakeExchange, target: bytes, model: ModelRef, known: bool) -> None:
    exchange = make_exchange(target=target, call=Call(Verb.PREDICT, (model,)))
    for name, line in lines(exchange).items():
        observed = told(line).observed
        assert observed.call.models == (model,)
        assert observed.is_signature_known is (known or name == "audit")


def test_calls_about_the_server_and_ipv6(make_exchange: MakeExchange) -> None:
    exchange = make_exchange(call=Call(Verb.RELOAD), remote="[fd00::1]:40000")
    for line in lines(exchange).values():
        assert told(line).observed.call == Call(Verb.RELOAD)
        assert told(line).observed.address == "[fd00::1]:0"


def test_equal_callers_are_one_object(make_exchange: MakeExchange) -> None:
    """So that calls can be counted: tokens are compared by identity."""
    first, second = (told(line) for line in [lines(make_exchange())["json"]] * 2)
    assert first.observed == second.observed


def test_what_tells_no_call(make_exchange: MakeExchange) -> None:
    several = Call(Verb.PREDICT, (ModelRef("a"), ModelRef("b")))
    cases: list[tuple[Exchange, Skipped, bool]] = [
        (make_exchange(direction="outbound"), Skipped.OUTBOUND, True),
        (make_exchange(refusal=Refusal(Reason.BAD_REQUEST, "No."), rule="", call=None), Skipped.UNDECIDED, True),
        (make_exchange(refusal=Refusal(Reason.UNAUTHENTICATED, "No."), rule=""), Skipped.UNDECIDED, True),
        (make_exchange(refusal=Refusal(Reason.MODEL_CHANGED, "No.")), Skipped.UNDECIDED, True),
        (make_exchange(model="a" * 2_000), Skipped.CUT, True),
        (make_exchange(call=several), Skipped.SEVERAL_MODELS, False),
    ]
    for exchange, why, also_audit in cases:
        for name, line in lines(exchange).items():
            if also_audit or name != "audit":
                assert read_call_line(line) is why
    assert told(lines(make_exchange(call=several))["audit"]).observed.call == several
    many = Call(Verb.PREDICT, tuple(ModelRef(str(number)) for number in range(17)))
    assert read_call_line(lines(make_exchange(call=many))["audit"]) is Skipped.SEVERAL_MODELS


def test_a_later_refusal_is_a_permit(make_exchange: MakeExchange) -> None:
    exchange = make_exchange(refusal=Refusal(Reason.RATE_LIMITED, "Later."))
    for line in lines(exchange).values():
        assert told(line).observed.recorded == Verdict(True, "finance-team")


def test_lines_of_the_trail_that_are_about_no_call() -> None:
    line = join(1, constant_part("w", "00" * 8), NOTHING_BEFORE, own_body(Kind.STOPPED, "stops", 1.0, b""))
    assert read_call_line(line) is Skipped.OTHER


def test_other_lines() -> None:
    for line in (b"", b"\n", b"{}", b"[]", b"null", b"INFO ready", b"[2023-01-01T00:00:00.0Z] text", b"x" * LINE_BYTES):
        assert read_call_line(line) is Skipped.UNREADABLE
    assert read_call_line(b"{" * 100_000) is Skipped.UNREADABLE
    assert read_call_line(b" " * LINE_BYTES + b"{}") is Skipped.UNREADABLE


VALUES = st.none() | st.text(max_size=9) | st.integers()


@settings(max_examples=tries(50))
@given(
    st.fixed_dictionaries(
        {"start_time": st.text(), "direction": st.sampled_from(["inbound", "x", 1]), "policy": st.text()},
        optional={
            name: st.none() | st.text(max_size=9) | st.integers() for name in ("verb", "model", "peer_spiffe_id")
        },
    )
)
def test_nothing_is_raised(line: dict[str, Any]) -> None:
    assert isinstance(read_call_line(json.dumps(line).encode()), CallLine | Skipped)


@settings(max_examples=tries(50))
@given(name=st.text(min_size=1, max_size=20).filter(lambda name: "," not in name), subject=st.text(max_size=20))
def test_names_come_back_from_every_format(name: str, subject: str) -> None:
    """Whatever a caller called the model."""
    exchange = MADE[0]
    exchange.asked = exchange.forwarded = Call(Verb.PREDICT, (ModelRef(name),))
    exchange.caller = Caller(None, replace(TOKEN, subject=subject))
    for line in lines(exchange).values():
        found = told(line).observed
        assert found.call.models[0].name == name
        assert found.caller.token is not None
        assert found.caller.token.subject == subject


TOKEN = Token("corp", "alice", {}, 2e9)
MADE: list[Exchange] = []


@pytest.fixture(autouse=True)
def _exchange(make_exchange: MakeExchange) -> None:
    MADE[:] = [make_exchange()]
