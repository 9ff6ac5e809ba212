"""From documents to what runs: built whole beside what runs already, then put in its place, or not at all."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from meshproxy.identity.certificates import IdentityFiles, OwnIdentity, own_identity
from meshproxy.inference.body_scan import ScanLimits
from meshproxy.policy.compile import compile_policy
from meshproxy.policy.decide import Permit
from meshproxy.proxy.snapshot import BodyLimits, Snapshot
from meshproxy.routing.routes import compile_routes
from meshproxy.routing.servers import Servers
from meshproxy.sidecar.clusters import DESCRIPTORS
from meshproxy.transport.connection import Times

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshproxy.config.schema import Documents
    from meshproxy.identity.caller import Caller
    from meshproxy.identity.tokens import TokenVerifier
    from meshproxy.inference.call import Call
    from meshproxy.routing.live import Live
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.serving import HealthService

DOWNSTREAM_CONNECTIONS = max(16, DESCRIPTORS // 2)
"""The default: see `clusters.UPSTREAM_CONNECTIONS`."""


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
    return own_identity(
        credentials,
        mesh.trust_domain,
        now,
        needs_client=calls_sidecars(documents),
        mtls=mesh.mtls,
        minimum_version=minimum,
    )


def calls_sidecars(documents: Documents) -> bool:
    """Connections go into the mesh, not only to model servers beside us."""
    return any(server.spec.workload is not None for server in documents.servers)


def body_limits(documents: Documents) -> BodyLimits:
    """What requests may make us hold."""
    limits = documents.mesh.spec.limits
    return BodyLimits(
        held=limits.held_body_bytes,
        held_total=limits.held_total_bytes,
        kept_total=limits.kept_total_bytes,
        unread_total=limits.unread_total_bytes,
        scan=ScanLimits(inflated_bytes=limits.inflated_bytes),
        stall=limits.body_stall_timeout,
    )


def inbound_snapshot(
    documents: Documents,
    clusters: Mapping[str, Cluster],
    verifier: TokenVerifier | None,
    live: Live,
    health: HealthService | None = None,
) -> Snapshot | None:
    """Compile the stations of calls to our model server; None if there is none.

    Args:
        health: answers for it, where its health is checked.
    """
    inbound = documents.sidecar.spec.inbound
    if inbound is None:
        return None
    mesh = documents.mesh.spec
    return Snapshot(
        verifier=verifier,
        policy=compile_policy(documents.roles, documents.bindings, mesh.trust_domain),
        routes=compile_routes(
            "inbound", inbound.server, mesh.limits.request_timeout, documents.routes, mesh.trust_domain, live
        ),
        clusters=clusters,
        limits=body_limits(documents),
        forwards_identity=inbound.forward_identity,
        forwards_token=inbound.forward_token,
        server=inbound.server,
        health=health,
    )


def outbound_snapshot(documents: Documents, clusters: Mapping[str, Cluster], live: Live) -> Snapshot | None:
    """Compile the stations of our application's calls; None if it makes none. Nobody is asked who it is, and all it
    may is decided at the other end: its token goes there with the call."""
    outbound = documents.sidecar.spec.outbound
    if outbound is None:
        return None
    mesh = documents.mesh.spec
    return Snapshot(
        verifier=None,
        policy=Unguarded(),
        routes=compile_routes("outbound", None, mesh.limits.request_timeout, documents.routes, mesh.trust_domain, live),
        clusters=clusters,
        limits=body_limits(documents),
        forwards_identity=False,
        forwards_token=True,
        server=outbound.server,
        servers=Servers(documents.servers),
    )


class Unguarded:
    """The policy of outbound calls: the sidecar at the other end decides (`snapshot.Decides`)."""

    _PERMIT = Permit("outbound")

    def decide(self, caller: Caller, call: Call) -> Permit:
        """Yes."""
        return self._PERMIT
