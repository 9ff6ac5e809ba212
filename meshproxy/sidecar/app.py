"""`meshproxy sidecar`: every part of the data plane, built in order on one page, and its life until it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from meshproxy.codec.limits import Limits
from meshproxy.config.child import load_in_child
from meshproxy.config.problems import ConfigError, Problem
from meshproxy.identity.caller import Workload
from meshproxy.identity.certificates import CertificateError, OwnIdentity
from meshproxy.identity.peer import PeerRefused, PeerRole, read_peer
from meshproxy.proxy.health_service import HealthService
from meshproxy.proxy.pipeline import Pipeline
from meshproxy.routing.live import Live
from meshproxy.sidecar.admin import ADMIN_CONNECTIONS, ADMIN_TIMES, Admin, Unobserved
from meshproxy.sidecar.clusters import Clusters
from meshproxy.sidecar.reload import (
    DOWNSTREAM_CONNECTIONS,
    codec_limits,
    inbound_snapshot,
    outbound_snapshot,
    read_identity,
    times,
)
from meshproxy.sidecar.side import Side
from meshproxy.sidecar.tokens import Tokens
from meshproxy.sidecar.worker import Report, read_documents, send_reports, watch_supervisor, write_documents
from meshproxy.telemetry.access_log import AccessLog
from meshproxy.telemetry.audit import AuditLog
from meshproxy.telemetry.line_writer import LineWriter
from meshproxy.telemetry.log_encoding import UtcClock
from meshproxy.telemetry.observer import Observer, Sink
from meshproxy.telemetry.process import watch_process
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
from meshproxy.telemetry.trace import Tracer
from meshproxy.telemetry.upstream_metrics import UpstreamMetrics
from meshproxy.transport.connection import Driving, Times
from meshproxy.transport.listener import Listener, PeerRejected, Security
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import Reaper

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

    from meshproxy.config.routes import ModelRoute
    from meshproxy.config.schema import Documents
    from meshproxy.proxy.snapshot import Snapshot
    from meshproxy.sidecar.worker import WorkerSlot
    from meshproxy.upstream.cluster import Cluster

logger = logging.getLogger(__name__)

WATCH_PERIOD = 0.5
"""Seconds between two looks at the files: whoever changes weights sees them move within a second. (The kubelet takes up
to a minute to update a mounted volume.)"""
LOG_PERIOD = 0.5
"""Seconds that a line of the access log may wait for others."""
QUIET = 0.5
"""Seconds without a request after which nobody is left to drain for."""
LOOK_PERIOD = 0.05
"""Seconds between two looks for that."""
PARTING_TURNS = 5
"""Turns of the event loop within which everyone has heard of a connection that was broken off, TLS and all."""
UPSTREAM_WINDOW = 1 << 30
"""What all answers on one connection to a model server may hold together: as good as no limit, since all clients share
it, and four that do not read would use up any that is a few streams wide. Each stream has its own."""


class Sidecar:
    """One sidecar, from its documents to its end."""

    def __init__(self, paths: Sequence[str], documents: Documents, slot: WorkerSlot | None = None) -> None:
        """Build every part. Nothing listens yet.

        Args:
            paths: where the documents are.
            documents: what they say.
            slot: if this is one of several workers, which.

        Raises:
            ConfigError, CertificateError: the documents or the identity cannot be used.
            OSError: the access log cannot be opened.
        """
        self._paths = list(paths)
        self._documents = documents
        self._slot = slot
        self._health: HealthService | None = None
        loop = self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        spec = documents.sidecar.spec

        # Telemetry: everything below reports to it.
        self.metrics = SidecarMetrics()
        watch_process(self.metrics.registry)
        clock = UtcClock(time.time() - time.monotonic())
        self._log_sinks: list[LineWriter] = []
        sinks: list[Sink] = [self.metrics.requests.observe]
        if (access := _open_sink(spec.access_log)) is not None:
            self.metrics.access_log_dropped.read_from(lambda: [((), access.dropped)])
            self._log_sinks.append(access)
            sinks.append(AccessLog(access, clock))
        if (audit := _open_sink(spec.audit_log)) is not None:
            self.metrics.audit_dropped.read_from(lambda: [((), audit.dropped)])
            self._log_sinks.append(audit)
            sinks.append(AuditLog(audit, clock, self.metrics.audit_events))
        observer = Observer(self.metrics.telemetry_failures, sinks)

        # Sockets: what all connections share.
        self._reaper = Reaper(loop)
        outbox = Outbox(loop)
        self._driving = Driving(
            loop=loop,
            outbox=outbox,
            reaper=self._reaper,
            limits=codec_limits(documents),
            times=times(documents),
            on_limit=self.limit,
        )
        upstream_driving = Driving(
            loop=loop,
            outbox=outbox,
            reaper=self._reaper,
            limits=Limits(connection_window=UPSTREAM_WINDOW),
            times=Times(),
            on_limit=self.limit,
        )
        self.metrics.watch_http2(downstream=self._driving.h2_statistics, upstream=upstream_driving.h2_statistics)

        # Stations: compiled from the documents, replaced by a reload. Everything that was learned on the way stays.
        traffic = UpstreamMetrics(self.metrics.registry, self.metrics.requests.model_labels)
        self._clusters = Clusters(upstream_driving, traffic, traffic, self._client_context, self._good_until)
        self._live = Live()
        self._tokens = Tokens(self.metrics, outbox)
        self._identity = read_identity(documents, time.time())
        verifier = self._tokens.build(documents.mesh.spec.issuers)
        clusters = self._clusters.build(documents)
        tracer = Tracer()

        def pipeline(snapshot: Snapshot) -> Pipeline:
            return Pipeline(
                loop=loop,
                now=time.monotonic,
                wall_clock=time.time,
                reaper=self._reaper,
                snapshot=snapshot,
                observer=observer,
                tracer=tracer,
                refresh_keys=self._tokens.refresh,
                on_limit=self.limit,
                traffic=traffic,
            )

        # Ports.
        most = documents.mesh.spec.limits.connections or DOWNSTREAM_CONNECTIONS
        self.inbound: Side | None = None
        self._health = self._health_service(documents, clusters)
        traffic.on_health.append(self._health_changed)
        if (snapshot := inbound_snapshot(documents, clusters, verifier, self._live, self._health)) is not None:
            self.inbound = Side(
                "inbound",
                self.metrics,
                pipeline(snapshot),
                driving=self._driving,
                security=Security(documents.mesh.spec.mtls),
                context=self._identity.server if self._identity is not None else None,
                identify=self._identify,
                max_connections=most,
            )
        self.outbound: Side | None = None
        if (snapshot := outbound_snapshot(documents, clusters, self._live)) is not None:
            assert spec.outbound is not None
            self.outbound = Side(
                "outbound",
                self.metrics,
                pipeline(snapshot),
                driving=self._driving,
                security=Security.PLAINTEXT,
                context=None,
                identify=lambda der: None,
                max_connections=most,
                is_transparent=spec.outbound.transparent,
            )
        self.sides = [side for side in (self.inbound, self.outbound) if side is not None]
        self.metrics.requests.in_flight.read_from(
            lambda: self.metrics.requests.count_in_flight(each for side in self.sides for each in side.pipeline.live)
        )
        traffic.watch(self._clusters.all, [side.pipeline for side in self.sides])
        self._adopt(documents, self._identity)
        self._seen = self._signature()
        """Of the files, when they were read last."""
        page = Admin(loop, self.metrics.registry, self, is_worker=slot is not None)
        self.admin = Listener(
            direction="admin",
            driving=Driving(
                loop=loop, outbox=outbox, reaper=self._reaper, limits=Limits(), times=ADMIN_TIMES, on_limit=self.limit
            ),
            serve=page.serve,
            reject=page.reject,
            events=Unobserved(),
            security=Security.PLAINTEXT,
            context=None,
            identify=lambda der: None,
            max_connections=ADMIN_CONNECTIONS,
        )

    # Its life

    async def run(self) -> None:
        """Listen and serve until SIGTERM, SIGINT or `POST /drain`. Raises OSError if a port is taken."""
        spec = self._documents.sidecar.spec
        # First of all: nobody who sends SIGHUP knows how far we are, and without a handler it ends us.
        for number, action in (
            (signal.SIGTERM, self.drain),
            (signal.SIGINT, self.drain),
            (signal.SIGHUP, self._hung_up),
        ):
            self._loop.add_signal_handler(number, action)
        await asyncio.gather(self._tokens.wait_for_keys(), self._clusters.wait_for_endpoints())
        try:
            if self._slot is None:
                self._listen(None, None)
                self.admin.listen(spec.admin.listen.host, spec.admin.listen.port)
            else:
                self._listen_as_worker(self._slot)
        except OSError:
            await self._close()
            raise
        self._reaper.start()
        fields = {side.direction: side.listener.address for side in self.sides}
        logger.info(
            "listening" if self._slot is None else "worker listening",
            extra={"fields": {**fields, "admin": self.admin.address, "pid": os.getpid()}},
        )
        tasks = [
            self._loop.create_task(self._reload_when_wanted()),
            self._loop.create_task(self._watch_files()),
            self._loop.create_task(self._flush_log()),
        ]
        if self._slot is not None:
            tasks.append(self._loop.create_task(send_reports(self._report)))
        failed = asyncio.gather(*tasks)
        stopping = self._loop.create_task(self._stopping.wait())
        try:
            # None of them ends by itself: whichever does has found a mistake of ours, and going on would hide it.
            await asyncio.wait((failed, stopping), return_when=asyncio.FIRST_COMPLETED)
            if failed.done():
                failed.result()
            await self._drain(self._documents.sidecar.spec.drain_timeout)
        finally:
            # Each by itself: a gathering of which one has failed cancels nobody any more.
            for task in (stopping, *tasks):
                task.cancel()
            await asyncio.gather(failed, stopping, *tasks, return_exceptions=True)
            await self._close()

    def _listen_as_worker(self, slot: WorkerSlot) -> None:
        """Listen as one of several. Raises OSError."""
        # The admin port first: connections arrive as soon as the shared port is bound.
        self.admin.listen(self._documents.sidecar.spec.admin.listen.host, slot.admin_port)
        self._listen(slot.inbound_port, slot.outbound_port)
        watch_supervisor(self._loop, slot.folder, self.drain)
        if slot.is_restart:
            # The supervisor handed down what the other workers use; the files may be newer, or rejected.
            self._reload_wanted.set()

    def _report(self) -> Report:
        return Report.of(self.admin.address, self._documents.fingerprint, self.readiness())

    def _listen(self, inbound_port: int | None, outbound_port: int | None) -> None:
        """Raises OSError."""
        spec = self._documents.sidecar.spec
        if self.inbound is not None and spec.inbound is not None:
            self.inbound.listen(spec.inbound.listen, shared_port=inbound_port)
        if self.outbound is not None and spec.outbound is not None:
            self.outbound.listen(spec.outbound.listen, shared_port=outbound_port)

    def drain(self) -> None:
        """Begin to go away (`admin.Operated`)."""
        self._stopping.set()

    async def _drain(self, grace: float) -> None:
        """Stop being ready, ask clients to leave, and serve whoever still comes until nobody does."""
        logger.info("draining", extra={"fields": {"in_flight": self._in_flight, "grace_seconds": grace}})
        if self._health is not None:
            self._health.drain()
        for side in self.sides:
            side.listener.drain()
        deadline = self._loop.time() + grace
        served, quiet_since = -1, 0.0
        while (now := self._loop.time()) < deadline:
            # Looked at rather than waited for: what counts is that nothing came for a while.
            if served != self._served or not all(side.listener.is_quiet for side in self.sides):
                served, quiet_since = self._served, now
            elif now - quiet_since >= QUIET:
                return
            await asyncio.sleep(min(LOOK_PERIOD, deadline - now))
        logger.warning(
            "drain timeout reached; aborting in-flight requests", extra={"fields": {"in_flight": self._in_flight}}
        )

    @property
    def _in_flight(self) -> int:
        return sum(len(side.pipeline.live) for side in self.sides)

    @property
    def _served(self) -> int:
        return sum(side.pipeline.served for side in self.sides)

    async def _close(self) -> None:
        for side in self.sides:
            await side.close()
        await self.admin.close()
        # What was broken off is yet to be written down.
        for _ in range(PARTING_TURNS):
            await asyncio.sleep(0)
        await self._tokens.close()
        await self._clusters.close()
        self._reaper.stop()
        await asyncio.sleep(0)
        for sink in self._log_sinks:
            sink.close()
        logger.info("stopped")

    async def _flush_log(self) -> None:
        while True:
            await asyncio.sleep(LOG_PERIOD)
            for sink in self._log_sinks:
                sink.flush()

    # Configuration

    def _hung_up(self) -> None:
        self._reload_wanted.set()
        for sink in self._log_sinks:
            try:
                sink.reopen()
            except OSError as error:
                logger.error("a log cannot be opened again: %s", error)

    async def _watch_files(self) -> None:
        while True:
            await asyncio.sleep(WATCH_PERIOD)
            if self._signature() != self._seen:
                self._reload_wanted.set()

    def _signature(self) -> tuple[object, ...]:
        """What changes when a file that we read does. Of folders the entries count, through the links of a mount."""
        files = [Path(path) for path in self._paths]
        files += [entry for folder in files for entry in _entries(folder)]
        identity = self._documents.sidecar.spec.identity
        if identity is not None:
            files += map(Path, (identity.files.certificate, identity.files.key, identity.files.trust_bundle))
        issuers = self._documents.mesh.spec.issuers
        files += (Path(issuer.keys.file) for issuer in issuers if issuer.keys and issuer.keys.file)
        return tuple(_stat(file) for file in files)

    async def _reload_when_wanted(self) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            await self.reload()

    async def reload(self) -> None:
        """Take what the files say now. Whatever is wrong with it, nothing of it is taken then."""
        self._seen = self._signature()
        try:
            documents = await load_in_child(self._paths)
            self._check_fixed(documents)
            identity = read_identity(documents, time.time())
            verifier = self._tokens.build(documents.mesh.spec.issuers)
            clusters = self._clusters.build(documents)
            health = self._health_service(documents, clusters)
            snapshots = (
                inbound_snapshot(documents, clusters, verifier, self._live, health),
                outbound_snapshot(documents, clusters, self._live),
            )
            await self._clusters.look_up()
        except (ConfigError, CertificateError) as error:
            self.metrics.config_reloads.labels("failed").value += 1
            self.metrics.config_in_sync.labels().value = 0
            problems = [str(problem) for problem in error.problems] if isinstance(error, ConfigError) else [str(error)]
            logger.error("configuration rejected; keeping the previous one", extra={"fields": {"problems": problems}})
            return
        except Exception:
            # A mistake of ours, or of the system's: the traffic is not to pay for it.
            self.metrics.config_reloads.labels("failed").value += 1
            self.metrics.config_in_sync.labels().value = 0
            logger.exception("configuration rejected; keeping the previous one")
            return
        # From here on nothing can fail: a request sees the old configuration or the new one.
        most = documents.mesh.spec.limits.connections or DOWNSTREAM_CONNECTIONS
        context = identity.server if identity is not None else None
        for side, snapshot in zip((self.inbound, self.outbound), snapshots, strict=True):
            if side is not None and snapshot is not None:
                side.adopt(snapshot, most, context if side is self.inbound else None)
        if self._health is not None and self._health is not health:
            self._health.drain()  # who watches asks again, and hears of the server as it is now
        self._health = health
        self._driving.limits = codec_limits(documents)
        self._driving.times = times(documents)
        self._adopt(documents, identity)
        if health is not None:
            health.changed()  # other models may be asked for, of other endpoints
        self.metrics.config_reloads.labels("ok").value += 1
        if self._slot is not None:
            try:
                write_documents(self._slot.folder, documents)
            except OSError as error:
                logger.error(
                    "configuration could not be stored; restarted workers will start from the previous one: %s", error
                )
        logger.info("configuration applied", extra={"fields": {"fingerprint": documents.fingerprint}})

    def _check_fixed(self, documents: Documents) -> None:
        """What sockets and files are bound to cannot be replaced under them. Raises ConfigError."""
        old, new = self._documents, documents
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
            ("spec.mtls", old.mesh.spec.mtls, new.mesh.spec.mtls),
        )
        problems = tuple(
            Problem("", 0, "", str(field), f"changes from {before} to {after}: restart the sidecar for that")
            for field, before, after in fixed
            if before != after
        )
        if problems:
            raise ConfigError(problems)

    def _adopt(self, documents: Documents, identity: OwnIdentity | None) -> None:
        """The configuration is in use."""
        self._documents = documents
        self._identity = identity
        self._clusters.adopt(documents)
        self._live.adopt()
        self._tokens.adopt()
        rules = [rule for role in documents.roles for rule in role.spec.rules]
        self.metrics.requests.mention(
            [model for rule in rules for model in rule.models]
            + [model for route in documents.routes for model in route.spec.models],
            [str(version) for rule in rules for version in rule.versions]
            + [label for rule in rules for label in rule.labels]
            + [version for route in documents.routes for version in route_versions(route)],
        )
        self.metrics.config_in_sync.labels().value = 1
        self.metrics.config_loaded.labels().value = time.time()
        if identity is not None:
            self.metrics.certificate_expiry.labels().value = identity.workload.not_after
            for warning in identity.warnings:
                logger.warning(warning)

    # What the ports report and ask (listener.Identify, admin.Operated)

    def _identify(self, der: bytes | None) -> Workload | None:
        if der is None:
            return None
        try:
            return read_peer(der, self._documents.mesh.spec.trust_domain, time.time(), PeerRole.CLIENT)
        except PeerRefused as refused:
            raise PeerRejected(str(refused)) from refused

    def _client_context(self) -> ssl.SSLContext:
        """What we show to other sidecars, as it is now."""
        identity = self._identity
        if identity is None or identity.client is None:
            raise OSError("there is no certificate to call other sidecars with")
        return identity.client

    def _good_until(self) -> float:
        """When what we show expires, in seconds since the epoch."""
        return self._identity.workload.not_after if self._identity is not None else inf

    def _health_service(self, documents: Documents, clusters: Mapping[str, Cluster]) -> HealthService | None:
        """Who answers for the health of our model server; None where nobody checks it."""
        inbound = documents.sidecar.spec.inbound
        if inbound is None:
            return None
        (server,) = (each for each in documents.servers if each.metadata.name == inbound.server)
        if server.spec.health is None:
            return None
        cluster = clusters[inbound.server]
        known = self._health
        return known if known is not None and known.cluster is cluster else HealthService(cluster)

    def _health_changed(self, server: str) -> None:
        if self._health is not None and self._health.cluster.name == server:
            self._health.changed()

    def limit(self, name: str) -> None:
        """A limit was exceeded."""
        self.metrics.limits_exceeded.labels(name).value += 1

    def readiness(self) -> dict[str, bool]:
        """What being ready hangs on."""
        identity = self._identity
        health = self._health.conditions() if self._health is not None else {}
        return {
            "configured": True,
            "certificate is valid": identity is None or time.time() < identity.workload.not_after,
            "issuers' keys are known": self._tokens.are_known,
            **self._clusters.conditions(),
            **health,
            "not draining": not self._stopping.is_set(),
        }

    def configuration(self) -> dict[str, object]:
        """What runs, without secrets: keys are named by their files only."""
        documents = self._documents
        return {
            "fingerprint": documents.fingerprint,
            "identity": self._identity.workload.spiffe_id if self._identity else None,
            "trustDomain": documents.mesh.spec.trust_domain,
            "mtls": documents.mesh.spec.mtls,
            "issuers": [issuer.name for issuer in documents.mesh.spec.issuers],
            "roles": [role.metadata.name for role in documents.roles],
            "bindings": [binding.metadata.name for binding in documents.bindings],
            "inbound": self.inbound.listener.address if self.inbound is not None else None,
            "outbound": self.outbound.listener.address if self.outbound is not None else None,
            "servers": self._clusters.overview(),
            "routes": {route.metadata.name: list(route.spec.directions) for route in documents.routes},
        }


async def run_sidecar(paths: Sequence[str]) -> None:
    """Load, build, run.

    Raises:
        ConfigError, CertificateError, OSError: it cannot start, and why.
        WorkersFailed: workers crash-loop, or exited with an error.
    """
    documents = await load_in_child(paths)
    if documents.sidecar.spec.workers > 1:
        from meshproxy.sidecar.supervisor import Supervisor  # not for the memory of those who have none

        await Supervisor(paths, documents).run()
    else:
        await Sidecar(paths, documents).run()


async def run_worker(paths: Sequence[str], slot: WorkerSlot) -> None:
    """Build and run one of several, with the documents that its supervisor hands down.

    Raises:
        CertificateError, OSError: it cannot start, and why.
    """
    await Sidecar(paths, read_documents(slot.folder), slot).run()


def route_versions(route: ModelRoute) -> list[str]:
    """Versions and labels that a route sends calls to: they are worth series of their own."""
    spec = route.spec
    named = [(each.version, each.label) for each in spec.split]
    if spec.mirror is not None:
        named.append((spec.mirror.version, spec.mirror.label))
    versions = [*spec.labels.values(), *(version for version, _ in named if version is not None)]
    return [*map(str, versions), *(label for _, label in named if label is not None)]


def _open_sink(where: str) -> LineWriter | None:
    if where == "off":
        return None
    return LineWriter.stdout() if where == "stdout" else LineWriter.file(Path(where))


def _entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing if it is none, or gone, or not for us to read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _stat(file: Path) -> tuple[object, ...]:
    try:
        status = file.stat()
    except OSError as error:
        return (str(file), error.errno)
    return (str(file), status.st_mtime_ns, status.st_size, status.st_ino)
