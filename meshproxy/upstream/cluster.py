"""The live side of one `ModelServer`: its endpoints, and which of them gets the next call."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Protocol

from meshproxy.config.servers import Balancing, BreakerSettings, EjectionSettings
from meshproxy.upstream.balancer import Balancer, LeastRequest, RingHash, RoundRobin, preferred
from meshproxy.upstream.ejection import Ejector
from meshproxy.upstream.endpoint import Endpoint
from meshproxy.upstream.latency import Latency
from meshproxy.upstream.pool import H1Pool, H2Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshproxy.transport.connection import Driving
    from meshproxy.transport.connector import PeerSecurity
    from meshproxy.upstream.breaker import State
    from meshproxy.upstream.discovery import EndpointAddress
    from meshproxy.upstream.pool import PoolSettings

logger = logging.getLogger(__name__)

LAST_RESORT_SECONDS = 1.0
"""While no endpoint may be called, one is tried so often all the same: whoever comes back is found within that time,
however long its breaker would have waited."""
TICK_SECONDS = 1.0
"""How often localities are weighed anew."""
LATENCIES = 1_024
"""Models whose latency is remembered: callers choose names."""


class NoEndpoint(Exception):
    """No endpoint can be called now. The message says why.

    Attributes:
        retry_after: seconds after which it makes sense to ask again.
    """

    def __init__(self, message: str, retry_after: float = LAST_RESORT_SECONDS) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """What a cluster is made from. Equal settings keep the cluster, its connections and what it has learned, across
    reloads."""

    pool: PoolSettings
    """Of each pool of an endpoint."""
    balancing: Balancing = field(default_factory=Balancing)
    breaker: BreakerSettings = field(default_factory=BreakerSettings)
    ejection: EjectionSettings = field(default_factory=EjectionSettings)


class Watch(Protocol):
    """Who is told what happens to endpoints."""

    def circuit(self, server: str, model: str, endpoint: str, old: State, new: State) -> None:
        """A breaker changed its state; `model` is empty for the endpoint's own."""

    def ejected(self, server: str, endpoint: str) -> None:
        """An endpoint was taken out because it did worse than the others."""

    def endpoints(self, server: str, added: Sequence[str], removed: Sequence[str]) -> None:
        """Discovery found other endpoints than before."""


class Cluster:
    """The endpoints of one `ModelServer`. Lives as long as its document stays the same, across snapshots."""

    def __init__(
        self,
        driving: Driving,
        name: str,
        settings: ClusterSettings,
        watch: Watch,
        *,
        locality: str = "",
        peer: PeerSecurity | None = None,
        chance: random.Random | None = None,
    ) -> None:
        """
        Args:
            locality: where we are.
            peer: how endpoints that are sidecars prove who they are.
            chance: where random numbers come from.
        """
        self._driving = driving
        self.name = name
        self.settings = settings
        self.key = settings.balancing.key if settings.balancing.policy == "ring-hash" else None
        """What of a request its endpoint is chosen by; None: nothing."""
        self._watch = watch
        self._locality = locality
        self._peer = peer
        self._chance = chance = chance or random.Random()  # noqa: S311 (nothing is kept secret by it)
        self.endpoints: dict[str, Endpoint] = {}
        draw = chance.random
        # Not `randrange`, which costs 0.1 us more.
        self._rest: Balancer[Endpoint] = _BALANCERS[settings.balancing.policy](lambda most: int(draw() * most))
        self._grpc: Balancer[Endpoint] = _BALANCERS[settings.balancing.policy](lambda most: int(draw() * most))
        self._rest_members: Sequence[Endpoint] = ()
        self._grpc_members: Sequence[Endpoint] = ()
        self._latencies: dict[str, Latency] = {}
        self._ejector = Ejector(settings.ejection, driving.loop.time()) if settings.ejection.enabled else None
        self._resorted = 0.0
        self.is_discovered = False
        """Discovery has answered once."""
        self.on_endpoints: Callable[[Sequence[Endpoint], Sequence[Endpoint]], None] | None = None
        """Told which endpoints have come and which have gone (health checks)."""
        self.deadline = 0.0
        self.is_closed = False

    # Which endpoints there are

    def set_endpoints(self, found: Sequence[EndpointAddress]) -> None:
        """Discovery: these, and no others. What stays keeps its connections and what is known of it; what goes finishes
        what is under way; what comes to others takes its share slowly."""
        if self.is_closed:
            return  # whoever looked for them was late
        wanted = {each.key: each for each in found}
        now = self._driving.loop.time()
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
            self._watch.endpoints(self.name, [each.key for each in come], [each.key for each in gone])
        self.is_discovered = True
        if self.on_endpoints is not None:
            self.on_endpoints(come, gone)
        self.refresh()
        if not self.deadline:
            self.deadline = now + TICK_SECONDS
            self._driving.reaper.add(self)

    def _make(self, found: EndpointAddress) -> Endpoint:
        driving, settings = self._driving, self.settings
        rest: H1Pool | H2Pool | None
        if found.sidecar is not None:
            grpc: H2Pool | None = H2Pool(driving, found.sidecar, settings.pool, self._peer)
            rest = grpc
        else:
            rest = H1Pool(driving, found.rest, settings.pool) if found.rest else None
            grpc = H2Pool(driving, found.grpc, settings.pool) if found.grpc else None
        breaker = settings.breaker if settings.breaker.enabled else None
        return Endpoint(found.key, found.locality, rest, grpc, breaker, self._chance.random, self._circuit_changed)

    def _circuit_changed(self, model: str, endpoint: str, old: State, new: State) -> None:
        self._watch.circuit(self.name, model, endpoint, old, new)

    def refresh(self) -> None:
        """Tell the balancers who may be chosen: not who is ejected, and nobody elsewhere while enough are near."""
        now = self._driving.loop.time()
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

    def expire(self, now: float) -> None:
        """Look after it (`reaper.Mortal`): outliers out and in again, localities weighed."""
        self.deadline = now + TICK_SECONDS
        if self._ejector is not None:
            records = {key: endpoint.record for key, endpoint in self.endpoints.items()}
            out = self._ejector.judge(records, now)
            for key, endpoint in self.endpoints.items():
                if key in out and not endpoint.is_ejected:
                    self._watch.ejected(self.name, key)
                    logger.warning("an endpoint is left alone: it does worse than the others", extra=_fields(self, key))
                endpoint.is_ejected = key in out
        self.refresh()

    # Which endpoint gets a call

    def pick(self, is_grpc: bool, model: str, now: float, key: int | None, tried: Sequence[Endpoint]) -> Endpoint:
        """The endpoint for the next call.

        Args:
            key: where calls with the same key go to the same endpoint.
            tried: endpoints that were tried already: others first.

        Raises:
            NoEndpoint: none may be called.
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
        return endpoint if endpoint is not None else self._last_resort(is_grpc, members, model, now)

    def allows(self, is_grpc: bool, model: str, now: float, tried: Sequence[Endpoint] = ()) -> bool:
        """Whether an endpoint may be called that was not tried."""
        members = self._grpc_members if is_grpc else self._rest_members
        return any(each not in tried and each.allows(model, now) for each in members)

    def pick_clean(self, is_grpc: bool, model: str, now: float) -> Endpoint | None:
        """The endpoint for a call that must do no harm: one that nobody doubts, never as a probe or as a last
        resort."""
        return (self._grpc if is_grpc else self._rest).pick(now, None, lambda each: each.is_clean(model))

    def _last_resort(self, is_grpc: bool, members: Sequence[Endpoint], model: str, now: float) -> Endpoint:
        """Nobody may be called: try the one that would be the next all the same, but not more than one a second."""
        if not members:
            surface = "gRPC" if is_grpc else "REST"
            known = "no endpoint is known yet" if not self.endpoints else f"no endpoint takes {surface}"
            raise NoEndpoint(f"ModelServer {self.name}: {known}")
        if now - self._resorted >= LAST_RESORT_SECONDS:
            for endpoint in sorted(members, key=lambda each: each.retry_at(model)):
                if endpoint.probe_now(model, now):
                    self._resorted = now
                    return endpoint
        waits = [at - now for each in members if (at := each.retry_at(model)) > now]
        raise NoEndpoint(
            f"none of the {len(members)} endpoints of ModelServer {self.name} takes calls of this model now: "
            "each has failed, or its health check says so",
            min([*waits, LAST_RESORT_SECONDS]),
        )

    def latency(self, model: str) -> Latency:
        """How long calls of a model took lately."""
        latency = self._latencies.get(model)
        if latency is None:
            if len(self._latencies) >= LATENCIES:
                del self._latencies[next(iter(self._latencies))]
            latency = self._latencies[model] = Latency()
        return latency

    def close(self) -> None:
        """The document is gone: nothing new is opened, what is under way is finished."""
        self.is_closed = True
        self._driving.reaper.discard(self)
        for endpoint in self.endpoints.values():
            endpoint.close()


_BALANCERS: dict[str, type[LeastRequest[Endpoint]] | type[RoundRobin[Endpoint]] | type[RingHash[Endpoint]]] = {
    "least-request": LeastRequest,
    "round-robin": RoundRobin,
    "ring-hash": RingHash,
}


def _fields(cluster: Cluster, endpoint: str) -> dict[str, object]:
    return {"fields": {"server": cluster.name, "endpoint": endpoint}}
