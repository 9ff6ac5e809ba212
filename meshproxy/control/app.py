"""`meshproxy control`: every part of the control plane, built in order on one page, and run until it ends."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from meshproxy import __version__
from meshproxy.codec.limits import Limits
from meshproxy.config.file_watch import FileWatch
from meshproxy.control.allocator import FreePages
from meshproxy.control.attestation import Attestation, identify_sidecar
from meshproxy.control.audit import ControlAudit
from meshproxy.control.authority import RequestRefused
from meshproxy.control.channel import IdentityService
from meshproxy.control.clients import SidecarClients, allow_descriptors, most_clients, most_connections
from meshproxy.control.current_authority import CurrentAuthority
from meshproxy.control.discovery import EndpointService
from meshproxy.control.distribution import DocumentService
from meshproxy.control.documents import MeshDocuments
from meshproxy.control.endpoints import EndpointTable, NamedServices
from meshproxy.control.http_port import HttpPort
from meshproxy.control.issued_keys import IssuedKeys
from meshproxy.control.leaves import FolderLeaves, Roll
from meshproxy.control.offline_tokens import OfflineTokens
from meshproxy.control.own_certificate import OwnCertificate
from meshproxy.control.page_source import PageSource
from meshproxy.control.records import Records
from meshproxy.control.reporting import ReportService
from meshproxy.control.rollout_folder import FolderKeeper
from meshproxy.control.rollout_hooks import Hooks
from meshproxy.control.rollout_service import RolloutService
from meshproxy.control.rollouts import RolloutController
from meshproxy.control.roots import RootsService
from meshproxy.control.sources import Files
from meshproxy.control.status import ControlStatus, WaitingToken, is_local, moment
from meshproxy.control.store import ISSUED_KEYS, FolderStore, StoreError
from meshproxy.control.taps import TapService
from meshproxy.control.web_port import web_port
from meshproxy.control.webhook import Webhook
from meshproxy.identity.certificates import CertificateError
from meshproxy.identity.trust_bundles import BundleSource, OtherBundles
from meshproxy.telemetry.audit_trail import open_trail
from meshproxy.telemetry.control_metrics import ControlMetrics
from meshproxy.transport.connection import ConnectionContext, Times
from meshproxy.transport.grpc_server import GrpcServer
from meshproxy.transport.listener import Listener, Security
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import Reaper
from meshproxy.web.routes import Page

if TYPE_CHECKING:
    from lightkube import AsyncClient
    from msgspec import Raw

    from meshproxy.config.sent import SentKind
    from meshproxy.config.values import Address
    from meshproxy.control.attestation import JoinToken, PodTokens, TokenStore
    from meshproxy.control.authority import Authority
    from meshproxy.control.authority_secret import AuthoritySecret
    from meshproxy.control.cluster_parts import SharedRecords
    from meshproxy.control.election import Election
    from meshproxy.control.rollouts import Keeper
    from meshproxy.control.root_rotation import Step
    from meshproxy.control.service_watch import ServiceWatch
    from meshproxy.control.settings import Settings
    from meshproxy.control.shared_objects import SharedObjects
    from meshproxy.control.sources import DocumentSource
    from meshproxy.control.status_writer import StatusWriter
    from meshproxy.control.webhook_bundle import BundleKeeper
    from meshproxy.injection.admission import Outcome
    from meshproxy.telemetry.audit_writer import AuditWriter
    from meshproxy.telemetry.metrics import Rows
    from meshproxy.web.login import LoginEvent

logger = logging.getLogger(__name__)

PAGE_CONNECTIONS = 256
"""At the web port at once, and at that of commands: a hundred may be open pages (`web.events`)."""
TOKENS_SHOWN = 100
"""Join tokens on the page /status."""
STREAMS = 32
"""Of one connection at once: a sidecar has five, and one for each tap."""
MESSAGE_BYTES = 64 << 10
"""Of one message of a sidecar."""
STRANGER_SECONDS = 30.0
"""For which a client without a certificate may be connected: it asks for one, which takes a sidecar 10 s at most."""
HANDSHAKES = 256
"""At once: half a second of work."""
WRITE_BYTES = 2 << 10
"""Of one write to a sidecar (`ConnectionContext.write_bytes`)."""
RENEW_AT = 2 / 3
"""Of its own certificate's life."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
ROTATED_SIGNALS = (signal.SIGHUP, signal.SIGUSR1)
"""The file of the audit trail has another name. Documents are followed in any case."""


class ControlPlane:
    """One control plane, from its settings to its end."""

    @classmethod
    async def build(cls, settings: Settings) -> ControlPlane:
        """Build every part, with the authority of the cluster if that keeps it, and read the documents. Nothing listens
        yet.

        Raises:
            StoreError, KeysUnusable
            ConfigError: for the documents.
        """
        client = None
        if settings.needs_cluster:
            from meshproxy.control import cluster_parts

            client = cluster_parts.connect(settings)
        try:
            secret = None
            if client is not None and settings.authority_secret is not None:
                secret = cluster_parts.authority_secret(client, settings, settings.authority_secret)
                await secret.bring(time.time())
            plane = cls(settings, client, secret)
            if plane.documents is not None and not settings.cluster_documents:  # the cluster may be away
                await plane.documents.first()
            return plane
        except BaseException:
            if client is not None:
                await client.close()
            raise

    def __init__(
        self, settings: Settings, client: AsyncClient | None = None, secret: AuthoritySecret | None = None
    ) -> None:
        """Build every part. Nothing listens yet, and no documents are read. Raises StoreError and KeysUnusable.

        Args:
            settings: of the operator.
            client: of the cluster, which is closed in the end; None: it is not needed.
            secret: that keeps the authority, which was brought from there; None: the folder does.
        """
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._started_at = time.time()
        self.metrics = metrics = ControlMetrics()
        self.store = FolderStore(settings.folder)
        self._client = client
        self.authority = CurrentAuthority(self.store, settings.trust_domain, time.time())
        metrics.authority_expiry.read_from(lambda: [((), self.authority().not_after)])
        self._secret = secret
        self._objects: SharedObjects | None = None
        self._shared: SharedRecords | None = None
        self._tokens: TokenStore = self.store
        in_folder = FolderLeaves(settings.folder)
        if client is not None and secret is not None:
            from meshproxy.control import cluster_parts

            assert settings.authority_secret is not None
            self._objects = cluster_parts.shared_objects(client, settings)
            self._shared = cluster_parts.shared_records(self._objects, settings, settings.authority_secret)
            leaves, presence, self._tokens = self._shared
            self._roll = Roll(leaves, in_folder, time.time())
            self._records = Records(self.authority, leaves, self._roll, presence, lambda: secret.read_at)
            metrics.records_used.read_from(lambda: [((), leaves.used)])
            metrics.issues_until.read_from(lambda: [((), presence.signs_until)])
        else:
            self._roll = Roll(in_folder)
            self._records = Records(self.authority, in_folder, self._roll)
        self._bundles = OtherBundles({name: BundleSource.file(path) for name, path in settings.trusted.items()})
        self._own = OwnCertificate(settings, self.authority, self._bundles, metrics)
        self._watch = FileWatch(lambda: self._bundles.paths)
        self._reaper = Reaper(self._loop)
        self._free_pages = FreePages()
        self._services: ServiceWatch | None = None
        attestation = Attestation(self._tokens, settings.trust_domain, self._pod_tokens())
        self._keys = keys = IssuedKeys(settings.folder / ISSUED_KEYS)
        metrics.store_failures.read_from(self._store_failures)
        self._trail = self._open_trail()
        trail, refuses = self._trail, settings.without_audit == "refuse"
        audit = self._audit = None
        if trail is not None:
            audit = self._audit = ControlAudit(trail.write, time.time, lambda: trail.problem if refuses else "")
        self.service = IdentityService(
            self._records.signer, attestation, keys, self._roll, settings.lifetime, metrics, audit=audit
        )
        self._roots = RootsService(self.authority(), self._roll)
        methods = self.service.methods | self._roots.methods
        self.documents: MeshDocuments | None = None
        source = self._source()
        if source is not None:
            self.documents = documents = MeshDocuments(source)
            self.distribution = DocumentService(documents)
            methods |= self.distribution.methods
            if audit is not None:
                documents.listeners.append(lambda changes: audit.documents(changes, documents.version))
                documents.on_rejected.append(audit.rejected)
            self.rollouts = RolloutService(self.distribution, metrics)
            methods |= self.rollouts.methods
            metrics.sidecars.read_from(self.distribution.count)
            metrics.documents_refused.read_from(lambda: [((), self.distribution.refused)])
            metrics.documents_in_sync.read_from(lambda: [((), int(bool(documents.held) and not documents.problems))])
            table = EndpointTable() if settings.services else EndpointTable("its control plane has no --services")
            self.services = table
            documents.listeners.append(NamedServices(table).follow)
            self.endpoints = EndpointService(table, metrics)
            methods |= self.endpoints.methods
            metrics.service_endpoints.read_from(table.counts)
            if settings.services:
                from meshproxy.control.service_watch import ServiceWatch  # lightkube, which others do not load

                assert client is not None
                self._services = ServiceWatch(client, table, metrics)
        self.reports = ReportService(
            entitlements=self.distribution.entitlements if self.documents is not None else None,
            drift_interval=settings.drift_interval,
        )
        self.taps = TapService(self.reports, metrics)
        methods |= self.reports.methods
        methods |= self.taps.methods
        metrics.taps.read_from(self.taps.count_taps)
        metrics.tap_lines.read_from(self.taps.count_lines)
        metrics.mesh_reports.read_from(self.reports.count_reports)
        metrics.mesh_reporters.read_from(self.reports.count_reporters)
        metrics.mesh_dropped.read_from(self.reports.count_dropped)
        metrics.drift_alarm.read_from(self.reports.drift_alarms)
        metrics.drift_level.read_from(self.reports.drift_levels)
        metrics.drift_expected.read_from(self.reports.drift_expected)
        metrics.drift_unwatched.read_from(self.reports.count_unwatched)
        self.server = GrpcServer(methods, max_message_bytes=MESSAGE_BYTES)
        clients = self._clients = SidecarClients(
            metrics, settings.connection_rate, self._loop.time, self._free_pages.used
        )
        shared = ConnectionContext(
            loop=self._loop,
            outbox=Outbox(self._loop),
            reaper=self._reaper,
            limits=Limits(streams=STREAMS),
            times=Times(),
            on_limit=clients.limit,
        )
        shared.write_bytes = WRITE_BYTES
        shared.remembers_heads = False
        self.listener = Listener(
            direction="control",
            shared=shared,
            serve=self.server.serve,
            reject=self.server.reject,
            events=clients,
            security=Security.TLS,
            context=self._own.renew().server,
            identify=identify_sidecar,
            max_connections=clients.most,
            max_handshakes=HANDSHAKES,
            admits=clients.admits if settings.connection_rate else None,
            stranger_seconds=STRANGER_SECONDS,
            welcomes=clients.welcomes,
        )
        self.webhook: Webhook | None = None
        if settings.injector is not None:
            self.webhook = Webhook(settings.injector, self._reviewed, partial(self._exceeded, "webhook"))
            self.webhook.present(self._own.for_webhook(settings.injector.names))
        self._bundle_keeper = self._keep_bundle()
        self.authority.changed = self._change_authority
        self.web_address = self.commands_address = ""

    async def run(self) -> None:
        """Listen and serve until SIGTERM or SIGINT.

        Raises:
            StoreError: nothing may be issued.
            OSError: a port is taken.
        """
        for number in STOP_SIGNALS:
            self._loop.add_signal_handler(number, self._stopping.set)
        for number in ROTATED_SIGNALS:
            self._loop.add_signal_handler(number, self._rotated)
        try:
            descriptors = allow_descriptors()
            self.listener.max_connections = self._clients.most = most_connections(descriptors)
            if self.webhook is not None:
                self.webhook.connections = most_clients(descriptors, self.webhook.connections)
            await self._records.begin()
            if self._trail is not None:
                self._trail.start()
                assert self._audit is not None
                self._audit.authority(self.authority())
            try:
                if self._secret is not None:
                    # A step that was taken before others knew of this control plane did not wait for it.
                    await self._secret.bring(time.time())
                await self._serve(most_clients(descriptors, PAGE_CONNECTIONS))
            finally:
                await self._records.end()
                if self._trail is not None:
                    await asyncio.to_thread(self._trail.close)
        finally:
            for number in STOP_SIGNALS + ROTATED_SIGNALS:
                self._loop.remove_signal_handler(number)
            if self._objects is not None:
                self._objects.close()
            if self._client is not None:
                await self._client.close()
        logger.info("stopped")

    async def _serve(self, most: int) -> None:
        """Until it is to stop. `most`: clients of each port of pages. Raises OSError if a port is taken."""
        endpoints = self.endpoints.describe if self.documents is not None else dict
        election = self._elect()
        controller = self._rollouts(election)
        pages = web_port(
            self.metrics.registry,
            self.status,
            endpoints,
            self.reports.page,
            lambda: self.reports.findings(self._in_force()),
            self._sent,
            self._page(controller),
            self.taps,
            controller,
            self._audit,
            (lambda: self.commands_address) if self._settings.commands is not None else None,
        )
        runner = web.AppRunner(pages)
        await runner.setup()
        ports: list[HttpPort] = []
        tasks = [
            self._loop.create_task(self._keep_renewing()),
            self._loop.create_task(self.authority.follow()),
            self._loop.create_task(self._records.follow()),
            self._loop.create_task(self._free_pages.follow()),
        ]
        if self._secret is not None:
            tasks.append(self._loop.create_task(self._secret.follow()))
        if self._bundle_keeper is not None:
            tasks.append(self._loop.create_task(self._bundle_keeper.run()))
        if election is not None:
            tasks.append(self._loop.create_task(election.run()))
            tasks.append(self._loop.create_task(self._status_writer(election).run()))
        if controller is not None:
            tasks.append(self._loop.create_task(controller.run()))
        if self.documents is not None:
            tasks.append(self._loop.create_task(self.documents.follow()))
        if self._services is not None:
            tasks.append(self._loop.create_task(self._services.run()))
        working = asyncio.gather(*tasks)
        try:
            ports.append(self._open("web", runner, self._settings.web, most))
            self.web_address = ports[0].address
            if self._settings.commands is not None:
                ports.append(self._open("commands", runner, self._settings.commands, most))
                self.commands_address = ports[1].address
            self.listener.listen(self._settings.listen.host, self._settings.listen.port)
            self._reaper.start()
            self._watch.start(self._show_new)
            if self.webhook is not None:
                await self.webhook.start()
            fields = {"control": self.listener.address, "web": self.web_address, "pid": os.getpid()}
            if self.commands_address:
                fields["commands"] = self.commands_address
            if self.webhook is not None:
                fields["webhook"] = self.webhook.address
            logger.info("listening", extra={"fields": fields})
            stopping = self._loop.create_task(self._stopping.wait())
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()  # none of them ends by itself: a defect
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(working, *tasks, return_exceptions=True)
            self._watch.stop()
            self.taps.stop()
            self.listener.stop_accepting()
            if self.webhook is not None:
                await self.webhook.close()
            await self.server.close()
            await self.listener.close()
            self._reaper.stop()
            for port in ports:
                port.stop()
            await runner.cleanup()

    def _open(self, name: str, runner: web.AppRunner, listen: Address, most: int) -> HttpPort:
        """Raises OSError."""
        port = HttpPort(name, runner, listen, most, partial(self._exceeded, name))
        port.start()
        return port

    def _rotated(self) -> None:
        logger.info("reopening log files", extra={"fields": {"audit": self._settings.audit_log}})
        if self._trail is not None:
            self._trail.reopen()

    def _open_trail(self) -> AuditWriter | None:
        """The audit trail. Raises StoreError."""
        if self._settings.audit_log == "off":
            return None
        try:
            trail = open_trail(self._settings.audit_log, self._settings.audit, "control")
        except OSError as error:
            raise StoreError(f"the audit log cannot be used: {error}") from error
        self.metrics.audit_dropped.read_from(lambda: [((), trail.dropped)])
        self.metrics.audit_failing.read_from(lambda: [((), int(bool(trail.problem)))])
        return trail

    def _source(self) -> DocumentSource | None:
        """Where the documents come from; None: sidecars have their own."""
        if self._settings.cluster_documents:
            from meshproxy.control.objects import ClusterObjects

            assert self._client is not None
            return ClusterObjects(self._client, self._settings.namespace or self._client.namespace, self.metrics)
        return Files(self._settings.documents) if self._settings.documents else None

    def _elect(self) -> Election | None:
        """The election of those who have the same objects; None without a cluster's."""
        if self._client is None or not self._settings.cluster_documents:
            return None
        from meshproxy.control import cluster_parts

        return cluster_parts.elect(self._client, self.metrics)

    def _status_writer(self, election: Election) -> StatusWriter:
        """What writes, as the leader, what became of the objects of the cluster."""
        from meshproxy.control.status_writer import StatusWriter

        assert self._client is not None
        assert self.documents is not None
        return StatusWriter(self._client, self.documents, self.distribution, self.services, election, self.metrics)

    def _rollouts(self, election: Election | None) -> RolloutController | None:
        """What steers the rollouts among the documents; None without documents."""
        documents = self.documents
        if documents is None:
            return None
        keeper: Keeper = FolderKeeper(self._settings.folder)
        if election is not None:
            from meshproxy.control.rollout_objects import ObjectKeeper

            assert self._client is not None
            keeper = ObjectKeeper(self._client, election)
        return RolloutController(
            lambda: {key: each.document for key, each in documents.held.items() if key.startswith("ModelRollout/")},
            self.rollouts,
            keeper,
            Hooks(),
            self.metrics,
            record=self._audit.rollout if self._audit is not None else lambda name, notice: None,
        )

    def _pod_tokens(self) -> PodTokens | None:
        """What checks service-account tokens. Raises KeysUnusable."""
        if self._settings.token_review:
            from meshproxy.control.token_review import TokenReviewer

            assert self._client is not None
            return TokenReviewer(self._client)
        return OfflineTokens(self._settings.cluster_keys) if self._settings.cluster_keys is not None else None

    def _keep_bundle(self) -> BundleKeeper | None:
        """What tells the API server the authority of the webhook."""
        injector = self._settings.injector
        if injector is None or injector.configuration is None:
            return None
        from meshproxy.control.webhook_bundle import BundleKeeper

        assert self._client is not None
        return BundleKeeper(self._client, injector.configuration, lambda: self.authority().bundle_pem)

    # Its own identity

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lifetime * RENEW_AT * random.uniform(0.9, 1.0))  # noqa: S311
            self._show_new()

    def _change_authority(self, authority: Authority) -> None:
        self._show_new()
        self._roots.change(authority)
        if self._audit is not None:
            self._audit.authority(authority)

    def _show_new(self) -> None:
        """A certificate of the authority in force, to those that connect from now on."""
        try:
            self.listener.context = self._own.renew().server
            if self.webhook is not None and self._settings.injector is not None:
                self.webhook.present(self._own.for_webhook(self._settings.injector.names))
            if self._bundle_keeper is not None:
                self._bundle_keeper.changed()
        except (RequestRefused, CertificateError) as error:
            logger.error(
                "no certificate of its own; keeping the previous one", extra={"fields": {"problem": str(error)}}
            )

    def _store_failures(self) -> Rows:
        """For `metric_table.STORE_FAILURES`."""
        return [(("certificate",), self._roll.failures), (("key",), self._keys.failures)]

    def _exceeded(self, port: str, name: str) -> None:
        self.metrics.limits_exceeded.labels(port, name).value += 1

    def _reviewed(self, outcome: Outcome) -> None:
        self.metrics.injections.labels(outcome).value += 1

    # The web port

    async def status(self) -> ControlStatus:
        """What `meshproxy proxy-status` and `meshproxy check` show."""
        now = time.time()
        tokens, progress, problem = await asyncio.to_thread(self._kept, now)
        distribution = self.distribution if self.documents is not None else None
        shared = self._shared
        return ControlStatus(
            software=__version__,
            pid=os.getpid(),
            started_at=moment(self._started_at),
            now=moment(now),
            trust_domain=self._settings.trust_domain,
            spiffe_id=self._settings.spiffe_id,
            certificate_issued=moment(self._own.issued_at),
            certificate_expires=moment(self.metrics.certificate_expiry.labels().value),
            authority=hashlib.sha256(self.authority().certificate_pem).hexdigest(),
            authority_expires=moment(self.authority().not_after),
            lifetime_seconds=self._settings.lifetime,
            rotation_step=progress[0].value if progress is not None else "",
            rotation_since=moment(progress[1]) if progress is not None else None,
            records_used=shared.leaves.used if shared is not None else None,
            issues_until=moment(shared.presence.signs_until) if shared is not None else None,
            refusals=tuple(self.service.refusals),
            waiting_tokens=tuple(
                WaitingToken(identity=each.identity, expires=moment(each.expires)) for each in tokens[:TOKENS_SHOWN]
            ),
            store_problem=self.authority.problem or problem,
            documents=distribution.describe() if distribution is not None else None,
            document_refusals=tuple(distribution.refusals) if distribution is not None else (),
            services=self.endpoints.entries() if distribution is not None else (),
            sidecars=tuple(distribution.entries()) if distribution is not None else (),
            reports=self.reports.mesh.reports(now),
            forgotten=distribution.lost.forgotten if distribution is not None else 0,
        )

    def _in_force(self) -> list[SentKind]:
        """The documents of the mesh."""
        return self.documents.documents if self.documents is not None else []

    def _sent(self) -> list[Raw]:
        """The same, as sidecars are sent them."""
        return [each.sent.document for each in self.documents.held.values()] if self.documents is not None else []

    def _page(self, controller: RolloutController | None) -> Page:
        """Of the mesh, for people."""
        source = PageSource(
            self.reports.mesh, self.status, self.documents, controller.shown if controller is not None else tuple
        )
        return Page(source, is_local, self._settings.login, self._login)

    def _login(self, event: LoginEvent) -> None:
        if event.result != "logout":
            self.metrics.logins.labels(event.result).value += 1
        if self._audit is not None:
            self._audit.login(event)

    def _kept(self, now: float) -> tuple[list[JoinToken], tuple[Step, float] | None, str]:
        """The join tokens and the rotation of the root, or why they cannot be read."""
        try:
            return self._tokens.waiting_tokens(now), self.store.progress(), ""
        except StoreError as error:
            return [], None, str(error)
