"""From documents to the parts that a reload replaces: limits, and one snapshot for each direction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.inference.body_scan import ScanLimits
from meshproxy.inference.surfaces import surfaces
from meshproxy.policy.compile import compile_policy
from meshproxy.policy.decide import Permit
from meshproxy.proxy.client_side import LOOKS
from meshproxy.proxy.snapshot import BodyLimits, Snapshot
from meshproxy.proxy.token_places import TokenPlaces
from meshproxy.routing.routes import compile_routes
from meshproxy.routing.servers import Servers
from meshproxy.transport.connection import Times

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshproxy.codec.events import Headers
    from meshproxy.config.schema import Documents, Issuer
    from meshproxy.identity.cache_misses import CacheMisses
    from meshproxy.identity.caller import Caller
    from meshproxy.identity.tokens import TokenVerifier
    from meshproxy.inference.call import Call
    from meshproxy.routing.carried_state import CarriedState
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.serving import HealthService


def times(documents: Documents) -> Times:
    """Timeouts of a downstream connection."""
    limits = documents.mesh.spec.limits
    return Times(handshake=limits.handshake_timeout, head=limits.head_timeout, idle=limits.idle_timeout)


def body_limits(documents: Documents) -> BodyLimits:
    """Buffer limits for request and response bodies."""
    limits = documents.mesh.spec.limits
    return BodyLimits(
        scan_buffer=limits.scan_buffer_bytes,
        scan_buffer_total=limits.scan_buffer_total_bytes,
        replay_buffer_total=limits.replay_buffer_total_bytes,
        response_buffer_total=limits.response_buffer_total_bytes,
        scan=ScanLimits(inflated_bytes=limits.inflated_bytes, unnamed_bytes=limits.scan_buffer_bytes),
        stall=limits.body_stall_timeout,
    )


def shortest_time_limit(documents: Documents) -> float:
    """How often the reaper must look for every time limit that it keeps, in seconds."""
    limits = documents.mesh.spec.limits
    routes = [route.spec for route in documents.routes]
    moving = [limits.body_stall_timeout, *(route.idle_timeout for route in routes if route.idle_timeout is not None)]
    return min(
        limits.head_timeout,
        limits.idle_timeout,
        *(server.spec.idle_timeout for server in documents.servers),
        *(route.concurrency.queue_timeout for route in routes if route.concurrency is not None),
        *(limit / LOOKS for limit in moving),
    )


def inbound_snapshot(
    documents: Documents,
    clusters: Mapping[str, Cluster],
    verifier: TokenVerifier | None,
    live: CarriedState,
    health: HealthService | None = None,
    misses: CacheMisses | None = None,
) -> Snapshot | None:
    """Compile the inbound snapshot; None if the sidecar has no inbound listener.

    Args:
        health: answers grpc.health.v1 for the model server, if it has health checks.
        misses: where decisions are counted that are not remembered.
    """
    inbound = documents.sidecar.spec.inbound
    if inbound is None:
        return None
    mesh = documents.mesh.spec
    listed = [model for each in documents.servers if each.metadata.name == inbound.server for model in each.spec.models]
    return Snapshot(
        verifier=verifier,
        token_places=places_of(mesh.issuers),
        policy=compile_policy(documents.roles, documents.bindings, mesh.trust_domain, misses, listed),
        routes=compile_routes(
            "inbound",
            inbound.server,
            mesh.limits.request_timeout,
            documents.routes,
            mesh.trust_domain,
            live,
            documents.rollouts,
        ),
        clusters=clusters,
        limits=body_limits(documents),
        tells_timing=documents.mesh.spec.telemetry.server_timing == "onRequest",
        is_express=documents.sidecar.spec.express_lane,
        surfaces=surfaces(each.spec.metrics_path for each in documents.servers if each.metadata.name == inbound.server),
        forwards_identity=inbound.forward_identity,
        forwards_token=inbound.forward_token,
        server=inbound.server,
        health=health,
    )


def places_of(issuers: Sequence[Issuer]) -> TokenPlaces | None:
    """Where issuers have their tokens, beside `authorization`; None: nowhere."""
    places = [issuer.token_from for issuer in issuers if issuer.token_from is not None]
    if not places:
        return None
    headers = {place.header.encode(): place.name for place in places if place.header is not None}
    return TokenPlaces(headers, {place.cookie: place.name for place in places if place.cookie is not None})


def outbound_snapshot(documents: Documents, clusters: Mapping[str, Cluster], live: CarriedState) -> Snapshot | None:
    """Compile the outbound snapshot; None if the sidecar has no outbound listener. The application is not
    authenticated; the sidecar at the other end authorises its calls, so the token is forwarded."""
    outbound = documents.sidecar.spec.outbound
    if outbound is None:
        return None
    mesh = documents.mesh.spec
    paths = {server.metadata.name: server.spec.metrics_path for server in documents.servers}
    return Snapshot(
        verifier=None,
        policy=PermitAll(),
        routes=compile_routes(
            "outbound", None, mesh.limits.request_timeout, documents.routes, mesh.trust_domain, live, documents.rollouts
        ),
        clusters=clusters,
        limits=body_limits(documents),
        tells_timing=documents.mesh.spec.telemetry.server_timing == "onRequest",
        is_express=documents.sidecar.spec.express_lane,
        forwards_identity=False,
        forwards_token=True,
        server=outbound.server,
        servers=Servers(documents.servers),
        surfaces=surfaces(paths.values()),
        metrics_paths={name: path.encode() for name, path in paths.items()} if len(set(paths.values())) > 1 else {},
    )


class PermitAll:
    """The policy of outbound calls: the sidecar at the other end authorises them (`snapshot.Decides`)."""

    _PERMIT = Permit("")
    headers: frozenset[bytes] = frozenset()

    def decide(self, caller: Caller, call: Call, remote: str, headers: Headers | None) -> Permit:
        """Permit every call."""
        return self._PERMIT

    def decide_partly(self, caller: Caller, call: Call, remote: str, headers: Headers | None) -> Permit | None:
        """Nothing was refused."""
        return None

    def may_see(self, caller: Caller, call: Call, name: str, remote: str, headers: Headers | None) -> bool:
        """No answer is filtered."""
        return False
