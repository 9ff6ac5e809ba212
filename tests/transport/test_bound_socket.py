"""Sockets that are bound to an address, and how addresses are written."""

from __future__ import annotations

import pytest

from meshproxy.transport.bound_socket import bind, format_address


def test_a_port_is_shared_by_those_who_say_so() -> None:
    with bind("127.0.0.1", 0, is_shared=True) as first:
        first.listen()
        number = first.getsockname()[1]
        with bind("127.0.0.1", number, is_shared=True) as second:
            second.listen()
        with pytest.raises(OSError, match=f"in use: '127.0.0.1:{number}'"):
            bind("127.0.0.1", number)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        (("::ffff:127.0.0.1", 80, 0, 0), "127.0.0.1:80"),
        (("::ffff:0:a:b", 80, 0, 0), "[::ffff:0:a:b]:80"),  # another block (RFC 2765 section 2.1)
        ("/run/socket", "/run/socket"),
    ],
)
def test_addresses(address: object, text: str) -> None:
    assert format_address(address) == text
