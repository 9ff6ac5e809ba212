from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshproxy.config.telemetry import AccessLogLines
from meshproxy.telemetry.access_log import AccessLog, make_filter
from meshproxy.telemetry.line_writer import LineWriter
from meshproxy.telemetry.log_encoding import UtcClock

if TYPE_CHECKING:
    from tests.telemetry.conftest import MakeExchange


class NoSink(LineWriter):
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.lines.append(line)


def test_lines_reach_the_sink(tmp_path: Path, make_exchange: MakeExchange) -> None:
    sink = LineWriter.file(tmp_path / "access.log")
    log = AccessLog(sink, UtcClock(0.0))
    for _ in range(3):
        log(make_exchange())
    sink.close()
    lines = (tmp_path / "access.log").read_bytes().splitlines()
    assert [json.loads(line)["model"] for line in lines] == ["half_plus_two"] * 3
    assert log.filtered == 0


@pytest.mark.parametrize(("name", "begins"), [("json", b'{"start_time"'), ("text", b"["), ("ecs", b'{"@timestamp"')])
def test_formats(name: str, begins: bytes, make_exchange: MakeExchange) -> None:
    sink = NoSink()
    AccessLog(sink, UtcClock(0.0), AccessLogLines(format=name))(make_exchange())  # type: ignore[arg-type]
    assert sink.lines[0].startswith(begins)


def test_a_filter_is_made_only_for_those_who_want_one() -> None:
    assert make_filter(AccessLogLines(format="text")) is None
    assert make_filter(AccessLogLines(ratio=0.5)) is not None
    assert make_filter(AccessLogLines(models=("a",))) is not None


def test_what_has_no_line_is_counted(make_exchange: MakeExchange) -> None:
    sink = NoSink()
    log = AccessLog(sink, UtcClock(0.0), AccessLogLines(ratio=0.0))
    log(make_exchange())
    log(make_exchange(grpc_status=14))
    assert (len(sink.lines), log.filtered) == (1, 1)


def test_new_settings_hold_from_the_next_line_on(make_exchange: MakeExchange) -> None:
    sink = NoSink()
    log = AccessLog(sink, UtcClock(0.0))
    log(make_exchange())
    log.use(AccessLogLines(format="text", models=("half*",)))
    log(make_exchange())
    log(make_exchange(model="other"))
    before = log.format
    log.use(AccessLogLines(format="text", models=("half*",)))
    assert log.format is before  # what it remembers is kept
    log.use(AccessLogLines())
    log(make_exchange(model="other"))
    assert [line[:1] for line in sink.lines] == [b"{", b"[", b"{"]
    assert log.filtered == 1


def test_what_repeats_goes_by_the_settings_of_the_moment(make_exchange: MakeExchange) -> None:
    sink = NoSink()
    log = AccessLog(sink, UtcClock(0.0))
    observe = log.repeat(make_exchange())
    observe(make_exchange(bytes_sent=7))
    log.use(AccessLogLines(format="text"))
    observe(make_exchange())
    log.use(AccessLogLines(ratio=0.0))
    observe(make_exchange())
    assert json.loads(sink.lines[0])["bytes_sent"] == 7
    assert [line[:1] for line in sink.lines] == [b"{", b"["]
    assert log.filtered == 1
