"""Names and values octet by octet: what may stand where (CVE-2025-57804 and its family: what is let through here is a
line of its own once the head is sent on as HTTP/1.1)."""

from __future__ import annotations

import pytest

from meshproxy.codec.h2 import fields
from meshproxy.codec.h2.fields import kind_of_name, make_field

TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
VISIBLE = bytes(octet for octet in range(256) if octet not in (*range(0x21), 0x7F))


def kind(name: bytes, value: bytes) -> int:
    return make_field(name, value, kind_of_name(name))[2]


@pytest.mark.parametrize("form", [b"%cx", b"x%cx", b"x%c", b"%c"])
def test_octets_of_a_name(form: bytes) -> None:
    for octet in range(256):
        name = form % octet
        allowed = fields.REGULAR if octet in TOKEN else fields.BAD_NAME
        if name.startswith(b":"):
            allowed = fields.UNKNOWN_PSEUDO
        assert kind(name, b"v") == allowed, name


def test_octets_of_a_value() -> None:
    for octet in range(256):
        inner = fields.REGULAR if octet in VISIBLE or octet in b" \t" else fields.BAD_VALUE
        assert kind(b"x", b"a%cb" % octet) == inner, octet
        for value in (b"%cb" % octet, b"a%c" % octet, b"%c" % octet):
            assert kind(b"x", value) == inner, value


@pytest.mark.parametrize(
    ("name", "good", "allowed"),
    [
        (b":method", b"POST", TOKEN + TOKEN.upper()),
        (b":scheme", b"https", b""),
        (b":path", b"/a?b", b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,;=:@/?"),
        (b":authority", b"a.b", b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,;="),
        (b":status", b"200", b""),
        (b"content-length", b"12", b"0123456789"),
        (b"te", b"trailers", b""),
    ],
)
def test_octets_of_what_we_read_ourselves(name: bytes, good: bytes, allowed: bytes) -> None:
    assert kind(name, good) not in (fields.BAD_VALUE, fields.BAD_NAME)
    for octet in range(256):
        middle = good[:2] + b"%c" % octet + good[2:]
        assert (kind(name, middle) != fields.BAD_VALUE) == (octet in allowed), middle
        if octet not in allowed + b":":
            assert kind(name, b"%c" % octet + good) == fields.BAD_VALUE, octet
            assert kind(name, good + b"%c" % octet) == fields.BAD_VALUE, octet


@pytest.mark.parametrize(
    ("name", "value", "is_good"),
    [
        (b":method", b"M" * 32, True),
        (b":method", b"M" * 33, False),
        (b":method", b"", False),
        (b":path", b"*", True),
        (b":path", b"", False),
        (b":path", b"pkg.Service/Method", False),  # CVE-2026-33186
        (b":path", b"/%41%zz", False),
        (b":path", b"/%4", False),
        (b":path", b"/%41", True),
        (b":path", b"/a?b?c/d", True),
        (b":path", b"http://a/", False),
        (b":scheme", b"https", True),
        (b":scheme", b"HTTP", False),
        (b":scheme", b"ftp", False),
        (b":scheme", b"http\n", False),
        (b":authority", b"", False),
        (b":authority", b"user@a", False),
        (b":authority", b"a:80", True),
        (b":authority", b"a:800000", False),
        (b":authority", b"[::1]:80", True),
        (b":authority", b"[::1", False),
        (b":authority", b"%2Ftmp%2Fsocket", True),
        (b":status", b"099", False),
        (b":status", b"600", False),
        (b":status", b"20", False),
        (b":status", b"+20", False),
        (b"content-length", b"0" * 19, True),
        (b"content-length", b"0" * 20, False),
        (b"content-length", b"", False),
        (b"content-length", b"5, 5", False),
        (b"content-length", "\u0665".encode(), False),
        (b"te", b"trailers, gzip", False),
        (b"te", b"", False),
        (b"host", b"a/b", False),
    ],
)
def test_values_of_what_we_read_ourselves(name: bytes, value: bytes, is_good: bool) -> None:
    assert (kind(name, value) != fields.BAD_VALUE) is is_good


@pytest.mark.parametrize("name", [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"])
def test_fields_of_a_connection(name: bytes) -> None:
    assert kind(name, b"close") == fields.CONNECTION


def test_size_counts_as_hpack_does() -> None:
    assert make_field(b"custom-key", b"custom-header", fields.REGULAR) == ((b"custom-key", b"custom-header"), 55, 0)
