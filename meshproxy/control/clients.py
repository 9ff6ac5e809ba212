"""The clients of the control plane's ports: how many there may be, and who keeps nobody else away."""

from __future__ import annotations

import logging
import resource
from collections import Counter
from typing import TYPE_CHECKING

from meshproxy.control.channel import Paces
from meshproxy.identity.caller import Workload
from meshproxy.transport.notices import Notices

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.telemetry.control_metrics import ControlMetrics
    from meshproxy.transport.connection_info import ConnectionInfo

logger = logging.getLogger(__name__)

CONNECTIONS = 20_000
"""Sidecars that may be connected at once; further ones wait to be accepted."""
MOST_OF_ONE = 0.75
"""Of the connections, for one identity: one that was taken over keeps nobody else away."""
CONNECTION_BURST = 10.0
"""Seconds' worth of connections that one address may open at once."""
OWN_DESCRIPTORS = 64
"""What sidecars leave at least, as strangers may connect, too: 17 are open at rest, and documents, the authority and
the port of probes take some."""
FEW_CLIENTS = 8
"""At each port, however few descriptors there are."""


class SidecarClients:
    """Clients of the port for sidecars (`transport.listener.ListenerEvents`).

    Attributes:
        most: connections that there may be at once.
    """

    def __init__(
        self, metrics: ControlMetrics, rate: float, now: Callable[[], float], came: Callable[[], None]
    ) -> None:
        """
        Args:
            rate: connections that an address may open in a second.
            now: seconds, of a clock that does not go back.
            came: is called for each client that may stay.
        """
        self.most = CONNECTIONS
        self._metrics = metrics
        self._opened = Paces(rate, rate * CONNECTION_BURST)
        self._now = now
        self._came = came
        self._notices = Notices()
        self._connected: Counter[str] = Counter()
        """Connections of each identity."""

    def admits(self, address: str) -> bool:
        """Whether a connection of an address is set up. A handshake is the most that a stranger can cost: whoever
        connects again and again pays for it alone."""
        return self._opened.take(address, self._now())

    def welcomes(self, info: ConnectionInfo) -> bool:
        """Whether a client may stay: no workload keeps all others out, whatever it became."""
        identity, most = _identity(info), max(1, int(self.most * MOST_OF_ONE))
        if self._connected[identity] < most:
            return True
        self.limit("identity_connections")
        text = f"a connection of {identity} from {info.remote} is closed: {most}, the most of one identity, are open"
        self._notices.info(logger, identity, self._now(), text)
        return False

    def handshake(self, result: str, reason: str) -> None:
        self._metrics.tls_handshakes.labels("control", result, reason).value += 1

    def connected(self, info: ConnectionInfo) -> None:
        self._came()
        if identity := _identity(info):
            self._connected[identity] += 1
        self._metrics.open_connections.labels("control", info.protocol).value += 1

    def disconnected(self, info: ConnectionInfo) -> None:
        if identity := _identity(info):
            self._connected[identity] -= 1
            if not self._connected[identity]:
                del self._connected[identity]
        self._metrics.open_connections.labels("control", info.protocol).value -= 1

    def limit(self, name: str) -> None:
        self._metrics.limits_exceeded.labels("control", name).value += 1


def _identity(info: ConnectionInfo) -> str:
    """The SPIFFE id of a client; empty without a certificate."""
    return info.peer.spiffe_id if isinstance(info.peer, Workload) else ""


def allow_descriptors() -> int:
    """Raise the soft limit of open files to the hard one, which is returned: each sidecar has one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def most_connections(descriptors: int) -> int:
    """How many sidecars may be connected, with so many descriptors (-1: any number)."""
    left = descriptors - max(descriptors // 4, OWN_DESCRIPTORS) if descriptors >= 0 else CONNECTIONS
    return max(1, min(CONNECTIONS, left))


def most_clients(descriptors: int, most: int) -> int:
    """How many of `most` may be connected to a port of pages or to the webhook, with so many descriptors (-1: any
    number): three ports leave some of what the sidecars do."""
    return max(FEW_CLIENTS, min(most, descriptors // 16)) if descriptors >= 0 else most
