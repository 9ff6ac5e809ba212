"""What `stat`, `top` and `tap` print."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.cli._call_rows import Row
from meshproxy.cli._live_text import TapLines, print_table, rate, share, short_caller, size, span, table
from meshproxy.telemetry.call_stats import Group
from tests.cli.conftest import call


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0000512, "0.0512ms"),
        (0.001, "1ms"),
        (0.0123456, "12.3ms"),
        (0.9994, "999ms"),
        (0.9999, "1s"),
        (98.0, "98s"),
    ],
)
def test_spans(seconds: float | None, text: str) -> None:
    assert span(seconds) == text


@given(st.floats(0, 99))
def test_a_span_is_short(seconds: float) -> None:
    assert "e+" not in span(seconds)


@pytest.mark.parametrize(
    ("number", "text", "style"),
    [
        (1.0, "100%", "green"),
        (0.99999, "99.99%", "green"),
        (0.995, "99.50%", "yellow"),
        (0.5, "50.00%", "red"),
        (None, "-", ""),
    ],
)
def test_shares(number: float | None, text: str, style: str) -> None:
    found = share(number)
    assert (found.plain, found.style) == (text, style)


def test_callers() -> None:
    assert short_caller("spiffe://d.example/ns/pricing/sa/quoter (corp:alice b)") == "pricing/quoter (corp:alice b)"
    assert short_caller("anonymous") == "anonymous"


def test_rates_and_sizes() -> None:
    assert [rate(each) for each in (0.04, 12.34, 999.9, 12_345.6)] == ["0.0", "12.3", "999.9", "12,346"]
    assert [size(each) for each in (0, 999, 1_024, 5e6, 5e9)] == ["0B", "999B", "1KiB", "4.77MiB", "4.66GiB"]


def rows() -> list[Row]:
    names = {"direction": "inbound", "model": "half_plus_two", "version": "latest"}
    first = Group(names, calls=10_000, denied=12, retries=3, seconds=10.0, buckets={32: 9_000, 70: 988})
    second = Group({**names, "model": "[red]\x1b[2J"}, calls=1, failed=1)
    return [Row(first, 10.0), Row(second, 10.0)]


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(table(rows(), ["model", "version"], wide=False), wide=False)
    assert capsys.readouterr().out == (
        "MODEL          VERSION  SUCCESS    RPS     P50     P95     P99  RETRIES  DENIED\n"
        "half_plus_two  latest      100%  1,000  1.01ms  37.7ms  39.1ms        3      12\n"
        "[red]\\x1b[2J   latest     0.00%    0.1       -       -       -        0       0\n"
    )


def test_a_wide_table_is_as_wide_as_it_needs_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(table(rows(), ["model", "version"], wide=True), wide=True)
    heading, first, _ = capsys.readouterr().out.splitlines()
    assert heading.replace("  ", " ").split()[-8:] == [
        *("RETRIES", "DENIED", "REFUSED", "FAILED", "CALLS", "MEAN", "IN", "OUT")
    ]
    assert first.split()[0] == "in"
    assert len(first) > 120


def test_directions_are_told_apart_where_there_are_both(capsys: pytest.CaptureFixture[str]) -> None:
    both = [*rows(), Row(Group({"direction": "outbound", "model": "m", "version": "1"}, calls=1), 10.0)]
    print_table(table(both, ["model", "version"], wide=False), wide=False)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["DIR", "in", "in", "out"]


class TestTaps:
    def test_lines_of_80_columns(self) -> None:
        lines = TapLines(80, wide=False)
        found = [
            lines.heading(),
            lines.line(call()),
            lines.line(call(model_version="3", forwarded_version="4", grpc_status="OK", duration=1_234.5)),
            lines.line(call(forwarded_model="resnet_v2", forwarded_version="1", jwt_issuer="corp", jwt_sub="alice")),
            lines.line(call(refusal="permission-denied", response_code=403, peer_spiffe_id=None)),
            lines.line(call(grpc_status="UNAVAILABLE", response_flags="UC,UT", model=None, verb="multi-inference")),
        ]
        assert [line.plain for line in found] == [
            "TIME            TOOK VERB     MODEL            CALLER          RESULT",
            "12:00:00.123  1.23ms predict  resnet           pricing/quoter  200",
            "12:00:00.123   1.23s predict  resnet@3→@4      pricing/quoter  OK",
            "12:00:00.123  1.23ms predict  resnet→resnet_v… pricing/quoter… 200",
            "12:00:00.123  1.23ms predict  resnet           10.0.0.1:40000  permission-denied",
            "12:00:00.123  1.23ms multi-i… -                pricing/quoter  UNAVAILABLE UC,UT",
        ]
        assert [str(line.spans[-1].style) for line in found[1:]] == ["green", "green", "green", "yellow", "red"]

    def test_a_wide_line_has_more(self) -> None:
        lines = TapLines(80, wide=True)
        heading, line = lines.heading().plain, lines.line(call(trace_id="ab" * 16, route_name="canary")).plain
        for name, value in {"DIR": "in", "ENDPOINT": "127.0.0.1:8501", "ROUTE": "canary", "TRACE": "ab" * 16}.items():
            assert line[heading.index(name) :].startswith(value)

    def test_codes_of_other_kinds(self) -> None:
        lines = TapLines(80, wide=True)
        styles = [
            str(lines.line(call(**fields)).spans[0].style)
            for fields in (
                {"response_code": 404},
                {"response_code": 503},
                {"response_code": 0, "response_flags": "DC"},
                {"grpc_status": "NOT_FOUND"},
                {"grpc_status": "INTERNAL"},
            )
        ]
        assert styles == ["yellow", "red", "red", "yellow", "red"]

    @given(
        st.dictionaries(st.sampled_from(sorted(call())), st.none() | st.text(max_size=40)),
        st.integers(20, 200),
        st.booleans(),
    )
    def test_no_text_of_a_caller_reaches_the_terminal_as_it_is(
        self, fields: dict[str, Any], width: int, wide: bool
    ) -> None:
        numbers = dict.fromkeys(("response_code", "bytes_received", "bytes_sent", "duration", "attempts"), 1)
        line = TapLines(width, wide=wide).line(call(**fields) | numbers).plain
        assert line.isprintable()
