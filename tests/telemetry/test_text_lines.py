from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings

from meshproxy.identity.caller import ANONYMOUS
from meshproxy.proxy.exchange import Exchange, ResponseFlags
from meshproxy.refusal import Reason, Refusal
from meshproxy.telemetry.json_lines import JsonLines
from meshproxy.telemetry.log_encoding import UtcClock
from meshproxy.telemetry.text_lines import TextLines
from tests.telemetry.hostile import exchanges
from tests.thorough import tries

if TYPE_CHECKING:
    from tests.telemetry.conftest import MakeExchange

WORD = r'(?:"(?:[^"\\]|\\.)*"|[^" ]+)'
"""A value: one word, or in quotes."""
INSIDE = r'(?:[^"\\ ]|\\.)+'
"""A part of a text in quotes."""
ISTIO = re.compile(
    r"\[(?P<start_time>[^]]+)\] "
    rf'"(?P<method>{INSIDE}) (?P<path>{INSIDE}) (?P<protocol>{INSIDE})" '
    r"(?P<response_code>\d+) (?P<response_flags>\S+) "
    rf"(?P<response_code_details>{WORD}) - (?P<reason>{WORD}) "
    r"(?P<bytes_received>\d+) (?P<bytes_sent>\d+) (?P<duration>\S+) (?P<upstream_service_time>\S+) "
    rf"(?P<x_forwarded_for>{WORD}) (?P<user_agent>{WORD}) (?P<request_id>{WORD}) (?P<authority>{WORD}) "
    rf"(?P<upstream_host>{WORD}) (?P<upstream_cluster>{WORD}) - (?P<downstream_local_address>{WORD}) "
    rf"(?P<downstream_remote_address>{WORD}) (?P<requested_server_name>{WORD}) (?P<route_name>{WORD})"
    rf"(?P<further>(?: \w+={WORD})+)\n"
)
"""%CONNECTION_TERMINATION_DETAILS% and %UPSTREAM_LOCAL_ADDRESS% are dashes."""
FURTHER = re.compile(rf"(\w+)=({WORD})")


@pytest.fixture
def lines() -> TextLines:
    return TextLines(UtcClock(1_700_000_000.0))


def read(line: bytes) -> dict[str, str]:
    """Every field, by the name that it has in the JSON format."""
    match = ISTIO.fullmatch(line.decode("ascii"))
    assert match is not None, line
    fields = match.groupdict()
    return {**fields, **dict(FURTHER.findall(fields.pop("further")))}


def test_a_line_is_istios(lines: TextLines, make_exchange: MakeExchange) -> None:
    headers = ((b"user-agent", b"curl/8"), (b"x-request-id", b"r-1"), (b"x-forwarded-for", b"192.0.2.1"))
    exchange = make_exchange(target=b"/v1/models/m:predict?token=secret", headers=headers, server="local", route="all")
    assert (
        lines(exchange)
        .decode()
        .startswith(
            '[2023-11-14T22:30:00.000000Z] "POST /v1/models/m:predict HTTP/2" 200 - via_upstream - "-" 60 300 3.000 '
            "2.000 "
            '"192.0.2.1" "curl/8" "r-1" "models:18500" "127.0.0.1:8500" local - 10.0.0.2:18500 10.0.0.1:40000 - all '
            "grpc_status=OK attempts=1 direction=inbound "
        )
    )


def test_it_has_what_the_json_format_has(lines: TextLines, make_exchange: MakeExchange) -> None:
    exchange = make_exchange(version="3", server_name="models.example")
    as_json = json.loads(JsonLines(UtcClock(1_700_000_000.0))(exchange))
    found = read(lines(exchange))
    assert set(as_json) - set(found) == {"refusal"}  # `response_code_details` is
    for name in set(as_json) & set(found):
        value = "-" if as_json[name] is None else as_json[name]
        text = found[name].strip('"')
        assert (float(text) if isinstance(value, float) else text) == (
            value if isinstance(value, float) else str(value)
        )


def test_a_refused_request(lines: TextLines, make_exchange: MakeExchange) -> None:
    refusal = Refusal(Reason.PERMISSION_DENIED, 'No "role".', rule="default-deny")
    fields = {"decided": 0.0, "connected": 0.0, "first_byte": 0.0, "attempts": (), "upstream": "", "trace": None}
    found = read(lines(make_exchange(refusal=refusal, caller=ANONYMOUS, flags=ResponseFlags.DC, **fields)))
    assert (found["response_code_details"], found["reason"]) == ("permission-denied", r'"No \"role\"."')
    assert (found["response_flags"], found["upstream_host"], found["policy"]) == ("DC", '"-"', "default-deny")
    assert [found[name] for name in ("upstream_service_time", "connect_time", "peer_spiffe_id", "trace_id")] == [
        "-"
    ] * 4


@settings(max_examples=tries(150))
@given(exchanges())
def test_whatever_stands_in_an_exchange_the_fields_are_the_same(exchange: Exchange) -> None:
    line = TextLines(UtcClock(1.7e9))(exchange)
    assert re.fullmatch(rb"[\x20-\x7e]+\n", line)
    found = read(line)
    assert found["response_code"] == str(exchange.status)
    assert len(found) == 49
