from __future__ import annotations

import ssl
from pathlib import Path
from time import time
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshproxy.config import routes, schema, servers
from meshproxy.config.fields import WorkloadSubject
from meshproxy.config.values import Address
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.caller import NOBODY
from meshproxy.identity.certificates import CertificateError
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.proxy.snapshot import BodyLimits
from meshproxy.refusal import Refusal
from meshproxy.routing.live import Live
from meshproxy.sidecar.reload import (
    body_limits,
    calls_sidecars,
    inbound_snapshot,
    outbound_snapshot,
    read_identity,
    times,
)

PREDICT = Call(Verb.PREDICT, (ModelRef("m"),))


def server(name: str = "local", *ports: int, **changes: Any) -> schema.ModelServer:
    endpoints = tuple(
        servers.Endpoint(rest=Address("127.0.0.1", port), grpc=Address("::1", port + 1)) for port in ports or (8500,)
    )
    return schema.ModelServer(metadata=schema.Metadata(name), spec=servers.ServerSpec(endpoints=endpoints, **changes))


def documents(
    *,
    trust_domain: str = "dev.example",
    limits: schema.Limits = schema.Limits(),  # noqa: B008 (frozen)
    identity: schema.Identity | None = None,
    inbound: dict[str, Any] | None = {},  # noqa: B006
    outbound: dict[str, Any] | None = None,
    mesh: dict[str, Any] | None = None,
    **sets: Any,
) -> schema.Documents:
    return schema.Documents(
        mesh=schema.MeshConfig(
            metadata=schema.Metadata("mesh"),
            spec=schema.MeshSpec(trust_domain=trust_domain, limits=limits, **(mesh or {})),
        ),
        sidecar=schema.Sidecar(
            metadata=schema.Metadata("own"),
            spec=schema.SidecarSpec(
                identity=identity,
                inbound=None if inbound is None else schema.Inbound(server="local", **inbound),
                outbound=None if outbound is None else schema.Outbound(**outbound),
            ),
        ),
        **{"servers": (server(),), "fingerprint": "", **sets},
    )


class TestSettings:
    def test_defaults_of_body_limits_are_the_documents(self) -> None:
        assert body_limits(documents()) == BodyLimits()

    def test_time_limits(self) -> None:
        limits = schema.Limits(handshake_timeout=1.0, head_timeout=2.0, idle_timeout=3.0)
        found = times(documents(limits=limits))
        assert (found.handshake, found.head, found.idle) == (1.0, 2.0, 3.0)


class TestIdentity:
    @pytest.fixture
    def identity(self, tmp_path: Path) -> schema.Identity:
        ca = DevelopmentCA.create("dev.example")
        bundle = ca.write(tmp_path)
        certificate, key = ca.issue("spiffe://dev.example/ns/a/sa/b").write(tmp_path, "own")
        return schema.Identity(
            files=schema.IdentityFiles(certificate=str(certificate), key=str(key), trust_bundle=str(bundle))
        )

    def test_without_tls_nothing_is_read(self, identity: schema.Identity) -> None:
        assert read_identity(documents(mesh={"mtls": "disabled"}), time()) is None
        missing = schema.Identity(files=schema.IdentityFiles(certificate="/x", key="/x", trust_bundle="/x"))
        assert read_identity(documents(mesh={"mtls": "disabled"}, identity=missing), time()) is None

    @pytest.mark.parametrize(("mtls", "mode"), [("strict", ssl.CERT_REQUIRED), ("permissive", ssl.CERT_OPTIONAL)])
    def test_the_mode_says_whether_clients_must_show_a_certificate(
        self, identity: schema.Identity, mtls: str, mode: ssl.VerifyMode
    ) -> None:
        own = read_identity(documents(mesh={"mtls": mtls}, identity=identity), time())
        assert own is not None
        assert own.workload.spiffe_id == "spiffe://dev.example/ns/a/sa/b"
        assert own.server.verify_mode is mode

    @pytest.mark.parametrize(("word", "version"), [("1.3", ssl.TLSVersion.TLSv1_3), ("1.2", ssl.TLSVersion.TLSv1_2)])
    def test_the_oldest_version_of_tls(self, identity: schema.Identity, word: Any, version: ssl.TLSVersion) -> None:
        own = read_identity(documents(mesh={"tls": schema.Tls(min_version=word)}, identity=identity), time())
        assert own is not None
        assert own.server.minimum_version is version

    def test_one_that_cannot_be_used_is_an_error(self, identity: schema.Identity) -> None:
        with pytest.raises(CertificateError, match="trust domain"):
            read_identity(documents(trust_domain="other.example", identity=identity), time())


ROUTE = schema.ModelRoute(
    metadata=schema.Metadata("r"),
    spec=routes.RouteSpec(models=("other",), server="elsewhere", timeout=1.0),
)


class TestInbound:
    def test_every_station_is_of_the_same_documents(self) -> None:
        clusters: Any = {"local": object()}
        verifier: Any = object()
        health: Any = object()
        limits = schema.Limits(
            held_body_bytes=2_000,
            held_total_bytes=4_000,
            kept_total_bytes=5_000,
            inflated_bytes=8_000,
            body_stall_timeout=9.0,
            request_timeout=3.0,
        )
        snapshot = inbound_snapshot(
            documents(limits=limits, inbound={"forward_identity": True, "forward_token": True}, routes=(ROUTE,)),
            clusters,
            verifier,
            Live(),
            health,
        )
        assert snapshot is not None
        assert snapshot.clusters is clusters
        assert snapshot.verifier is verifier
        assert snapshot.health is health
        assert (snapshot.limits.held, snapshot.limits.held_total, snapshot.limits.stall) == (2_000, 4_000, 9.0)
        assert (snapshot.limits.kept_total, snapshot.limits.scan.inflated_bytes) == (5_000, 8_000)
        assert (snapshot.forwards_identity, snapshot.forwards_token) == (True, True)
        here, there = (
            snapshot.routes.match(Call(Verb.PREDICT, (ModelRef(name),)), (), NOBODY) for name in ("m", "other")
        )
        assert (here.server, here.timeout) == ("local", 3.0)
        assert (there.server, there.timeout) == ("elsewhere", 1.0)
        assert snapshot.servers is None

    def test_roles_decide(self) -> None:
        open_to_all = inbound_snapshot(documents(), {}, None, Live())
        assert open_to_all is not None
        assert open_to_all.policy.decide(NOBODY, PREDICT) is not None
        role = schema.ModelRole(
            metadata=schema.Metadata("reader"),
            spec=schema.RoleSpec(rules=(schema.Rule(models=("m",), verbs=("status",)),)),
        )
        closed = inbound_snapshot(documents(roles=(role,)), {}, None, Live())
        assert closed is not None
        with pytest.raises(Refusal):
            closed.policy.decide(NOBODY, PREDICT)

    def test_where_nothing_comes_in_there_is_none(self) -> None:
        assert inbound_snapshot(documents(inbound=None, outbound={}), {}, None, Live()) is None


class TestOutbound:
    def test_the_other_end_decides_and_gets_the_token(self) -> None:
        role = schema.ModelRole(
            metadata=schema.Metadata("reader"),
            spec=schema.RoleSpec(rules=(schema.Rule(models=("m",), verbs=("status",)),)),
        )
        snapshot = outbound_snapshot(documents(outbound={}, roles=(role,)), {}, Live())
        assert snapshot is not None
        assert snapshot.verifier is None
        assert snapshot.policy.decide(NOBODY, PREDICT).rule == "outbound"
        assert (snapshot.forwards_identity, snapshot.forwards_token) == (False, True)

    def test_an_application_names_its_server(self) -> None:
        snapshot = outbound_snapshot(documents(outbound={"server": "local"}, routes=(ROUTE,)), {}, Live())
        assert snapshot is not None
        assert snapshot.server == "local"
        assert snapshot.servers is not None
        assert snapshot.servers.find(b"local:18501", None, "") == "local"
        assert snapshot.routes.match(PREDICT, (), NOBODY).server is None

    def test_where_nothing_goes_out_there_is_none(self) -> None:
        assert outbound_snapshot(documents(), {}, Live()) is None


def test_budgets_are_kept_and_each_direction_has_its_own() -> None:
    live = Live()
    both = documents(outbound={}, routes=(ROUTE,))

    def compile_both() -> list[object]:
        snapshots = (inbound_snapshot(both, {}, None, live), outbound_snapshot(both, {}, live))
        live.adopt()
        return [
            snapshot.routes.match(Call(Verb.PREDICT, (ModelRef("other"),)), (), NOBODY).budget
            for snapshot in snapshots
            if snapshot is not None
        ]

    first = compile_both()
    assert first[0] is not first[1]
    assert compile_both() == first


def test_a_certificate_for_calling_is_needed_by_who_calls_sidecars() -> None:
    workload = WorkloadSubject(namespace="serving", service_account="tf")
    far = schema.ModelServer(
        metadata=schema.Metadata("far"),
        spec=servers.ServerSpec(endpoints=(servers.Endpoint(sidecar=Address("10.0.0.1", 18500)),), workload=workload),
    )
    assert not calls_sidecars(documents())
    assert calls_sidecars(documents(servers=(server(), far)))


def test_a_certificate_that_is_for_serving_only_cannot_call(tmp_path: Path) -> None:
    ca = DevelopmentCA.create("dev.example")
    bundle = ca.write(tmp_path)
    certificate, key = ca.issue(
        "spiffe://dev.example/ns/a/sa/b", extended_key_usage=[ExtendedKeyUsageOID.SERVER_AUTH]
    ).write(tmp_path, "own")
    identity = schema.Identity(
        files=schema.IdentityFiles(certificate=str(certificate), key=str(key), trust_bundle=str(bundle))
    )
    assert read_identity(documents(identity=identity), time()) is not None
    workload = WorkloadSubject(namespace="serving", service_account="tf")
    far = schema.ModelServer(
        metadata=schema.Metadata("far"),
        spec=servers.ServerSpec(endpoints=(servers.Endpoint(sidecar=Address("10.0.0.1", 18500)),), workload=workload),
    )
    with pytest.raises(CertificateError):
        read_identity(documents(identity=identity, servers=(server(), far)), time())
