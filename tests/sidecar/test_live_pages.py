"""The live pages without a port: readers come, read, stall and leave."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.codec.events import RequestHead
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.config.telemetry import Tap as TapMode
from meshproxy.proxy.exchange import Exchange
from meshproxy.sidecar import live_pages
from meshproxy.sidecar.live_pages import (
    MOST_READERS,
    MOST_SECONDS,
    PULSE_SECONDS,
    STALL_SECONDS,
    LivePages,
    anonymous_line,
    point_to_workers,
    read_query,
)
from meshproxy.telemetry.call_stats import Interval
from meshproxy.telemetry.json_lines import JsonLines
from meshproxy.telemetry.log_encoding import UtcClock
from meshproxy.telemetry.observer import Observer
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
from tests.sidecar.test_admin import FakeStream
from tests.telemetry.conftest import MakeExchange, make_exchange

__all__ = ["make_exchange"]


class Timer:
    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class World:
    """A sidecar with live pages; its time moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.timers: list[tuple[float, Callable[[], None], Timer]] = []
        self.metrics = SidecarMetrics()
        self.observer = Observer(self.metrics.telemetry_failures, [])
        self.mode: TapMode = "full"
        self.limits: list[str] = []
        self.pages = LivePages(
            self,  # type: ignore[arg-type]
            self.observer,
            self.metrics,
            mode=lambda: self.mode,
            line_of=JsonLines(UtcClock(0.0)),
            clock=lambda: self.now,
            on_limit=self.limits.append,
        )

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        timer = Timer()
        self.timers.append((self.now + delay, callback, timer))
        return timer

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while due := [timer for timer in self.timers if timer[0] <= until]:
            first = min(due, key=lambda timer: timer[0])
            self.timers.remove(first)
            self.now, callback, timer = first
            if not timer.is_cancelled:
                callback()
        self.now = until

    def ask(self, target: str, method: bytes = b"GET") -> Any:
        stream: Any = FakeStream()
        self.pages.serve(stream, RequestHead(1, method, b"localhost", target.encode(), (), end=True))
        return stream

    def readers(self, page: str) -> float:
        return self.metrics.live_readers.labels(page).value


@pytest.fixture
def world() -> World:
    return World()


def lines(stream: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.body.splitlines()]


def test_a_tap_is_lines_of_the_access_log(world: World, make_exchange: MakeExchange) -> None:
    stream = world.ask("/tap?model=a&model=b*")
    assert (stream.status, stream.headers[b"content-type"]) == (200, b"application/jsonl")
    assert world.readers("tap") == 1
    for model in ("a", "c", "bb"):
        world.observer(make_exchange(model=model, target=b"/x?token=secret", finished=world.now))
    assert stream.body == b""
    world.pass_time(PULSE_SECONDS)
    assert [line["model"] for line in lines(stream)] == ["a", "bb"]
    assert b"secret" not in stream.body
    assert lines(stream)[0]["peer_spiffe_id"] == "spiffe://dev.example/ns/pricing/sa/quoter"
    world.pass_time(60)
    assert len(lines(stream)) == 2
    assert not stream.ended


def test_stat_is_counts_of_each_interval(world: World, make_exchange: MakeExchange) -> None:
    stream = world.ask("/stat?by=model&by=model&by=caller&every=2s&verb=predict")
    world.observer(make_exchange())
    world.observer(make_exchange())
    world.pass_time(1.9)
    assert stream.body == b""
    world.pass_time(2.2)
    first, second = (msgspec.json.decode(line, type=Interval) for line in stream.body.splitlines())
    assert first.groups[0].calls == 2
    assert first.groups[0].names == {
        "direction": "inbound",
        "model": "half_plus_two",
        "caller": "spiffe://dev.example/ns/pricing/sa/quoter (corp:alice)",
    }
    assert second.groups == []
    assert first.seconds == pytest.approx(2.0, abs=0.11)


def test_without_a_reader_nothing_is_observed(world: World, make_exchange: MakeExchange) -> None:
    assert world.observer._sinks == ()
    stream = world.ask("/tap")
    assert len(world.observer._sinks) == 1
    stream.sink.reset_received(ErrorCode.CANCEL, "gone")
    assert world.observer._sinks == ()
    assert world.readers("tap") == 0
    world.observer(make_exchange())
    world.pass_time(5)
    assert stream.body == b""
    assert [timer for _, _, timer in world.timers if not timer.is_cancelled] == []


def test_the_log_tells_who_looks_and_what_was_shown(
    world: World, make_exchange: MakeExchange, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        stream = world.ask("/tap?rate=1")
        for _ in range(3):
            world.observer(make_exchange(finished=world.now))
        stream.sink.reset_received(ErrorCode.CANCEL, "gone")
    opened, closed = (vars(record)["fields"] for record in caplog.records)
    assert opened == {"page": "tap", "query": "rate=1", "client": "127.0.0.1:40000"}
    assert closed == {"page": "tap", "reason": "the client has left", "shown": 1, "over_rate": 2, "unread": 0}
    assert world.metrics.tap_dropped.labels("rate").value == 2


def test_a_reader_that_stalls_is_waited_for_by_nobody_and_dismissed(world: World, make_exchange: MakeExchange) -> None:
    stream = world.ask("/tap?rate=1000")
    stream.is_full = True
    world.observer(make_exchange(finished=world.now))
    world.pass_time(PULSE_SECONDS)
    first = len(stream.body)
    assert first > 0
    for number in range(1_000):
        world.observer(make_exchange(finished=world.now + number / 100))
    world.pass_time(STALL_SECONDS - 1)
    assert len(stream.body) == first
    (tap,) = world.observer._sinks
    assert tap.shown + tap.unread == 1_001  # type: ignore[attr-defined]
    assert tap.unread > 0  # type: ignore[attr-defined]
    world.pass_time(2)
    assert stream.reset_code == ErrorCode.CANCEL
    assert world.observer._sinks == ()
    assert world.metrics.tap_dropped.labels("reader").value == tap.unread  # type: ignore[attr-defined]


def test_a_reader_that_is_slow_gets_what_it_has_missed_counted(world: World, make_exchange: MakeExchange) -> None:
    stream = world.ask("/tap?rate=1000")
    stream.is_full = True
    for number in range(600):
        world.observer(make_exchange(finished=world.now + number / 100))
    world.pass_time(STALL_SECONDS - 1)
    stream.is_full = False
    stream.sink.drained()
    world.pass_time(2)
    assert stream.reset_code is None
    found = lines(stream)
    told = [line["tap"] for line in found if "tap" in line][-1]
    assert told["shown"] + told["unread"] == 600
    assert len([line for line in found if "model" in line]) == told["shown"]


def test_there_are_not_many_readers(world: World) -> None:
    streams = [world.ask("/tap" if number % 2 else "/stat") for number in range(MOST_READERS)]
    late = world.ask("/tap")
    assert late.status == 429
    assert b"there are 4 readers" in late.body
    assert world.limits == ["live_readers"]
    streams[0].sink.reset_received(ErrorCode.CANCEL, "gone")
    assert world.ask("/tap").status == 200


def test_nobody_looks_for_ever(world: World, make_exchange: MakeExchange) -> None:
    stream = world.ask("/tap?rate=1")
    world.pass_time(MOST_SECONDS - 0.05)
    world.observer(make_exchange(finished=world.now))
    world.pass_time(0.2)
    assert stream.ended
    assert lines(stream)[0]["model"] == "half_plus_two"
    assert lines(stream)[-1] == {"tap": {"shown": 1, "overRate": 0, "unread": 0}}
    assert world.readers("tap") == 0


class TestModes:
    def test_anonymous_hides_callers(self, world: World, make_exchange: MakeExchange) -> None:
        world.mode = "anonymous"
        stream = world.ask("/tap")
        world.observer(make_exchange(finished=world.now, headers=((b"x-forwarded-for", b"203.0.113.9"),)))
        world.pass_time(PULSE_SECONDS)
        (line,) = lines(stream)
        for private in (b"quoter", b"alice", b"10.0.0.1", b"203.0.113.9", b"finance"):
            assert private not in stream.body
        assert line["peer_spiffe_id"] is None
        assert (line["model"], line["decide_time"], line["grpc_status"]) == ("half_plus_two", 0.25, "OK")
        assert line["start_time"].endswith("Z")

    @pytest.mark.parametrize("mode", ["anonymous", "off"])
    @pytest.mark.parametrize("target", ["/stat?by=caller", "/stat?caller=alice", "/tap?caller=alice"])
    def test_callers_cannot_be_found_out(self, world: World, mode: TapMode, target: str) -> None:
        world.mode = mode
        stream = world.ask(target)
        assert stream.status == 403
        assert b"spec.telemetry.tap" in stream.body

    def test_off_leaves_counts(self, world: World) -> None:
        world.mode = "off"
        assert world.ask("/tap").status == 403
        assert world.ask("/stat?by=model").status == 200

    def test_a_reader_may_hide_them_itself(self, world: World, make_exchange: MakeExchange) -> None:
        stream = world.ask("/tap?identities=hidden&caller=alice")
        world.observer(make_exchange(finished=world.now))
        world.pass_time(PULSE_SECONDS)
        assert b"alice" not in stream.body
        assert len(lines(stream)) == 1

    def test_other_documents_end_what_they_do_not_allow(self, world: World, make_exchange: MakeExchange) -> None:
        stream = world.ask("/tap")
        paused = world.ask("/stat")
        paused.is_full = True
        world.pass_time(2)
        world.observer(make_exchange(finished=world.now))
        world.mode = "anonymous"
        world.pass_time(PULSE_SECONDS)
        assert stream.body == b""  # the line that waited names the caller
        assert stream.reset_code == paused.reset_code == ErrorCode.CANCEL
        assert world.observer._sinks == ()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/tap?modle=a", b'there is no field "modle" (did you mean "model"?)'),
        ("/tap?by=model", b'there is no field "by"'),
        ("/tap?rate=0", b"rate: expected a number from 1 to 1000"),
        ("/tap?rate=1001", b"rate: expected a number from 1 to 1000"),
        ("/tap?rate=" + "9" * 5_000, b"rate: expected a number from 1 to 1000"),
        ("/tap?rate=1&rate=2", b"rate: expected one value"),
        ("/tap?identities=no", b"identities: expected shown or hidden"),
        ("/stat?by=modle", b'got "modle" (did you mean "model"?)'),
        ("/stat?every=0.1", b"every: expected 0.5s or more"),
        ("/stat?every=soon", b"expected a duration"),
        ("/stat?rate=1", b'there is no field "rate"'),
        ("/tap?model", b"the query cannot be read"),
        ("/tap?model=%ff", b"the query cannot be read"),
        ("/tap?" + "&".join(["model=a"] * 200), b"at most 128 fields"),
    ],
)
def test_what_cannot_be_read_is_refused(world: World, target: str, message: bytes) -> None:
    stream = world.ask(target)
    assert stream.status == 400
    assert message in stream.body
    assert world.observer._sinks == ()


def test_other_methods(world: World) -> None:
    stream = world.ask("/tap", b"POST")
    assert (stream.status, stream.headers[b"allow"]) == (405, b"GET")
    assert world.ask("/stat", b"HEAD").body == b""


@given(st.binary(max_size=60))
def test_any_query_is_read_or_refused(query: bytes) -> None:
    try:
        fields = read_query(query)
    except ValueError:
        return
    assert read_query(urlencode(fields).encode()) == fields


def test_a_field_that_is_new_in_the_log_is_hidden(make_exchange: MakeExchange) -> None:
    def line_of(exchange: Exchange) -> bytes:
        return b'{"model":"a","queue_time":1.5,"jwt_email":"a@b.c"}\n'

    found = anonymous_line(line_of, make_exchange())
    assert found == b'{"model":"a","queue_time":1.5,"jwt_email":null}\n'


def test_each_field_that_is_shown_is_one_of_the_log(make_exchange: MakeExchange) -> None:
    line = JsonLines(UtcClock(0.0))(make_exchange())
    assert set(json.loads(line)) >= live_pages.ANONYMOUS


def test_a_supervisor_points_to_its_workers() -> None:
    stream: Any = FakeStream()
    head = RequestHead(1, b"GET", b"localhost", b"/tap", (), end=True)
    point_to_workers(stream, head, ["127.0.0.1:1", "127.0.0.1:2"])
    assert stream.status == 421
    assert json.loads(stream.body)["workers"] == ["127.0.0.1:1", "127.0.0.1:2"]
