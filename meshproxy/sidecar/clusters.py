"""Every cluster of the process: made from `ModelServer` documents, kept across reloads, supplied with endpoints.

A reload builds what is new beside what runs, then adopts it. A cluster is kept, with its connections and all that it
has learned, as long as nothing but its written-down endpoints changed; those it is told like any other discovery.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from dataclasses import replace as replace_field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from meshproxy.config.globs import is_literal
from meshproxy.identity.peer import PeerRefused, PeerRole, read_peer
from meshproxy.transport.connector import PeerSecurity
from meshproxy.transport.listener import PeerRejected
from meshproxy.upstream.breaker import State
from meshproxy.upstream.checks import Checker
from meshproxy.upstream.cluster import Cluster, ClusterSettings
from meshproxy.upstream.discovery import Found, Static
from meshproxy.upstream.health import Checked, Health
from meshproxy.upstream.pool import H1Pool, H2Pool, PoolSettings

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence

    from meshproxy.config.schema import Documents
    from meshproxy.config.servers import Endpoint as WrittenEndpoint
    from meshproxy.config.servers import ModelServer, ServerSpec
    from meshproxy.identity.caller import Workload
    from meshproxy.transport.connection import Driving
    from meshproxy.upstream.checks import Verdict
    from meshproxy.upstream.cluster import Watch
    from meshproxy.upstream.discovery import Discovery
    from meshproxy.upstream.endpoint import Endpoint

logger = logging.getLogger(__name__)

FIRST_ENDPOINTS_SECONDS = 5.0
"""How long the start waits for endpoints that are looked up. After that it goes on: other servers may be known."""
MARGIN_SECONDS = 10.0
"""So long before our certificate expires, connections that show it take no new calls: clocks differ, and calls take
time."""
MOST_SHOWN = 100
"""Models of one endpoint that people are shown: callers choose names."""
MAX_PENDING = 1_024
"""Requests that may wait for a connection to one endpoint: beyond that, answering fast is kinder."""
DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
UPSTREAM_CONNECTIONS = max(16, DESCRIPTORS // 4)
"""Together with those of clients they leave a quarter of the descriptors that we may open for everything else. One
HTTP/2 client can ask for a hundred REST calls at once, each of which takes a connection to the model server."""


PROBES = PoolSettings(connect_timeout=1.0, max_connections=1, max_pending=8, idle_timeout=90.0)
"""Of the pool that an endpoint is checked with. Longer than most intervals: the same connection serves every time."""


class Ears(Protocol):
    """Who is told what clusters find out, beside `cluster.Watch`."""

    def discovery_failed(self, server: str, reason: str) -> None:
        """Endpoints could not be looked up; the last good answer goes on counting."""

    def checked(self, server: str, endpoint: str, is_good: bool) -> None:
        """A health check ended."""

    def health_changed(self, server: str) -> None:
        """An endpoint, or a model on it, may be doing otherwise than before: a check ended."""


def cluster_settings(spec: ServerSpec) -> ClusterSettings:
    """The settings of a `ModelServer` that its cluster is made from."""
    return ClusterSettings(
        pool=PoolSettings(
            connect_timeout=spec.connect_timeout,
            max_connections=spec.max_connections or UPSTREAM_CONNECTIONS,
            max_pending=MAX_PENDING,
            idle_timeout=spec.idle_timeout,
        ),
        balancing=spec.balancing,
        breaker=spec.breaker,
        ejection=spec.ejection,
    )


def found(endpoints: Sequence[WrittenEndpoint]) -> tuple[Found, ...]:
    """Endpoints as they are written down."""
    return tuple(
        Found(
            rest=str(each.rest) if each.rest else None,
            grpc=str(each.grpc) if each.grpc else None,
            sidecar=str(each.sidecar) if each.sidecar else None,
            locality=each.locality or "",
        )
        for each in endpoints
    )


class Supplied:
    """A cluster, and what supplies it: discovery, and a health check for each endpoint."""

    def __init__(self, driving: Driving, spec: ServerSpec, cluster: Cluster, ears: Ears) -> None:
        self.cluster = cluster
        self._driving = driving
        self._spec = spec
        self._ears = ears
        self._discovery: Discovery | None = None
        self._checkers: dict[str, Checker] = {}
        self._probing: dict[str, H1Pool] = {}
        """What checks over HTTP/1.1 are made with."""
        self._models: tuple[str, ...] = ()
        self._closing: set[asyncio.Task[None]] = set()
        self.is_awaited = False
        """It was there from the start: we are not ready before its endpoints are known."""
        self.told = asyncio.Event()
        """Discovery has answered once."""
        cluster.on_endpoints = self._endpoints_changed

    def start(self) -> None:
        """Find endpoints, if that has not begun. Those that are written down are found at once."""
        if self._discovery is not None:
            return
        name, dns = self.cluster.name, self._spec.dns
        if dns is None:
            self._discovery = Static(found(self._spec.endpoints))
        else:
            # dnspython is for whoever looks names up.
            from meshproxy.upstream.dns import DnsDiscovery

            self._discovery = DnsDiscovery(
                self._driving.loop, dns, lambda reason: self._ears.discovery_failed(name, reason)
            )
        self._discovery.start(self.cluster.set_endpoints)

    @property
    def is_looked_up(self) -> bool:
        """Endpoints are found by name, not written down."""
        return self._spec.dns is not None

    def rewrite(self, endpoints: Sequence[WrittenEndpoint]) -> None:
        """A reload writes other endpoints down."""
        if endpoints != self._spec.endpoints:
            self._spec = replace(self._spec, endpoints=tuple(endpoints))
            self.cluster.set_endpoints(found(endpoints))

    def watch(self, models: tuple[str, ...]) -> None:
        """Ask for the health of these models."""
        settings = self._spec.health
        if settings is None:
            return
        # The other checks are about the endpoint: of its models they say nothing.
        self._models = (settings.models or models) if settings.check in ("grpc", "model-status") else ()
        for endpoint in self.cluster.endpoints.values():
            if endpoint.health is not None and endpoint.health.checked.models != self._models:
                endpoint.health.watch(self._models)

    def _endpoints_changed(self, come: Sequence[Endpoint], gone: Sequence[Endpoint]) -> None:
        self.told.set()
        for endpoint in gone:
            checker = self._checkers.pop(endpoint.key, None)
            if checker is not None:
                self._stop(checker)
            if (pool := self._probing.pop(endpoint.key, None)) is not None:
                pool.close()
        settings = self._spec.health
        if settings is None:
            return
        is_first = len(self.cluster.endpoints) == len(come)
        for endpoint in come:
            checked = Checked(self._models, settings.unhealthy_after, settings.healthy_after)
            health = endpoint.health = Health(checked, begins_unhealthy=not is_first)
            tell = partial(self._checked, endpoint)
            rest: H1Pool | H2Pool | None = endpoint.rest
            if isinstance(rest, H1Pool):
                # A connection of its own: when calls take up all others, the endpoint is busy, not ill.
                rest = self._probing[endpoint.key] = H1Pool(self._driving, rest.address, PROBES)
            checker = Checker(self._driving, settings, health, rest, endpoint.grpc, tell)
            self._checkers[endpoint.key] = checker
            checker.start()

    def _checked(self, endpoint: Endpoint, verdicts: tuple[Verdict, ...], has_changed: bool) -> None:
        """A round of checks ended."""
        cluster, health = self.cluster, endpoint.health
        assert health is not None
        for verdict in verdicts:
            self._ears.checked(cluster.name, endpoint.key, verdict.problem is None)
        if has_changed:
            self._health_changed(endpoint, health, verdicts)
        # Also if it is as it was taken to be: now that is known.
        self._ears.health_changed(cluster.name)

    def _health_changed(self, endpoint: Endpoint, health: Health, verdicts: Sequence[Verdict]) -> None:
        cluster = self.cluster
        problems = [f"{verdict.model or 'endpoint'}: {verdict.problem}" for verdict in verdicts if verdict.problem]
        logger.log(
            logging.WARNING if problems else logging.INFO,
            "the health of an endpoint changed",
            extra={"fields": {"server": cluster.name, "endpoint": endpoint.key, "problems": problems}},
        )
        seconds = self._spec.balancing.warm_up
        moments = [since for model in health.checked.models or ("",) if (since := health.since(model)) is not None]
        if seconds and moments and len(cluster.endpoints) > 1:
            endpoint.load.warm_up(max(moments), seconds)
        cluster.refresh()

    def _stop(self, checker: Checker) -> None:
        task = self._driving.loop.create_task(checker.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """No more looking."""
        for checker in self._checkers.values():
            await checker.close()
        self._checkers.clear()
        for pool in self._probing.values():
            pool.close()
        if self._discovery is not None:
            await self._discovery.close()
        await asyncio.gather(*self._closing)


class Clusters:
    """The clusters that are in use, by what they are made from."""

    def __init__(
        self,
        driving: Driving,
        watch: Watch,
        ears: Ears,
        client_context: Callable[[], ssl.SSLContext],
        good_until: Callable[[], float],
    ) -> None:
        """
        Args:
            client_context: what we show to sidecars, as it is now.
            good_until: when that expires, in seconds since the epoch.
        """
        self._driving = driving
        self._watch = watch
        self._ears = ears
        self._client_context = client_context
        self._good_until = good_until
        self._alive: dict[object, Supplied] = {}
        self._built: dict[object, Supplied] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    def build(self, documents: Documents) -> dict[str, Cluster]:
        """Clusters for the documents' servers: those that are alive and made from the same, and new ones. Nothing is
        looked up or connected to yet."""
        self._drop_built()
        chosen = {}
        locality = documents.sidecar.spec.locality or ""
        trust_domain = documents.mesh.spec.trust_domain
        for server in documents.servers:
            name = server.metadata.name
            key = (name, _without_endpoints(server.spec), locality, trust_domain, documents.mesh.spec.mtls)
            supplied = self._alive.get(key) or self._make(server, locality, trust_domain)
            self._built[key] = supplied
            chosen[name] = supplied.cluster
        return chosen

    def _make(self, server: ModelServer, locality: str, trust_domain: str) -> Supplied:
        spec = server.spec
        cluster = Cluster(
            self._driving,
            server.metadata.name,
            cluster_settings(spec),
            self._watch,
            locality=locality,
            peer=self._peer(spec, trust_domain),
        )
        return Supplied(self._driving, spec, cluster, self._ears)

    def _peer(self, spec: ServerSpec, trust_domain: str) -> PeerSecurity | None:
        workload = spec.workload
        if workload is None:
            return None
        wanted = workload.spiffe_id or (
            f"spiffe://{trust_domain}/ns/{workload.namespace}/sa/{workload.service_account}"
        )

        def verify(der: bytes) -> Workload:
            try:
                peer = read_peer(der, trust_domain, time.time(), PeerRole.SERVER)
            except PeerRefused as refused:
                raise PeerRejected(str(refused)) from refused
            if peer.spiffe_id != wanted:
                raise PeerRejected(f"it is {peer.spiffe_id}, and {wanted} is expected")
            # A connection is good as long as both certificates are: the other side refuses calls when ours has expired,
            # and a rotation does not reach connections that stand.
            ours = self._good_until()
            if ours - time.time() > MARGIN_SECONDS:
                ours -= MARGIN_SECONDS
            return replace_field(peer, not_after=min(peer.not_after, ours))

        return PeerSecurity(self._client_context, verify)

    async def look_up(self) -> None:
        """Look for the endpoints of what was built last before it is adopted: a call must not find a server without any
        that had some before. Returns when they are known, or after `FIRST_ENDPOINTS_SECONDS`."""
        new = [each for key, each in self._built.items() if key not in self._alive and each.is_looked_up]
        for supplied in new:
            supplied.start()
        await _wait_for(new)

    def _drop_built(self) -> None:
        """What was built and not adopted is wanted no more."""
        for key, supplied in self._built.items():
            if key not in self._alive:
                self._leave(supplied)
        self._built = {}

    def _leave(self, supplied: Supplied) -> None:
        supplied.cluster.close()
        task = self._driving.loop.create_task(supplied.close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def adopt(self, documents: Documents) -> None:
        """What was built last is in use from now on; what no document asks for any more finishes what it has."""
        for key, supplied in self._alive.items():
            if key not in self._built:
                self._leave(supplied)
        new = [supplied for key, supplied in self._built.items() if key not in self._alive]
        for supplied in new:
            # A name that a reload brings and nobody knows must not take a sidecar out of service that serves others.
            supplied.is_awaited = not self._alive
        self._alive, self._built = self._built, {}
        models = models_of(documents)
        by_name = {server.metadata.name: server for server in documents.servers}
        for supplied in self._alive.values():
            name = supplied.cluster.name
            supplied.watch(models.get(name, ()))
            if supplied in new:
                supplied.start()
            else:
                supplied.rewrite(by_name[name].spec.endpoints)

    def all(self) -> list[Cluster]:
        """Those in use."""
        return [supplied.cluster for supplied in self._alive.values()]

    async def wait_for_endpoints(self) -> None:
        """Return when the endpoints of every server are known, or after `FIRST_ENDPOINTS_SECONDS`."""
        await _wait_for(list(self._alive.values()))

    def conditions(self) -> dict[str, bool]:
        """What being ready hangs on: endpoints that are looked up since the start were found once."""
        return {
            f"endpoints of {supplied.cluster.name} are known": supplied.told.is_set()
            for supplied in self._alive.values()
            if supplied.is_awaited and supplied.is_looked_up
        }

    def overview(self) -> dict[str, object]:
        """Every server with its endpoints and how they are, for people."""
        now = self._driving.loop.time()
        return {
            supplied.cluster.name: {
                "source": "dns" if supplied.is_looked_up else "static",
                "known": supplied.told.is_set(),
                "endpoints": [_shown(endpoint, now) for endpoint in supplied.cluster.endpoints.values()],
            }
            for supplied in self._alive.values()
        }

    async def close(self) -> None:
        """The process ends."""
        self._drop_built()
        for supplied in self._alive.values():
            supplied.cluster.close()
            await supplied.close()
        await asyncio.gather(*self._leaving)


async def _wait_for(several: Sequence[Supplied]) -> None:
    try:
        async with asyncio.timeout(FIRST_ENDPOINTS_SECONDS):
            for supplied in several:
                await supplied.told.wait()
    except TimeoutError:
        missing = [supplied.cluster.name for supplied in several if not supplied.told.is_set()]
        logger.warning("endpoints are not known yet", extra={"fields": {"servers": missing}})


def _shown(endpoint: Endpoint, now: float) -> dict[str, object]:
    """How an endpoint is."""
    health = endpoint.health
    states = dict(endpoint.states())
    own = states.pop("", None)
    failing = {model: state.name.lower() for model, state in states.items() if state is not State.CLOSED}
    return {
        "endpoint": endpoint.key,
        "locality": endpoint.locality or None,
        "takesCalls": endpoint.allows("", now) and not endpoint.is_ejected,
        "healthy": health.is_healthy if health is not None else None,
        "unavailableModels": sorted(health.out) if health is not None else [],
        "ejected": endpoint.is_ejected,
        "breaker": own.name.lower() if own is not None else None,
        "modelBreakers": dict(list(failing.items())[:MOST_SHOWN]),
        "inFlight": endpoint.load.in_flight,
    }


def _without_endpoints(spec: ServerSpec) -> tuple[object, ...]:
    return tuple(getattr(spec, field) for field in spec.__struct_fields__ if field != "endpoints")


def models_of(documents: Documents) -> Mapping[str, tuple[str, ...]]:
    """The models that routes send to each server by name: whose health is asked for."""
    spec = documents.sidecar.spec
    default = [each.server for each in (spec.inbound, spec.outbound) if each is not None and each.server is not None]
    models: dict[str, dict[str, None]] = {}
    for route in documents.routes:
        servers = [route.spec.server] if route.spec.server else default
        servers += [each.server for each in route.spec.split if each.server]
        for name in route.spec.models:
            if is_literal(name):
                for server in servers:
                    models.setdefault(server, {})[name] = None
    return {server: tuple(names) for server, names in models.items()}
