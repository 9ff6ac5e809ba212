"""A tap: what it shows, and that what it keeps and costs is bounded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from meshproxy.telemetry import tap as module
from meshproxy.telemetry.call_filter import CallFilter
from meshproxy.telemetry.tap import PIECE_BYTES, QUEUE_BYTES, Tap

if TYPE_CHECKING:
    from meshproxy.proxy.exchange import Exchange
    from tests.telemetry.conftest import MakeExchange


def line_of(exchange: Exchange) -> bytes:
    return b'{"at":%d}\n' % exchange.finished


def lines(data: bytes) -> list[dict[str, Any]]:
    assert data == b"" or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def everything(exchange: Exchange) -> bool:
    return True


def test_calls_that_match_are_shown_in_order(make_exchange: MakeExchange) -> None:
    tap = Tap(CallFilter([("model", "a")]).takes, line_of, 100)
    for at, model in enumerate("abaa"):
        tap(make_exchange(model=model, finished=float(at)))
    assert lines(tap.take(10.0)) == [{"at": 0}, {"at": 2}, {"at": 3}]
    assert tap.take(11.0) == b""
    assert tap.shown == 3


def test_calls_above_the_rate_are_counted_and_not_formatted(make_exchange: MakeExchange) -> None:
    formatted = []

    def counted(exchange: Exchange) -> bytes:
        formatted.append(exchange)
        return b"{}\n"

    tap = Tap(everything, counted, 5)
    for number in range(1_000):  # in one second
        tap(make_exchange(finished=1_000.0 + number / 1_000))
    assert 9 <= len(formatted) <= 10  # a second's worth at once, and one second
    assert tap.over_rate == 1_000 - len(formatted)
    found = lines(tap.take(1_001.0))
    assert found[-1] == {"tap": {"shown": len(formatted), "overRate": tap.over_rate, "unread": 0}}


def test_a_reader_that_does_not_read_holds_a_bounded_queue(make_exchange: MakeExchange) -> None:
    long = b'"' + b"x" * 1_000 + b'"\n'
    tap = Tap(everything, lambda exchange: long, 1_000_000)
    for number in range(1_000):
        tap(make_exchange(finished=1_000.0 + number))
    most = -(-QUEUE_BYTES // len(long))
    assert (tap.shown, tap.unread) == (most, 1_000 - most)
    taken = []
    while piece := tap.take(2_000.0):
        assert len(piece) <= PIECE_BYTES + len(long) + 100
        taken.append(piece)
    found = lines(b"".join(taken))
    assert found.count("x" * 1_000) == most  # type: ignore[arg-type]
    assert {"tap": {"shown": most, "overRate": 0, "unread": 1_000 - most}} in found
    tap(make_exchange(finished=3_000.0))
    assert len(lines(tap.take(3_000.0))) == 1


def test_counts_are_told_once_a_second_and_only_if_they_changed(make_exchange: MakeExchange) -> None:
    tap = Tap(everything, line_of, 1)
    for _ in range(3):
        tap(make_exchange(finished=1_000.0))
    assert lines(tap.take(1_000.1)) == [{"at": 1_000}, {"tap": {"shown": 1, "overRate": 2, "unread": 0}}]
    tap(make_exchange(finished=1_000.2))
    assert tap.take(1_000.3) == b""
    assert lines(tap.take(1_001.2)) == [{"tap": {"shown": 1, "overRate": 3, "unread": 0}}]
    assert tap.take(1_009.0) == b""


def test_the_end_has_the_rest_and_the_counts(make_exchange: MakeExchange) -> None:
    tap = Tap(everything, line_of, 2)
    for _ in range(3):
        tap(make_exchange(finished=1_000.0))
    assert lines(tap.end(1_001.0)) == [{"at": 1_000}] * 2 + [{"tap": {"shown": 2, "overRate": 1, "unread": 0}}]


def test_the_queue_is_bounded_by_its_constant(make_exchange: MakeExchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUE_BYTES", 1)
    tap = Tap(everything, line_of, 100)
    tap(make_exchange())
    tap(make_exchange())
    assert (tap.shown, tap.unread) == (1, 1)
