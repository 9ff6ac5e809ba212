"""Lines of one sidecar, and of the workers of one that has several."""

from __future__ import annotations

import time
from typing import Any

import pytest

from meshproxy.cli import _live
from meshproxy.cli._call_rows import Window
from meshproxy.cli._live import Ended, collect, opened
from meshproxy.telemetry import call_facts
from meshproxy.telemetry.call_filter import CallFilter
from tests.cli.conftest import Lines, counts


def everything(lines: _live.Lines) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    while lines.sources:
        line = lines.next(5)
        assert line is not None
        found.append(line)
    return found


def test_the_lines_of_a_sidecar(live: Lines) -> None:
    asked: list[str] = []
    address = live([{"a": 1}, {"a": 2}], asked=asked)
    with opened(address, "/tap", [("model", "a b"), ("model", "c&d")], 5) as lines:
        assert lines.sources == [address]
        assert everything(lines) == [(address, {"a": 1}), (address, {"a": 2}), (address, None)]
    assert asked == ["/tap?model=a+b&model=c%26d"]


def test_each_worker_is_asked(live: Lines) -> None:
    workers = [live([{"w": number}]) for number in range(2)]
    address = live([{"error": "ask each", "workers": workers}], code=421)
    with opened(address, "/stat", [], 5) as lines:
        assert lines.sources == workers
        found = everything(lines)
    assert sorted(line["w"] for _, line in found if line is not None) == [0, 1]


@pytest.mark.parametrize(
    ("code", "line", "message"),
    [
        (403, "spec.telemetry.tap of the MeshConfig is off", "refuses: spec.telemetry.tap of the MeshConfig is off"),
        (404, "not found", "it is no port of a sidecar, or control plane, of this version"),
        (421, {"workers": []}, "have not started: try again"),
        (421, "{", "it is of another version"),
        (400, "\x1b[2J" + "x" * 1_000, r"refuses: \\x1b\[2Jx{496}$"),
        (421, "<html>", "it is no port of a sidecar, or control plane, of this version"),
        (429, "there are 4 readers", "refuses: there are 4 readers"),
    ],
)
def test_a_sidecar_that_refuses(live: Lines, code: int, line: object, message: str) -> None:
    with pytest.raises(Ended, match=message), opened(live([line], code=code), "/tap", [], 5):
        pass


def test_nobody_is_there() -> None:
    with pytest.raises(Ended, match=r"no sidecar answers at 127\.0\.0\.1:1: Connection refused"):
        _live.Lines([("127.0.0.1", 1)], "/tap", 1)


def test_no_control_plane_is_there() -> None:
    with pytest.raises(Ended, match=r"no control plane answers at 127\.0\.0\.1:1"):
        _live.Lines([("127.0.0.1", 1)], "/tap", 1, {})


def test_nothing_comes_in_time(live: Lines) -> None:
    with opened(live([], is_open=True), "/tap", [], 5) as lines:
        assert lines.next(0.01) is None


def test_a_line_that_is_none_ends_its_page(live: Lines) -> None:
    wrong = pytest.raises(Ended, match="has sent a line that cannot be read")
    with opened(live(["<html>"]), "/tap", [], 5) as lines, wrong:
        everything(lines)


def test_what_is_not_shown_is_not_read(live: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the sidecar counts it: nothing piles up here."""
    monkeypatch.setattr(_live, "WAITING_LINES", 2)
    with opened(live([{"a": number} for number in range(50)]), "/tap", [], 5) as lines:
        first = lines.next(5)
        assert first is not None
        assert lines._queue.qsize() <= 2
        assert len(everything(lines)) == 50


class TestCollect:
    def test_until_there_is_enough(self, live: Lines) -> None:
        seen = Window()
        with opened(live([counts(), counts(), counts()], is_open=True), "/stat", [], 5) as lines:
            collect(lines, seen, time.monotonic() + 30, enough=2.0)
        assert (seen.seconds, seen.rows()[0].group.calls) == (2.0, 20)

    def test_until_a_time(self, live: Lines) -> None:
        seen = Window()
        with opened(live([counts()], is_open=True), "/stat", [], 5) as lines:
            collect(lines, seen, time.monotonic() + 0.2)
        assert seen.seconds <= 1.0

    def test_until_the_sidecar_ends(self, live: Lines) -> None:
        with opened(live([counts()]), "/stat", [], 5) as lines, pytest.raises(Ended, match="has ended"):
            collect(lines, Window(), time.monotonic() + 30)

    def test_what_is_no_line_of_counts(self, live: Lines) -> None:
        wrong = pytest.raises(Ended, match="has sent a line that cannot be read")
        with opened(live([{"seconds": "x"}]), "/stat", [], 5) as lines, wrong:
            collect(lines, Window(), time.monotonic() + 30)

    def test_a_worker_that_ends_leaves_the_others(self, live: Lines) -> None:
        workers = [live([counts(model="a")]), live([counts(model="b"), counts(model="b")], is_open=True)]
        seen = Window()
        with opened(live([{"workers": workers}], code=421), "/stat", [], 5) as lines:
            collect(lines, seen, time.monotonic() + 30, enough=1.5)
            assert lines.sources == workers[1:]
        assert {row.names["model"] for row in seen.rows()} == {"a", "b"}


def test_what_can_be_asked_for_is_what_a_sidecar_knows() -> None:
    CallFilter([(name, "1s" if name == "slower" else _EXAMPLES.get(name, "x")) for name in _live.FILTERS])
    assert list(call_facts.GROUPS) == _live.GROUPS


_EXAMPLES = {"verb": "predict", "code": "5xx", "outcome": "ok", "direction": "inbound"}
