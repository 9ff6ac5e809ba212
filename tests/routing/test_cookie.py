"""Cookies of clients."""

from __future__ import annotations

import time
from http.cookies import SimpleCookie

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.codec.events import Headers
from meshproxy.config.servers import Cookie
from meshproxy.routing.cookie import read_cookie, write_cookie


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ([b"user=a"], b"a"),
        ([b'user="a b"'], b"a"),
        ([b'x=1; user="a"; y=2'], b"a"),
        ([b"x=1;user=a=b"], b"a=b"),
        ([b"x=1", b"user=a"], b"a"),
        ([b"user=a; user=b"], b"a"),
        ([b"user=a", b"user=b"], b"a"),
        ([b" user = a "], b"a"),
        ([b"x=user=a"], None),
        ([b"xuser=a; User=b; user2=c"], None),
        ([b"user"], None),
        ([b"user="], None),
        ([b"user=; user=b"], b"b"),
        ([b'user=""; x=1; user="b"'], b"b"),
        ([b'user="; user='], None),
        ([b"user=", b"user=b"], b"b"),
        ([], None),
    ],
)
def test_the_value_of_a_cookie(fields: list[bytes], value: bytes | None) -> None:
    headers: Headers = ((b"x-user", b"user=z"), *((b"cookie", field) for field in fields))
    assert read_cookie(headers, "user") == value


def test_a_name_is_no_expression() -> None:
    assert read_cookie(((b"cookie", b"axb=1"),), "a.b") is None
    assert read_cookie(((b"cookie", b"a.b=1"),), "a.b") == b"1"


NAMES = st.sampled_from(["a", "b", "user"])


@given(st.lists(st.tuples(NAMES, st.text("xyz0-", min_size=1, max_size=4)), max_size=6), NAMES)
def test_it_reads_what_clients_write(cookies: list[tuple[str, str]], name: str) -> None:
    field = "; ".join(f"{key}={value}" for key, value in cookies).encode()
    first = next((value for key, value in cookies if key == name), None)
    assert read_cookie(((b"cookie", field),), name) == (None if first is None else first.encode())


@pytest.mark.parametrize("value", [b";" * 65_536, b" " * 65_536, b"; user" * 10_000, b";" + b" " * 65_000 + b"x"])
def test_a_hostile_value_costs_little(value: bytes) -> None:
    begun = time.process_time()
    assert read_cookie(((b"cookie", value),), "user") is None
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize(
    ("cookie", "is_secure", "field"),
    [
        (Cookie(name="user", ttl=3600.0), False, b"user=ab; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"),
        (Cookie(name="user", ttl=0.0), True, b"user=ab; Path=/; HttpOnly; SameSite=Lax; Secure"),
        (
            Cookie(name="u", ttl=0.2, path="/v1", same_site="None"),
            True,
            b"u=ab; Path=/v1; Max-Age=1; HttpOnly; SameSite=None; Secure",
        ),
        (Cookie(name="u", ttl=0.0, same_site="None"), False, b"u=ab; Path=/; HttpOnly; SameSite=None; Secure"),
        (Cookie(name="__Host-u", ttl=0.0), False, b"__Host-u=ab; Path=/; HttpOnly; SameSite=Lax; Secure"),
        (Cookie(name="__secure-u", ttl=0.0), False, b"__secure-u=ab; Path=/; HttpOnly; SameSite=Lax; Secure"),
    ],
)
def test_a_cookie_for_a_client(cookie: Cookie, is_secure: bool, field: bytes) -> None:
    assert write_cookie(cookie, "ab", is_secure) == (b"set-cookie", field)
    read = SimpleCookie(field.decode())[cookie.name]
    assert (read.value, read["path"], bool(read["httponly"])) == ("ab", cookie.path, True)
