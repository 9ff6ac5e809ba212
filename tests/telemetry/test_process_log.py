from __future__ import annotations

import io
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from meshproxy.telemetry.process_log import JsonFormatter, ProcessLog, open_process_log


def entry(**record: Any) -> dict[str, Any]:
    made = logging.makeLogRecord(
        {"name": "meshproxy.sidecar", "levelname": "WARNING", "msg": "it is %s", "args": ("late",), **record}
    )
    line = JsonFormatter().format(made)
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_record_is_one_line_of_json() -> None:
    found = entry(created=1_700_000_000.123456)
    assert found == {
        "timestamp": "2023-11-14T22:13:20.123+00:00",
        "severity_text": "WARNING",
        "logger": "meshproxy.sidecar",
        "event": "it is late",
    }
    assert datetime.fromisoformat(found["timestamp"]).timestamp() == 1_700_000_000.123


def test_fields_stand_beside_the_words() -> None:
    found = entry(fields={"problems": ["a:1: bad"], "in_flight": 3, "path": object})
    assert (found["problems"], found["in_flight"]) == (["a:1: bad"], 3)
    assert "object" in found["path"]


@pytest.mark.parametrize("words", ["two\nlines", 'a "quote"', "\x1b[31mred", "\udcff"])
def test_whatever_is_said_stays_one_line(words: str) -> None:
    assert entry(msg="%s", args=(words,))["event"] == words


def test_a_mistake_comes_with_its_trace() -> None:
    try:
        raise ValueError("a mistake of ours")
    except ValueError:
        found = entry(exc_info=sys.exc_info())
    assert "ValueError: a mistake of ours" in found["exception"]


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """Logging as it was before."""
    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, sys.unraisablehook
    root.handlers = []
    yield root
    root.handlers, root.level, sys.unraisablehook = handlers, level, hook


def test_everything_goes_to_standard_error_from_its_level_on(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    open_process_log(logging.INFO)
    logging.getLogger("asyncio").info("said")
    logging.getLogger("meshproxy.transport").debug("not said")
    assert [json.loads(line)["event"] for line in written.getvalue().splitlines()] == ["said"]


def test_what_was_set_up_before_does_not_double_it(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    open_process_log(logging.INFO)
    open_process_log(logging.INFO)
    logging.getLogger("a").warning("once")
    assert len(written.getvalue().splitlines()) == 1


def test_what_every_line_is_to_say_is_in_every_line(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    open_process_log(logging.INFO, node="first")
    logging.getLogger("a").warning("one")
    logging.getLogger("a").warning("two", extra={"fields": {"node": "second"}})
    assert [json.loads(line)["node"] for line in written.getvalue().splitlines()] == ["first", "second"]


class Unraisable:
    """What Python hands to `sys.unraisablehook`."""

    err_msg = None

    def __init__(self, error: Exception, thing: object) -> None:
        self.exc_type, self.exc_value, self.exc_traceback, self.object = type(error), error, None, thing


def test_an_error_that_nothing_can_catch_is_one_line(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    open_process_log(logging.INFO)
    sys.unraisablehook(Unraisable(ValueError("late"), "a finaliser"))  # type: ignore[arg-type]
    (line,) = written.getvalue().splitlines()
    assert json.loads(line)["event"] == "unraisable exception: exception ignored in 'a finaliser'"
    assert "ValueError: late" in json.loads(line)["exception"]


def test_a_client_cannot_fill_the_log_with_server_names(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    open_process_log(logging.INFO)
    error = UnicodeDecodeError("ascii", b"\xff", 0, 1, "ordinal not in range")
    sys.unraisablehook(Unraisable(error, b"\xff"))  # type: ignore[arg-type]
    assert written.getvalue() == ""
    logging.getLogger().setLevel(logging.DEBUG)
    sys.unraisablehook(Unraisable(error, b"\xff"))  # type: ignore[arg-type]
    assert json.loads(written.getvalue())["severity_text"] == "DEBUG"


def test_nobody_waits_for_a_reader_that_takes_nothing() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as taken, os.fdopen(writing, "w") as stream:
        journal = ProcessLog(stream)
        journal.setFormatter(JsonFormatter())
        record = logging.LogRecord("a", logging.INFO, "", 0, "x" * 1_000, None, None)
        while not journal.dropped:
            journal.emit(record)
        journal.emit(record)
        assert journal.dropped == 2
        os.read(reading, 65_536)
        journal.emit(record)
        stream.flush()
        assert b'"dropped_before": 2' in os.read(reading, 65_536)
        assert taken.readable()


def journal_of(kind: str) -> tuple[int, int, ProcessLog]:
    """The ends of a pipe or a socket, and what writes into the second one."""
    if kind == "pipe":
        ends = os.pipe()
    else:
        one, other = socket.socketpair()
        ends = one.detach(), other.detach()
    with os.fdopen(os.dup(ends[1]), "w") as stream:
        journal = ProcessLog(stream)
    journal.setFormatter(JsonFormatter())
    return *ends, journal


def record(words: str) -> logging.LogRecord:
    return logging.LogRecord("a", logging.INFO, "", 0, words, None, None)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_nobody_waits_for_the_rest_of_a_long_line(kind: str) -> None:
    """It comes before the next line, and what is dropped in between is counted."""
    reading, writing, journal = journal_of(kind)
    journal.emit(record("x" * 1_000_000))
    assert journal.dropped == 0
    journal.emit(record("dropped"))
    assert journal.dropped == 1
    os.close(writing)
    with os.fdopen(reading, "rb") as lines:
        os.set_blocking(reading, False)
        text = b""
        while text.count(b"\n") < 2:
            text += lines.read() or b""
            journal.emit(record("next"))
    words = [json.loads(line) for line in text.splitlines()[:2]]
    assert len(words[0]["event"]) == 1_000_000
    assert words[1]["event"] == "next"
    assert words[1]["dropped_before"] >= 1
    journal.close()


def test_the_last_line_is_written_to_its_end() -> None:
    """Why a process does not start may be long."""
    reading, writing, journal = journal_of("pipe")
    os.close(writing)
    journal.emit(record("x" * 200_000))
    with os.fdopen(reading, "rb") as lines:
        thread = threading.Thread(target=journal.close)
        thread.start()
        assert len(json.loads(lines.readline())["event"]) == 200_000
        thread.join()


def test_a_mistake_in_a_message_is_not_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing, journal = journal_of("pipe")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    journal.emit(logging.LogRecord("a", logging.INFO, "", 0, "%d", ("no number",), None))
    journal.close()
    os.close(writing)
    os.close(reading)
