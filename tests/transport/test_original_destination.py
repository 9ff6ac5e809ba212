"""What the kernel says, byte for byte; and what it says of sockets that were not redirected."""

from __future__ import annotations

import errno
import socket
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.transport.original_destination import original_destination, read_address

INET = (2).to_bytes(2, sys.byteorder)
INET6 = (10).to_bytes(2, sys.byteorder)
IPV4 = INET + bytes.fromhex("2134 c0000201") + bytes(8)
IPV6 = INET6 + bytes.fromhex("2134 00000000 20010db8000000000000000000000001 00000000")


class Redirected:
    """A socket that netfilter remembers."""

    def __init__(self, family: int, own: tuple[object, ...], answers: dict[int, bytes]) -> None:
        self.family = family
        self._own = own
        self._answers = answers

    def getsockname(self) -> tuple[object, ...]:
        return self._own

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert option == 80
        if level not in self._answers:
            raise OSError(errno.ENOENT, "No such file or directory")
        return self._answers[level][:size]


@pytest.mark.parametrize(
    ("family", "own", "level", "answer", "expected"),
    [
        (socket.AF_INET, ("10.0.0.1", 18501), 0, IPV4, "192.0.2.1:8500"),
        (socket.AF_INET6, ("::ffff:10.0.0.1", 18501, 0, 0), 0, IPV4, "192.0.2.1:8500"),
        (socket.AF_INET6, ("fd00::1", 18501, 0, 0), 41, IPV6, "[2001:db8::1]:8500"),
        (socket.AF_INET, ("192.0.2.1", 8500), 0, IPV4, None),
        (socket.AF_INET, ("192.0.2.1", 18501), 0, IPV4, "192.0.2.1:8500"),
        (socket.AF_INET6, ("::ffff:192.0.2.1", 8500, 0, 0), 0, IPV4, None),
        (socket.AF_INET6, ("2001:db8::1", 8500, 0, 0), 41, IPV6, None),
        (socket.AF_INET, ("10.0.0.1", 18501), 41, IPV6, None),
        (socket.AF_INET6, ("fd00::1", 18501, 0, 0), 0, IPV4, None),
        (socket.AF_INET, ("10.0.0.1", 18501), 0, b"", None),
    ],
)
def test_where_a_connection_was_meant_to_go(
    family: int, own: tuple[object, ...], level: int, answer: bytes, expected: str | None
) -> None:
    sock: Any = Redirected(family, own, {level: answer})
    assert original_destination(sock) == expected


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_connection_that_was_not_redirected(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        socket.create_server((address, 0), family=family) as server,
        socket.create_connection(server.getsockname()[:2]),
    ):
        accepted, _ = server.accept()
        with accepted:
            assert original_destination(accepted) is None
    assert original_destination(accepted) is None  # nor one that is closed


def test_a_unix_socket_has_none() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert original_destination(ours) is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (IPV4, "192.0.2.1:8500"),
        (INET + bytes.fromhex("ffff ffffffff") + b"anything", "255.255.255.255:65535"),
        (IPV6, "[2001:db8::1]:8500"),
        (INET6 + bytes.fromhex("0001 ffffffff fe800000000000000000000000000002 00000003"), "[fe80::2]:1"),
        (IPV4[:-1], None),
        (IPV6 + b"\0", None),
        (INET6 + IPV4[2:], None),
        (INET + IPV6[2:], None),
        (bytes(16), None),
        (b"", None),
    ],
)
def test_socket_addresses(data: bytes, expected: str | None) -> None:
    assert read_address(data) == expected


@given(data=st.binary(max_size=40))
def test_whatever_comes_is_an_address_or_none(data: bytes) -> None:
    text = read_address(data)
    assert text is None or 0 <= int(text.rpartition(":")[2]) < 65_536
