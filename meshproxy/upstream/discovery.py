"""Endpoint discovery: the set of addresses of a model server.

A discovery reports the whole set each time it changes. A failure changes nothing (fail static): the last good set stays
in use, and the reason is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

import msgspec

MOST_ENDPOINTS = 1_000
"""Per model server. Each has its own pools, breaker and health check."""


class EndpointAddress(msgspec.Struct, frozen=True):
    """The addresses of one model server process. Addresses are `HOST:PORT`, IPv6 in brackets, or `unix:PATH`."""

    rest: str | None = None
    grpc: str | None = None
    sidecar: str | None = None
    """REST and gRPC through the sidecar beside it; the other two are None then."""
    locality: str = ""
    """Empty: unknown."""

    @property
    def key(self) -> str:
        """What tells it from others, the same in every process: `rest=ADDRESS,grpc=ADDRESS`. Independent of the
        locality. People see `Endpoint.name`."""
        surfaces = (("rest", self.rest), ("grpc", self.grpc), ("sidecar", self.sidecar))
        return ",".join(f"{name}={address}" for name, address in surfaces if address is not None)


OnEndpoints = Callable[[tuple[EndpointAddress, ...]], None]
"""Receives every endpoint, in a stable order without meaning."""
OnFailure = Callable[[str], None]
"""Receives one sentence on a failure, for logs and a counter."""


class Discovery(Protocol):
    """A source of endpoints."""

    def start(self, on_endpoints: OnEndpoints) -> None:
        """Begin. `on_endpoints` is called with the first good answer, and whenever the set changes."""

    async def close(self) -> None:
        """Stop: `on_endpoints` is not called any more."""


class Static:
    """Endpoints listed in a document (`Discovery`)."""

    def __init__(self, found: Iterable[EndpointAddress]) -> None:
        self._found = tuple(dict.fromkeys(found))

    def start(self, on_endpoints: OnEndpoints) -> None:
        on_endpoints(self._found)

    async def close(self) -> None:
        """Nothing to stop."""


class LastGoodEndpoints:
    """The last good set of endpoints, reported when it changes."""

    def __init__(self, on_endpoints: OnEndpoints, on_failure: OnFailure) -> None:
        self._on_endpoints = on_endpoints
        self._on_failure = on_failure
        self.found: tuple[EndpointAddress, ...] | None = None
        """None: none yet."""
        self.failures = 0
        """Consecutive ones."""

    def take(self, found: tuple[EndpointAddress, ...]) -> None:
        """A good answer: reported if the set changed."""
        self.failures = 0
        if found != self.found:
            self.found = found
            self._on_endpoints(found)

    def fail(self, reason: str) -> None:
        """A failure: reported; the last good set stays."""
        self.failures += 1
        self._on_failure(reason)


def address(host: IPv4Address | IPv6Address, port: int) -> str:
    """`HOST:PORT`, IPv6 in brackets."""
    return f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}"


def order(host: IPv4Address | IPv6Address) -> tuple[int, int]:
    """A sort key, IPv4 first, as the order of DNS answers means nothing."""
    return host.version, int(host)


def is_usable(host: IPv4Address | IPv6Address) -> bool:
    """Whether an endpoint can have this address. Name servers that block a name answer 0.0.0.0, which Linux takes for
    itself."""
    return not (host.is_unspecified or host.is_multicast)
