from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.proxy.exchange import AttemptRecord, Exchange, ResponseFlags
from meshproxy.refusal import Reason, Refusal
from meshproxy.telemetry.ecs_lines import EcsLines
from meshproxy.telemetry.json_lines import JsonLines
from meshproxy.telemetry.log_encoding import UtcClock
from meshproxy.telemetry.log_lines import MEMO_CHARACTERS, MEMO_ENTRIES, SHORT, VALUES, Lines
from meshproxy.telemetry.text_lines import TextLines

if TYPE_CHECKING:
    from tests.telemetry.conftest import MakeExchange

CALL = Call(Verb.PREDICT, (ModelRef("a"),))
CHANGES: list[dict[str, object]] = [
    {"headers": ((b"user-agent", b"another"),)},
    {"target": b"/another"},
    {"status": 503},
    {"effective_version": "4"},
    {"grpc_status": 5},
    {"grpc_status": None},
    {"server": "another"},
    {"route": "another"},
    {"rule": "another"},
    {"permit_audits": ("another",)},
    {"conditions": ("another",)},
    {"attempts": ()},
    {"trace": None},
    {"forwarded": Call(Verb.PREDICT, (ModelRef("a", "4"),))},
    {"flags": ResponseFlags.DC},
    {"upstream": "another"},
    {"upstream": ""},
    {"refusal": Refusal(Reason.UPSTREAM_RESET, "Gone.")},
    {"refusal": Refusal(Reason.UPSTREAM_RESET, "Lost.")},
    {"refusal": Refusal(Reason.PERMISSION_DENIED, "Gone.", rule="another")},
    {"refusal": Refusal(Reason.PERMISSION_DENIED, "Gone.", rule="another", audits=("a",))},
    {"refusal": Refusal(Reason.PERMISSION_DENIED, "Gone.", rule="another", conditions=("a",))},
    {"asked": None, "forwarded": None},
    {"bytes_sent": 7, "bytes_received": 8, "finished": 1_000.5, "dequeued": 1_000.000_3},
]


@pytest.mark.parametrize("lines", [JsonLines, TextLines, EcsLines])
def test_what_was_formatted_once_is_not_used_for_what_differs(lines: type[Lines], make_exchange: MakeExchange) -> None:
    log = lines(UtcClock(0.0))
    info = make_exchange().connection
    for change in (*CHANGES, *reversed(CHANGES)):
        exchange = make_exchange(call=CALL, **{"connection": info, **change})
        assert log(exchange) == lines(UtcClock(0.0))(exchange)
    assert len(log._known) == 2  # with a call, and without


def test_a_call_is_known_by_itself_and_not_by_where_it_was(make_exchange: MakeExchange) -> None:
    log = JsonLines(UtcClock(0.0))
    info = make_exchange().connection
    for number in range(100):  # each could get the address of the one before
        line = log(make_exchange(call=Call(Verb.PREDICT, (ModelRef(f"m{number}"),)), connection=info))
        assert json.loads(line)["model"] == f"m{number}"


def test_what_is_kept_is_bounded(make_exchange: MakeExchange) -> None:
    log = JsonLines(UtcClock(0.0))
    for number in range(MEMO_ENTRIES * 2 + 1):
        log(make_exchange(remote=f"10.0.0.1:{number}"))
    assert 0 < len(log._known) <= MEMO_ENTRIES
    log._known.clear()
    log(make_exchange(target=b"/" + b"\xff" * 1_000, headers=((b"user-agent", b"\xff" * 1_000),)))
    log(make_exchange(target=b"/?" + b"x" * MEMO_CHARACTERS))
    assert not log._known
    log(make_exchange())
    ((_, _, line),) = log._known.values()
    assert len(line) <= MEMO_CHARACTERS
    assert line.count(b"%") == len(VALUES) + 1  # a time is seconds and microseconds


@pytest.mark.parametrize("seconds", [0.0, 0.000_000_4, 0.000_25, 0.001_023_9, 0.001_024, 0.5, 100.0])
def test_times_are_exact_to_a_microsecond(seconds: float, make_exchange: MakeExchange) -> None:
    exchange = make_exchange(attempts=())
    exchange.started = 0.0
    exchange.decided = exchange.connected = seconds or 1e-9
    exchange.first_byte = exchange.finished = exchange.connected + seconds
    found = json.loads(JsonLines(UtcClock(0.0))(exchange))
    for name in ("decide_time", "upstream_service_time"):
        assert found[name] == pytest.approx(seconds * 1e3, abs=0.001_1)


def test_short_times_are_those_of_their_microseconds() -> None:
    assert [float(text) for text in SHORT] == [number / 1_000 for number in range(1_024)]


@pytest.mark.parametrize("lines", [JsonLines, TextLines, EcsLines])
def test_what_repeats_is_formatted_as_it_would_be_otherwise(lines: type[Lines], make_exchange: MakeExchange) -> None:
    """Of exchanges that went in one step."""

    def make(**known: Any) -> Exchange:
        exchange = make_exchange(**known)
        exchange.connected, exchange.received = exchange.decided, 0.0
        exchange.reading = exchange.read = exchange.dequeued = exchange.retried = 0.0
        decided, answered = exchange.decided, exchange.first_byte
        exchange.attempts = (AttemptRecord("127.0.0.1:1", decided, decided, answered, answered, None, False),)
        return exchange

    log = lines(UtcClock(0.0))
    fields = [(b"user-agent", b"curl/8"), (b"x-forwarded-for", b"192.0.2.1")]
    format_line = log.repeat(make(headers=(*fields, (b"x-request-id", b"r-1"))))
    for number in range(3):
        exchange = make(headers=(*fields, (b"x-request-id", b"r-%d" % number)), bytes_sent=number)
        exchange.finished += (0.0, 0.01, 10.0)[number]
        assert format_line(exchange) == lines(UtcClock(0.0))(exchange)
    for odd in (b'a"b', b"\x80%s", b""):
        exchange = make(target=b"/50%25?", headers=((b"x-request-id", odd),))
        assert log.repeat(exchange)(exchange) == lines(UtcClock(0.0))(exchange)
    without = log.repeat(make(headers=()))
    assert without(make(headers=())) == log(make(headers=()))
