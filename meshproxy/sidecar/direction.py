"""One direction of a sidecar: its listener, and the pipeline for the requests that arrive there."""

from __future__ import annotations

import errno
from collections import Counter
from typing import TYPE_CHECKING

from meshproxy.identity.caller import ANONYMOUS
from meshproxy.refusal import Refusal
from meshproxy.transport.listener import Listener

if TYPE_CHECKING:
    import ssl

    from meshproxy.config.values import Address
    from meshproxy.inference.call import Call
    from meshproxy.proxy.pipeline import Pipeline
    from meshproxy.proxy.snapshot import Snapshot
    from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
    from meshproxy.transport.connection import ConnectionContext
    from meshproxy.transport.connection_info import ConnectionInfo
    from meshproxy.transport.listener import Identify, Security


WITHOUT_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Why ::1 cannot be bound on a host that has no IPv6: nothing can be redirected there either."""
SECURITIES = ("mtls", "tls", "plaintext")
"""The values of `ConnectionInfo.security`."""


class Direction:
    """`inbound` or `outbound`. Counts the events of its listener (`listener.ListenerEvents`)."""

    def __init__(
        self,
        name: str,
        metrics: SidecarMetrics,
        pipeline: Pipeline,
        *,
        shared: ConnectionContext,
        security: Security,
        context: ssl.SSLContext | None,
        identify: Identify,
        max_connections: int,
        is_transparent: bool = False,
    ) -> None:
        self.name = name
        self.pipeline = pipeline
        self._metrics = metrics
        metrics.requests.expect(name)
        self.listener = Listener(
            direction=name,
            shared=shared,
            serve=pipeline.serve,
            reject=pipeline.reject,
            events=self,
            security=security,
            context=context,
            identify=identify,
            max_connections=max_connections,
            reads_original_destination=is_transparent,
        )

    def listen(self, address: Address, *, shared_port: int | None = None) -> None:
        """Bind and accept; on a port that is shared with other workers, if one is given. Where connections are
        redirected to 127.0.0.1, those of IPv6 arrive at ::1, so that is listened on, too. Raises OSError."""
        is_shared = shared_port is not None
        listener = self.listener
        listener.listen(address.host, address.port if shared_port is None else shared_port, is_shared=is_shared)
        if listener.reads_original_destination and address.host == "127.0.0.1":
            port = int(listener.address.rpartition(":")[2])
            try:
                listener.listen("::1", port, is_shared=is_shared)
            except OSError as error:
                if error.errno not in WITHOUT_IPV6:
                    raise

    def permits(self, call: Call, remote: str) -> bool:
        """Whether the policy in use permits a call to someone without an identity, by the address `HOST:PORT` alone:
        a condition on headers counts as one that cannot be evaluated."""
        try:
            self.pipeline.snapshot.policy.decide(ANONYMOUS, call, remote, None)
        except Refusal:
            return False
        return True

    def adopt(self, snapshot: Snapshot, max_connections: int) -> None:
        """Use this configuration for new requests and connections."""
        self.pipeline.snapshot = snapshot
        self.listener.max_connections = max_connections

    async def close(self) -> None:
        """Close the listener and every connection."""
        self.pipeline.mirrors.close()
        await self.listener.close()

    def overview(self) -> dict[str, object]:
        """The port, its connections by how they are secured, and its requests."""
        now = Counter(connection.info.security for connection in self.listener.connections)
        total = {
            labels[1]: series.value
            for labels, series in self._metrics.connections.series.items()
            if labels[0] == self.name
        }
        return {
            "address": self.listener.address,
            "state": self.listener.state.value,
            "connections": {security: now[security] for security in SECURITIES},
            "connectionsTotal": {security: int(total.get(security, 0)) for security in SECURITIES},
            "inFlight": len(self.pipeline.live),
            "served": self.pipeline.served,
        }

    # listener.ListenerEvents

    def handshake(self, result: str, reason: str) -> None:
        self._metrics.tls_handshakes.labels(self.name, result, reason).value += 1

    def connected(self, info: ConnectionInfo) -> None:
        self._metrics.open_connections.labels(self.name, info.protocol).value += 1
        self._metrics.connections.labels(self.name, info.security).value += 1

    def disconnected(self, info: ConnectionInfo) -> None:
        self._metrics.open_connections.labels(self.name, info.protocol).value -= 1

    def limit(self, name: str) -> None:
        self._metrics.limits_exceeded.labels(self.name, name).value += 1
