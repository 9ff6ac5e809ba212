from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.upstream.discovery import MOST_ENDPOINTS, Found
from meshproxy.upstream.slices import Slices, StoreDiscovery, read_slices

PORTS = [{"name": "grpc", "port": 8500, "protocol": "TCP"}, {"name": "rest", "port": 8501, "protocol": "TCP"}]
WANTED: Any = {"rest": "rest", "grpc": "grpc"}


def endpoint(host: str, zone: str | None = None, **conditions: Any) -> dict[str, Any]:
    return {"addresses": [host], "conditions": conditions, "zone": zone, "targetRef": {"kind": "Pod"}}


def piece(*endpoints: Any, kind: str = "IPv4", ports: Any = PORTS) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "models-abc"},
        "addressType": kind,
        "endpoints": list(endpoints),
        "ports": ports,
    }


def both(host: str, locality: str = "") -> Found:
    return Found(rest=f"{host}:8501", grpc=f"{host}:8500", locality=locality)


def test_endpoints_with_their_zones_and_ports() -> None:
    read = read_slices(
        [piece(endpoint("10.0.0.10", "b", ready=True), endpoint("10.0.0.9")), piece(endpoint("10.0.0.1", "a"))], WANTED
    )
    assert read == Slices((both("10.0.0.1", "a"), both("10.0.0.9"), both("10.0.0.10", "b")), 0)


def test_ipv6_stands_in_brackets_and_behind_ipv4() -> None:
    read = read_slices([piece(endpoint("FD00::0:1"), kind="IPv6"), piece(endpoint("10.0.0.1"))], {"sidecar": 18500})
    assert read == Slices((Found(sidecar="10.0.0.1:18500"), Found(sidecar="[fd00::1]:18500")), 0)


def test_a_port_by_number_need_not_be_listed() -> None:
    assert read_slices([piece(endpoint("10.0.0.1"), ports=None)], {"grpc": 9000}).found == (
        Found(grpc="10.0.0.1:9000"),
    )


def test_a_surface_whose_port_a_slice_does_not_have_is_not_served_there() -> None:
    read = read_slices([piece(endpoint("10.0.0.1"), ports=PORTS[:1])], WANTED)
    assert read == Slices((Found(grpc="10.0.0.1:8500"),), 0)


def test_an_endpoint_without_any_of_the_ports_is_counted() -> None:
    assert read_slices([piece(endpoint("10.0.0.1"))], {"grpc": "http2"}) == Slices((), 1)


def test_a_port_without_a_name_is_the_only_one() -> None:
    assert read_slices([piece(endpoint("10.0.0.1"), ports=[{"port": 8500}])], {"grpc": ""}).found == (
        Found(grpc="10.0.0.1:8500"),
    )


def test_ports_of_other_protocols_do_not_count() -> None:
    assert read_slices(
        [piece(endpoint("10.0.0.1"), ports=[{"name": "grpc", "port": 8500, "protocol": "UDP"}])], {"grpc": "grpc"}
    ) == Slices((), 1)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, True),
        ({"ready": None}, True),
        ({"ready": True}, True),
        ({"ready": False}, False),
        ({"ready": False, "serving": True}, False),
        ({"ready": False, "serving": True, "terminating": True}, True),
        ({"ready": False, "serving": False, "terminating": True}, False),
        ({"ready": False, "serving": None, "terminating": True}, False),
        ({"ready": True, "serving": True, "terminating": True}, True),  # publishNotReadyAddresses
    ],
)
def test_alone_it_takes_calls(conditions: dict[str, Any], expected: bool) -> None:
    assert bool(read_slices([piece(endpoint("10.0.0.1", **conditions))], WANTED).found) is expected


def test_those_that_terminate_take_calls_only_while_nobody_is_ready() -> None:
    leaving = endpoint("10.0.0.1", ready=False, serving=True, terminating=True)
    starting = endpoint("10.0.0.2", ready=False)
    assert read_slices([piece(leaving), piece(starting)], WANTED).found == (both("10.0.0.1"),)
    assert read_slices([piece(leaving), piece(endpoint("10.0.0.3"))], WANTED).found == (both("10.0.0.3"),)


def test_an_endpoint_in_two_slices_is_one_and_is_ready_if_one_of_them_says_so() -> None:
    twice = [piece(endpoint("10.0.0.1", "a", ready=False)), piece(endpoint("10.0.0.1", "a"), endpoint("10.0.0.1", "b"))]
    assert read_slices(twice, WANTED).found == (both("10.0.0.1", "a"),)


def test_the_first_address_counts() -> None:
    assert read_slices([piece({"addresses": ["10.0.0.1", "10.0.0.2"], "conditions": None})], WANTED).found == (
        both("10.0.0.1"),
    )


def test_names_are_not_addresses() -> None:
    assert read_slices([piece(endpoint("models.example"), kind="FQDN")], WANTED) == Slices((), 0)


@pytest.mark.parametrize(
    "broken",
    [
        None,
        "slice",
        {},
        {"addressType": "IPv4", "endpoints": 1},
        {"addressType": ["IPv4"], "endpoints": []},
        piece(None),
        piece({"addresses": []}),
        piece({"addresses": "10.0.0.1"}),
        piece({"addresses": [1]}),
        piece(endpoint("10.0.0.256")),
        piece(endpoint("fd00::1")),
        piece(endpoint("10.0.0.1"), kind="IPv6"),
        piece(endpoint("0.0.0.0")),
        piece(endpoint("10.0.0.1"), ports=1),
        piece(endpoint("10.0.0.1"), ports=[None, {"name": 1, "port": 1}, {"name": "grpc", "port": "8500"}]),
        piece(endpoint("10.0.0.1"), ports=[{"name": "grpc", "port": None}, {"name": "rest", "port": True}]),
        piece(endpoint("10.0.0.1"), ports=[{"name": "grpc", "port": 65_536}, {"name": "rest", "port": 0}]),
    ],
)
def test_what_cannot_be_read_is_counted_and_harms_nobody(broken: Any) -> None:
    assert read_slices([broken, piece(endpoint("10.0.0.1"))], WANTED) == Slices((both("10.0.0.1"),), 1)


def test_odd_conditions_and_zones_are_as_if_they_were_not_there() -> None:
    odd = {"addresses": ["10.0.0.1"], "conditions": "ready", "zone": 7}
    assert read_slices([piece(odd)], WANTED) == Slices((both("10.0.0.1"),), 0)


def test_a_service_with_more_than_we_take() -> None:
    hosts = [f"10.0.{i // 250}.{i % 250}" for i in range(1, MOST_ENDPOINTS + 11)]
    found = read_slices([piece(*map(endpoint, hosts))], WANTED).found
    assert found == tuple(both(host) for host in hosts[:MOST_ENDPOINTS])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(["IPv4", "10.0.0.1", "TCP"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["addressType", "endpoints", "ports", "addresses", "conditions", "ready", "zone", "name", "port"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=4))
def test_nothing_raises(slices: list[Any]) -> None:
    assert read_slices(slices, WANTED).skipped >= 0


@given(st.lists(st.integers(1, 250), unique=True, max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_slices_and_endpoints_means_nothing(numbers: list[int], chance: random.Random) -> None:
    slices = [piece(endpoint(f"10.0.0.{number}"), endpoint(f"10.0.1.{number}")) for number in numbers]
    expected = read_slices(slices, WANTED)
    chance.shuffle(slices)
    for each in slices:
        chance.shuffle(each["endpoints"])
    assert read_slices(slices, WANTED) == expected


class Store:
    """Keeps slices by namespace and service (`EndpointStore`)."""

    def __init__(self) -> None:
        self.slices: dict[tuple[str, str], list[Any]] = {}
        self.watchers: dict[tuple[str, str], list[Callable[[Iterable[object]], None]]] = {}

    def watch(self, namespace: str, service: str, tell: Callable[[Iterable[object]], None]) -> Callable[[], None]:
        key = (namespace, service)
        self.watchers.setdefault(key, []).append(tell)
        if key in self.slices:
            tell(self.slices[key])
        return lambda: self.watchers[key].remove(tell)

    def put(self, namespace: str, service: str, *slices: Any) -> None:
        self.slices[namespace, service] = list(slices)
        for tell in list(self.watchers.get((namespace, service), ())):
            tell(slices)


async def test_a_service_is_followed_until_we_close() -> None:
    store = Store()
    told: list[tuple[Found, ...]] = []
    failures: list[str] = []
    discovery = StoreDiscovery(store, "prod", "models", WANTED, failures.append)
    discovery.start(told.append)
    assert told == []
    store.put("prod", "others", piece(endpoint("10.0.9.9")))
    store.put("prod", "models", piece(endpoint("10.0.0.1")))
    store.put("prod", "models", piece(endpoint("10.0.0.1", nodeName="n")))
    assert told == [(both("10.0.0.1"),)]
    store.put("prod", "models", piece(endpoint("10.0.0.2"), None))
    assert told[1:] == [(both("10.0.0.2"),)]
    assert failures == [
        "Service prod/models: 1 of its EndpointSlices or their endpoints cannot be read, or have none of the ports"
    ]
    store.put("prod", "models")
    assert told[2:] == [()]  # scaled to nothing: its addresses are somebody else's by now
    await discovery.close()
    await discovery.close()
    store.put("prod", "models", piece(endpoint("10.0.0.3")))
    assert len(told) == 3


async def test_what_the_store_knows_is_told_at_once() -> None:
    store = Store()
    store.put("prod", "models", piece(endpoint("10.0.0.1")))
    told: list[tuple[Found, ...]] = []
    discovery = StoreDiscovery(store, "prod", "models", WANTED, print)
    discovery.start(told.append)
    assert told == [(both("10.0.0.1"),)]
    await discovery.close()
