"""The model server's metrics as the documents in use want them: whether its page is read and relayed, and how a reload
changes that."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING

from meshproxy.sidecar.worker import reachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from meshproxy.config.schema import Documents
    from meshproxy.config.sidecars import SidecarSpec
    from meshproxy.config.telemetry import ServerMetrics as Settings
    from meshproxy.sidecar.clusters import Clusters
    from meshproxy.sidecar.hop_watch import HopWatch
    from meshproxy.sidecar.server_relay import ServerRelay
    from meshproxy.telemetry.hop_lag import CallTime, CallTimes, Reading
    from meshproxy.telemetry.observer import Observer
    from meshproxy.telemetry.relayed_page import RelayedPage
    from meshproxy.telemetry.sidecar_metrics import SidecarMetrics

logger = logging.getLogger(__name__)


class ServerMetrics:
    """The watch and the relay in use, if there are any.

    Args:
        clusters: have the model server's endpoints.
        observer: gets a further sink while there is a watch.
        permits: whether the policy permits the verb `metrics` to someone without an identity at an address.
        worker: which of several workers this is. The first one reads the page, which is of all of them together, asks
            the others for their calls, and relays it.
        on_reading: is told what each reading says of a model, if anybody wants to know.
    """

    def __init__(
        self,
        clusters: Clusters,
        metrics: SidecarMetrics,
        observer: Observer,
        permits: Callable[[str], bool],
        *,
        worker: int | None = None,
        on_reading: Callable[[str, Reading], None] | None = None,
    ) -> None:
        self._clusters = clusters
        self._metrics = metrics
        self._observer = observer
        self._permits = permits
        self._worker = worker
        self._on_reading = on_reading
        self._settings: tuple[Settings, str, str] | None = None
        self._since = f"{os.getpid()}:{time.monotonic_ns()}"
        self._calls: CallTimes | None = None
        self._watch: HopWatch | None = None
        self._relay: ServerRelay | None = None
        self._running: asyncio.Task[None] | None = None
        self._ended: set[asyncio.Task[None]] = set()

    def adopt(self, documents: Documents) -> None:
        """Documents are in use."""
        settings, inbound = documents.mesh.spec.telemetry.model_server, documents.sidecar.spec.inbound
        wanted = None
        if settings is not None and inbound is not None:
            paths = {server.metadata.name: server.spec.metrics_path for server in documents.servers}
            wanted = settings, inbound.server, paths[inbound.server]
        if wanted == self._settings:
            return
        self._stop()
        self._settings = wanted
        if wanted is None:
            return
        settings, server, path = wanted
        if settings.relay and not self._worker:
            from meshproxy.sidecar.server_relay import ServerRelay  # its memory is for those who want it

            self._relay = ServerRelay(server, path, self._clusters.all, self._permits, self._metrics.server_relays)
        from meshproxy.telemetry.hop_lag import CallTimes

        calls = self._calls = CallTimes(server)
        self._observer.add(calls.observe)
        if not self._worker:
            self._begin(settings, server, path, calls, documents.sidecar.spec)

    def _begin(self, settings: Settings, server: str, path: str, calls: CallTimes, sidecar: SidecarSpec) -> None:
        """Watch the model server. Of several workers the first one does."""
        from meshproxy.sidecar.hop_watch import HopWatch

        async def own() -> tuple[tuple[str, ...], dict[str, CallTime]]:
            return (), calls.read()

        read = own
        if others := sidecar.worker_ports[1:]:
            if 0 in others:
                logger.warning("hop lag is not measured: the workers need admin ports: set admin.firstWorkerPort")
                return
            from meshproxy.sidecar.worker_calls import WorkerCalls

            host = reachable(sidecar.admin.listen.host)
            read = WorkerCalls(calls, [f"{host}:{port}" for port in others]).read
        self._watch = HopWatch(settings, server, path, self._clusters.all, read, self._metrics)
        self._watch.on_reading = self._on_reading
        self._running = asyncio.get_running_loop().create_task(self._watch.run())
        self._running.add_done_callback(_report)

    def relay(self, remote: str) -> Awaitable[RelayedPage | None] | None:
        """The model server's page for a scraper (`admin.Relay`); None: it is not relayed."""
        return self._relay.page(remote) if self._relay is not None else None

    @property
    def raised(self) -> list[str]:
        """The models whose hop lag has risen."""
        return self._watch.raised if self._watch is not None else []

    def tell(self) -> dict[str, object] | None:
        """The calls of this process, for the first worker; None: they are not added up."""
        if self._calls is None:
            return None
        from meshproxy.sidecar.worker_calls import tell

        return tell(self._calls, self._since)

    def _stop(self) -> None:
        self._relay = None
        if self._calls is not None:
            self._observer.remove(self._calls.observe)
            self._calls = None
        watch, self._watch = self._watch, None
        task, self._running = self._running, None
        if watch is None or task is None:
            return
        task.cancel()
        self._ended.add(task)
        task.add_done_callback(self._ended.discard)
        watch.forget()

    async def close(self) -> None:
        self._stop()
        await asyncio.gather(*self._ended, return_exceptions=True)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("internal error: the hop lag is not measured any longer", exc_info=error)
