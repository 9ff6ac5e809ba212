"""One compiled configuration, which a request uses from its head to its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
from msgspec import field

from meshproxy.inference.body_scan import DEFAULT_LIMITS, ScanLimits
from meshproxy.inference.surfaces import SURFACES, Surfaces

if TYPE_CHECKING:
    from meshproxy.proxy.ports import Decides, FindsRoute, FindsServer, Verifies
    from meshproxy.proxy.token_places import TokenPlaces
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.serving import HealthService


class BodyLimits(msgspec.Struct, frozen=True):
    """What a request may make the sidecar buffer."""

    scan_buffer: int = 4 * 1024 * 1024
    """Bytes of one body kept until its model is known: clients write the model first, but need not."""
    scan_buffer_total: int = 64 * 1024 * 1024
    """The same, for all requests together."""
    replay_buffer_total: int = 64 * 1024 * 1024
    """Bytes of requests, all together, that are kept in case they have to be sent again."""
    response_buffer_total: int = 64 * 1024 * 1024
    """Bytes of answers, of all requests together, that wait for clients to take them."""
    scan: ScanLimits = DEFAULT_LIMITS
    """What reading the model out of a body may take."""
    stall: float = 30.0
    """Seconds without a byte of a body that is owed to us, or taken by a client that owes us reading."""


class Snapshot(msgspec.Struct, frozen=True):
    """Built whole beside the one it replaces; requests in flight keep the one they began with."""

    verifier: Verifies | None
    policy: Decides
    routes: FindsRoute
    clusters: Mapping[str, Cluster]
    limits: BodyLimits
    forwards_identity: bool
    forwards_token: bool
    token_places: TokenPlaces | None = None
    """Where tokens are beside `authorization`; None: nowhere."""
    server: str | None = None
    """The ModelServer of calls for which nothing else selects one."""
    health: HealthService | None = None
    """Answers grpc.health.v1 for the model server; None: calls go to the model server itself."""
    servers: FindsServer | None = None
    """For outbound calls: which ModelServer an application selected."""
    surfaces: Surfaces = SURFACES
    """The wire surfaces that requests are read by."""
    tells_timing: bool = False
    """Responses to requests that ask for it have `server-timing`."""
    is_express: bool = True
    """Requests that repeat earlier ones take the express lane."""
    metrics_paths: Mapping[str, bytes] = field(default_factory=dict)
    """For outbound calls: where the metrics page of each ModelServer is, if that differs between them."""
