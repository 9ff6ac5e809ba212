from __future__ import annotations

import ssl
from pathlib import Path
from time import time
from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.codec.limits import Limits
from meshproxy.config import routes, schema, servers
from meshproxy.config.values import Address
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.caller import NOBODY
from meshproxy.identity.certificates import CertificateError
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.refusal import Refusal
from meshproxy.sidecar import reload as module
from meshproxy.sidecar.reload import (
    Clusters,
    build_snapshot,
    codec_limits,
    read_identity,
    server_settings,
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
    inbound: dict[str, Any] | None = None,
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
            spec=schema.SidecarSpec(identity=identity, inbound=schema.Inbound(server="local", **(inbound or {}))),
        ),
        **{"servers": (server(),), "fingerprint": "", **sets},
    )


class TestSettings:
    def test_a_server_in_the_words_of_its_live_side(self) -> None:
        settings = server_settings(
            server("local", 8500, 8600, connect_timeout=2.0, max_connections=7, idle_timeout=9.0)
        )
        assert settings.addresses == (("127.0.0.1:8500", "[::1]:8501"), ("127.0.0.1:8600", "[::1]:8601"))
        assert (settings.connect_timeout, settings.max_connections, settings.idle_timeout) == (2.0, 7, 9.0)
        assert settings.max_pending > 0

    def test_without_a_limit_of_its_own_a_server_has_one_that_leaves_descriptors(self) -> None:
        assert server_settings(server()).max_connections >= 16

    def test_an_endpoint_may_speak_one_protocol_only(self) -> None:
        spec = servers.ServerSpec(endpoints=(servers.Endpoint(rest=Address("models.example", 80)),))
        settings = server_settings(schema.ModelServer(metadata=schema.Metadata("a"), spec=spec))
        assert settings.addresses == (("models.example:80", None),)

    def test_every_limit_of_the_codecs_is_a_field_of_the_documents(self) -> None:
        changed = {name: getattr(Limits(), name) for name in Limits.__dataclass_fields__}
        changed.update(header_bytes=2_048, streams=7, body_bytes=99, resets_rate=3.0)
        limits = codec_limits(documents(limits=schema.Limits(**changed)))
        assert limits == Limits(**changed)

    def test_the_documents_defaults_are_the_codecs(self) -> None:
        assert codec_limits(documents()) == Limits()

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


class FakeCluster:
    def __init__(self, driving: Any, name: str, addresses: Any, settings: Any) -> None:
        self.name = name
        self.settings = settings
        self.is_closed = False

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


class TestClusters:
    @pytest.fixture
    def clusters(self, monkeypatch: pytest.MonkeyPatch) -> Clusters:
        monkeypatch.setattr(module, "Cluster", FakeCluster)
        return Clusters(SimpleNamespace())  # type: ignore[arg-type]

    def take(self, clusters: Clusters, *servers: schema.ModelServer) -> dict[str, Any]:
        built = clusters.build(servers)
        clusters.adopt(servers, built)
        return built

    def test_one_that_stays_the_same_is_kept_with_its_connections(self, clusters: Clusters) -> None:
        first = self.take(clusters, server("a"), server("b", 9000))
        second = self.take(clusters, server("a"), server("b", 9100))
        assert second["a"] is first["a"]
        assert second["b"] is not first["b"]
        assert (first["a"].is_closed, first["b"].is_closed) == (False, True)

    @pytest.mark.parametrize("changes", [{"connect_timeout": 3.0}, {"max_connections": 3}, {"idle_timeout": 3.0}])
    def test_any_setting_that_changes_makes_another(self, clusters: Clusters, changes: dict[str, Any]) -> None:
        first = self.take(clusters, server("a"))
        second = self.take(clusters, server("a", **changes))
        assert second["a"] is not first["a"]
        assert first["a"].is_closed

    def test_labels_change_nothing(self, clusters: Clusters) -> None:
        first = self.take(clusters, server("a"))
        labelled = schema.ModelServer(metadata=schema.Metadata("a", labels={"team": "pricing"}), spec=server("a").spec)
        assert self.take(clusters, labelled)["a"] is first["a"]

    def test_what_was_built_and_not_adopted_changes_nothing(self, clusters: Clusters) -> None:
        first = self.take(clusters, server("a"))
        clusters.build((server("b"),))
        assert not first["a"].is_closed
        assert self.take(clusters, server("a"))["a"] is first["a"]

    def test_two_servers_at_one_address_are_two(self, clusters: Clusters) -> None:
        built = self.take(clusters, server("a"), server("b"))
        assert built["a"] is not built["b"]

    def test_at_the_end_all_are_closed(self, clusters: Clusters) -> None:
        built = self.take(clusters, server("a"), server("b"))
        clusters.close()
        assert all(cluster.is_closed for cluster in built.values())


class TestSnapshots:
    def test_every_station_is_of_the_same_documents(self) -> None:
        clusters: Any = {"local": object()}
        verifier: Any = object()
        limits = schema.Limits(
            held_body_bytes=2_000,
            held_total_bytes=4_000,
            inflated_bytes=8_000,
            body_stall_timeout=9.0,
            request_timeout=3.0,
        )
        snapshot = build_snapshot(
            documents(
                limits=limits,
                inbound={"forward_identity": True, "forward_token": True},
                routes=(
                    schema.ModelRoute(
                        metadata=schema.Metadata("r"),
                        spec=routes.RouteSpec(models=("other",), server="elsewhere", timeout=1.0),
                    ),
                ),
            ),
            clusters,
            verifier,
        )
        assert snapshot.clusters is clusters
        assert snapshot.verifier is verifier
        assert (snapshot.limits.held, snapshot.limits.held_total, snapshot.limits.stall) == (2_000, 4_000, 9.0)
        assert snapshot.limits.scan.inflated_bytes == 8_000
        assert (snapshot.forwards_identity, snapshot.forwards_token) == (True, True)
        here, there = (snapshot.routes.match(Call(Verb.PREDICT, (ModelRef(name),))) for name in ("m", "other"))
        assert (here.server, here.timeout) == ("local", 3.0)
        assert (there.server, there.timeout) == ("elsewhere", 1.0)

    def test_roles_decide(self) -> None:
        open_to_all = build_snapshot(documents(), {}, None)
        assert open_to_all.policy.decide(NOBODY, PREDICT) is not None
        role = schema.ModelRole(
            metadata=schema.Metadata("reader"),
            spec=schema.RoleSpec(rules=(schema.Rule(models=("m",), verbs=("status",)),)),
        )
        with pytest.raises(Refusal):
            build_snapshot(documents(roles=(role,)), {}, None).policy.decide(NOBODY, PREDICT)
