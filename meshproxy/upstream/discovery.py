"""Which endpoints a model server has, as whoever looks for them finds them: sets of addresses.

A discovery tells the whole set each time it has changed. What cannot be found out changes nothing (fail static): the
last good set goes on counting, and the reason is told beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

MOST_ENDPOINTS = 1_000
"""Of one model server. Each has pools, a breaker and a check of its own."""


@dataclass(frozen=True, slots=True)
class EndpointAddress:
    """Where one model server process is. Addresses are `HOST:PORT`, IPv6 in brackets."""

    rest: str | None = None
    grpc: str | None = None
    sidecar: str | None = None
    """REST and gRPC, through the sidecar beside it: the other two are None."""
    locality: str = ""
    """Empty: nobody said."""

    @property
    def key(self) -> str:
        """What it is called by balancers, metrics and logs, the same in every process: `rest=ADDRESS,grpc=ADDRESS`.
        Its locality may change, its key does not."""
        surfaces = (("rest", self.rest), ("grpc", self.grpc), ("sidecar", self.sidecar))
        return ",".join(f"{name}={address}" for name, address in surfaces if address is not None)


OnEndpoints = Callable[[tuple[EndpointAddress, ...]], None]
"""Takes every endpoint that there is, in an order that means nothing and is always the same."""
OnFailure = Callable[[str], None]
"""Takes one sentence on what could not be found out, for logs and a counter."""


class Discovery(Protocol):
    """Looks for endpoints."""

    def start(self, tell: OnEndpoints) -> None:
        """Begin to look. `tell` is called at the first good answer, and whenever the set is another one."""

    async def close(self) -> None:
        """Stop. `tell` is not called any more."""


class Static:
    """Endpoints that are written down (`Discovery`)."""

    def __init__(self, found: Iterable[EndpointAddress]) -> None:
        self._found = tuple(dict.fromkeys(found))

    def start(self, tell: OnEndpoints) -> None:
        """They are told at once."""
        tell(self._found)

    async def close(self) -> None:
        """Nothing is under way."""


class LastGood:
    """What was found last, as long as nothing better is."""

    def __init__(self, tell: OnEndpoints, on_failure: OnFailure) -> None:
        self._tell = tell
        self._on_failure = on_failure
        self.found: tuple[EndpointAddress, ...] | None = None
        """None: nothing yet."""
        self.failures = 0
        """In a row."""

    def take(self, found: tuple[EndpointAddress, ...]) -> None:
        """A good answer. It is told if it is another set than before."""
        self.failures = 0
        if found != self.found:
            self.found = found
            self._tell(found)

    def fail(self, reason: str) -> None:
        """There is no answer, or none that can be believed."""
        self.failures += 1
        self._on_failure(reason)


def address(host: IPv4Address | IPv6Address, port: int) -> str:
    """`HOST:PORT`, IPv6 in brackets."""
    return f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}"


def order(host: IPv4Address | IPv6Address) -> tuple[int, int]:
    """A key to sort addresses by, IPv4 first: the order of answers means nothing."""
    return host.version, int(host)


def is_usable(host: IPv4Address | IPv6Address) -> bool:
    """Whether an endpoint can be there. Name servers that block a name answer 0.0.0.0, which Linux takes for itself."""
    return not (host.is_unspecified or host.is_multicast)
