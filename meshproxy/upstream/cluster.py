"""One `ModelServer` at run time: its endpoints, and which of them gets the next call."""

from __future__ import annotations

import logging
import random
from math import inf
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec import field

from meshproxy.config.servers import Balancing, BreakerSettings, EjectionSettings
from meshproxy.upstream.balancer import Balancer, LeastRequest, RingHash, RoundRobin, preferred
from meshproxy.upstream.ejection import Ejector
from meshproxy.upstream.endpoint import Endpoint
from meshproxy.upstream.latency import Latency
from meshproxy.upstream.pool import H1Pool, H2Pool
from meshproxy.upstream.sidecar_pool import SidecarPool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshproxy.transport.connect_failures import ConnectError, ConnectFailure
    from meshproxy.transport.connection import ConnectionContext
    from meshproxy.transport.connector import PeerSecurity
    from meshproxy.upstream.breaker import State
    from meshproxy.upstream.discovery import EndpointAddress
    from meshproxy.upstream.pool import PoolSettings

logger = logging.getLogger(__name__)

LAST_RESORT_SECONDS = 1.0
"""While no endpoint is available, one is called at this interval anyway: an endpoint that recovers is found within this
time, however long its breaker would stay open."""
TICK_SECONDS = 1.0
"""The interval at which outliers and localities are evaluated."""
LATENCIES = 1_024
"""Models whose latency is kept; bounded, as callers choose the names."""


class NoEndpoint(Exception):
    """No endpoint is available. The message says why.

    Attributes:
        retry_after: seconds after which a retry makes sense.
    """

    def __init__(self, message: str, retry_after: float = LAST_RESORT_SECONDS) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ClusterSettings(msgspec.Struct, frozen=True):
    """What a cluster is made from. With equal settings a reload keeps the cluster, its connections and its state."""

    pool: PoolSettings
    """For each pool of each endpoint."""
    balancing: Balancing = field(default_factory=Balancing)
    breaker: BreakerSettings = field(default_factory=BreakerSettings)
    ejection: EjectionSettings = field(default_factory=EjectionSettings)


class Securities(msgspec.Struct, frozen=True):
    """How connections to endpoints are secured, by what they carry; None: plaintext."""

    sidecar: PeerSecurity | None = None
    """Both, to a sidecar."""
    sidecar_h1: PeerSecurity | None = None
    """The same, for HTTP/1.1."""
    rest: PeerSecurity | None = None
    grpc: PeerSecurity | None = None


class Watch(Protocol):
    """Observes the endpoints of clusters."""

    def connect_failed(self, server: str, failure: ConnectFailure) -> None:
        """A connection to an endpoint could not be opened."""

    def circuit(self, server: str, model: str, endpoint: str, old: State, new: State) -> None:
        """A breaker changed its state; `model` is empty for the breaker of the endpoint."""

    def ejected(self, server: str, endpoint: str) -> None:
        """An endpoint was ejected as an outlier."""

    def endpoints(self, server: str, added: Sequence[str], removed: Sequence[str]) -> None:
        """Discovery changed the set of endpoints."""


class Cluster:
    """The endpoints of one `ModelServer`. Lives as long as its document stays the same, across snapshots."""

    def __init__(
        self,
        shared: ConnectionContext,
        name: str,
        settings: ClusterSettings,
        watch: Watch,
        *,
        locality: str = "",
        securities: Securities | None = None,
        chance: random.Random | None = None,
    ) -> None:
        """
        Args:
            locality: that of this sidecar.
            securities: TLS, and how peers are verified.
            chance: the source of random numbers.
        """
        self._shared = shared
        self.name = name
        self.settings = settings
        self.key = settings.balancing.key if settings.balancing.policy == "ring-hash" else None
        """The part of a request that ring-hash hashes; None for other policies."""
        self._watch = watch
        self._locality = locality
        self._securities = securities or Securities()
        self._chance = chance = chance or random.Random()  # noqa: S311 (nothing is kept secret by it)
        self.endpoints: dict[str, Endpoint] = {}
        draw = chance.random
        # Not `randrange`, which costs 0.1 us more.
        self._rest: Balancer[Endpoint] = _BALANCERS[settings.balancing.policy](lambda most: int(draw() * most))
        self._grpc: Balancer[Endpoint] = _BALANCERS[settings.balancing.policy](lambda most: int(draw() * most))
        self._rest_members: Sequence[Endpoint] = ()
        self._grpc_members: Sequence[Endpoint] = ()
        self.only_rest: Endpoint | None = None
        self.only_grpc: Endpoint | None = None
        """The endpoint for all calls, if there is no other. It may be one that takes none now (`Endpoint.allows`)."""
        self._latencies: dict[str, Latency] = {}
        self._ejector = Ejector(settings.ejection, shared.loop.time()) if settings.ejection.enabled else None
        self._resorted = 0.0
        self.is_discovered = False
        """Discovery has succeeded at least once."""
        self.on_endpoints: Callable[[Sequence[Endpoint], Sequence[Endpoint]], None] | None = None
        """Called with the endpoints that were added and removed (health checks)."""
        self.deadline = 0.0
        self.is_closed = False

    # Which endpoints there are

    def set_endpoints(self, found: Sequence[EndpointAddress]) -> None:
        """Replace the set of endpoints. Endpoints that stay keep their connections and state; removed ones finish what
        is in flight; added ones begin in slow start if there were others."""
        if self.is_closed:
            return  # a late answer of discovery
        wanted = {each.key: each for each in found}
        now = self._shared.loop.time()
        gone = [endpoint for key, endpoint in self.endpoints.items() if key not in wanted]
        come = []
        for key, each in wanted.items():
            if key not in self.endpoints:
                endpoint = self._make(each)
                come.append(endpoint)
                seconds = self.settings.balancing.warm_up
                if self.is_discovered and seconds:
                    endpoint.load.warm_up(inf, seconds)  # it has not even begun to
                    endpoint.slow_start = seconds
            else:
                self.endpoints[key].locality = each.locality
        for endpoint in gone:
            del self.endpoints[endpoint.key]
            if self._ejector is not None:
                self._ejector.forget(endpoint.key)
            endpoint.close()
        self.endpoints.update((endpoint.key, endpoint) for endpoint in come)
        if self.is_discovered and (come or gone):
            self._watch.endpoints(self.name, [each.name for each in come], [each.name for each in gone])
        self.is_discovered = True
        if self.on_endpoints is not None:
            self.on_endpoints(come, gone)
        self.refresh()
        if not self.deadline:
            self.deadline = now + TICK_SECONDS
            self._shared.reaper.add(self)

    def _make(self, found: EndpointAddress) -> Endpoint:
        shared, settings, securities = self._shared, self.settings, self._securities
        rest: H1Pool | None
        grpc: H2Pool | None
        if found.sidecar is not None:
            grpc = H2Pool(shared, found.sidecar, settings.pool, securities.sidecar)
            rest = SidecarPool(grpc, securities.sidecar_h1)
        else:
            rest = H1Pool(shared, found.rest, settings.pool, securities.rest) if found.rest else None
            grpc = H2Pool(shared, found.grpc, settings.pool, securities.grpc) if found.grpc else None
        for pool in (rest, grpc):
            if pool is not None:
                pool.on_failure = self._connect_failed
        breaker = settings.breaker if settings.breaker.enabled else None
        draw, changed = self._chance.random, self._circuit_changed
        return Endpoint(found.key, found.locality, rest, grpc, breaker, draw, changed)

    def _circuit_changed(self, model: str, endpoint: str, old: State, new: State) -> None:
        self._watch.circuit(self.name, model, endpoint, old, new)

    def _connect_failed(self, error: ConnectError) -> None:
        self._watch.connect_failed(self.name, error.failure)
        shared = self._shared
        message = f"connection to ModelServer {self.name} failed ({error.failure.value}): {error}"
        shared.notices.info(logger, f"{self.name} {error.failure.value}", shared.loop.time(), message)

    def refresh(self) -> None:
        """Give the balancers their members: without ejected endpoints, and only local ones while enough are
        available."""
        now = self._shared.loop.time()
        present = [endpoint for endpoint in self.endpoints.values() if not endpoint.is_ejected]
        if self._locality and self.settings.balancing.prefer_locality:
            chosen = preferred(present, self._locality, lambda endpoint: endpoint.allows("", now))
        else:
            chosen = present
        rest = [endpoint for endpoint in chosen if endpoint.rest is not None]
        grpc = [endpoint for endpoint in chosen if endpoint.grpc is not None]
        if rest != self._rest_members:
            self._rest_members = rest
            self._rest.update(rest)
        if grpc != self._grpc_members:
            self._grpc_members = grpc
            self._grpc.update(grpc)
        is_only = len(self.endpoints) == 1
        self.only_rest = rest[0] if is_only and rest else None
        self.only_grpc = grpc[0] if is_only and grpc else None

    def expire(self, now: float) -> None:
        """The reaper's tick (`reaper.Expirable`): eject outliers and let them in again, evaluate localities."""
        self.deadline = now + TICK_SECONDS
        if self._ejector is not None:
            records = {key: endpoint.record for key, endpoint in self.endpoints.items()}
            out = self._ejector.judge(records, now)
            for key, endpoint in self.endpoints.items():
                if key in out and not endpoint.is_ejected:
                    self._watch.ejected(self.name, endpoint.name)
                    logger.warning("endpoint ejected (success-rate outlier)", extra=_fields(self, endpoint.name))
                endpoint.is_ejected = key in out
        self.refresh()

    # Which endpoint gets a call

    def pick(
        self,
        is_grpc: bool,
        model: str,
        now: float,
        key: int | None,
        tried: Sequence[Endpoint],
        has_fallback: bool = False,
    ) -> Endpoint:
        """The endpoint for the next call.

        Args:
            key: for ring-hash: equal keys go to the same endpoint.
            tried: endpoints of earlier attempts; others are preferred.
            has_fallback: another server gets the call if no endpoint is available. Without one, an endpoint that
                answers is called however it answers: breakers choose between endpoints, and refuse nothing.

        Raises:
            NoEndpoint: none is available.
        """
        members = self._grpc_members if is_grpc else self._rest_members
        if len(members) == 1 and members[0].allows(model, now):
            return members[0]
        balancer = self._grpc if is_grpc else self._rest
        endpoint = None
        if tried:
            endpoint = balancer.pick(now, key, lambda each: each not in tried and each.allows(model, now))
        if endpoint is None:
            endpoint = balancer.pick(now, key, lambda each: each.allows(model, now))
        if endpoint is None and not has_fallback:
            endpoint = balancer.pick(now, key, lambda each: each.may_answer(model))
        return endpoint if endpoint is not None else self._last_resort(is_grpc, members, model, now)

    def give_back(self, is_grpc: bool, endpoint: Endpoint) -> None:
        """The call that `pick` chose the endpoint for does not go there yet: it is picked for again."""
        (self._grpc if is_grpc else self._rest).give_back(endpoint)

    def find_rest(self, address: str) -> Endpoint | None:
        """Whose address for REST this is."""
        return next((each for each in self.endpoints.values() if each.rest and each.rest.address == address), None)

    def find_grpc(self, address: str) -> Endpoint | None:
        """Whose address for gRPC this is."""
        return next((each for each in self.endpoints.values() if each.grpc and each.grpc.address == address), None)

    def allows(self, is_grpc: bool, model: str, now: float, tried: Sequence[Endpoint] = ()) -> bool:
        """Whether an endpoint that was not tried is available."""
        members = self._grpc_members if is_grpc else self._rest_members
        return any(each not in tried and each.allows(model, now) for each in members)

    def can_call(self, is_grpc: bool, model: str, now: float) -> bool:
        """Whether `pick` would find an endpoint, if need be one whose breaker is open."""
        members = self._grpc_members if is_grpc else self._rest_members
        return any(each.allows(model, now) or each.may_answer(model) for each in members)

    def skipped(self, is_grpc: bool, model: str, now: float) -> list[tuple[str, int]]:
        """How many endpoints a call would not go to, by the reason."""
        counts = dict.fromkeys(("ejected", "circuit_open", "unhealthy"), 0)
        for each in self.endpoints.values():
            if (each.grpc if is_grpc else each.rest) is None:
                continue
            if each.is_ejected:
                counts["ejected"] += 1
            elif each.health is not None and not each.health.allows(model):
                counts["unhealthy"] += 1
            elif not each.allows(model, now):
                counts["circuit_open"] += 1
        return [(reason, count) for reason, count in counts.items() if count]

    def pick_clean(self, is_grpc: bool, model: str, now: float) -> Endpoint | None:
        """The endpoint for a call that must do no harm (mirroring): one whose breakers are closed and that is healthy,
        never as a probe or as a last resort."""
        return (self._grpc if is_grpc else self._rest).pick(now, None, lambda each: each.is_clean(model))

    def _last_resort(self, is_grpc: bool, members: Sequence[Endpoint], model: str, now: float) -> Endpoint:
        """No endpoint can be reached, or none is available and a fallback is: force the next probe, but no more than
        one a second."""
        if not members:
            surface = "gRPC" if is_grpc else "REST"
            known = f"no endpoint serves {surface}" if self.endpoints else "there is no endpoint"
            if not self.is_discovered:
                known = "no endpoint is known yet"
            raise NoEndpoint(f"ModelServer {self.name}: {known}")
        if now - self._resorted >= LAST_RESORT_SECONDS:
            for endpoint in sorted(members, key=lambda each: each.retry_at(model)):
                if endpoint.probe_now(model, now):
                    self._resorted = now
                    return endpoint
        waits = [at - now for each in members if (at := each.retry_at(model)) > now]
        raise NoEndpoint(
            f"none of the {len(members)} endpoints of ModelServer {self.name} is available for this model: "
            "connections to them cannot be opened, or their circuit breakers are open, or their health checks fail",
            min([*waits, LAST_RESORT_SECONDS]),
        )

    def latency(self, model: str) -> Latency:
        """The recent latency of a model."""
        latency = self._latencies.get(model)
        if latency is None:
            if len(self._latencies) >= LATENCIES:
                del self._latencies[next(iter(self._latencies))]
            latency = self._latencies[model] = Latency()
        return latency

    def close(self) -> None:
        """The document was removed: finish what is in flight and open nothing new."""
        self.is_closed = True
        self._shared.reaper.discard(self)
        for endpoint in self.endpoints.values():
            endpoint.close()


_BALANCERS: dict[str, type[LeastRequest[Endpoint]] | type[RoundRobin[Endpoint]] | type[RingHash[Endpoint]]] = {
    "least-request": LeastRequest,
    "round-robin": RoundRobin,
    "ring-hash": RingHash,
}


def _fields(cluster: Cluster, endpoint: str) -> dict[str, object]:
    return {"fields": {"server": cluster.name, "endpoint": endpoint}}
