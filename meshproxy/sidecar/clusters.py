"""The clusters of the process: made from `ModelServer` documents, kept across reloads, managed with endpoints.

A reload builds new clusters beside those in use, then adopts them. A cluster is kept, with its connections and learned
state, as long as nothing but its static endpoints changed; those are updated like any other discovery's.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from enum import Enum
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from meshproxy.config.globs import is_literal
from meshproxy.config.routes import Fallback
from meshproxy.config.servers import Health as HealthSettings
from meshproxy.identity.mesh_context import identify
from meshproxy.identity.peer import PeerRefused, PeerRole
from meshproxy.sidecar.server_tls import ServerTlsContexts
from meshproxy.transport.connector import PeerSecurity
from meshproxy.transport.listener import PeerRejected
from meshproxy.upstream.breaker import State
from meshproxy.upstream.checks import Checker
from meshproxy.upstream.cluster import Cluster, ClusterSettings, Securities
from meshproxy.upstream.discovery import EndpointAddress, Static
from meshproxy.upstream.health import CheckSettings, Health
from meshproxy.upstream.pool import H1Pool, H2Pool, PoolSettings

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence

    from meshproxy.config.schema import Documents
    from meshproxy.config.servers import Endpoint as WrittenEndpoint
    from meshproxy.config.servers import ModelServer, ServerSpec
    from meshproxy.identity.caller import Workload
    from meshproxy.transport.connection import ConnectionContext
    from meshproxy.upstream.checks import CheckResult
    from meshproxy.upstream.cluster import Watch
    from meshproxy.upstream.discovery import Discovery
    from meshproxy.upstream.endpoint import Endpoint

logger = logging.getLogger(__name__)

FIRST_ENDPOINTS_SECONDS = 5.0
"""How long startup waits for endpoints that are not static, before it continues for the sake of other servers."""
MOST_SHOWN = 100
"""Models of one endpoint that `/config` lists: callers choose names."""
MAX_PENDING = 1_024
"""Requests that may wait for a connection to one endpoint; more fail at once."""
OWN_DESCRIPTORS = 32
"""What clients leave to the sidecar at least: 16 are open at rest, and documents, a new certificate and the admin
port take some for a moment. Without them a role that is taken away stays in force while clients hold the others."""


def share_out(descriptors: int) -> tuple[int, int]:
    """The default numbers of downstream connections, and of those to one endpoint: half and a quarter of the file
    descriptors. One HTTP/2 client can make a hundred REST calls at once, each of which takes a connection to the model
    server. `descriptors`: the limit; -1: there is none."""
    descriptors = descriptors if descriptors >= 0 else 1 << 20
    left = descriptors - max(descriptors // 4, OWN_DESCRIPTORS)
    return max(1, 2 * left // 3), max(1, left // 3)


DOWNSTREAM_CONNECTIONS, UPSTREAM_CONNECTIONS = share_out(resource.getrlimit(resource.RLIMIT_NOFILE)[0])

UNASKED = HealthSettings(check="answer")
"""How several endpoints are checked if their document does not say how."""
PROBES = PoolSettings(connect_timeout=1.0, max_connections=1, max_pending=8, idle_timeout=90.0)
"""Of the pool for an endpoint's health checks. The idle timeout exceeds most intervals: the connection is reused."""


class ClusterObserver(Protocol):
    """Receives what discovery and health checks find out, beside `cluster.Watch`."""

    def discovery_failed(self, server: str, reason: str) -> None:
        """A lookup failed; the last good answer stays in use."""

    def checked(self, server: str, endpoint: str, is_good: bool) -> None:
        """A health check completed."""

    def health_changed(self, server: str) -> None:
        """The health of an endpoint, or of a model on it, may have changed: a round of checks completed."""


class EndpointSource(Enum):
    """Where the endpoints of a `ModelServer` come from; the value is what `/config` shows."""

    STATIC = "static"
    DNS = "dns"
    SERVICE = "service"

    @classmethod
    def of(cls, spec: ServerSpec) -> EndpointSource:
        """Which one the document chooses: the schema allows exactly one."""
        if spec.service is not None:
            return cls.SERVICE
        return cls.DNS if spec.dns is not None else cls.STATIC


def cluster_settings(spec: ServerSpec) -> ClusterSettings:
    """The settings of a `ModelServer` as the cluster takes them."""
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


def found(endpoints: Sequence[WrittenEndpoint]) -> tuple[EndpointAddress, ...]:
    """Static endpoints, as discovery delivers them."""
    return tuple(
        EndpointAddress(
            rest=each.rest,
            grpc=each.grpc,
            sidecar=str(each.sidecar) if each.sidecar else None,
            locality=each.locality or "",
        )
        for each in endpoints
    )


class ManagedCluster:
    """A cluster with its discovery, and a health checker for each endpoint."""

    def __init__(
        self,
        shared: ConnectionContext,
        spec: ServerSpec,
        cluster: Cluster,
        observer: ClusterObserver,
        folder: str | None = None,
    ) -> None:
        """`folder`: where what the control plane sends is kept."""
        self.cluster = cluster
        self._folder = folder
        self._shared = shared
        self._spec = spec
        self._observer = observer
        self._discovery: Discovery | None = None
        self._checkers: dict[str, Checker] = {}
        self._probing: dict[str, H1Pool] = {}
        """Connection pools of health checks over HTTP/1.1."""
        self._models: tuple[str, ...] = ()
        self._closing: set[asyncio.Task[None]] = set()
        self.source = EndpointSource.of(spec)
        self.is_awaited = False
        """Part of the first configuration: the sidecar is not ready before its endpoints are known."""
        self.resolved = asyncio.Event()
        """Discovery has answered once."""
        cluster.on_endpoints = self._endpoints_changed

    def available(self, model: str) -> frozenset[str] | None:
        """Versions of a model that are AVAILABLE at every endpoint that has any, by the last `model-status` checks of
        those that are healthy: one that is gone had its versions once. None of them before the first answer. None: it
        is not known, as there are no such checks of the model, or they say of no version that it is."""
        settings = self._checks()
        if settings is None or settings.check != "model-status" or model not in self._models:
            return None
        answers = [
            checker.available[model]
            for key, checker in self._checkers.items()
            if model in checker.available and self._is_healthy(key)
        ]
        if not answers:
            return frozenset()
        several = [frozenset(versions) for versions in answers if versions]
        return frozenset.intersection(*several) if several else None

    def _is_healthy(self, key: str) -> bool:
        endpoint = self.cluster.endpoints.get(key)
        return endpoint is not None and endpoint.health is not None and endpoint.health.is_healthy

    def start(self) -> None:
        """Start discovery, if it has not started. Static endpoints are known at once."""
        if self._discovery is None:
            self._discovery = self._discover()
            self._discovery.start(self.cluster.set_endpoints)

    def _discover(self) -> Discovery:
        spec = self._spec
        on_failure = partial(self._observer.discovery_failed, self.cluster.name)
        match self.source:
            case EndpointSource.STATIC:
                return Static(found(spec.endpoints))
            case EndpointSource.DNS:
                from meshproxy.upstream.dns import DnsDiscovery  # only they need dnspython in memory

                assert spec.dns is not None
                return DnsDiscovery(self._shared.loop, spec.dns, on_failure)
            case EndpointSource.SERVICE:
                from meshproxy.upstream.service import ServiceDiscovery

                assert spec.service is not None
                assert self._folder is not None  # documents without it are refused (NO_CONTROL_PLANE)
                return ServiceDiscovery(spec.service, Path(self._folder), on_failure)

    def rewrite(self, endpoints: Sequence[WrittenEndpoint]) -> None:
        """A reload brought other static endpoints."""
        if endpoints != self._spec.endpoints:
            self._spec = replace(self._spec, endpoints=tuple(endpoints))
            self.cluster.set_endpoints(found(endpoints))

    def watch(self, models: tuple[str, ...]) -> None:
        """Check the health of these models."""
        settings = self._checks()
        if settings is None:
            return
        # The other checks are about the endpoint and say nothing about its models.
        self._models = (settings.models or models) if settings.check in ("grpc", "model-status") else ()
        for endpoint in self.cluster.endpoints.values():
            if endpoint.health is not None and endpoint.health.settings.models != self._models:
                endpoint.health.watch(self._models)

    def _checks(self) -> HealthSettings | None:
        """How the endpoints that there are now are checked; None: not at all."""
        settings = self._spec.health
        if settings is None:
            return UNASKED if len(self.cluster.endpoints) > 1 else None
        return settings if settings.enabled else None

    def _endpoints_changed(self, come: Sequence[Endpoint], gone: Sequence[Endpoint]) -> None:
        self.resolved.set()
        for endpoint in gone:
            self._stop(endpoint)
        present = list(self.cluster.endpoints.values())
        settings = self._checks()
        if settings is None:
            for endpoint in present:
                self._stop(endpoint)
                endpoint.health = None
            return
        is_advisory = settings is UNASKED
        is_first = len(present) == len(come) or is_advisory
        for endpoint in present:
            if endpoint.key in self._checkers:
                continue
            check_settings = CheckSettings(self._models, settings.unhealthy_after, settings.healthy_after)
            health = endpoint.health = Health(check_settings, begins_unhealthy=not is_first, is_advisory=is_advisory)
            on_results = partial(self._checked, endpoint)
            rest: H1Pool | H2Pool | None = endpoint.grpc if endpoint.is_sidecar else endpoint.rest
            if isinstance(rest, H1Pool):
                # A separate connection: an endpoint whose connections are all in use is busy, not unhealthy.
                rest = self._probing[endpoint.key] = H1Pool(self._shared, rest.address, PROBES, rest.peer)
            checker = Checker(self._shared, settings, health, rest, endpoint.grpc, on_results)
            self._checkers[endpoint.key] = checker
            checker.start()

    def _checked(self, endpoint: Endpoint, results: tuple[CheckResult, ...], has_changed: bool) -> None:
        cluster, health = self.cluster, endpoint.health
        assert health is not None
        for result in results:
            self._observer.checked(cluster.name, endpoint.name, result.problem is None)
        loading = tuple(result.model for result in results if result.is_loading and result.model is not None)
        if results and loading != endpoint.loading:
            self._loading_changed(endpoint, loading)
        if has_changed:
            self._health_changed(endpoint, health, results)
        # Also if nothing changed: now it is known.
        self._observer.health_changed(cluster.name)

    def _health_changed(self, endpoint: Endpoint, health: Health, results: Sequence[CheckResult]) -> None:
        cluster = self.cluster
        problems = [f"{result.model or 'endpoint'}: {result.problem}" for result in results if result.problem]
        logger.log(
            logging.WARNING if problems else logging.INFO,
            "endpoint health changed",
            extra={"fields": {"server": cluster.name, "endpoint": endpoint.name, "problems": problems}},
        )
        moments = [since for model in health.settings.models or ("",) if (since := health.since(model)) is not None]
        if moments and not endpoint.loading:
            self._warm_up(endpoint, max(moments))
        cluster.refresh()

    def _loading_changed(self, endpoint: Endpoint, loading: tuple[str, ...]) -> None:
        """It is loading versions of other models than before. While there are any, it has the share with which slow
        start begins: loading takes processor time and memory bandwidth, for seconds or minutes."""
        had, endpoint.loading = endpoint.loading, loading
        fields = {"server": self.cluster.name, "endpoint": endpoint.name, "models": loading or had}
        logger.info("endpoint is loading models" if loading else "endpoint has loaded models", extra={"fields": fields})
        if bool(had) != bool(loading):
            self._warm_up(endpoint, inf if loading else self._shared.loop.time())

    def _warm_up(self, endpoint: Endpoint, since: float) -> None:
        """Slow start, if there are other endpoints; `inf`: it has yet to begin."""
        seconds = self._spec.balancing.warm_up
        if seconds and len(self.cluster.endpoints) > 1:
            endpoint.load.warm_up(since, seconds)
            endpoint.slow_start = 0.0  # checks say when, not its first response

    def _stop(self, endpoint: Endpoint) -> None:
        """Stop the checks of an endpoint, if it has any."""
        checker = self._checkers.pop(endpoint.key, None)
        if checker is None:
            return
        if (pool := self._probing.pop(endpoint.key, None)) is not None:
            pool.close()
        task = self._shared.loop.create_task(checker.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        for checker in self._checkers.values():
            await checker.close()
        self._checkers.clear()
        for pool in self._probing.values():
            pool.close()
        if self._discovery is not None:
            await self._discovery.close()
        await asyncio.gather(*self._closing)


class Clusters:
    """The clusters in use, by what they are made from."""

    def __init__(
        self,
        shared: ConnectionContext,
        watch: Watch,
        observer: ClusterObserver,
        client_context: Callable[[], ssl.SSLContext],
        client_h1_context: Callable[[], ssl.SSLContext],
    ) -> None:
        """
        Args:
            client_context: the TLS context for a connection to another sidecar that is made now.
            client_h1_context: the same for one that is to speak HTTP/1.1.
        """
        self._shared = shared
        self._watch = watch
        self._observer = observer
        self._client_context = client_context
        self._client_h1_context = client_h1_context
        self._tls = ServerTlsContexts()
        self._alive: dict[object, ManagedCluster] = {}
        self._built: dict[object, ManagedCluster] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    def check(self, documents: Documents) -> None:
        """Raises ConfigError: TLS files that documents name for their servers cannot be used."""
        self._tls.check(documents)

    def build(self, documents: Documents) -> dict[str, Cluster]:
        """Clusters for the documents' servers: those in use that are made from the same, and new ones. Discovery and
        connections of new ones have not started yet."""
        self._drop_built()
        self._tls.build(documents)
        chosen = {}
        locality = documents.sidecar.spec.locality or ""
        trust_domain = documents.mesh.spec.trust_domain
        control = documents.sidecar.spec.control_plane
        folder = control.folder if control is not None else None
        for server in documents.servers:
            name = server.metadata.name
            key = (name, _without_endpoints(server.spec), locality, trust_domain, documents.mesh.spec.mtls)
            managed = self._alive.get(key) or self._make(server, locality, trust_domain, folder)
            self._built[key] = managed
            chosen[name] = managed.cluster
        return chosen

    def _make(self, server: ModelServer, locality: str, trust_domain: str, folder: str | None) -> ManagedCluster:
        spec = server.spec
        cluster = Cluster(
            self._shared,
            server.metadata.name,
            cluster_settings(spec),
            self._watch,
            locality=locality,
            securities=Securities(*self._peers(spec, trust_domain), **self._tls.securities(spec)),
        )
        return ManagedCluster(self._shared, spec, cluster, self._observer, folder)

    def _peers(self, spec: ServerSpec, trust_domain: str) -> tuple[PeerSecurity | None, PeerSecurity | None]:
        """How connections to its sidecars are secured, and those that are to speak HTTP/1.1."""
        workload = spec.workload
        if workload is None:
            return None, None
        wanted = workload.one_id(trust_domain)

        def verify(tls: ssl.SSLObject) -> Workload:
            try:
                peer = identify(tls, time.time(), PeerRole.SERVER)
            except PeerRefused as refused:
                raise PeerRejected(str(refused)) from refused
            if peer is None or peer.spiffe_id != wanted:
                raise PeerRejected(f"the peer is {'unknown' if peer is None else peer.spiffe_id}, expected {wanted}")
            return peer

        return PeerSecurity(self._client_context, verify), PeerSecurity(self._client_h1_context, verify)

    async def look_up(self) -> None:
        """Start discovery of new clusters before they are adopted: a server that had endpoints before must not be
        without any. Returns when they are known, or after `FIRST_ENDPOINTS_SECONDS`."""
        new = [each for key, each in self._built.items() if key not in self._alive]
        looked_up = [each for each in new if each.source is not EndpointSource.STATIC]
        for managed in looked_up:
            managed.start()
        await _wait_for(looked_up)

    def _drop_built(self) -> None:
        """Close clusters that were built and not adopted."""
        for key, managed in self._built.items():
            if key not in self._alive:
                self._leave(managed)
        self._built = {}

    def _leave(self, managed: ManagedCluster) -> None:
        managed.cluster.close()
        task = self._shared.loop.create_task(managed.close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def adopt(self, documents: Documents) -> None:
        """Use what was built last. Clusters that are no longer in the documents finish their requests."""
        self._tls.adopt()
        for key, managed in self._alive.items():
            if key not in self._built:
                self._leave(managed)
        new = [managed for key, managed in self._built.items() if key not in self._alive]
        for managed in new:
            # A name that does not resolve and comes by a reload must not take the sidecar out of service.
            managed.is_awaited = not self._alive
        self._alive, self._built = self._built, {}
        models = models_of(documents)
        by_name = {server.metadata.name: server for server in documents.servers}
        for managed in self._alive.values():
            name = managed.cluster.name
            managed.watch(models.get(name, ()))
            if managed in new:
                managed.start()
            else:
                managed.rewrite(by_name[name].spec.endpoints)

    def available(self, server: str, model: str) -> frozenset[str] | None:
        """Versions of a model that a server has AVAILABLE (`ManagedCluster.available`)."""
        known = (managed for managed in self._alive.values() if managed.cluster.name == server)
        return next((managed.available(model) for managed in known), None)

    def all(self) -> list[Cluster]:
        return [managed.cluster for managed in self._alive.values()]

    async def wait_for_endpoints(self) -> None:
        """Return when the endpoints of every server are known, or after `FIRST_ENDPOINTS_SECONDS`."""
        await _wait_for(list(self._alive.values()))

    def conditions(self) -> dict[str, bool]:
        """Conditions for being ready: endpoints of servers of the first configuration were resolved once."""
        return {
            f"endpoints of {managed.cluster.name} are known": managed.resolved.is_set()
            for managed in self._alive.values()
            if managed.is_awaited and managed.source is not EndpointSource.STATIC
        }

    def overview(self) -> dict[str, object]:
        """Every server with the state of its endpoints, for `/config`."""
        now = self._shared.loop.time()
        return {
            managed.cluster.name: {
                "source": managed.source.value,
                "known": managed.resolved.is_set(),
                "endpoints": [_shown(endpoint, now) for endpoint in managed.cluster.endpoints.values()],
            }
            for managed in self._alive.values()
        }

    async def close(self) -> None:
        self._tls.stop()
        self._drop_built()
        for managed in self._alive.values():
            managed.cluster.close()
            await managed.close()
        await asyncio.gather(*self._leaving)


async def _wait_for(several: Sequence[ManagedCluster]) -> None:
    try:
        async with asyncio.timeout(FIRST_ENDPOINTS_SECONDS):
            for managed in several:
                await managed.resolved.wait()
    except TimeoutError:
        missing = [managed.cluster.name for managed in several if not managed.resolved.is_set()]
        logger.warning(
            "endpoints not resolved in time; continuing without them", extra={"fields": {"servers": missing}}
        )


def _shown(endpoint: Endpoint, now: float) -> dict[str, object]:
    """The state of an endpoint, for `/config`."""
    health = endpoint.health
    states = dict(endpoint.states())
    own = states.pop("", None)
    failing = {model: state.name.lower() for model, state in states.items() if state is not State.CLOSED}
    return {
        "endpoint": endpoint.name,
        "locality": endpoint.locality or None,
        "takesCalls": endpoint.allows("", now) and not endpoint.is_ejected,
        "healthy": health.is_healthy if health is not None else None,
        "unavailableModels": sorted(health.out) if health is not None else [],
        "loadingModels": list(endpoint.loading),
        "ejected": endpoint.is_ejected,
        "breaker": own.name.lower() if own is not None else None,
        "modelBreakers": dict(list(failing.items())[:MOST_SHOWN]),
        "inFlight": endpoint.load.in_flight,
        "latencySeconds": endpoint.load.latency,
        "connections": sum(pool.size for pool in (endpoint.rest, endpoint.grpc) if pool is not None),
        "security": _security(endpoint),
    }


def _security(endpoint: Endpoint) -> dict[str, str]:
    """How connections are secured, by protocol: `mtls` to a sidecar, `tls` to a named server, `plaintext`."""
    secured = "mtls" if endpoint.is_sidecar else "tls"
    pools = {"rest": endpoint.rest, "grpc": endpoint.grpc}
    return {name: secured if pool.peer is not None else "plaintext" for name, pool in pools.items() if pool is not None}


def _without_endpoints(spec: ServerSpec) -> tuple[object, ...]:
    return tuple(getattr(spec, field) for field in spec.__struct_fields__ if field != "endpoints")


def models_of(documents: Documents) -> Mapping[str, tuple[str, ...]]:
    """The models that routes send to each server by name, whose health is checked."""
    sidecar = documents.sidecar.spec
    ports = (sidecar.inbound, sidecar.outbound)
    default = [each.server for each in ports if each is not None and each.server is not None]
    models: dict[str, dict[str, None]] = {}
    for route in documents.routes:
        spec = route.spec
        own = [spec.server] if spec.server else default
        names = [name for name in spec.models if is_literal(name)]
        # Where every share has another model, the name may be one that no server knows.
        keeps_name = not spec.split or any(share.model is None for share in spec.split)
        sent = [(server, names) for server in own if keeps_name]
        for share in spec.split:
            servers = [share.server] if share.server else own
            sent += [(server, [share.model] if share.model else names) for server in servers]
        if isinstance(spec.fallback, Fallback) and spec.fallback.model:
            servers = [spec.fallback.server] if spec.fallback.server else own
            sent += [(server, [spec.fallback.model]) for server in servers]
        for server, named in sent:
            if named:
                models.setdefault(server, {}).update(dict.fromkeys(named))
    return {server: tuple(names) for server, names in models.items()}
