"""The filter of live pages: what it takes, and what it refuses to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshproxy.identity.caller import ANONYMOUS
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.proxy.exchange import ResponseFlags
from meshproxy.refusal import GrpcStatus, Reason, Refusal
from meshproxy.telemetry.call_filter import MOST_CHARACTERS, CallFilter, Outcome, read_time

if TYPE_CHECKING:
    from meshproxy.proxy.exchange import Exchange
    from tests.telemetry.conftest import MakeExchange

REST = {"is_grpc": False, "grpc_status": None}
NAMES = ("model", "version", "verb", "caller", "code", "outcome", "direction", "route", "server", "slower")


def takes(exchange: Exchange, *fields: tuple[str, str]) -> bool:
    return CallFilter(fields).takes(exchange)


def test_without_fields_it_takes_everything(make_exchange: MakeExchange) -> None:
    assert takes(make_exchange())
    assert takes(make_exchange(call=None, status=0))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("model", "half_plus_two", True),
        ("model", "half*", True),
        ("model", "half", False),
        ("model", "*two", True),
        ("version", "latest", True),
        ("version", "3", False),
        ("verb", "predict", True),
        ("verb", "classify", False),
        ("caller", "pricing/quoter", True),
        ("caller", "pricing/*", True),
        ("caller", "spiffe://dev.example/*", True),
        ("caller", "alice", True),
        ("caller", "corp:*", True),
        ("caller", "anonymous", False),
        ("code", "OK", True),
        ("code", "ok", True),
        ("code", "200", False),  # of a gRPC call, whose HTTP status is always 200
        ("outcome", "ok", True),
        ("outcome", "failed", False),
        ("direction", "inbound", True),
        ("direction", "outbound", False),
        ("route", "_none", True),
        ("route", "canary", False),
        ("server", "*", True),
        ("slower", "3ms", True),
        ("slower", "4ms", False),
        ("slower", "0.002", True),
    ],
)
def test_one_field(make_exchange: MakeExchange, name: str, value: str, expected: bool) -> None:
    assert takes(make_exchange(finished=1_000.0035), (name, value)) is expected


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("404", 404, True),
        ("404", 403, False),
        ("4xx", 404, True),
        ("4XX", 499, True),
        ("4xx", 500, False),
        ("500-503", 503, True),
        ("500-503", 504, False),
        ("0", 0, True),
        ("UNAVAILABLE", 503, False),
    ],
)
def test_codes_of_rest(make_exchange: MakeExchange, code: str, status: int, expected: bool) -> None:
    assert takes(make_exchange(**REST, status=status), ("code", code)) is expected


def test_codes_of_grpc(make_exchange: MakeExchange) -> None:
    unavailable = make_exchange(grpc_status=14)
    assert takes(unavailable, ("code", "UNAVAILABLE"))
    assert not takes(unavailable, ("code", "INTERNAL"))
    assert takes(make_exchange(grpc_status=None, status=502), ("code", "5xx"))


@pytest.mark.parametrize(
    ("fields", "outcomes"),
    [
        ({}, {Outcome.OK}),
        ({"grpc_status": 5}, {Outcome.OK}),
        ({"grpc_status": 14}, {Outcome.FAILED}),
        ({"flags": ResponseFlags.UC}, {Outcome.FAILED}),
        ({"grpc_status": 7, "refusal": Refusal(Reason.PERMISSION_DENIED, "No.")}, {Outcome.REFUSED, Outcome.DENIED}),
        ({"grpc_status": 8, "refusal": Refusal(Reason.RATE_LIMITED, "No.")}, {Outcome.REFUSED}),
        ({"grpc_status": 14, "refusal": Refusal(Reason.NO_UPSTREAM, "No.")}, {Outcome.REFUSED, Outcome.FAILED}),
        ({"grpc_status": 7, "is_refused_remotely": True}, {Outcome.REFUSED, Outcome.DENIED}),
    ],
)
def test_outcomes(make_exchange: MakeExchange, fields: dict[str, object], outcomes: set[Outcome]) -> None:
    exchange = make_exchange(**fields)
    assert {each for each in Outcome if takes(exchange, ("outcome", each.value))} == outcomes


def test_one_value_of_a_field_has_to_match_and_all_fields(make_exchange: MakeExchange) -> None:
    exchange = make_exchange()
    two = (("model", "resnet"), ("model", "half*"))
    assert takes(exchange, *two)
    assert takes(exchange, *two, ("verb", "predict"), ("caller", "*/quoter"))
    assert not takes(exchange, *two, ("verb", "classify"))


def test_the_model_as_asked_and_as_forwarded(make_exchange: MakeExchange) -> None:
    exchange = make_exchange(label="stable")
    exchange.forwarded = Call(Verb.PREDICT, (ModelRef("other", "7"),))
    assert takes(exchange, ("model", "half_plus_two"))
    assert takes(exchange, ("model", "other"))
    assert takes(exchange, ("version", "stable"))
    assert takes(exchange, ("version", "7"))
    assert not takes(exchange, ("version", "latest"))


def test_the_version_that_answered(make_exchange: MakeExchange) -> None:
    exchange = make_exchange(effective_version="7")
    assert takes(exchange, ("version", "7"))
    assert takes(exchange, ("version", "latest"))  # so it was asked for
    assert not takes(exchange, ("version", "8"))


def test_names_are_cut_before_they_are_compared(make_exchange: MakeExchange) -> None:
    """So that a call with a name of 64 KiB costs no more than others."""
    exchange = make_exchange(model="m" * MOST_CHARACTERS + "x" * 65_536)
    assert takes(exchange, ("model", "m" * MOST_CHARACTERS))
    assert not takes(exchange, ("model", "*x"))


def test_a_call_without_a_model_has_none(make_exchange: MakeExchange) -> None:
    assert not takes(make_exchange(call=None), ("model", "*"))
    assert takes(make_exchange(caller=ANONYMOUS), ("caller", "anonymous"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([("modle", "x")], 'there is no field "modle" (did you mean "model"?): expected model, version, '),
        ([("model", "")], "model: expected 1 to 256 characters"),
        ([("model", "x" * (MOST_CHARACTERS + 1))], "model: expected 1 to 256 characters"),
        ([("model", "x"), ("code", "5xx")] * 17, "expected at most 32 values of all fields together"),
        ([("caller", "*" * 9)], 'caller: expected at most 8 stars, got "*********"'),
        ([("verb", "predit")], 'verb: expected one of predict, .*, got "predit" (did you mean "predict"?)'),
        ([("direction", "in")], 'direction: expected one of inbound, outbound, got "in"'),
        ([("outcome", "bad")], "outcome: expected one of ok, failed, refused, denied"),
        ([("code", "6xx")], "code: expected 503, 5xx, 500-599 or the name of a gRPC status"),
        ([("code", "٣٠٠")], "code: expected 503"),
        ([("slower", "soon")], "slower: expected a duration"),
        ([("slower", "1s"), ("slower", "2s")], "slower: expected one duration"),
        ([("slower", "0")], "slower: must be greater than 0"),
    ],
)
def test_what_cannot_be_read(fields: list[tuple[str, str]], message: str) -> None:
    import re

    pattern = re.escape(message).replace(re.escape(".*"), ".*")
    with pytest.raises(ValueError, match=pattern):
        CallFilter(fields)


def test_numbers_are_seconds() -> None:
    assert read_time("2.5") == read_time("2500ms") == 2.5


@given(st.lists(st.tuples(st.sampled_from(NAMES) | st.text(max_size=8), st.text(max_size=12)), max_size=4))
@example([("code", "1-99999999")])
@example([("slower", "1e9")])
@example([("slower", "9" * 300)])
def test_any_text_is_read_or_refused(fields: list[tuple[str, str]]) -> None:
    """And what is read keeps the fields that were given."""
    try:
        found = CallFilter(fields)
    except ValueError:
        return
    assert [(name, value) for name, values in found.fields.items() for value in values] == sorted(
        fields, key=lambda field: [name for name, _ in fields].index(field[0])
    )


@given(
    st.sampled_from([*GrpcStatus]),
    st.integers(1, 5).map(lambda kind: f"{kind}xx") | st.sampled_from([each.name.lower() for each in GrpcStatus]),
)
def test_a_grpc_call_is_found_by_the_name_of_its_status_alone(status: GrpcStatus, code: str) -> None:
    from meshproxy.codec.events import RequestHead
    from meshproxy.proxy.exchange import Exchange
    from meshproxy.transport.connection_info import ConnectionInfo

    info = ConnectionInfo(direction="inbound", protocol="HTTP/2", remote="", local="")
    exchange = Exchange(RequestHead(1, b"POST", b"", b"/", (), False), info, 1.0)
    exchange.is_grpc, exchange.status, exchange.grpc_status = True, 200, status.value
    assert takes(exchange, ("code", code)) is (code.upper() == status.name)
