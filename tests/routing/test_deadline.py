"""What the next hop is told of our deadline."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.codec.grpc import parse_timeout
from meshproxy.routing.deadline import DAY, WHOLE_MILLISECONDS, format_rest, grpc_timeout, rest_timeout

UNITS = {b"n": 1e-9, b"u": 1e-6, b"m": 1e-3, b"S": 1.0, b"M": 60.0, b"H": 3600.0}
ULP = 1 + 2**-51  # a decimal fraction and the nearest double are not quite the same


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (0.05, b"50000000n"),
        (0.25, b"250m"),
        (30.0, b"30000m"),
        (3600.0, b"3600000m"),
        (86_400.0, b"86400000m"),
        (1e9, b"16666666M"),
        (0.0, b"1n"),
        (-1.0, b"1n"),
    ],
)
def test_grpc(seconds: float, value: bytes) -> None:
    assert grpc_timeout(seconds) == value


@given(st.integers(100, 99_999))
def test_grpc_in_whole_milliseconds(milliseconds: int) -> None:
    """All that is left of one millisecond is said in one way."""
    values = {grpc_timeout((milliseconds + part) / 1000) for part in (0.1, 0.5, 0.9)}
    assert len(values) == 1
    (value,) = values
    read = parse_timeout(value)
    assert read is not None
    assert (milliseconds - 0.001001) / 1000 <= read <= milliseconds / 1000 * ULP


@given(st.floats(1e-8, 3e11))
def test_grpc_never_says_more_and_hardly_less(seconds: float) -> None:
    value = grpc_timeout(seconds)
    read = parse_timeout(value)
    assert read is not None
    assert 2 <= len(value) <= 9
    assert seconds - UNITS[value[-1:]] * ULP - seconds * 2**-50 < read <= seconds * ULP
    if WHOLE_MILLISECONDS <= seconds <= DAY:
        assert value[-1:] == b"m"
    else:  # the finest unit there is room for
        assert value[-1:] == b"n" or len(value) >= 7


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"250", 0.25),
        (b"1", 0.001),
        (b"007", 0.007),
        (b"9999999999", 9_999_999.999),
        (b"0", None),
        (b"000", None),
        (b"", None),
        (b"-1", None),
        (b"1.5", None),
        (b"1s", None),
        (b" 1", None),
        (b"1\n", None),
        (b"10000000000", None),
        ("\u0661".encode(), None),
        (b"1_0", None),
    ],
)
def test_rest(value: bytes, seconds: float | None) -> None:
    assert rest_timeout(value) == seconds


@given(st.floats(0.001, 86_400))
def test_rest_never_says_more_and_less_than_a_millisecond_less(seconds: float) -> None:
    read = rest_timeout(format_rest(seconds))
    assert read is not None
    assert seconds - 0.001 * ULP - seconds * 2**-50 < read <= seconds * ULP


def test_rest_at_its_ends() -> None:
    assert [format_rest(seconds) for seconds in (-1.0, 0.0, 0.0004)] == [b"1"] * 3
    assert format_rest(1e12) == b"9999999999"


@given(st.binary(max_size=12))
def test_whatever_comes_is_read_or_not(value: bytes) -> None:
    read = rest_timeout(value)
    assert read is None or 0 < read < 10**7
