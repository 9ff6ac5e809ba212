"""One configuration, compiled: what a request is carried by from its head to its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from meshproxy.inference.body_scan import DEFAULT_LIMITS, ScanLimits

if TYPE_CHECKING:
    from meshproxy.codec.events import Headers
    from meshproxy.identity.caller import Caller, Token
    from meshproxy.inference.call import Call
    from meshproxy.policy.decide import Permit
    from meshproxy.proxy.health_service import HealthService
    from meshproxy.routing.routes import Route
    from meshproxy.upstream.cluster import Cluster


class Verifies(Protocol):
    """Turns the `authorization` header into a token (`identity.tokens.TokenVerifier`)."""

    def verify(self, authorization: bytes, now: float) -> Token:
        """Raises Refusal, or `KeysWanted` when the issuer's keys must be fetched first."""


class Decides(Protocol):
    """May this caller make this call (`policy.decide.Policy`)."""

    def decide(self, caller: Caller, call: Call) -> Permit:
        """Raises Refusal."""


class Routes(Protocol):
    """Where a call goes (`routing.routes.Routes`)."""

    def match(self, call: Call, headers: Headers, caller: Caller) -> Route:
        """The first route that fits."""


class FindsServer(Protocol):
    """Which server an application means (`routing.servers.Servers`)."""

    def find(self, authority: bytes, header: bytes | None, original: str) -> str | None:
        """The name of a `ModelServer`; None if nothing says."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What a request may make us hold."""

    held: int = 4 * 1024 * 1024
    """Bytes of one body kept until its model is known: clients write the model first, but need not."""
    held_total: int = 64 * 1024 * 1024
    """The same, for all requests together."""
    kept_total: int = 64 * 1024 * 1024
    """Bytes of requests, all together, that are kept in case they have to be sent again."""
    unread_total: int = 64 * 1024 * 1024
    """Bytes of answers, of all requests together, that wait for clients to take them."""
    scan: ScanLimits = DEFAULT_LIMITS
    """What reading the model out of a body may take."""
    stall: float = 30.0
    """Seconds without a byte of a body that is owed to us, or taken by a client that owes us reading."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Built whole beside the one it replaces; requests under way keep the one they began with."""

    verifier: Verifies | None
    policy: Decides
    routes: Routes
    clusters: Mapping[str, Cluster]
    limits: BodyLimits
    forwards_identity: bool
    forwards_token: bool
    server: str | None = None
    """Where calls go for which nothing else says it."""
    health: HealthService | None = None
    """Answers for the health of our model server; None: it is asked itself."""
    servers: FindsServer | None = None
    """For outbound calls: which server an application means."""
