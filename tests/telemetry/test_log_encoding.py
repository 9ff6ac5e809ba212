from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.telemetry import log_encoding
from meshproxy.telemetry.log_encoding import MEMO_CHARACTERS, MEMO_ENTRIES, QuotedBytes, UtcClock, quote, quote_bytes
from tests.telemetry.hostile import BYTES
from tests.thorough import tries


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null"),
        (b"/v1/models/m:predict", '"/v1/models/m:predict"'),
        ('a "quoted" \\ name', '"a \\"quoted\\" \\\\ name"'),
        (b"two\r\nlines\x1b[31m\x7f\x00", '"two\\r\\nlines\\u001b[31m\\u007f\\u0000"'),
        ("ü\u2028\x9b", '"\\u00fc\\u2028\\u009b"'),
        (b"\xff\xc3", '"\\\\xff\\\\xc3"'),
        ("\ud800", '"\\\\ud800"'),
        ("", '""'),
    ],
)
def test_quoting(value: str | bytes | None, expected: str) -> None:
    assert quote(value) == expected


@settings(max_examples=tries(200))
@given(st.text() | st.binary())
def test_whatever_comes_is_one_ascii_string_that_any_parser_reads(value: str | bytes) -> None:
    quoted = quote(value)
    assert quoted.isascii()
    assert min(quoted) >= " "
    assert "\x7f" not in quoted
    read = json.loads(quoted)
    expected = value.encode("utf-8", "backslashreplace") if isinstance(value, str) else value
    assert read == expected.decode("utf-8", "backslashreplace")


def test_long_values_are_cut() -> None:
    assert json.loads(quote(b"x" * 5_000)) == "x" * 1_024 + "..."
    assert json.loads(quote("x" * 5_000, limit=2_048)) == "x" * 2_048 + "..."
    # In the middle of a character: what is left of it is spelled out.
    assert json.loads(quote("ü".encode() * 1_000, limit=3)) == "ü\\xc3..."


def test_what_comes_again_is_remembered_within_bounds() -> None:
    memo = QuotedBytes(b"null")
    assert memo["a"] is memo["a"]
    for number in range(MEMO_ENTRIES * 3):
        assert memo[str(number)] == b'"%d"' % number
    assert len(memo) <= MEMO_ENTRIES
    memo.clear()
    assert memo["x" * (MEMO_CHARACTERS + 1)] == b'"' + b"x" * (MEMO_CHARACTERS + 1) + b'"'
    assert not memo


def test_what_is_empty_is_nothing() -> None:
    memo = QuotedBytes(b"-")
    assert (memo[""], memo["a\n"]) == (b"-", b'"a\\n"')


@given(BYTES)
def test_as_bytes_a_value_is_the_same(value: bytes) -> None:
    assert quote_bytes(value) == quote(value).encode()


def test_times_are_those_of_the_wall() -> None:
    draw = random.Random(1)
    clock = UtcClock(1_700_000_000.25)
    for _ in range(1_000):
        moment = draw.uniform(0, 1e8)
        read = datetime.strptime(clock.format(moment), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
        assert read.timestamp() == pytest.approx(moment + 1_700_000_000.25, abs=2e-6)


def test_the_end_of_a_second_does_not_round_into_the_next() -> None:
    clock = UtcClock(0.0)
    assert clock.format(59.999_999_9) == "1970-01-01T00:00:59.999999Z"
    assert clock.format(60.0) == "1970-01-01T00:01:00.000000Z"
    clock.offset = 3_600.0
    assert clock.format(60.0) == "1970-01-01T01:01:00.000000Z"


def test_a_wall_clock_that_is_set_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = UtcClock(0.0)
    monkeypatch.setattr(log_encoding, "time", SimpleNamespace(time=lambda: 3_700.0, monotonic=lambda: 100.0))
    clock.expire(100.0)
    assert (clock.offset, clock.deadline) == (3_600.0, 101.0)
    monkeypatch.setattr(log_encoding, "time", SimpleNamespace(time=lambda: 301.0, monotonic=lambda: 101.0))
    clock.expire(101.0)
    assert (clock.offset, clock.deadline) == (200.0, 102.0)
