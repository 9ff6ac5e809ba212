"""`meshproxy sidecar`: every part of the data plane, built in order on one page, and run until it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from functools import cache, partial
from typing import TYPE_CHECKING

from meshproxy.codec.limits import Limits
from meshproxy.config.schema import Documents
from meshproxy.inference.call import Call, Verb
from meshproxy.proxy.pipeline import Pipeline
from meshproxy.proxy.shed import SHED_GRPC, SHED_REST
from meshproxy.refusal import Reason, Refusal
from meshproxy.routing.carried_state import CarriedState
from meshproxy.routing.routes import Routes
from meshproxy.sidecar.admin import ADMIN_CONNECTIONS, ADMIN_TIMES, Admin, NoListenerEvents
from meshproxy.sidecar.answer_reading import AnswerReading
from meshproxy.sidecar.clusters import Clusters
from meshproxy.sidecar.configuration import Configuration
from meshproxy.sidecar.direction import Direction
from meshproxy.sidecar.document_source import FileDocuments, LastGoodDocuments, SharedDocuments
from meshproxy.sidecar.drain import drain
from meshproxy.sidecar.logs import Logs
from meshproxy.sidecar.rotation import IdentityRotation, load_identity, wait_for_identity
from meshproxy.sidecar.server_metrics import ServerMetrics
from meshproxy.sidecar.server_tls import check_files
from meshproxy.sidecar.snapshots import times
from meshproxy.sidecar.status import Status
from meshproxy.sidecar.tokens import Tokens
from meshproxy.sidecar.tracing import Tracing
from meshproxy.sidecar.worker import Report, read_documents, send_reports, watch_supervisor
from meshproxy.telemetry.json_lines import JsonLines
from meshproxy.telemetry.log_encoding import UtcClock
from meshproxy.telemetry.observer import Observer, Sink
from meshproxy.telemetry.process import watch_process
from meshproxy.telemetry.scaling import Scaling
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
from meshproxy.telemetry.trace import Tracer, record_trace
from meshproxy.telemetry.upstream_metrics import UpstreamMetrics
from meshproxy.transport.connection import ConnectionContext, Times
from meshproxy.transport.listener import Listener, Security
from meshproxy.transport.mesh_client import identify_client
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import Reaper
from meshproxy.transport.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshproxy.config import schema
    from meshproxy.config.file_watch import FileWatch
    from meshproxy.config.rollouts import ModelRollout
    from meshproxy.identity.certificates import OwnIdentity
    from meshproxy.proxy.snapshot import Snapshot
    from meshproxy.sidecar.control_link import ControlLink
    from meshproxy.sidecar.document_source import DocumentSource
    from meshproxy.sidecar.live_pages import LivePages
    from meshproxy.sidecar.report_queue import ReportQueue
    from meshproxy.sidecar.rotation import LoadedIdentity
    from meshproxy.sidecar.worker import WorkerSlot
    from meshproxy.sidecar.worker_rollouts import WorkerRollouts
    from meshproxy.telemetry.call_reports import CallReports

logger = logging.getLogger(__name__)

PARTING_TURNS = 5
"""Iterations of the event loop until every component has handled an aborted connection, TLS included."""
UPSTREAM_WINDOW = 1 << 30
"""Flow-control window of a connection to a model server: practically unlimited, since all clients share it, and four
that do not read would exhaust one that is a few streams wide. Each stream has its own window."""


class Sidecar:
    """One sidecar, from its documents to its end."""

    def __init__(
        self,
        source: DocumentSource,
        documents: Documents,
        identity: LoadedIdentity | None,
        slot: WorkerSlot | None = None,
        link: ControlLink | None = None,
        rollouts: WorkerRollouts | None = None,
    ) -> None:
        """Build every part. Nothing listens yet.

        Args:
            source: delivers documents.
            documents: the ones to start with.
            identity: the workload identity to start with; None where TLS is disabled.
            slot: the worker's, if this is one of several.
            link: to the control plane, if there is one and no supervisor has it.
            rollouts: where a supervisor has the link, and its documents are from there.

        Raises:
            ConfigError: the documents cannot be used.
            OSError: the access log or audit log cannot be opened.
        """
        self._slot = slot
        self._link = link
        self._rollouts = rollouts
        loop = self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        spec = documents.sidecar.spec

        # Telemetry: everything below reports to it.
        self.metrics = SidecarMetrics()
        watch_process(self.metrics.registry)
        if link is not None:
            self.metrics.control_connected.read_from(link.connected)
        if link is not None and link.enrollment is not None:
            self.metrics.identity_issuances.read_from(link.enrollment.count)
            self.metrics.clock_offset.read_from(link.enrollment.measure)
        clock = UtcClock(0.0)
        clock.expire(loop.time())
        self._logs = logs = Logs(documents.sidecar, slot.number if slot is not None else None, clock, self.metrics)
        # Spans first: metrics name the traces of those that are exported.
        sinks: list[Sink] = [record_trace, self.metrics.requests.observe]
        sinks += [log for log in (logs.access, logs.audit) if log is not None]
        reported: CallReports | None = None
        self.reports: ReportQueue | None = None
        told: Callable[[bytes], bytes] | None = None
        if spec.control_plane is not None:
            # Their memory is for those who have a control plane.
            from meshproxy.sidecar.report_queue import ReportQueue
            from meshproxy.telemetry.call_reports import CallReports

            reported = CallReports(self.metrics.requests.model_labels, lambda: clock.offset)
            sinks.append(reported.observe)
            number = slot.number if slot is not None else 0
            self.reports = ReportQueue(reported, documents.sidecar.metadata.name, number, time.monotonic)
            if slot is not None:
                from meshproxy.sidecar.worker_reports import tell  # to the supervisor, who has the link

                told = partial(tell, self.reports)
            if link is not None:
                link.report(self.reports, lambda: {0: self.admin.address})
                self.metrics.control_reports.read_from(link.count_reports)
        observer = Observer(self.metrics.telemetry_failures, sinks)

        # Sockets: the settings that connections share.
        self._reaper = Reaper(loop)
        self._reaper.add(clock)
        outbox = Outbox(loop)
        self._turns = turns = Turns(loop, outbox.flush)

        def connections(direction: str, limits: Limits, times: Times) -> ConnectionContext:
            shared = ConnectionContext(
                loop=loop,
                outbox=outbox,
                reaper=self._reaper,
                limits=limits,
                times=times,
                on_limit=partial(self.limit, direction),
                turns=turns,
            )
            shared.on_drained = partial(self.drained, direction or "upstream")
            return shared

        downstream = {
            direction: connections(direction, documents.mesh.spec.limits, times(documents))
            for direction, side in (("inbound", spec.inbound), ("outbound", spec.outbound))
            if side is not None
        }
        upstream = connections("", Limits(connection_window=UPSTREAM_WINDOW), Times())
        self.metrics.watch_http2(
            downstream={direction: shared.h2_statistics for direction, shared in downstream.items()},
            upstream=upstream.h2_statistics,
        )

        # The configuration: compiled from the documents, replaced by a reload, while learned state is carried over. The
        # identity rotates without a reload.
        traffic = UpstreamMetrics(self.metrics.registry, self.metrics.requests.model_labels)
        self.identity = IdentityRotation(identity, self.metrics, warns=slot is None or slot.number == 0)
        own = self.identity
        self.clusters = Clusters(upstream, traffic, traffic, own.client_context, own.client_h1_context)
        self.tokens = Tokens(self.metrics, outbox)
        self.tracing = Tracing(
            os.environ, partial(connections, "", Limits(), Times()), self.metrics, lambda: clock.offset
        )
        live = CarriedState()
        self.configuration = Configuration(
            source,
            documents,
            self.metrics,
            downstream=list(downstream.values()),
            clusters=self.clusters,
            live=live,
            tokens=self.tokens,
            tracing=self.tracing,
            identity=self.identity,
            access_log=logs.access,
            audit_log=logs.audit,
        )
        compiled = self.configuration.compile(documents)

        def pipeline(direction: str, snapshot: Snapshot) -> Pipeline:
            return Pipeline(
                loop=loop,
                now=time.monotonic,
                wall_clock=time.time,
                reaper=self._reaper,
                snapshot=snapshot,
                observer=observer,
                tracer=Tracer(),  # until the configuration is taken into use
                refresh_keys=self.tokens.refresh,
                on_limit=partial(self.limit, direction),
                traffic=traffic,
                repeat=observer.repeat,
                admit_admin=self._admit_admin if logs.trail is not None else None,
                turns=turns,
            )

        for shared in downstream.values():
            shared.overload.responses = SHED_GRPC, SHED_REST
            self._reaper.add(shared.overload)

        # Ports.
        self.inbound: Direction | None = None
        if (snapshot := compiled.snapshots.get("inbound")) is not None:
            self.inbound = Direction(
                "inbound",
                self.metrics,
                pipeline("inbound", snapshot),
                shared=downstream["inbound"],
                security=Security(documents.mesh.spec.mtls),
                context=self.identity.current.server if self.identity.current is not None else None,
                identify=identify_client,
                max_connections=compiled.max_connections,
            )
        self.outbound: Direction | None = None
        if (snapshot := compiled.snapshots.get("outbound")) is not None:
            assert spec.outbound is not None
            self.outbound = Direction(
                "outbound",
                self.metrics,
                pipeline("outbound", snapshot),
                shared=downstream["outbound"],
                security=Security.PLAINTEXT,
                context=None,
                identify=lambda tls: None,
                max_connections=compiled.max_connections,
                is_transparent=spec.outbound.transparent,
            )
        self.directions = [direction for direction in (self.inbound, self.outbound) if direction is not None]
        self.metrics.watch_express({direction.name: direction.pipeline.express for direction in self.directions})
        self.identity.on_exchange = self._exchange_context
        self.metrics.requests.in_flight.read_from(
            lambda: self.metrics.requests.count_in_flight(
                each for direction in self.directions for each in direction.pipeline.live
            )
        )
        scaling: Scaling | None = None
        if self.inbound is not None:
            scaling = Scaling(self.metrics.registry, self.metrics.requests, self.inbound.pipeline, time.monotonic)
            self._reaper.add(scaling)
        traffic.watch(self.clusters.all, {direction.name: direction.pipeline for direction in self.directions})
        traffic.on_health.append(self._health_changed)
        self.server_metrics = ServerMetrics(
            self.clusters,
            self.metrics,
            observer,
            lambda remote: self.inbound is not None and self.inbound.permits(Call(Verb.METRICS), remote),
            worker=slot.number if slot is not None else None,
            on_reading=reported.note_reading if reported is not None else None,
        )
        self.configuration.on_adopted.append(self.server_metrics.adopt)
        if self.reports is not None and self.inbound is not None:
            answers = AnswerReading(self.inbound.pipeline, self.metrics.requests.model_labels)
            self.configuration.on_adopted.append(answers.adopt)
            self.reports.take_answers = answers.take
            self.metrics.answers_read.read_from(answers.count)
        told_by = link if link is not None and link.documents is not None else rollouts
        if told_by is not None:
            moved = told_by.rollouts(live, self._is_loaded)
            self.configuration.on_adopted.append(moved.adopt)
            traffic.on_health.append(lambda server: moved.checked())
            for direction in self.directions:
                direction.pipeline.meters = moved.meters
            self.metrics.rollout_weight.read_from(moved.weights)
            self.metrics.rollout_kills.read_from(lambda: [((), moved.kills)])
        self.configuration.begin(compiled, self.directions)
        self._status = status = Status(
            self.configuration,
            self.identity,
            self.tokens,
            self.clusters,
            self.directions,
            is_draining=self._stopping.is_set,
            drain=self.drain,
            scaling=scaling,
            metrics=self.metrics,
            server_metrics=self.server_metrics,
        )

        @cache
        def live_pages() -> LivePages:
            from meshproxy.sidecar.live_pages import LivePages  # its memory is for those who look

            return LivePages(
                loop,
                observer,
                self.metrics,
                mode=lambda: self.configuration.documents.mesh.spec.telemetry.tap,
                line_of=JsonLines(clock),
                clock=time.monotonic,
                on_limit=partial(self.limit, "admin"),
            )

        page = Admin(
            loop,
            self.metrics.registry,
            status,
            lambda stream, head: live_pages().serve(stream, head),
            is_worker=slot is not None,
            relay=self.server_metrics.relay,
            reports=told,
        )
        self.admin = Listener(
            direction="admin",
            shared=connections("admin", Limits(), ADMIN_TIMES),
            serve=page.serve,
            reject=page.reject,
            events=NoListenerEvents(),
            security=Security.PLAINTEXT,
            context=None,
            identify=lambda tls: None,
            max_connections=ADMIN_CONNECTIONS,
        )

    # Running

    async def run(self) -> None:
        """Listen and serve until SIGTERM, SIGINT or `POST /drain`. Raises OSError if a port is taken."""
        # First of all: without a handler, a SIGHUP that comes early ends the process.
        for number, action in (
            (signal.SIGTERM, self.drain),
            (signal.SIGINT, self.drain),
            (signal.SIGHUP, self._hung_up),
            (signal.SIGUSR1, self._rotated),
        ):
            self._loop.add_signal_handler(number, action)
        await asyncio.gather(self.tokens.wait_for_keys(), self.clusters.wait_for_endpoints())
        try:
            if self._slot is None:
                self._listen(None, None)
                admin = self.configuration.documents.sidecar.spec.admin.listen
                self.admin.listen(admin.host, admin.port)
            else:
                self._listen_as_worker(self._slot)
        except OSError:
            await self._close()
            raise
        self._reaper.start()
        self._logs.start()
        fields = {direction.name: direction.listener.address for direction in self.directions}
        logger.info(
            "listening" if self._slot is None else "worker listening",
            extra={"fields": {**fields, "admin": self.admin.address, "pid": os.getpid()}},
        )
        self.configuration.start()
        self.identity.start()
        tasks = [
            self._loop.create_task(self.configuration.run()),
            self._loop.create_task(self.identity.run()),
            self._loop.create_task(self._logs.run()),
        ]
        if self._slot is not None:
            tasks.append(self._loop.create_task(send_reports(self._report)))
        if self._link is not None:
            tasks.append(self._loop.create_task(self._link.run()))
        if self._rollouts is not None:
            tasks.append(self._loop.create_task(self._rollouts.run()))
        failed = asyncio.gather(*tasks)
        stopping = self._loop.create_task(self._stopping.wait())
        try:
            # None of these tasks ends by itself: one that does has a bug, which must be reported.
            await asyncio.wait((failed, stopping), return_when=asyncio.FIRST_COMPLETED)
            if failed.done():
                failed.result()
            grace = self.configuration.documents.sidecar.spec.drain_timeout
            await drain(self.directions, self.configuration.health, grace)
        finally:
            # Each separately: a failed `gather` no longer cancels the others.
            for task in (stopping, *tasks):
                task.cancel()
            await asyncio.gather(failed, stopping, *tasks, return_exceptions=True)
            await self._close()

    def _listen_as_worker(self, slot: WorkerSlot) -> None:
        """Listen as one of several workers. Raises OSError."""
        # The admin port first: connections arrive as soon as the shared port is bound.
        self.admin.listen(self.configuration.documents.sidecar.spec.admin.listen.host, slot.admin_port)
        self._listen(slot.inbound_port, slot.outbound_port)
        watch_supervisor(self._loop, slot.folder, self.drain)
        if slot.is_restart:
            # It started from the configuration of the other workers; the source may have a newer one, or a bad one.
            self.configuration.request()

    def _report(self) -> Report:
        fingerprint = self.configuration.documents.fingerprint
        return Report.of(self.admin.address, fingerprint, self._status.readiness(), self._status.notes())

    def _listen(self, inbound_port: int | None, outbound_port: int | None) -> None:
        """Raises OSError."""
        spec = self.configuration.documents.sidecar.spec
        if self.inbound is not None and spec.inbound is not None:
            self.inbound.listen(spec.inbound.listen, shared_port=inbound_port)
        if self.outbound is not None and spec.outbound is not None:
            self.outbound.listen(spec.outbound.listen, shared_port=outbound_port)

    def drain(self) -> None:
        self._stopping.set()

    async def _close(self) -> None:
        self.configuration.stop()
        self.identity.stop()
        for direction in self.directions:
            await direction.close()
        await self.admin.close()
        # Requests that were aborted are yet to be logged. Those of HTTP/2 end in turns.
        for _ in range(PARTING_TURNS):
            await asyncio.sleep(0)
        while self._turns.has_work:  # noqa: ASYNC110 - a turn is an iteration
            await asyncio.sleep(0)
        await self.server_metrics.close()
        await self.tracing.close()
        await self.tokens.close()
        await self.clusters.close()
        self._reaper.stop()
        await asyncio.sleep(0)
        self._logs.close()
        logger.info("stopped")

    def _hung_up(self) -> None:
        """SIGHUP: reload, look for a new certificate, and reopen log files that were rotated."""
        self.configuration.request()
        self.identity.request()
        self._logs.reopen()

    def _rotated(self) -> None:
        """SIGUSR1: reopen log files, and nothing else."""
        spec = self.configuration.documents.sidecar.spec
        logger.info("reopening log files", extra={"fields": {"access": spec.access_log, "audit": spec.audit_log}})
        self._logs.reopen()

    # What the parts ask for

    def _exchange_context(self, identity: OwnIdentity) -> None:
        if self.inbound is not None:
            self.inbound.listener.context = identity.server

    def _admit_admin(self) -> None:
        """Raises Refusal: nobody would know of a call of an admin verb."""
        trail = self._logs.trail
        assert trail is not None
        wanted = self.configuration.documents.mesh.spec.telemetry.audit.admin_without_trail
        if wanted == "refuse" and (problem := trail.problem):
            logger.warning("admin call refused: no audit trail", extra={"fields": {"problem": problem}})
            raise Refusal(
                Reason.AUDIT_UNAVAILABLE, "The audit trail cannot be written: ask an operator of the sidecar."
            )

    def _is_loaded(self, rollout: ModelRollout) -> bool | None:
        """See `rollouts.is_loaded`."""
        from meshproxy.sidecar.rollouts import is_loaded  # its memory is for those who have a control plane

        for direction in self.directions:
            if direction.name == rollout.spec.chosen_by:
                snapshot = direction.pipeline.snapshot
                assert isinstance(snapshot.routes, Routes)
                return is_loaded(rollout.spec, snapshot.routes, snapshot.server, self.clusters.available)
        return None

    def _health_changed(self, server: str) -> None:
        health = self.configuration.health
        if health is not None and health.cluster.name == server:
            health.changed()

    def drained(self, direction: str, reason: str) -> None:
        self.metrics.connections_drained.labels(direction, reason).value += 1

    def limit(self, direction: str, name: str) -> None:
        self.metrics.limits_exceeded.labels(direction, name).value += 1


async def run_sidecar(paths: Sequence[str], own: Documents | schema.Sidecar, watch: FileWatch) -> None:
    """Build and run what `load_own` has found in the files. `watch`: of these, from before they were read.

    Raises:
        ConfigError, CertificateError, OSError: it cannot start.
        WorkersFailed: a worker of several could not be kept alive, or did not end well.
    """
    source: DocumentSource = FileDocuments(paths, watch)
    documents, sidecar = (own, own.sidecar) if isinstance(own, Documents) else (None, own)
    link = None
    if (settings := sidecar.spec.control_plane) is not None:
        from meshproxy.sidecar.control_link import ControlLink  # its memory is for those who have a control plane

        link = ControlLink(paths, sidecar, settings, watch)
        documents = await link.join() or documents
        source = link.documents or source
    assert documents is not None  # files have them, or the control plane
    check_files(documents)  # not by a worker that is started again: it waits for them while it serves
    if documents.sidecar.spec.workers > 1:
        from meshproxy.sidecar.supervisor import Supervisor  # its memory is for those who have workers

        await Supervisor(paths, documents, link=link).run()
    else:
        await Sidecar(source, documents, await load_identity(documents), link=link).run()


async def run_worker(paths: Sequence[str], slot: WorkerSlot) -> None:
    """Build and run one of several workers, from the configuration that is in use.

    Raises:
        ConfigError, CertificateError, OSError: it cannot start.
    """
    shared = SharedDocuments(slot.folder) if SharedDocuments.are_in(slot.folder) else None
    documents = read_documents(slot.folder)
    source = LastGoodDocuments(shared or FileDocuments(paths, in_use=documents.fingerprint), slot.folder)
    if slot.is_restart:
        # Until it serves there is nothing to drain: it ends at once when its supervisor is gone, as on SIGTERM.
        watch_supervisor(asyncio.get_running_loop(), slot.folder, lambda: signal.raise_signal(signal.SIGTERM))
        identity = await wait_for_identity(documents)
    else:
        identity = await load_identity(documents)
    rollouts = None
    if (settings := documents.sidecar.spec.control_plane) is not None and settings.documents:
        from meshproxy.sidecar.worker_rollouts import WorkerRollouts  # its memory is for those who have a control plane

        rollouts = WorkerRollouts(documents.sidecar, settings, slot.number)
    await Sidecar(source, documents, identity, slot, rollouts=rollouts).run()
