"""The endpoints of the Services that documents name, through changes of both."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meshproxy.codec.grpc import PREFIX_BYTES
from meshproxy.config.fields import Metadata
from meshproxy.config.schema import ModelRole, ModelServer, RoleSpec, Rule
from meshproxy.config.servers import Endpoint, ServerSpec, Service
from meshproxy.control import endpoints as module
from meshproxy.control.endpoints import EndpointTable, NamedServices
from meshproxy.control.scope import Change, Held
from meshproxy.control.slices import SERVICE_NAME, EndpointSlice, SliceEndpoint, SliceMetadata, SlicePort, combine
from meshproxy.control_api import ServiceEndpoints

A, B = "models/a", "models/b"


def a_slice(service: str | None = A, name: str = "one", *hosts: str) -> EndpointSlice:
    labels = {} if service is None else {SERVICE_NAME: service.partition("/")[2]}
    endpoints = tuple(SliceEndpoint((host,)) for host in hosts or ("10.0.0.1",))
    return EndpointSlice(SliceMetadata(name, "models", labels), endpoints, (SlicePort("grpc", 8500),))


class World:
    def __init__(self, *named: str) -> None:
        self.table = EndpointTable()
        self.table.name(named)
        self.changed: list[str] = []
        self.table.on_change = self.changed.append

    def hosts(self, service: str = A) -> list[str]:
        found = self.table.current(service).endpoints
        assert found.problem == ""
        return [each.address for each in found.endpoints]

    def problem(self, service: str = A) -> str:
        found = self.table.current(service).endpoints
        assert (found.version, found.endpoints) == ("", ())
        return found.problem

    def take_changed(self) -> list[str]:
        changed, self.changed[:] = list(self.changed), []
        return changed


def test_what_is_not_known_has_a_reason_and_no_endpoints() -> None:
    nothing = EndpointTable().current(A).endpoints
    assert (nothing.version, nothing.problem) == ("", "Service models/a: the control plane has no documents yet")
    world = World(A)
    assert world.problem() == "Service models/a: the control plane has not read it from the cluster yet"
    assert world.problem(B) == "Service models/b: no ModelServer of the control plane names it"
    world.table.replace([A, B], [a_slice(B)])
    assert world.problem() == "Service models/a: there is none, or it has no EndpointSlice"
    assert world.problem(B) == "Service models/b: no ModelServer of the control plane names it"
    assert world.table.counts() == [((A,), 0)]
    assert world.take_changed() == [A]


def test_who_asked_before_there_were_documents_is_told_when_there_are() -> None:
    table = EndpointTable()
    changed: list[str] = []
    table.on_change = changed.append
    table.current(B)
    table.name([A])
    assert changed == [A, B]
    assert table.current(B).endpoints.problem.endswith("no ModelServer of the control plane names it")


def test_slices_come_change_and_go() -> None:
    world = World(A, B)
    world.table.replace([A, B], [a_slice()])
    assert world.take_changed() == [A, B]
    world.table.put(a_slice(A, "two", "10.0.0.2"))
    assert world.hosts() == ["10.0.0.1", "10.0.0.2"]
    world.table.put(a_slice(A, "two", "10.0.0.3"))
    assert world.hosts() == ["10.0.0.1", "10.0.0.3"]
    world.table.remove("models", "one")
    assert world.hosts() == ["10.0.0.3"]
    assert world.take_changed() == [A, A, A]
    assert world.table.counts() == [((A,), 1), ((B,), 0)]


def test_what_changes_nothing_is_told_to_nobody() -> None:
    world = World(A)
    world.table.put(a_slice())  # before the first list
    world.table.replace([A], [a_slice()])
    world.take_changed()
    world.table.put(a_slice())
    world.table.put(a_slice(B, "of-another"))
    world.table.put(a_slice(None, "of-none"))
    world.table.remove("models", "of-another")
    world.table.replace([A], [a_slice()])
    assert world.take_changed() == []
    assert world.hosts() == ["10.0.0.1"]


def test_a_list_replaces_everything_of_its_services() -> None:
    world = World(A, B)
    world.table.replace([A, B], [a_slice(), a_slice(B, "two")])
    world.take_changed()
    world.table.replace([A], [a_slice(A, "three", "10.0.0.3")])
    assert (world.hosts(), world.hosts(B)) == (["10.0.0.3"], ["10.0.0.1"])
    world.table.remove("models", "one")  # a late event
    assert world.hosts() == ["10.0.0.3"]
    assert world.take_changed() == [A]


@pytest.mark.parametrize("later", [B, None])
def test_a_slice_that_is_given_to_another_service(later: str | None) -> None:
    world = World(A, B)
    world.table.replace([A, B], [a_slice(), a_slice(A, "rest", "10.0.0.9")])
    world.take_changed()
    world.table.put(a_slice(later))
    assert world.hosts() == ["10.0.0.9"]
    assert world.take_changed() == ([A, B] if later else [A])


def test_what_documents_name_no_longer_is_forgotten() -> None:
    world = World(A, B)
    told: list[str] = []
    world.table.on_named = lambda: told.append("named")
    world.table.replace([A, B], [a_slice(), a_slice(B, "two")])
    world.take_changed()
    world.table.name([B])
    world.table.name([B])
    assert world.problem() == "Service models/a: no ModelServer of the control plane names it"
    assert (world.take_changed(), told) == ([A], ["named"])
    world.table.name([A, B])
    assert world.problem().endswith("has not read it from the cluster yet")
    assert world.hosts(B) == ["10.0.0.1"]


def test_a_change_is_computed_and_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    combined: list[str] = []

    def counted(service: str, slices: object) -> ServiceEndpoints:
        combined.append(service)
        return ServiceEndpoints(service, "v")

    monkeypatch.setattr(module, "combine", counted)
    world = World(A, B)
    world.table.replace([A, B], [a_slice(), a_slice(B, "two")])
    for _ in range(3):
        assert world.table.current(A) is world.table.current(A)
        world.table.current(B)
    world.table.put(a_slice(A, "more"))
    for _ in range(3):
        current = world.table.current(A)
        world.table.current(B)
    assert combined == [A, B, A]
    assert msgspec.json.decode(current.message[PREFIX_BYTES:], type=ServiceEndpoints) == current.endpoints


def named(name: str, key: str = "") -> Held:
    """A ModelServer, with static endpoints if no Service is named."""
    service = Service(key.partition("/")[0], key.partition("/")[2], grpc="grpc") if key else None
    endpoints = () if service is not None else (Endpoint(rest="a:1"),)
    spec = ServerSpec(service=service, endpoints=endpoints)
    return Held.of(ModelServer(metadata=Metadata(name), spec=spec), name)


def test_services_are_named_as_long_as_one_document_does() -> None:
    table = EndpointTable()
    told: list[frozenset[str]] = []
    table.on_named = lambda: told.append(table.named)
    services = NamedServices(table)
    one, two, plain = named("one", A), named("two", A), named("plain")
    role = Held.of(ModelRole(metadata=Metadata("r"), spec=RoleSpec((Rule(("*",), ("predict",)),))), "r")
    services.follow([Change("1", None, one), Change("2", None, two), Change("3", None, plain), Change("4", None, role)])
    services.follow([Change("1", one, None)])
    assert told == [{A}]
    services.follow([Change("2", two, named("two", B))])
    services.follow([Change("3", plain, None), Change("5", None, named("three", B))])
    assert told == [{A}, {B}]


NAMES = st.sampled_from(["one", "two", "three"])
SERVICES = st.sampled_from([A, B, "models/c", None])
HOSTS = st.sets(st.sampled_from(["10.0.0.1", "10.0.0.2"]), min_size=1)


class Through(RuleBasedStateMachine):
    """Whatever happens, in whatever order, the table says the same as one that is built from what there is now."""

    @initialize()
    def begin(self) -> None:
        self.table = EndpointTable()
        self.there: dict[str, EndpointSlice] = {}
        self.known: set[str] = set()
        self.shown: dict[str, ServiceEndpoints] = {}
        self.table.on_change = self.forget

    def forget(self, service: str) -> None:
        self.shown.pop(service, None)

    @rule(services=st.sets(st.sampled_from([A, B, "models/c"])))
    def name(self, services: set[str]) -> None:
        self.known &= services
        self.table.name(services)

    @rule(service=SERVICES, name=NAMES, hosts=HOSTS)
    def put(self, service: str | None, name: str, hosts: set[str]) -> None:
        self.there[name] = a_slice(service, name, *sorted(hosts))
        self.table.put(self.there[name])

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        self.there.pop(name, None)
        self.table.remove("models", name)

    @rule()
    def list_all(self) -> None:
        self.known = set(self.table.named)
        self.table.replace(self.known, self.there.values())

    @invariant()
    def it_says_what_there_is(self) -> None:
        for service in self.known:
            its = [each for each in self.there.values() if each.service == service]
            assert self.table.current(service).endpoints == combine(service, its)
        assert {service for (service,), _ in self.table.counts()} == self.known

    @invariant()
    def every_change_was_told(self) -> None:
        for service in (A, B, "models/c"):
            current = self.table.current(service).endpoints
            assert self.shown.setdefault(service, current) == current


TestThrough = Through.TestCase
