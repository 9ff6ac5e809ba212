from __future__ import annotations

from typing import Any

import pytest

from meshproxy.config import routes, schema, servers, sidecars
from meshproxy.identity.caller import ANONYMOUS
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.inference.surfaces import SURFACES
from meshproxy.proxy.client_side import LOOKS
from meshproxy.proxy.snapshot import BodyLimits
from meshproxy.refusal import Refusal
from meshproxy.routing.carried_state import CarriedState
from meshproxy.sidecar.snapshots import (
    body_limits,
    inbound_snapshot,
    outbound_snapshot,
    shortest_time_limit,
    times,
)
from meshproxy.transport.connection import Times

PREDICT = Call(Verb.PREDICT, (ModelRef("m"),))


def server(name: str = "local", *ports: int, **changes: Any) -> schema.ModelServer:
    endpoints = tuple(servers.Endpoint(rest=f"127.0.0.1:{port}", grpc=f"[::1]:{port + 1}") for port in ports or (8500,))
    return schema.ModelServer(metadata=schema.Metadata(name), spec=servers.ServerSpec(endpoints=endpoints, **changes))


def route(**changes: Any) -> schema.ModelRoute:
    return schema.ModelRoute(metadata=schema.Metadata("r"), spec=routes.RouteSpec(models=("m",), **changes))


def documents(
    *,
    trust_domain: str = "dev.example",
    limits: schema.MeshLimits = schema.MeshLimits(),  # noqa: B008 (frozen)
    identity: sidecars.Identity | None = None,
    inbound: dict[str, Any] | None = {},  # noqa: B006
    outbound: dict[str, Any] | None = None,
    mesh: dict[str, Any] | None = None,
    sidecar: dict[str, Any] | None = None,
    **sets: Any,
) -> schema.Documents:
    return schema.Documents(
        mesh=schema.MeshConfig(
            metadata=schema.Metadata("mesh"),
            spec=schema.MeshSpec(trust_domain=trust_domain, limits=limits, **(mesh or {})),
        ),
        sidecar=schema.Sidecar(
            metadata=schema.Metadata("own"),
            spec=sidecars.SidecarSpec(
                identity=identity,
                inbound=None if inbound is None else sidecars.Inbound(server="local", **inbound),
                outbound=None if outbound is None else sidecars.Outbound(**outbound),
                **(sidecar or {}),
            ),
        ),
        **{"servers": (server(),), "fingerprint": "", **sets},
    )


class TestSettings:
    def test_defaults_are_the_documents(self) -> None:
        assert body_limits(documents()) == BodyLimits()
        assert times(documents()) == Times()

    def test_time_limits(self) -> None:
        limits = schema.MeshLimits(handshake_timeout=1.0, head_timeout=2.0, idle_timeout=3.0)
        found = times(documents(limits=limits))
        assert (found.handshake, found.head, found.idle) == (1.0, 2.0, 3.0)

    @pytest.mark.parametrize(
        ("changes", "shortest"),
        [
            ({}, 30.0 / LOOKS),
            ({"limits": schema.MeshLimits(head_timeout=0.1)}, 0.1),
            ({"limits": schema.MeshLimits(idle_timeout=0.2)}, 0.2),
            ({"limits": schema.MeshLimits(body_stall_timeout=0.16)}, 0.16 / LOOKS),
            ({"servers": (server(idle_timeout=0.3),)}, 0.3),
            ({"routes": (route(idle_timeout=0.8), route(timeout=0.001))}, 0.8 / LOOKS),
            ({"routes": (route(concurrency=routes.Concurrency(queue_timeout=0.05)),)}, 0.05),
        ],
    )
    def test_the_shortest_that_is_swept_for(self, changes: Any, shortest: float) -> None:
        assert shortest_time_limit(documents(**changes)) == shortest


ROUTE = schema.ModelRoute(
    metadata=schema.Metadata("r"),
    spec=routes.RouteSpec(models=("other",), server="elsewhere", timeout=1.0),
)


class TestInbound:
    def test_every_station_is_of_the_same_documents(self) -> None:
        clusters: Any = {"local": object()}
        verifier: Any = object()
        health: Any = object()
        limits = schema.MeshLimits(
            scan_buffer_bytes=2_000,
            scan_buffer_total_bytes=4_000,
            replay_buffer_total_bytes=5_000,
            inflated_bytes=8_000,
            body_stall_timeout=9.0,
            request_timeout=3.0,
        )
        snapshot = inbound_snapshot(
            documents(limits=limits, inbound={"forward_identity": True, "forward_token": True}, routes=(ROUTE,)),
            clusters,
            verifier,
            CarriedState(),
            health,
        )
        assert snapshot is not None
        assert snapshot.clusters is clusters
        assert snapshot.verifier is verifier
        assert snapshot.health is health
        assert (snapshot.limits.scan_buffer, snapshot.limits.scan_buffer_total, snapshot.limits.stall) == (
            2_000,
            4_000,
            9.0,
        )
        assert (snapshot.limits.replay_buffer_total, snapshot.limits.scan.inflated_bytes) == (5_000, 8_000)
        assert (snapshot.forwards_identity, snapshot.forwards_token) == (True, True)
        here, there = (
            snapshot.routes.match(Call(Verb.PREDICT, (ModelRef(name),)), (), ANONYMOUS) for name in ("m", "other")
        )
        assert (here.server, here.timeout) == ("local", 3.0)
        assert (there.server, there.timeout) == ("elsewhere", 1.0)
        assert snapshot.servers is None

    def test_roles_decide(self) -> None:
        open_to_all = inbound_snapshot(documents(), {}, None, CarriedState())
        assert open_to_all is not None
        assert open_to_all.policy.decide(ANONYMOUS, PREDICT, "", ()) is not None
        role = schema.ModelRole(
            metadata=schema.Metadata("reader"),
            spec=schema.RoleSpec(rules=(schema.Rule(models=("m",), verbs=("status",)),)),
        )
        closed = inbound_snapshot(documents(roles=(role,)), {}, None, CarriedState())
        assert closed is not None
        with pytest.raises(Refusal):
            closed.policy.decide(ANONYMOUS, PREDICT, "", ())

    def test_the_metrics_page_is_where_its_server_has_it(self) -> None:
        servers = (server(metrics_path="/metrics"), server("other", metrics_path="/other"))
        snapshot = inbound_snapshot(documents(servers=servers), {}, None, CarriedState())
        assert snapshot is not None
        assert snapshot.surfaces.find_rest(b"GET", b"/metrics").verb is Verb.METRICS
        for target in (b"/other", b"/monitoring/prometheus/metrics"):
            with pytest.raises(Refusal):
                snapshot.surfaces.find_rest(b"GET", target)
        assert snapshot.metrics_paths == {}

    def test_where_nothing_comes_in_there_is_none(self) -> None:
        assert inbound_snapshot(documents(inbound=None, outbound={}), {}, None, CarriedState()) is None


class TestOutbound:
    def test_the_other_end_decides_and_gets_the_token(self) -> None:
        role = schema.ModelRole(
            metadata=schema.Metadata("reader"),
            spec=schema.RoleSpec(rules=(schema.Rule(models=("m",), verbs=("status",)),)),
        )
        snapshot = outbound_snapshot(documents(outbound={}, roles=(role,)), {}, CarriedState())
        assert snapshot is not None
        assert snapshot.verifier is None
        assert snapshot.policy.decide(ANONYMOUS, PREDICT, "", ()).rule == ""
        assert (snapshot.forwards_identity, snapshot.forwards_token) == (False, True)

    def test_an_application_names_its_server(self) -> None:
        snapshot = outbound_snapshot(documents(outbound={"server": "local"}, routes=(ROUTE,)), {}, CarriedState())
        assert snapshot is not None
        assert snapshot.server == "local"
        assert snapshot.servers is not None
        assert snapshot.servers.find(b"local:18501", None, "") == "local"
        assert snapshot.routes.match(PREDICT, (), ANONYMOUS).server is None

    def test_each_server_has_its_own_metrics_page(self) -> None:
        servers = (server(metrics_path="/metrics"), server("other"))
        snapshot = outbound_snapshot(documents(outbound={}, servers=servers), {}, CarriedState())
        assert snapshot is not None
        default = b"/monitoring/prometheus/metrics"
        assert snapshot.metrics_paths == {"local": b"/metrics", "other": default}
        for target in (b"/metrics", default):
            assert snapshot.surfaces.find_rest(b"GET", target).verb is Verb.METRICS
        alike = outbound_snapshot(documents(outbound={}), {}, CarriedState())
        assert alike is not None
        assert (alike.metrics_paths, alike.surfaces) == ({}, SURFACES)

    def test_where_nothing_goes_out_there_is_none(self) -> None:
        assert outbound_snapshot(documents(), {}, CarriedState()) is None


def test_budgets_are_kept_and_each_direction_has_its_own() -> None:
    live = CarriedState()
    both = documents(outbound={}, routes=(ROUTE,))

    def compile_both() -> list[object]:
        snapshots = (inbound_snapshot(both, {}, None, live), outbound_snapshot(both, {}, live))
        live.adopt()
        return [
            snapshot.routes.match(Call(Verb.PREDICT, (ModelRef("other"),)), (), ANONYMOUS).budget
            for snapshot in snapshots
            if snapshot is not None
        ]

    first = compile_both()
    assert first[0] is not first[1]
    assert compile_both() == first


@pytest.mark.parametrize(("sidecar", "expected"), [({}, True), ({"express_lane": False}, False)])
def test_the_express_lane_can_be_closed(sidecar: dict[str, Any], expected: bool) -> None:
    found = documents(outbound={}, sidecar=sidecar)
    inbound = inbound_snapshot(found, {}, None, CarriedState())
    outbound = outbound_snapshot(found, {}, CarriedState())
    assert inbound is not None
    assert outbound is not None
    assert inbound.is_express is outbound.is_express is expected


def test_places_of_tokens() -> None:
    def issuer(name: str, place: schema.TokenPlace | None) -> schema.Issuer:
        return schema.Issuer(name=name, issuer=f"https://{name}", audiences=("m",), token_from=place)

    places = [schema.TokenPlace(header="x-token"), schema.TokenPlace(cookie="session")]
    for issuers, is_somewhere in (
        ((issuer("a", None),), False),
        ((issuer("a", None), issuer("b", places[0]), issuer("c", places[1])), True),
    ):
        found = documents(outbound={}, mesh={"issuers": issuers})
        inbound = inbound_snapshot(found, {}, None, CarriedState())
        outbound = outbound_snapshot(found, {}, CarriedState())
        assert inbound is not None
        assert (inbound.token_places is not None) is is_somewhere
        assert outbound is not None
        assert outbound.token_places is None  # the sidecar at the other end looks there
