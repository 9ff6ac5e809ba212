"""Endpoints of a Service from its EndpointSlices."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.control import slices as module
from meshproxy.control.slices import Availability, EndpointSlice, combine
from meshproxy.control_api import ServiceEndpoint, ServiceEndpoints
from meshproxy.sidecar.control_endpoints import MESSAGE_BYTES
from meshproxy.upstream.discovery import MOST_ENDPOINTS

SERVICE = "models/resnet"


def endpoint(address: str, pod: str | None = None, **more: Any) -> dict[str, Any]:
    """As the controller writes it: ready, unless `conditions` says otherwise."""
    conditions = {"ready": True, "serving": True, "terminating": False}
    target = {} if pod is None else {"targetRef": {"kind": "Pod", "name": pod, "uid": f"uid-of-{pod}"}}
    return {"addresses": [address], "conditions": conditions, **target, **more}


TERMINATING = {"ready": False, "serving": True, "terminating": True}
STOPPED = {"ready": False, "serving": False, "terminating": True}
UNREADY = {"ready": False, "serving": False, "terminating": False}
GRPC = [{"name": "grpc", "port": 8500, "protocol": "TCP", "appProtocol": None}]


def slice_of(
    *endpoints: dict[str, Any], name: str = "resnet-abc", ports: Any = GRPC, kind: str = "IPv4", **labels: str
) -> EndpointSlice:
    written = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "models",
            "labels": {module.SERVICE_NAME: "resnet", **labels},
            "managedFields": [{}],
            "uid": "x",
        },
        "addressType": kind,
        "endpoints": list(endpoints),
        "ports": ports,
    }
    return msgspec.json.decode(msgspec.json.encode(written), type=EndpointSlice)


def addresses(*slices: EndpointSlice) -> list[str]:
    found = combine(SERVICE, slices)
    assert found.problem == ""
    return [each.address for each in found.endpoints]


def test_what_the_controller_writes() -> None:
    found = combine(SERVICE, [slice_of(endpoint("10.0.0.2", "b", zone="z2"), endpoint("10.0.0.1", "a", zone="z1"))])
    assert found.endpoints == (
        ServiceEndpoint("10.0.0.1", {"grpc": 8500}, "z1"),
        ServiceEndpoint("10.0.0.2", {"grpc": 8500}, "z2"),
    )
    assert (found.service, found.problem, len(found.version)) == (SERVICE, "", 16)


def test_all_slices_of_a_service_count_and_each_process_once() -> None:
    controllers = slice_of(endpoint("10.0.0.1", "a"), endpoint("10.0.0.2", "b"))
    more = slice_of(endpoint("10.0.0.2", "b"), endpoint("10.0.0.3", "c"), name="resnet-def")
    by_hand = slice_of(endpoint("10.9.0.1"), endpoint("10.9.0.1"), name="external")
    assert addresses(controllers, more, by_hand) == ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.9.0.1"]


def test_ports_go_by_name_and_may_differ_between_slices() -> None:
    old = slice_of(endpoint("10.0.0.1", "a"), ports=[{"name": "rest", "port": 8501}, {"name": "grpc", "port": 8500}])
    new = slice_of(endpoint("10.0.0.2", "b"), ports=[{"name": "grpc", "port": 9000}], name="other")
    unnamed = slice_of(endpoint("10.0.0.3", "c"), ports=[{"name": "", "port": 80}], name="third")
    found = combine(SERVICE, [new, unnamed, old]).endpoints
    assert [each.ports for each in found] == [{"rest": 8501, "grpc": 8500}, {"grpc": 9000}, {"": 80}]


@pytest.mark.parametrize(
    "ports",
    [
        None,
        [],
        [{"name": "grpc"}],  # every port: none can be opened
        [{"name": "dns", "port": 53, "protocol": "UDP"}],
        [{"name": "grpc", "port": 0}],
    ],
)
def test_endpoints_without_a_port_are_left_out(ports: Any) -> None:
    assert addresses(slice_of(endpoint("10.0.0.1"), ports=ports)) == []


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (None, Availability.READY),
        ({}, Availability.READY),
        ({"ready": None}, Availability.READY),
        ({"ready": True, "terminating": True}, Availability.READY),  # publishNotReadyAddresses
        (TERMINATING, Availability.TERMINATING),
        ({"ready": False, "terminating": True}, Availability.OUT),
        ({"ready": False, "serving": True}, Availability.OUT),
        (STOPPED, Availability.OUT),
        (UNREADY, Availability.OUT),
    ],
)
def test_conditions(conditions: Any, expected: Availability) -> None:
    assert Availability.of(msgspec.convert(conditions, module.Conditions | None)) is expected


def test_terminating_endpoints_are_used_while_no_other_is_ready() -> None:
    leaving = endpoint("10.0.0.1", "a", conditions=TERMINATING)
    stopped = endpoint("10.0.0.2", "b", conditions=STOPPED)
    starting = endpoint("10.0.0.3", "c", conditions=UNREADY)
    assert addresses(slice_of(leaving, stopped, starting)) == ["10.0.0.1"]
    assert addresses(slice_of(leaving, stopped, endpoint("10.0.0.3", "c"))) == ["10.0.0.3"]
    assert addresses(slice_of(stopped, starting)) == []


def test_an_endpoint_in_two_slices_is_ready_if_one_says_so() -> None:
    old = slice_of(endpoint("10.0.0.1", "a", conditions=UNREADY))
    assert addresses(old, slice_of(endpoint("10.0.0.1", "a"), name="new")) == ["10.0.0.1"]


def test_a_pod_with_addresses_of_both_families_is_one_endpoint() -> None:
    four = slice_of(endpoint("10.0.0.1", "a"), endpoint("10.0.0.2", "b"))
    six = slice_of(endpoint("fd00::1", "a"), endpoint("fd00::3", "c"), name="six", kind="IPv6")
    assert addresses(six, four) == ["10.0.0.1", "10.0.0.2", "fd00::3"]
    assert addresses(six) == ["fd00::1", "fd00::3"]


def test_of_several_addresses_the_first_is_used() -> None:
    several = {**endpoint("10.0.0.1"), "addresses": ["10.0.0.1", "10.0.0.2"]}
    assert addresses(slice_of(several)) == ["10.0.0.1"]


@pytest.mark.parametrize("address", ["models.example", "0.0.0.0", "224.0.0.1", "::ffff:1.2.3", ""])
def test_addresses_that_nothing_can_have(address: str) -> None:
    assert addresses(slice_of(endpoint(address), endpoint("10.0.0.1"), kind="FQDN")) == ["10.0.0.1"]


def test_lists_that_are_null() -> None:
    without = slice_of()
    for changed in ({"endpoints": None}, {"endpoints": None, "ports": None}):
        assert addresses(msgspec.structs.replace(without, **changed)) == []
    assert addresses(slice_of({"addresses": None}, {})) == []
    assert EndpointSlice(module.SliceMetadata("a", "b")).service is None
    assert slice_of().service == SERVICE


def test_a_service_without_slices_is_unknown_and_one_without_endpoints_is_empty() -> None:
    assert combine(SERVICE, []) == ServiceEndpoints(
        SERVICE, problem="Service models/resnet: there is none, or it has no EndpointSlice"
    )
    empty = combine(SERVICE, [slice_of()])
    assert (empty.endpoints, empty.problem, len(empty.version)) == ((), "", 16)


def hinted(address: str, zone: str, *zones: str) -> dict[str, Any]:
    return endpoint(address, zone=zone, hints={"forZones": [{"name": each} for each in zones]})


def test_hints_say_which_zone_calls_an_endpoint_if_all_have_them() -> None:
    first, second = hinted("10.0.0.1", "a", "b"), hinted("10.0.0.2", "b", "c", "b")

    def zones(*endpoints: dict[str, Any]) -> list[str]:
        return [each.zone for each in combine(SERVICE, [slice_of(*endpoints)]).endpoints]

    assert zones(first, second) == ["b", "b"]
    assert zones(first, second, endpoint("10.0.0.3", zone="c")) == ["a", "b", "c"]
    assert zones(endpoint("10.0.0.1")) == [""]


def test_more_endpoints_than_a_sidecar_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ENDPOINTS", 2)
    found = combine(SERVICE, [slice_of(*(endpoint(f"10.0.0.{number}") for number in (3, 1, 2)))])
    assert [each.address for each in found.endpoints] == ["10.0.0.1", "10.0.0.2"]
    assert found.problem == "Service models/resnet: of 3 endpoints only 2 are used"
    assert found.version


def test_more_ports_than_are_sent() -> None:
    ports = [{"name": f"p{number:02}", "port": number + 1} for number in range(40)]
    found = combine(SERVICE, [slice_of(endpoint("10.0.0.1"), ports=ports[::-1])])
    assert list(found.endpoints[0].ports) == [f"p{number:02}" for number in range(module.MOST_PORTS)]
    assert found.problem == "Service models/resnet: of 40 ports no more than 32 are used, in the order of their names"
    of_udp = [{**port, "protocol": "UDP"} for port in ports[1:]]
    assert combine(SERVICE, [slice_of(endpoint("10.0.0.1"), ports=[ports[0], *of_udp])]).problem == ""


def test_the_largest_service_fits_into_what_a_sidecar_takes() -> None:
    ports = [{"name": f"{number:063}", "port": 65_535 - number} for number in range(module.MOST_PORTS)]
    hosts = [f"2001:db8:1234:5678:9abc:def0:1234:{number + 4096:x}" for number in range(MOST_ENDPOINTS)]
    found = combine(SERVICE, [slice_of(*(endpoint(host, zone="z" * 63) for host in hosts), ports=ports, kind="IPv6")])
    assert len(found.endpoints) == MOST_ENDPOINTS
    assert 2_000_000 < len(msgspec.json.encode(found)) < MESSAGE_BYTES


# Any slices that the API server may have

_BOOLS = st.sampled_from([True, False, None])
_ZONE = st.sampled_from(["a", "b"])
_ENDPOINT = st.builds(
    module.SliceEndpoint,
    addresses=st.none()
    | st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1", "a.example"]), max_size=2).map(tuple),
    conditions=st.none() | st.builds(module.Conditions, _BOOLS, _BOOLS, _BOOLS),
    zone=st.none() | _ZONE,
    hints=st.none() | st.builds(module.Hints, st.none() | st.lists(_ZONE.map(module.Named), max_size=2).map(tuple)),
    target_ref=st.none() | st.builds(module.Reference, st.sampled_from([None, "p", "q"])),
)
_PORT = st.builds(
    module.SlicePort,
    name=st.sampled_from([None, "", "grpc", "rest"]),
    port=st.none() | st.integers(-1, 70_000),
    protocol=st.sampled_from([None, "TCP", "UDP"]),
)
_SLICE = st.builds(
    EndpointSlice,
    st.builds(module.SliceMetadata, st.text("abc", min_size=1, max_size=2), st.just("models")),
    st.none() | st.lists(_ENDPOINT, max_size=5).map(tuple),
    st.none() | st.lists(_PORT, max_size=3).map(tuple),
)


@given(st.lists(_SLICE, max_size=4), st.randoms(use_true_random=False))
def test_whatever_the_slices_are(slices: list[EndpointSlice], chance: Any) -> None:
    found = combine(SERVICE, slices)
    assert bool(found.version) == bool(slices)
    assert all(each.ports and all(0 < port < 65_536 for port in each.ports.values()) for each in found.endpoints)
    usable = [
        (endpoint.addresses[0], Availability.of(endpoint.conditions))
        for each in slices
        for endpoint in each.endpoints or ()
        if each.tcp_ports() and endpoint.addresses and endpoint.addresses[0] != "a.example"
    ]
    best = max((availability for _, availability in usable), default=Availability.OUT)
    expected = {address for address, availability in usable if availability is best is not Availability.OUT}
    assert {each.address for each in found.endpoints} <= expected
    assert bool(found.endpoints) == bool(expected)
    # Neither order nor repetition matters.
    shuffled = slices * 2
    chance.shuffle(shuffled)
    assert combine(SERVICE, shuffled) == found


@given(st.binary(max_size=200))
def test_the_version_is_the_same_for_the_same_endpoints(seed: bytes) -> None:
    ports = {f"p{number}": number + 1 for number in seed[:5]}
    one = ServiceEndpoint("10.0.0.1", ports)
    other = ServiceEndpoint("10.0.0.1", dict(reversed(ports.items())))
    assert module.version_of((one,)) == module.version_of((other,))
    assert module.version_of((one,)) != module.version_of((one, one))
