"""No connection outlives the certificates of its handshake: it is given up before the first of both expires.

A rotated certificate is for new connections, and a peer is who its certificate says as long as that is valid. So
clients are asked to leave (`connection: close`, GOAWAY), and our own connections take no new requests, after a random
share of the time that was left at the handshake: connections that were opened together are not replaced together, and
the rest of the time is for those who do not go at once. What has begun is completed, however long it takes.

There is no timer for each connection: when they leave is fixed at the handshake, and the reaper has one deadline for
all of them.
"""

from __future__ import annotations

import random
import time
from math import inf
from typing import TYPE_CHECKING

from meshproxy.identity.caller import Workload
from meshproxy.identity.mesh_context import MeshContext

if TYPE_CHECKING:
    import ssl
    from collections.abc import Set

    from meshproxy.transport.connection_info import ConnectionInfo
    from meshproxy.transport.h1_server import H1Server
    from meshproxy.transport.h2_server import H2Server

EARLIEST = 0.5
LATEST = 0.8
"""Shares of the time until the first of both certificates expires."""
SPACING = 0.25
"""Seconds between two looks at all connections."""
PATIENCE = 2.0
PATIENCE_SHARE = 0.25
"""Seconds for which a GOAWAY waits for a moment without open streams, or this share of the time that is left."""
LEAVING, EXPIRED = "certificate-age", "certificate-expired"
"""Values of the label `reason`: asked to leave; closed as nothing was asked before a certificate expired."""


def time_left(tls: ssl.SSLObject, peer_not_after: float) -> float:
    """Seconds until the first certificate of a handshake expires: ours, if we have shown one, or the peer's.
    `peer_not_after`: seconds since the epoch; 0.0 for never."""
    own = tls.context.not_after if isinstance(tls.context, MeshContext) else inf
    return min(own, peer_not_after or inf) - time.time()


def leaves_after(left: float, draw: float | None = None) -> float:
    """Seconds after which a connection is given up. `draw`: 0 to 1; None: drawn now."""
    return left * (EARLIEST + (LATEST - EARLIEST) * (random.random() if draw is None else draw))  # noqa: S311


class CertificateAge:
    """Asks the clients of one port to leave in time (`reaper.Expirable`).

    Args:
        connections: of the port, as its owner keeps them.
    """

    def __init__(self, connections: Set[H1Server | H2Server]) -> None:
        self._connections = connections
        self.deadline = 0.0

    def watch(self, info: ConnectionInfo) -> None:
        """A connection has come."""
        if info.leaves_at != inf and not 0.0 < self.deadline <= info.leaves_at:
            self.deadline = info.leaves_at

    def expire(self, now: float) -> None:
        """For some of the connections it is time."""
        following = inf
        for connection in tuple(self._connections):
            info = connection.info
            if info.leaves_at <= now:
                info.leaves_at = inf
                if not connection.is_announced:
                    connection.shared.on_drained(LEAVING)
                    connection.drain(patience=min(PATIENCE, (info.expires_at - now) * PATIENCE_SHARE))
            if info.expires_at <= now:
                info.expires_at = inf
                # One that knows that it should leave closes by itself.
                if connection.is_idle and not connection.is_announced and not connection.is_closing:
                    connection.shared.on_drained(EXPIRED)
                    connection.close()
            following = min(following, info.leaves_at, info.expires_at)
        self.deadline = max(following, now + SPACING) if following != inf else 0.0


def note(info: ConnectionInfo, tls: ssl.SSLObject, now: float) -> None:
    """When a client leaves, by the certificates of its handshake. `now` is `loop.time()`."""
    left = time_left(tls, info.peer.not_after if isinstance(info.peer, Workload) else inf)
    if left != inf:
        info.expires_at = now + left
        info.leaves_at = now + leaves_after(left)
