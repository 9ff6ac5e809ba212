"""From documents to what runs: built whole beside what runs already, then put in its place, or not at all."""

from __future__ import annotations

import resource
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from meshproxy.codec.limits import Limits
from meshproxy.identity.certificates import IdentityFiles, OwnIdentity, own_identity
from meshproxy.inference.tfserving_grpc import ScanLimits
from meshproxy.policy.compile import compile_policy
from meshproxy.proxy.snapshot import BodyLimits, Snapshot
from meshproxy.routing.routes import compile_routes
from meshproxy.transport.connection import Driving, Times
from meshproxy.upstream.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshproxy.config.schema import Documents, ModelServer
    from meshproxy.identity.tokens import TokenVerifier

MAX_PENDING = 1_024
"""Requests that may wait for a connection to one endpoint: beyond that, answering fast is kinder."""
DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
DOWNSTREAM_CONNECTIONS = max(16, DESCRIPTORS // 2)
UPSTREAM_CONNECTIONS = max(16, DESCRIPTORS // 4)
"""Defaults: together they leave a quarter of the descriptors that we may open for everything else. One HTTP/2 client
can ask for a hundred REST calls at once, each of which takes a connection to the model server."""

_CODEC_LIMITS = tuple(Limits.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What a cluster is made from; equal settings keep the cluster, its connections and what it has learned."""

    addresses: tuple[tuple[str | None, str | None], ...]
    connect_timeout: float
    max_connections: int
    max_pending: int
    idle_timeout: float


def server_settings(server: ModelServer) -> ServerSettings:
    """The live side's view of a `ModelServer`."""
    spec = server.spec
    return ServerSettings(
        addresses=tuple(
            (str(endpoint.rest) if endpoint.rest else None, str(endpoint.grpc) if endpoint.grpc else None)
            for endpoint in spec.endpoints
        ),
        connect_timeout=spec.connect_timeout,
        max_connections=spec.max_connections or UPSTREAM_CONNECTIONS,
        max_pending=MAX_PENDING,
        idle_timeout=spec.idle_timeout,
    )


def codec_limits(documents: Documents) -> Limits:
    """The limits of a client's connection."""
    limits = documents.mesh.spec.limits
    return Limits(**{name: getattr(limits, name) for name in _CODEC_LIMITS})


def times(documents: Documents) -> Times:
    """The time limits of a client's connection."""
    limits = documents.mesh.spec.limits
    return Times(handshake=limits.handshake_timeout, head=limits.head_timeout, idle=limits.idle_timeout)


def read_identity(documents: Documents, now: float) -> OwnIdentity | None:
    """Our certificate, proven; None where TLS is disabled. Raises CertificateError."""
    mesh = documents.mesh.spec
    identity = documents.sidecar.spec.identity
    if mesh.mtls == "disabled" or identity is None:
        return None
    files = identity.files
    credentials = IdentityFiles(Path(files.certificate), Path(files.key), Path(files.trust_bundle)).read()
    minimum = ssl.TLSVersion.TLSv1_2 if mesh.tls.min_version == "1.2" else ssl.TLSVersion.TLSv1_3
    # Calls come in, and go on to model servers beside us: nothing connects into the mesh.
    return own_identity(
        credentials, mesh.trust_domain, now, needs_client=False, mtls=mesh.mtls, minimum_version=minimum
    )


class Clusters:
    """Every cluster that is alive, by its settings: a snapshot picks those that its documents ask for."""

    def __init__(self, driving: Driving) -> None:
        self._driving = driving
        self._alive: dict[tuple[str, ServerSettings], Cluster] = {}

    def build(self, servers: tuple[ModelServer, ...]) -> dict[str, Cluster]:
        """Clusters for `servers`: those that are alive with the same settings, and new ones."""
        chosen = {}
        for server in servers:
            settings = server_settings(server)
            cluster = self._alive.get((server.metadata.name, settings))
            if cluster is None:
                cluster = Cluster(self._driving, server.metadata.name, settings.addresses, settings)
            chosen[server.metadata.name] = cluster
        return chosen

    def adopt(self, servers: tuple[ModelServer, ...], clusters: Mapping[str, Cluster]) -> None:
        """`clusters` are in use from now on; those that no document asks for any more are closed."""
        kept = {(server.metadata.name, server_settings(server)): clusters[server.metadata.name] for server in servers}
        for key, cluster in self._alive.items():
            if key not in kept:
                cluster.close()
        self._alive = kept

    def close(self) -> None:
        """The process ends."""
        for cluster in self._alive.values():
            cluster.close()


def build_snapshot(documents: Documents, clusters: Mapping[str, Cluster], verifier: TokenVerifier | None) -> Snapshot:
    """Compile the stations."""
    limits = documents.mesh.spec.limits
    inbound = documents.sidecar.spec.inbound
    return Snapshot(
        verifier=verifier,
        policy=compile_policy(documents.roles, documents.bindings, documents.mesh.spec.trust_domain),
        routes=compile_routes(inbound.server, limits.request_timeout, documents.routes),
        clusters=clusters,
        limits=BodyLimits(
            held=limits.held_body_bytes,
            held_total=limits.held_total_bytes,
            unread_total=limits.unread_total_bytes,
            scan=ScanLimits(inflated_bytes=limits.inflated_bytes),
            stall=limits.body_stall_timeout,
        ),
        forwards_identity=inbound.forward_identity,
        forwards_token=inbound.forward_token,
    )
