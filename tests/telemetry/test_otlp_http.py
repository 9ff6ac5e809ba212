from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy import __version__
from meshproxy.telemetry.otlp_http import advice, read_retry_after, request_fields
from meshproxy.telemetry.otlp_settings import LogSettings

NOW = 1_796_000_400.0
"""Mon, 30 Nov 2026 01:00:00 GMT"""
OWN = (
    (b"content-type", b"application/x-protobuf"),
    (b"user-agent", b"OTel-OTLP-Exporter-meshproxy/" + __version__.encode()),
)


def test_the_fields_of_a_request() -> None:
    assert request_fields(LogSettings("http://a")) == OWN
    assert request_fields(LogSettings("http://a", is_compressed=True)) == (*OWN, (b"content-encoding", b"gzip"))


def test_fields_of_the_settings_replace_ours() -> None:
    headers = ((b"x-key", b"1"), (b"x-key", b"2"), (b"user-agent", b"own"))
    assert request_fields(LogSettings("http://a", headers)) == (OWN[0], *headers)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", None),
        ("7", 7.0),
        ("0000007", 7.0),
        ("Mon, 30 Nov 2026 01:00:09 GMT", 9.0),
        ("Monday, 30-Nov-26 01:00:09 GMT", 9.0),
        ("Mon Nov 30 01:00:09 2026", None),
        ("Mon, 30 Nov 2026 00:59:00 GMT", 0.0),
        ("Mon, 31 Nov 2026 00:59:00 GMT", None),
        ("soon", None),
        ("\xff", None),
        ("\xb2", None),
        ("9" * 64, 1e64),
        ("9" * 65, None),
        ("9" * 20 + " Feb 31 00:00:00", None),
    ],
)
def test_how_long_to_wait(value: str, seconds: float | None) -> None:
    assert read_retry_after(value, NOW) == seconds


@given(st.text(max_size=64) | st.text("MonNv0123456789 ,:GMT+-", max_size=64))
def test_whatever_it_says_is_a_wait_or_none(value: str) -> None:
    wait = read_retry_after(value, NOW)
    assert wait is None or wait >= 0


@pytest.mark.parametrize(
    ("status", "said"),
    [(307, "redirects"), (401, "set THE_HEADERS"), (403, "set THE_HEADERS"), (404, "the URL"), (405, "the URL")],
)
def test_what_to_do(status: int, said: str) -> None:
    assert said in advice(status, "THE_HEADERS")


@pytest.mark.parametrize("status", [204, 400, 413, 500])
def test_where_nothing_is_known_nothing_is_said(status: int) -> None:
    assert advice(status, "THE_HEADERS") == ""
