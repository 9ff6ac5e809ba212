"""Clusters across reloads: what is kept, what is told, what is closed, and whom they believe."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from meshproxy.codec.limits import Limits
from meshproxy.config import routes, schema, servers, sidecars
from meshproxy.config.fields import WorkloadSubject
from meshproxy.config.values import Address
from meshproxy.control_api import ServiceEndpoint, ServiceEndpoints
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.caller import Workload
from meshproxy.routing.failure import Failure
from meshproxy.sidecar import clusters as module
from meshproxy.sidecar.clusters import OWN_DESCRIPTORS, Clusters, cluster_settings, found, models_of, share_out
from meshproxy.transport.connection import ConnectionContext, Times
from meshproxy.transport.connector import PeerSecurity
from meshproxy.transport.listener import PeerRejected
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import Reaper
from meshproxy.upstream import dns
from meshproxy.upstream.breaker import State
from meshproxy.upstream.checks import CheckResult
from meshproxy.upstream.cluster import Cluster, Securities
from meshproxy.upstream.discovery import EndpointAddress
from meshproxy.upstream.peak_ewma import FIRST_SHARE
from meshproxy.upstream.service import endpoint_file
from tests.identity.peers import handshaken

CA = DevelopmentCA.create("dev.example")
TF = "spiffe://dev.example/ns/serving/sa/tf"


class Told:
    """Who hears what clusters find out (`cluster.Watch`, `ClusterObserver`)."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    def circuit(self, *what: Any) -> None: ...
    def ejected(self, *what: Any) -> None: ...
    def connect_failed(self, *what: Any) -> None: ...

    def endpoints(self, server: str, added: Any, removed: Any) -> None:
        self.said.append(("endpoints", server, list(added), list(removed)))

    def discovery_failed(self, server: str, reason: str) -> None:
        self.said.append(("failed", server))

    def checked(self, server: str, endpoint: str, is_good: bool) -> None:
        self.said.append(("checked", server, endpoint, is_good))

    def health_changed(self, server: str) -> None:
        self.said.append(("health", server))


class Idle:
    """A checker that asks nobody (`checks.Checker`)."""

    made: list[Idle] = []  # noqa: RUF012

    def __init__(self, shared: Any, settings: Any, health: Any, rest: Any, grpc: Any, tell: Any) -> None:
        self.health, self.rest, self.tell = health, rest, tell
        self.is_started = self.is_closed = False
        self.available: dict[str, tuple[str, ...]] = {}
        Idle.made.append(self)

    def start(self) -> None:
        self.is_started = True

    async def close(self) -> None:
        self.is_closed = True


class Silent:
    """Looks names up, and hears nothing until it is told what to say (`dns.DnsDiscovery`)."""

    made: list[Silent] = []  # noqa: RUF012

    def __init__(self, loop: Any, settings: Any, on_failure: Any) -> None:
        self.on_failure = on_failure
        self.is_closed = False
        Silent.made.append(self)

    def start(self, tell: Any) -> None:
        self.tell = tell

    async def close(self) -> None:
        self.is_closed = True


class Now:
    """What changes while a test runs."""

    good_until = 4e9
    """When our own certificate expires."""


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    Idle.made, Silent.made = [], []
    monkeypatch.setattr(module, "Checker", Idle)
    monkeypatch.setattr(dns, "DnsDiscovery", Silent)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def clusters(told: Told) -> AsyncIterator[Clusters]:
    loop = asyncio.get_running_loop()
    shared = ConnectionContext(
        loop=loop, outbox=Outbox(loop), reaper=Reaper(loop), limits=Limits(), times=Times(), on_limit=lambda name: None
    )

    def no_context() -> Any:
        raise AssertionError("nobody is called")

    made = Clusters(shared, told, told, no_context, no_context)
    yield made
    await made.close()


def server(name: str = "a", *ports: int, **changes: Any) -> schema.ModelServer:
    endpoints = tuple(servers.Endpoint(rest=f"127.0.0.1:{port}") for port in ports or (8501,))
    if "dns" in changes or "service" in changes:
        endpoints = ()
    spec = servers.ServerSpec(**{"endpoints": endpoints, **changes})
    return schema.ModelServer(metadata=schema.Metadata(name), spec=spec)


def looked_up(name: str = "far") -> schema.ModelServer:
    return server(name, dns=servers.Dns(name="models.serving", rest=8501))


def route(name: str, *models: str, **changes: Any) -> schema.ModelRoute:
    return schema.ModelRoute(
        metadata=schema.Metadata(name), spec=routes.RouteSpec(models=models, **{"server": "a", **changes})
    )


def documents(*them: schema.ModelServer, trust_domain: str = "dev.example", **sets: Any) -> schema.Documents:
    sidecar = {"locality": None, **sets.pop("sidecar", {})}
    return schema.Documents(
        mesh=schema.MeshConfig(metadata=schema.Metadata("mesh"), spec=schema.MeshSpec(trust_domain=trust_domain)),
        sidecar=schema.Sidecar(
            metadata=schema.Metadata("own"),
            spec=sidecars.SidecarSpec(inbound=sidecars.Inbound(server=them[0].metadata.name), **sidecar),
        ),
        **{"servers": them, "fingerprint": "", **sets},
    )


def take(clusters: Clusters, *them: schema.ModelServer, **sets: Any) -> dict[str, Cluster]:
    given = documents(*them, **sets)
    built = clusters.build(given)
    clusters.adopt(given)
    return built


class TestSettings:
    def test_a_server_in_the_words_of_its_live_side(self) -> None:
        spec = server(
            "a",
            connect_timeout=2.0,
            max_connections=7,
            idle_timeout=9.0,
            balancing=servers.Balancing(policy="ring-hash", key=servers.Key(by="client-id"), warm_up=3.0),
            breaker=servers.BreakerSettings(consecutive_failures=9),
            ejection=servers.EjectionSettings(min_endpoints=4),
        ).spec
        settings = cluster_settings(spec)
        pool = settings.pool
        assert (pool.connect_timeout, pool.max_connections, pool.idle_timeout) == (2.0, 7, 9.0)
        assert (settings.balancing, settings.breaker, settings.ejection) == (
            spec.balancing,
            spec.breaker,
            spec.ejection,
        )
        assert pool.max_pending > 0

    def test_without_a_limit_of_its_own_a_server_has_one_that_leaves_descriptors(self) -> None:
        assert cluster_settings(server().spec).pool.max_connections >= 16

    def test_endpoints_as_they_are_written(self) -> None:
        both = servers.Endpoint(rest="a:1", grpc="[::1]:2", locality="here")
        sidecar = servers.Endpoint(sidecar=Address("b", 3))
        assert found((both, sidecar)) == (
            EndpointAddress(rest="a:1", grpc="[::1]:2", locality="here"),
            EndpointAddress(sidecar="b:3"),
        )


class TestAcrossReloads:
    async def test_what_was_learned_is_kept_while_only_endpoints_change(self, clusters: Clusters, told: Told) -> None:
        first = take(clusters, server("a", 1, 2))["a"]
        one = first.endpoints["rest=127.0.0.1:1"]
        for _ in range(5):
            one.failed("m", Failure.CONNECT, 0.0, one.begin("m", 0.0))
        assert one.states()[0] == ("", State.OPEN)
        second = take(clusters, server("a", 1, 3))["a"]
        assert second is first
        assert list(second.endpoints) == ["rest=127.0.0.1:1", "rest=127.0.0.1:3"]
        assert second.endpoints["rest=127.0.0.1:1"] is one
        assert one.states()[0] == ("", State.OPEN)
        assert told.said == [("endpoints", "a", ["127.0.0.1:3"], ["127.0.0.1:2"])]

    async def test_nothing_is_told_twice(self, clusters: Clusters, told: Told) -> None:
        take(clusters, server("a", 1))
        take(clusters, server("a", 1))
        assert told.said == []

    @pytest.mark.parametrize(
        "changes",
        [
            {"connect_timeout": 3.0},
            {"max_connections": 3},
            {"breaker": servers.BreakerSettings(enabled=False)},
            {"balancing": servers.Balancing(policy="round-robin")},
            {"health": servers.Health()},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    async def test_any_other_change_makes_another(self, clusters: Clusters, changes: dict[str, Any]) -> None:
        first = take(clusters, server("a"))["a"]
        second = take(clusters, server("a", **changes))["a"]
        assert second is not first
        assert (first.is_closed, second.is_closed) == (True, False)

    async def test_so_does_another_locality_of_ours_or_trust_domain(self, clusters: Clusters) -> None:
        first = take(clusters, server("a"))["a"]
        second = take(clusters, server("a"), sidecar={"locality": "zone-1"})["a"]
        third = take(clusters, server("a"), sidecar={"locality": "zone-1"}, trust_domain="other.example")["a"]
        assert len({id(each) for each in (first, second, third)}) == 3

    async def test_labels_and_order_change_nothing(self, clusters: Clusters) -> None:
        first = take(clusters, server("a"), server("b"))
        labelled = schema.ModelServer(metadata=schema.Metadata("a", labels={"team": "pricing"}), spec=server("a").spec)
        second = take(clusters, server("b"), labelled)
        assert (second["a"], second["b"]) == (first["a"], first["b"])

    async def test_what_was_built_and_not_adopted_changes_nothing(self, clusters: Clusters) -> None:
        first = take(clusters, server("a", 1))["a"]
        clusters.build(documents(server("b")))
        clusters.build(documents(server("a", 2)))
        assert not first.is_closed
        assert list(first.endpoints) == ["rest=127.0.0.1:1"]
        assert clusters.all() == [first]

    async def test_two_servers_at_one_address_are_two(self, clusters: Clusters) -> None:
        built = take(clusters, server("a"), server("b"))
        assert built["a"] is not built["b"]

    async def test_what_goes_is_closed_with_what_supplied_it(self, clusters: Clusters) -> None:
        first = take(clusters, server("a"), looked_up())
        take(clusters, server("a"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert first["far"].is_closed
        assert Silent.made[0].is_closed
        assert clusters.all() == [first["a"]]

    async def test_at_the_end_all_are_closed(self, clusters: Clusters) -> None:
        built = take(clusters, server("a", health=servers.Health()), looked_up())
        await clusters.close()
        assert all(cluster.is_closed for cluster in built.values())
        assert Idle.made[0].is_closed
        assert Silent.made[0].is_closed


class TestOfAService:
    async def test_endpoints_are_what_the_control_plane_has_sent(
        self, clusters: Clusters, told: Told, tmp_path: Path
    ) -> None:
        control = sidecars.ControlPlane(
            address=Address("a", 1), spiffe_id=TF, trust_bundle="", folder=str(tmp_path), documents=True
        )
        service = server("far", service=servers.Service(namespace="models", name="resnet", grpc="grpc"))
        take(clusters, server("a"), service, sidecar={"control_plane": control, "locality": "z1"})
        assert clusters.conditions() == {"endpoints of far are known": False}
        sent = ServiceEndpoints("models/resnet", "v", (ServiceEndpoint("10.0.0.1", {"grpc": 8500}, "z1"),))
        path = endpoint_file(tmp_path, "models/resnet")
        path.parent.mkdir()
        path.write_bytes(msgspec.json.encode(sent))
        async with asyncio.timeout(60):
            await clusters.wait_for_endpoints()
        shown: Any = clusters.overview()["far"]
        assert (shown["source"], shown["known"]) == ("service", True)
        assert [(each["endpoint"], each["locality"]) for each in shown["endpoints"]] == [("10.0.0.1:8500", "z1")]
        path.write_bytes(b"{}")
        async with asyncio.timeout(60):
            while ("failed", "far") not in told.said:
                await asyncio.sleep(0.01)
        assert clusters.overview()["far"] == shown


class TestLookedUp:
    async def test_the_start_waits_for_the_first_answer(self, clusters: Clusters) -> None:
        take(clusters, server("a"), looked_up())
        waiting = asyncio.ensure_future(clusters.wait_for_endpoints())
        await asyncio.sleep(0)
        assert not waiting.done()
        assert clusters.conditions() == {"endpoints of far are known": False}
        Silent.made[0].tell((EndpointAddress(rest="10.0.0.1:8501"),))
        await waiting
        assert clusters.conditions() == {"endpoints of far are known": True}

    async def test_not_for_ever(
        self, clusters: Clusters, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(module, "FIRST_ENDPOINTS_SECONDS", 0.01)
        take(clusters, server("a"), looked_up())
        await clusters.wait_for_endpoints()
        (record,) = [
            each
            for each in caplog.records
            if each.getMessage() == "endpoints not resolved in time; continuing without them"
        ]
        assert record.__dict__["fields"] == {"servers": ["far"]}

    async def test_a_name_that_a_reload_brings_does_not_take_us_out_of_service(self, clusters: Clusters) -> None:
        take(clusters, server("a"))
        take(clusters, server("a"), looked_up())
        assert clusters.conditions() == {}
        assert clusters.overview()["far"] == {"source": "dns", "known": False, "endpoints": []}

    async def test_a_reload_waits_for_names_before_it_is_adopted(self, clusters: Clusters) -> None:
        first = take(clusters, server("a"), looked_up())["far"]
        Silent.made[0].tell((EndpointAddress(rest="10.0.0.1:8501"),))
        changed = server("far", dns=servers.Dns(name="models.serving", rest=8501), connect_timeout=3.0)
        given = documents(server("a"), changed)
        second = clusters.build(given)["far"]
        waiting = asyncio.ensure_future(clusters.look_up())
        await asyncio.sleep(0)
        assert not waiting.done()
        assert not first.is_closed
        Silent.made[1].tell((EndpointAddress(rest="10.0.0.1:8501"),))
        await waiting
        assert second.endpoints
        clusters.adopt(given)
        assert first.is_closed
        assert len(Silent.made) == 2

    async def test_what_was_looked_up_for_nothing_is_closed(self, clusters: Clusters) -> None:
        take(clusters, server("a"))
        clusters.build(documents(server("a"), looked_up()))
        waiting = asyncio.ensure_future(clusters.look_up())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        take(clusters, server("a"))
        await asyncio.sleep(0)
        assert Silent.made[0].is_closed
        assert [each.name for each in clusters.all()] == ["a"]

    async def test_failures_are_told_with_the_servers_name(self, clusters: Clusters, told: Told) -> None:
        take(clusters, server("a"), looked_up())
        Silent.made[0].on_failure("models.serving: no answer")
        assert told.said == [("failed", "far")]


class TestHealth:
    async def test_models_follow_routes(self, clusters: Clusters) -> None:
        checked = server("a", 1, 2, health=servers.Health())
        take(clusters, checked, routes=(route("r", "m", "glob*"),))
        assert [each.health.settings.models for each in Idle.made] == [("m",), ("m",)]
        take(clusters, checked, routes=(route("r", "m"), route("q", "n")))
        assert [each.health.settings.models for each in Idle.made] == [("m", "n"), ("m", "n")]
        assert all(each.is_started and not each.is_closed for each in Idle.made)

    async def test_models_that_are_named_are_asked_for_whatever_routes_say(self, clusters: Clusters) -> None:
        take(clusters, server("a", health=servers.Health(models=("x",))), routes=(route("r", "m"),))
        assert Idle.made[0].health.settings.models == ("x",)

    @pytest.mark.parametrize(
        ("check", "asked"), [("tcp", ()), ("http", ()), ("grpc", ("m",)), ("model-status", ("m",))]
    )
    async def test_models_are_for_checks_that_ask_about_models(
        self, clusters: Clusters, check: Any, asked: tuple[str, ...]
    ) -> None:
        endpoints = (servers.Endpoint(rest="127.0.0.1:8501", grpc="127.0.0.1:8500"),)
        checked = server("a", endpoints=endpoints, health=servers.Health(check=check))
        take(clusters, checked, routes=(route("r", "m"),))
        assert Idle.made[0].health.settings.models == asked

    async def test_an_endpoint_that_goes_takes_its_check_with_it(self, clusters: Clusters) -> None:
        take(clusters, server("a", 1, 2, health=servers.Health()))
        take(clusters, server("a", 2, 3, health=servers.Health()))
        await asyncio.sleep(0)
        assert [each.is_closed for each in Idle.made] == [True, False, False]

    async def test_calls_and_checks_do_not_wait_for_each_other(self, clusters: Clusters) -> None:
        built = take(clusters, server("a", 1, health=servers.Health()))
        (endpoint,) = built["a"].endpoints.values()
        (checker,) = Idle.made
        assert (checker.rest.address, checker.rest is endpoint.rest) == (endpoint.rest.address, False)  # type: ignore[union-attr]
        assert not checker.rest.is_closed
        take(clusters, server("a", 2, health=servers.Health()))
        assert checker.rest.is_closed

    async def test_one_that_comes_to_others_waits_for_its_first_verdict(self, clusters: Clusters) -> None:
        take(clusters, server("a", 1, health=servers.Health()))
        take(clusters, server("a", 1, 2, health=servers.Health()))
        assert [each.health.is_healthy for each in Idle.made] == [True, False]

    async def test_several_endpoints_are_checked_unless_the_document_says_no(self, clusters: Clusters) -> None:
        built = take(clusters, server("a", 1))
        assert Idle.made == []
        take(clusters, server("a", 1, 2))
        endpoints = list(built["a"].endpoints.values())
        assert [each.health for each in endpoints] == [each.health for each in Idle.made]
        assert all(each.is_started and each.health.is_healthy for each in Idle.made)
        take(clusters, server("a", 2))
        await asyncio.sleep(0)
        assert [each.is_closed for each in Idle.made] == [True, True]
        assert endpoints[1].health is None
        take(clusters, server("b", 1, 2, health=servers.Health(enabled=False)))
        assert len(Idle.made) == 2

    async def test_if_all_fail_a_check_that_nobody_asked_for_all_are_called(self, clusters: Clusters) -> None:
        cluster = take(clusters, server("a", 1, 2))["a"]
        first, second = cluster.endpoints.values()
        for _ in range(2):
            Idle.made[0].health.record(None, False, 0.0)
        assert {cluster.pick(False, "m", 0.0, None, ()) for _ in range(50)} == {second}
        for _ in range(2):
            Idle.made[1].health.record(None, False, 0.0)
        assert {cluster.pick(False, "m", 0.0, None, ()) for _ in range(50)} == {first, second}

    async def test_a_round_is_counted_and_a_change_is_told(
        self, clusters: Clusters, told: Told, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        take(clusters, server("a", 1, health=servers.Health()))
        checker = Idle.made[0]
        checker.tell((CheckResult(None, None),), False)
        assert told.said == [("checked", "a", "127.0.0.1:1", True), ("health", "a")]
        assert caplog.records == []
        told.said.clear()
        checker.tell((CheckResult("m", "no version is AVAILABLE"),), True)
        assert told.said == [("checked", "a", "127.0.0.1:1", False), ("health", "a")]
        (record,) = [each for each in caplog.records if each.getMessage() == "endpoint health changed"]
        assert record.__dict__["fields"]["problems"] == ["m: no version is AVAILABLE"]

    async def test_a_version_is_available_that_every_endpoint_has(self, clusters: Clusters) -> None:
        take(clusters, server("a", 1, 2, 3, health=servers.Health()), server("b", 1, 2), routes=(route("r", "m"),))
        assert clusters.available("a", "m") == frozenset()  # nobody has answered yet
        assert clusters.available("a", "n") is clusters.available("b", "m") is clusters.available("c", "m") is None
        Idle.made[0].available = {"m": ()}
        assert clusters.available("a", "m") is None
        Idle.made[1].available, Idle.made[2].available = {"m": ("1", "2")}, {"m": ("2", "3")}
        assert clusters.available("a", "m") == {"2"}
        # One that is gone, and stays in the document, had its versions once.
        for _ in range(2):
            Idle.made[2].health.record(None, False, 0.0)
        assert clusters.available("a", "m") == {"1", "2"}

    async def test_an_endpoint_that_loads_a_model_has_a_tenth_of_its_share(
        self, clusters: Clusters, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        cluster = take(clusters, server("a", 1, 2, health=servers.Health()), routes=(route("r", "m", "n"),))["a"]
        one, other = cluster.endpoints.values()
        tell, now = Idle.made[0].tell, asyncio.get_running_loop().time()
        tell((CheckResult(None, None), CheckResult("m", None, is_loading=True), CheckResult("n", None)), False)
        assert (one.load.share(now + 3_600.0), other.load.share(now)) == (FIRST_SHARE, 1.0)
        one.succeeded("n", 0.001, now, one.begin("n", now))
        tell((CheckResult("m", None, is_loading=True), CheckResult("n", "no version is AVAILABLE", True)), True)
        tell((), False)  # a round that says nothing
        assert one.load.share(now + 3_600.0) == FIRST_SHARE
        assert clusters.overview()["a"]["endpoints"][0]["loadingModels"] == ["m", "n"]  # type: ignore[index]
        tell((CheckResult("m", None), CheckResult("n", None)), True)
        assert one.load.share(now) == FIRST_SHARE  # it begins slow start
        assert one.load.share(now + 3_600.0) == 1.0
        said = [(each.getMessage(), each.__dict__["fields"].get("models")) for each in caplog.records]
        assert [each for each in said if "load" in each[0]] == [
            ("endpoint is loading models", ("m",)),
            ("endpoint is loading models", ("m", "n")),
            ("endpoint has loaded models", ("m", "n")),
        ]

    @pytest.mark.parametrize(("ports", "warm_up"), [((1,), 10.0), ((1, 2), 0.0)])
    async def test_the_only_one_or_without_slow_start_has_its_share(
        self, clusters: Clusters, ports: tuple[int, ...], warm_up: float
    ) -> None:
        spec = {"health": servers.Health(), "balancing": servers.Balancing(warm_up=warm_up)}
        cluster = take(clusters, server("a", *ports, **spec), routes=(route("r", "m"),))["a"]
        Idle.made[0].tell((CheckResult("m", None, is_loading=True),), False)
        assert cluster.endpoints["rest=127.0.0.1:1"].load.share(0.0) == 1.0

    async def test_people_see_how_endpoints_are(self, clusters: Clusters) -> None:
        cluster = take(clusters, server("a", 1, health=servers.Health()), routes=(route("r", "m"),))["a"]
        endpoint = cluster.endpoints["rest=127.0.0.1:1"]
        for second in range(5):
            endpoint.failed("n", Failure.UNAVAILABLE, float(second), endpoint.begin("n", float(second)))
        assert endpoint.health is not None
        for _ in range(2):
            endpoint.health.record("m", False, 0.0)
        assert clusters.overview() == {
            "a": {
                "source": "static",
                "known": True,
                "endpoints": [
                    {
                        "endpoint": "127.0.0.1:1",
                        "locality": None,
                        "takesCalls": True,
                        "healthy": True,
                        "unavailableModels": ["m"],
                        "loadingModels": [],
                        "ejected": False,
                        "breaker": "closed",
                        "modelBreakers": {"n": "open"},
                        "inFlight": 0,
                        "latencySeconds": None,
                        "connections": 0,
                        "security": {"rest": "plaintext"},
                    }
                ],
            }
        }


def test_models_of_routes_by_server() -> None:
    given = documents(
        server("a"),
        server("b"),
        routes=(
            route("own", "m", server=None),
            route("split", "n", "g*", server=None, split=(servers_share("b"), servers_share(None))),
            route("named", "o", "m", server="b"),
        ),
        sidecar={"outbound": sidecars.Outbound(server="b")},
    )
    assert models_of(given) == {"a": ("m", "n"), "b": ("m", "n", "o")}


def test_other_models_of_routes_are_models_of_their_servers() -> None:
    given = documents(
        server("a"),
        server("b"),
        routes=(
            route("alias", "m", server=None, split=(routes.Destination(model="m2"),)),
            route("canary", "n", server=None, split=(routes.Destination(), routes.Destination(server="b", model="n2"))),
            route("spare", "o", server=None, fallback=routes.Fallback(server="b", model="small")),
            route("same", "p*", server="b", fallback=routes.Fallback(model="p-small")),
        ),
    )
    assert models_of(given) == {"a": ("m2", "n", "o"), "b": ("n2", "small", "p-small")}


def servers_share(server: str | None) -> routes.Destination:
    return routes.Destination(server=server)


class TestPeers:
    def security(self, clusters: Clusters, workload: WorkloadSubject | None = None) -> PeerSecurity:
        far = server(
            "far",
            endpoints=(servers.Endpoint(sidecar=Address("10.0.0.1", 18500)),),
            workload=workload or WorkloadSubject(namespace="serving", service_account="tf"),
        )
        peer = take(clusters, far)["far"]._securities.sidecar
        assert peer is not None
        return peer

    def verify(self, clusters: Clusters, der: bytes, workload: WorkloadSubject | None = None) -> Workload:
        verified = self.security(clusters, workload).verify(handshaken(der, "dev.example"))
        assert isinstance(verified, Workload)
        return verified

    async def test_the_one_that_is_expected(self, clusters: Clusters) -> None:
        assert self.verify(clusters, CA.issue(TF).der).spiffe_id == TF
        by_id = WorkloadSubject(spiffe_id="spiffe://dev.example/any/path")
        found = self.verify(clusters, CA.issue("spiffe://dev.example/any/path").der, by_id)
        assert found.spiffe_id == "spiffe://dev.example/any/path"

    @pytest.mark.parametrize(
        "uri",
        ["spiffe://dev.example/ns/serving/sa/other", "spiffe://other.example/ns/serving/sa/tf"],
        ids=["another workload", "another trust domain"],
    )
    async def test_nobody_else(self, clusters: Clusters, uri: str) -> None:
        with pytest.raises(PeerRejected):
            self.verify(clusters, CA.issue(uri).der)

    async def test_not_when_its_time_is_over(self, clusters: Clusters) -> None:
        past = datetime.now(UTC) - timedelta(hours=1)
        with pytest.raises(PeerRejected, match="expired"):
            self.verify(clusters, CA.issue(TF, not_before=past - timedelta(hours=1), not_after=past).der)

    async def test_a_model_server_beside_us_is_not_asked(self, clusters: Clusters) -> None:
        assert take(clusters, server("a"))["a"]._securities == Securities()


@pytest.mark.parametrize(
    ("descriptors", "shares"),
    [(1024, (512, 256)), (128, (64, 32)), (64, (21, 10)), (0, (1, 1)), (-1, (524_288, 262_144))],
)
def test_clients_leave_descriptors_to_the_sidecar(descriptors: int, shares: tuple[int, int]) -> None:
    assert share_out(descriptors) == shares
    assert descriptors < 2 * OWN_DESCRIPTORS or sum(shares) <= descriptors - OWN_DESCRIPTORS
