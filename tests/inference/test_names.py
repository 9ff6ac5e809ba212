from __future__ import annotations

import pytest

from meshproxy.inference.names import NAME_BYTES, BadName, read_name


@pytest.mark.parametrize(
    "name", ["", "half_plus_two", "tenant/model", "größe", "模型", "with space", "a" * NAME_BYTES, "*", "🙂", "%2F"]
)
def test_takes_what_can_be_read(name: str) -> None:
    assert read_name(name.encode()) == name


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"a" * (NAME_BYTES + 1), "longer"),
        ("ö".encode() * 129, "longer"),
        (b"\xff", "UTF-8"),
        (b"\xc0\xaf", "UTF-8"),  # overlong
        (b"\xed\xa0\x80", "UTF-8"),  # a surrogate
        (b"fin\0ance", "control"),
        (b"a\nb", "control"),
        (b"a\x1b[31m", "control"),
        (b"a\x7f", "control"),
        ("a\x85b".encode(), "control"),
        ("a\u2028b".encode(), "control"),
        ("a\u202eb".encode(), "control"),
    ],
)
def test_refuses_what_cannot(raw: bytes, why: str) -> None:
    with pytest.raises(BadName, match=why):
        read_name(raw)
