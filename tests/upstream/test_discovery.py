from __future__ import annotations

from ipaddress import ip_address

import pytest

from meshproxy.upstream.discovery import EndpointAddress, LastGoodEndpoints, Static, address, is_usable, order

A = EndpointAddress(rest="10.0.0.1:8501", grpc="10.0.0.1:8500")
B = EndpointAddress(grpc="10.0.0.2:8500", locality="zone-b")
C = EndpointAddress(sidecar="[fd00::3]:18500")


def test_keys_say_what_is_where() -> None:
    assert [each.key for each in (A, B, C)] == [
        "rest=10.0.0.1:8501,grpc=10.0.0.1:8500",
        "grpc=10.0.0.2:8500",
        "sidecar=[fd00::3]:18500",
    ]


def test_the_same_address_for_another_surface_is_another_endpoint() -> None:
    assert EndpointAddress(rest="a:1").key != EndpointAddress(grpc="a:1").key


def test_a_locality_does_not_change_a_key() -> None:
    assert EndpointAddress(rest="a:1", locality="x").key == EndpointAddress(rest="a:1", locality="y").key


async def test_static_endpoints_are_told_at_once_and_each_once() -> None:
    told: list[tuple[EndpointAddress, ...]] = []
    static = Static([B, A, B])
    static.start(told.append)
    assert told == [(B, A)]
    await static.close()
    assert told == [(B, A)]


def test_only_what_has_changed_is_told_and_failures_change_nothing() -> None:
    told: list[tuple[EndpointAddress, ...]] = []
    failures: list[str] = []
    last = LastGoodEndpoints(told.append, failures.append)
    last.fail("no answer")
    assert (last.found, last.failures, told) == (None, 1, [])
    last.take((A,))
    last.take((A,))
    last.fail("no answer")
    last.fail("no answer")
    assert (last.found, last.failures) == ((A,), 2)
    last.take((A, B))
    assert (told, last.failures, failures) == ([(A,), (A, B)], 0, ["no answer"] * 3)


def test_that_there_is_nothing_is_told_too() -> None:
    told: list[tuple[EndpointAddress, ...]] = []
    LastGoodEndpoints(told.append, print).take(())
    assert told == [()]


def test_addresses() -> None:
    assert address(ip_address("10.0.0.1"), 8500) == "10.0.0.1:8500"
    assert address(ip_address("fd00::1"), 8500) == "[fd00::1]:8500"
    hosts = [ip_address(text) for text in ("fd00::1", "10.0.0.10", "10.0.0.9")]
    assert [str(host) for host in sorted(hosts, key=order)] == ["10.0.0.9", "10.0.0.10", "fd00::1"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", True),
        ("127.0.0.1", True),
        ("fd00::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("224.0.0.1", False),
    ],
)
def test_addresses_where_nothing_can_be(text: str, expected: bool) -> None:
    assert is_usable(ip_address(text)) is expected
