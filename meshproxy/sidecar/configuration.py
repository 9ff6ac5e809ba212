"""The configuration in use, and how a new one replaces it: built whole beside it, then swapped in, or not at all."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from meshproxy.config.codes import Code
from meshproxy.config.file_watch import AGAIN, FileWatch
from meshproxy.config.problems import ConfigError, Problem
from meshproxy.identity.certificates import CertificateError
from meshproxy.sidecar.clusters import DOWNSTREAM_CONNECTIONS
from meshproxy.sidecar.server_tls import tls_files
from meshproxy.sidecar.snapshots import (
    inbound_snapshot,
    outbound_snapshot,
    shortest_time_limit,
    times,
)
from meshproxy.upstream.serving import HealthService

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from meshproxy.config.routes import ModelRoute
    from meshproxy.config.schema import Documents
    from meshproxy.proxy.snapshot import Snapshot
    from meshproxy.routing.carried_state import CarriedState
    from meshproxy.sidecar.clusters import Clusters
    from meshproxy.sidecar.direction import Direction
    from meshproxy.sidecar.document_source import DocumentSource
    from meshproxy.sidecar.rotation import IdentityRotation
    from meshproxy.sidecar.tokens import Tokens
    from meshproxy.sidecar.tracing import Tracing
    from meshproxy.telemetry.access_log import AccessLog
    from meshproxy.telemetry.audit import AuditLog
    from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
    from meshproxy.transport.connection import ConnectionContext
    from meshproxy.upstream.cluster import Cluster

logger = logging.getLogger(__name__)

MOST_PROBLEMS = 100
"""Of rejected documents, that are kept to be shown; the log has all."""
PROBLEM_CHARACTERS = 1_000


class Compiled(msgspec.Struct, frozen=True):
    """Documents, and what a reload builds from them."""

    documents: Documents
    snapshots: Mapping[str, Snapshot]
    """By direction."""
    health: HealthService | None
    """Answers grpc.health.v1 for the model server, if it has health checks."""

    @property
    def max_connections(self) -> int:
        """Of each direction. Both have one limit of open files."""
        return self.documents.mesh.spec.limits.connections or max(1, DOWNSTREAM_CONNECTIONS // len(self.snapshots))


class Reload(msgspec.Struct, frozen=True):
    """How the last reload went."""

    at: float
    """Seconds since the epoch."""
    problems: tuple[str, ...] = ()
    """Why the documents were rejected, the first `MOST_PROBLEMS`; empty if they were applied."""

    @classmethod
    def rejected(cls, problems: Sequence[str]) -> Reload:
        """Rejected now."""
        return cls(time.time(), tuple(problem[:PROBLEM_CHARACTERS] for problem in problems[:MOST_PROBLEMS]))


class Configuration:
    """The documents in use. State that was learned (clusters, budgets, key sets) is carried over a reload by its key.

    Args:
        source: delivers documents.
        documents: the ones to start with.
        downstream: settings of client connections.
    """

    def __init__(
        self,
        source: DocumentSource,
        documents: Documents,
        metrics: SidecarMetrics,
        *,
        downstream: Sequence[ConnectionContext],
        clusters: Clusters,
        live: CarriedState,
        tokens: Tokens,
        tracing: Tracing,
        identity: IdentityRotation,
        access_log: AccessLog | None,
        audit_log: AuditLog | None,
    ) -> None:
        self.documents = documents
        self.applied_at = time.time()
        """When they were taken into use, in seconds since the epoch."""
        self.last_reload: Reload | None = None
        self.health: HealthService | None = None
        self.on_adopted: list[Callable[[Documents], None]] = []
        """Called with documents that have been taken into use."""
        self._source = source
        self._metrics = metrics
        self._downstream = downstream
        self._clusters = clusters
        self._live = live
        self._tokens = tokens
        self._tracing = tracing
        self._identity = identity
        self._access_log = access_log
        self._audit_log = audit_log
        self._directions: Sequence[Direction] = ()
        self._wanted = asyncio.Event()
        self._is_to_retry = False
        """The last reload failed for another reason than what is in the documents: without descriptors, processes or
        memory neither they nor the certificates that they need can be read, a certificate may not be valid yet, and no
        change of a file tells when they can be used. So it is tried again in `AGAIN` seconds."""
        self._awaited: FileWatch | None = None
        """Of TLS files that kept documents out."""

    def compile(self, documents: Documents) -> Compiled:
        """Build everything beside what is in use.

        Raises:
            ConfigError: keys of an issuer cannot be used.
        """
        # Only inbound calls are authenticated: without them no issuer's keys are needed.
        inbound = documents.sidecar.spec.inbound
        mesh = documents.mesh.spec
        verifier = self._tokens.build(mesh.issuers, mesh.aws.caller_identity) if inbound is not None else None
        self._tracing.build(documents)
        clusters = self._clusters.build(documents)
        health = self._health_service(documents, clusters)
        snapshots = {
            "inbound": inbound_snapshot(documents, clusters, verifier, self._live, health, self._metrics.cache_misses),
            "outbound": outbound_snapshot(documents, clusters, self._live),
        }
        present = {direction: snapshot for direction, snapshot in snapshots.items() if snapshot is not None}
        return Compiled(documents, present, health)

    def _health_service(self, documents: Documents, clusters: Mapping[str, Cluster]) -> HealthService | None:
        inbound = documents.sidecar.spec.inbound
        if inbound is None:
            return None
        (server,) = (each for each in documents.servers if each.metadata.name == inbound.server)
        if server.spec.health is None or not server.spec.health.enabled:
            return None
        cluster = clusters[inbound.server]
        return self.health if self.health is not None and self.health.cluster is cluster else HealthService(cluster)

    def begin(self, compiled: Compiled, directions: Sequence[Direction]) -> None:
        """Take the first configuration into use. `directions` carry its snapshots already."""
        self._directions = directions
        self.health = compiled.health
        self._adopted(compiled.documents)

    # Reload

    def start(self) -> None:
        self._source.start(self.request)

    def stop(self) -> None:
        self._forget_awaited()
        self._source.stop()

    def request(self) -> None:
        self._wanted.set()

    async def run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN if self._is_to_retry else None):
                    await self._wanted.wait()
            is_wanted = self._wanted.is_set()
            self._wanted.clear()
            await self.reload(is_retry=not is_wanted)

    async def reload(self, *, is_retry: bool = False) -> None:
        """Apply the source's documents. If anything is wrong with them, nothing changes. What a retry cannot do for the
        same reason as before is not logged again."""
        before = self.last_reload if is_retry else None
        self._is_to_retry = False
        self._forget_awaited()
        try:
            documents = await self._source.load()
            check_fixed(self.documents, documents)
            self._check_tls(documents)
            identity = await self._identity.prepare(documents)
            compiled = self.compile(documents)
            await self._clusters.look_up()
        except ConfigError as error:
            self._is_to_retry = error.may_pass or self._awaited is not None
            self._reject([str(problem) for problem in error.problems], before)
            return
        except CertificateError as error:
            self._is_to_retry = True
            self._reject([str(error)], before)
            self._identity.retry_on_change(self.request)
            return
        except Exception as error:
            # A defect, or the system's failure: it must not stop the traffic.
            self._is_to_retry = True
            self._reject([repr(error)], before, exc_info=error)
            return
        # From here on nothing can fail: a request sees the old configuration or the new one.
        self._identity.adopt(identity)
        self._adopt(compiled)
        self._metrics.config_reloads.labels("ok").value += 1
        self.last_reload = Reload(self.applied_at)
        self._source.applied(documents)
        logger.info("configuration applied", extra={"fields": {"fingerprint": documents.fingerprint}})

    def _check_tls(self, documents: Documents) -> None:
        """Raises ConfigError: TLS files of model servers cannot be used. It is tried again when they change."""
        watch = FileWatch(lambda: tls_files(documents))
        try:
            self._clusters.check(documents)
        except ConfigError:
            self._awaited = watch
            watch.start(self.request)
            raise

    def _forget_awaited(self) -> None:
        if self._awaited is not None:
            self._awaited.stop()
            self._awaited = None

    def _reject(self, problems: list[str], before: Reload | None, exc_info: Exception | None = None) -> None:
        self.last_reload = Reload.rejected(problems)
        self._metrics.config_reloads.labels("failed").value += 1
        self._metrics.config_in_sync.labels().value = 0
        if before is not None and before.problems == self.last_reload.problems:
            return
        self._source.refused(problems, is_to_retry=self._is_to_retry)
        logger.error(
            "configuration rejected; keeping the previous one",
            extra={"fields": {"problems": problems}},
            exc_info=exc_info,
        )

    def _adopt(self, compiled: Compiled) -> None:
        documents, health = compiled.documents, compiled.health
        for direction in self._directions:
            direction.adopt(compiled.snapshots[direction.name], compiled.max_connections)
        if self.health is not None and self.health is not health:
            self.health.drain()  # its watchers ask again, and are answered for the new server
        self.health = health
        for shared in self._downstream:
            shared.limits = documents.mesh.spec.limits
            shared.times = times(documents)
        self._adopted(documents)
        if health is not None:
            health.changed()  # the models that are checked may be others

    def _adopted(self, documents: Documents) -> None:
        self.documents = documents
        self._clusters.adopt(documents)
        self._live.adopt()
        self._tokens.adopt()
        if self._access_log is not None:
            self._access_log.use(documents.mesh.spec.telemetry.access_log)
        if self._audit_log is not None:
            self._audit_log.use(documents.mesh.spec.telemetry.audit.allowed)
        tracer = self._tracing.adopt()
        for direction in self._directions:
            direction.pipeline.tracer = tracer
        for shared in self._downstream:
            shared.reaper.keep(shortest_time_limit(documents))
        self._metrics.requests.mention(*mentioned(documents))
        self._metrics.requests.keep_policies(binding.metadata.name for binding in documents.bindings)
        self._metrics.config_in_sync.labels().value = 1
        self.applied_at = self._metrics.config_loaded.labels().value = time.time()
        for listener in self.on_adopted:
            listener(documents)


def check_fixed(old: Documents, new: Documents) -> None:
    """Raises ConfigError for changes of what sockets and open files depend on: they need a restart."""
    inbound = [each.sidecar.spec.inbound for each in (old, new)]
    outbound = [each.sidecar.spec.outbound for each in (old, new)]
    fixed = (
        ("spec.inbound.listen", *(each.listen if each else None for each in inbound)),
        ("spec.outbound.listen", *(each.listen if each else None for each in outbound)),
        ("spec.outbound.transparent", *(each.transparent if each else None for each in outbound)),
        ("spec.admin.listen", old.sidecar.spec.admin.listen, new.sidecar.spec.admin.listen),
        ("spec.admin.firstWorkerPort", *(each.sidecar.spec.admin.first_worker_port for each in (old, new))),
        ("spec.workers", old.sidecar.spec.workers, new.sidecar.spec.workers),
        ("spec.accessLog", old.sidecar.spec.access_log, new.sidecar.spec.access_log),
        ("spec.auditLog", old.sidecar.spec.audit_log, new.sidecar.spec.audit_log),
        ("spec.audit", old.sidecar.spec.audit, new.sidecar.spec.audit),
        ("spec.controlPlane", old.sidecar.spec.control_plane, new.sidecar.spec.control_plane),
        ("spec.identity", *(each.spec.control_plane and each.spec.identity for each in (old.sidecar, new.sidecar))),
        ("spec.mtls", old.mesh.spec.mtls, new.mesh.spec.mtls),
    )
    problems = tuple(
        Problem(
            "",
            0,
            "",
            str(field),
            f"changes from {before} to {after}: restart the sidecar to apply it",
            Code.NEEDS_RESTART,
        )
        for field, before, after in fixed
        if before != after
    )
    if problems:
        raise ConfigError(problems)


def mentioned(documents: Documents) -> tuple[list[str], list[str]]:
    """The models, and the versions and labels, that documents name: they get their own metric series."""
    rules = [rule for role in documents.roles for rule in role.spec.rules]
    models = [model for rule in rules for model in rule.models]
    models += [model for route in documents.routes for model in (*route.spec.models, *route_models(route))]
    versions = [str(version) for rule in rules for version in rule.versions]
    versions += [label for rule in rules for label in rule.labels]
    versions += [version for route in documents.routes for version in route_versions(route)]
    for rollout in documents.rollouts:
        models.append(rollout.spec.model)
        for arm in (rollout.spec.stable, rollout.spec.candidate):
            models += [arm.model] if arm.model is not None else []
            versions += [name for name in (arm.version, arm.label) if name is not None]
    return models, versions


def route_models(route: ModelRoute) -> list[str]:
    """The other models that a route sends calls to."""
    return [each.model for each in route.spec.targets if each.model is not None]


def route_versions(route: ModelRoute) -> list[str]:
    """The versions and labels that a route sends calls to."""
    named = [(each.version, each.label) for each in route.spec.targets]
    versions = [*route.spec.labels.values(), *(version for version, _ in named if version is not None)]
    return [*map(str, versions), *(label for _, label in named if label is not None)]
