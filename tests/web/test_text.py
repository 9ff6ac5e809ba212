"""Figures and times for people. The browser writes them the same way: tests/conformance/test_page.py compares."""

from __future__ import annotations

import pytest

from meshproxy.web.text import NONE, clock, model_url, percent, rate, seconds
from tests.web.meshes import NOW


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.0333, "0.033"),
        (0.5, "0.5"),
        (12.34, "12.3"),
        (1.25, "1.3"),
        (1234.5, "1,235"),
        (1e7, "10,000,000"),
    ],
)
def test_rate(value: float, text: str) -> None:
    assert rate(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, NONE),
        (1.0, "100 %"),
        (0.999999, "99.99 %"),
        (0.5, "50 %"),
        (0.0, "0 %"),
        (0.1, "10 %"),
        (0.98765, "98.77 %"),
    ],
)
def test_percent(value: float | None, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, NONE), (1.5, "1.50 s"), (0.0123, "12.3 ms"), (4e-5, "40 \N{MICRO SIGN}s")]
)
def test_seconds(value: float | None, text: str) -> None:
    assert seconds(value) == text


def test_clock_and_address() -> None:
    assert clock(NOW) == "2026-01-02 12:00:00 UTC"
    assert model_url("../a b&c") == "/model?name=..%2Fa%20b%26c"
