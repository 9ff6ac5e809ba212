"""The supervisor of several workers: starts and restarts them, forwards signals, and waits for them to exit.

The workers listen for themselves (SO_REUSEPORT), so no connection passes through here. Each has an admin port of its
own for its metrics (docs/decisions/0011-a-metrics-port-for-each-worker.md); the supervisor's admin port answers for
the sidecar as a whole from what the workers report over their control sockets.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import time
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from meshproxy import __version__
from meshproxy.codec.limits import Limits
from meshproxy.config.child_process import running
from meshproxy.sidecar.admin import ADMIN_CONNECTIONS, ADMIN_TIMES, Admin, NoListenerEvents
from meshproxy.sidecar.merged_status import merge
from meshproxy.sidecar.worker import (
    NEWEST,
    WorkersFailed,
    WorkerSlot,
    make_folder,
    reachable,
    read_documents,
    remove_folder,
    write_documents,
)
from meshproxy.sidecar.worker_process import MOST_EARLY_EXITS, RestartBackoff, Worker, WorkerState
from meshproxy.telemetry import metric_table
from meshproxy.telemetry.metrics import Counter, Gauge, Registry, Rows
from meshproxy.telemetry.process import watch_process
from meshproxy.telemetry.scaling import PERIOD, add_up
from meshproxy.telemetry.timestamps import timestamp
from meshproxy.transport.bound_socket import bind, format_address
from meshproxy.transport.client import ClientError
from meshproxy.transport.connection import ConnectionContext
from meshproxy.transport.listener import Listener, Security
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import Reaper

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping, Sequence
    from pathlib import Path

    from meshproxy.codec.events import RequestHead
    from meshproxy.config.schema import Documents
    from meshproxy.sidecar.control_link import ControlLink
    from meshproxy.transport.listener import ListenerEvents
    from meshproxy.transport.stream import Downstream

logger = logging.getLogger(__name__)

STATUS_BYTES = 8 << 20
"""Of a page of one worker: a status with a thousand endpoints takes 300 KB."""
ASK_SECONDS = 3.0
"""For a page of one worker: who asks us, such as `meshproxy status`, waits for 5, and a worker may hang."""
EXIT_GRACE = 5.0
"""Seconds that workers get to exit in addition to the drain timeout."""


class Supervisor:
    """The parent process of several workers, from its documents to its exit."""

    def __init__(
        self,
        paths: Sequence[str],
        documents: Documents,
        command: Sequence[str] | None = None,
        link: ControlLink | None = None,
    ) -> None:
        """Nothing is started yet. `command` starts a worker, None for ours; its slot and `paths` are appended as
        arguments. `link` to the control plane is for all of them."""
        self._paths = list(paths)
        self._documents = documents
        self._command = command or running("meshproxy.sidecar")
        self._link = link
        loop = self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._folder: Path
        self._addresses: dict[str, str] = {}
        """Where the workers listen, by direction."""
        self.workers: list[Worker] = []
        self._started_at = time.time()
        self._asked: asyncio.Task[dict[str, object] | None] | None = None
        """For their load, at this `loop.time()`."""
        self._asked_at = 0.0

        self.registry = registry = Registry()
        watch_process(registry)
        if link is not None:
            Gauge(registry, metric_table.CONTROL_CONNECTED).read_from(link.connected)
        if link is not None and link.enrollment is not None:
            Counter(registry, metric_table.IDENTITY_ISSUANCES).read_from(link.enrollment.count)
            Gauge(registry, metric_table.CLOCK_OFFSET).read_from(link.enrollment.measure)
        Gauge(registry, metric_table.WORKERS).read_from(self._count_states)
        self._restarts = Counter(registry, metric_table.WORKER_RESTARTS).labels()
        if link is not None:
            from meshproxy.sidecar.worker_reports import WorkerReports  # its memory is for those who have workers

            link.report(WorkerReports(self._admin_ports), self._admin_ports)
            Counter(registry, metric_table.CONTROL_REPORTS).read_from(link.count_reports)

        self._reaper = Reaper(loop)
        page = Admin(loop, registry, self, self._point_to_workers)
        events: ListenerEvents = NoListenerEvents()
        self.admin = Listener(
            direction="admin",
            shared=ConnectionContext(
                loop=loop,
                outbox=Outbox(loop),
                reaper=self._reaper,
                limits=Limits(),
                times=ADMIN_TIMES,
                on_limit=events.limit,
            ),
            serve=page.serve,
            reject=page.reject,
            events=events,
            security=Security.PLAINTEXT,
            context=None,
            identify=lambda tls: None,
            max_connections=ADMIN_CONNECTIONS,
        )

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT or `POST /drain`.

        Raises:
            OSError: a port is in use, or a folder or process cannot be created.
            WorkersFailed: workers crash-loop, or exited with an error.
        """
        for number, action in (
            (signal.SIGTERM, self.drain),
            (signal.SIGINT, self.drain),
            (signal.SIGHUP, partial(self._signal, signal.SIGHUP)),
            (signal.SIGUSR1, partial(self._signal, signal.SIGUSR1)),
        ):
            self._loop.add_signal_handler(number, action)
        spec = self._documents.sidecar.spec
        with ExitStack() as reserved:
            ports = {"inbound": 0, "outbound": 0}
            for direction, side in (("inbound", spec.inbound), ("outbound", spec.outbound)):
                if side is not None:
                    sock = reserved.enter_context(reserve(side.listen.host, side.listen.port))
                    self._addresses[direction] = format_address(sock.getsockname())
                    ports[direction] = sock.getsockname()[1]
            for port in spec.worker_ports:
                # Report a port in use now, before any worker crash-loops on it.
                bind(spec.admin.listen.host, port).close()
            self._folder = make_folder()
            try:
                write_documents(self._folder, self._documents)
                if self._link is not None and self._link.documents is not None:
                    self._share(self._documents)
                self.admin.listen(spec.admin.listen.host, spec.admin.listen.port)
                self._reaper.start()
                await self._run_workers(ports, spec.worker_ports)
            finally:
                await self.admin.close()
                self._reaper.stop()
                remove_folder(self._folder)
        logger.info("stopped")

    async def _run_workers(self, shared: Mapping[str, int], own: Sequence[int]) -> None:
        self.workers = [
            Worker(
                WorkerSlot(number, shared["inbound"], shared["outbound"], port, self._folder),
                self._command,
                self._paths,
            )
            for number, port in enumerate(own)
        ]
        keepers = [self._loop.create_task(self._keep_running(worker)) for worker in self.workers]
        # A keeper returns once the supervisor stops, and raises if its worker crash-loops.
        logs = self._loop.create_task(self._log_when_listening())
        stopping = self._loop.create_task(self._stopping.wait())
        linked = [self._loop.create_task(work) for work in self._of_link()]
        try:
            await asyncio.wait((stopping, *keepers), return_when=asyncio.FIRST_COMPLETED)
            self._stopping.set()
            await self._stop(keepers)
        finally:
            for task in linked:
                task.cancel()
            logs.cancel()
            stopping.cancel()
            ended = await asyncio.gather(*keepers, return_exceptions=True)
            await asyncio.gather(*linked, return_exceptions=True)
        for each in ended:
            if isinstance(each, BaseException):
                raise each
        failed = [worker.slot.number for worker, status in zip(self.workers, ended, strict=True) if status]
        if failed:
            raise WorkersFailed(f"workers {failed} exited with an error")

    def _of_link(self) -> Iterator[Coroutine[None, None, None]]:
        """What the link to the control plane does while the workers run."""
        if self._link is not None:
            yield self._link.run()
            if self._link.documents is not None:
                yield self._link.documents.apply_alone(self._share)

    def _share(self, documents: Documents) -> None:
        """Give documents of the control plane to the workers. Raises OSError."""
        write_documents(self._folder, documents, NEWEST)

    async def _stop(self, keepers: Sequence[asyncio.Task[int]]) -> None:
        """Have the workers drain, and kill those that exceed the grace period."""
        grace = read_documents(self._folder).sidecar.spec.drain_timeout
        logger.info("draining", extra={"fields": {"workers": len(self.workers), "grace_seconds": grace}})
        self._signal(signal.SIGTERM)
        _, late = await asyncio.wait(keepers, timeout=grace + EXIT_GRACE)
        if late:
            logger.warning(
                "workers did not exit within the grace period; sending SIGKILL",
                extra={"fields": {"workers": len(late)}},
            )
            self._signal(signal.SIGKILL)

    async def _keep_running(self, worker: Worker) -> int:
        """Run a worker and restart it until the supervisor stops.

        Returns:
            The exit status of the last process; 0 if it had not begun to serve.

        Raises:
            OSError: its first process cannot be started.
            WorkersFailed: it crash-loops.
        """
        backoff = RestartBackoff()
        while True:
            try:
                status, lived = await worker.run()
            except OSError as error:
                if worker.starts == 1:
                    raise
                # Short of processes or memory at the moment; the other workers serve.
                logger.error("worker could not be started: %s", error)
                status, lived = 1, 0.0
            if self._stopping.is_set():
                # A process that was still starting has no handler for them. Ctrl-C is for all of a terminal's.
                return 0 if status in (-signal.SIGTERM, -signal.SIGINT) and not lived else status
            worker.state = WorkerState.WAITING
            fields = {"number": worker.slot.number, "status": status, "lived_seconds": round(lived, 3)}
            delay = backoff.exited(lived)
            if delay is None:
                logger.error("worker is crash-looping; giving up", extra={"fields": fields})
                raise WorkersFailed(f"worker {worker.slot.number} crashed {MOST_EARLY_EXITS} times in a row")
            logger.error("worker exited; restarting it", extra={"fields": {**fields, "delay_seconds": delay}})
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stopping.wait()
                return 0
            self._restarts.value += 1

    async def _log_when_listening(self) -> None:
        for worker in self.workers:
            await worker.listening.wait()
        reports = [worker.report for worker in self.workers]
        logger.info(
            "listening",
            extra={
                "fields": {
                    **self._addresses,
                    "admin": self.admin.address,
                    "worker_admin": [report.admin if report is not None else None for report in reports],
                    "pid": os.getpid(),
                    "workers": [worker.pid for worker in self.workers],
                }
            },
        )

    def _signal(self, number: signal.Signals) -> None:
        for worker in self.workers:
            worker.signal(number)

    def _count_states(self) -> Rows:
        return [((state.value,), sum(worker.state is state for worker in self.workers)) for state in WorkerState]

    # admin.AdminTarget

    def drain(self) -> None:
        """Stop all workers gracefully, then exit."""
        self._stopping.set()

    def readiness(self) -> dict[str, bool]:
        """Ready means that every worker is."""
        conditions: dict[str, bool] = {}
        for worker in self.workers:
            conditions |= worker.conditions()
        return {
            **conditions,
            "all workers are started": bool(self.workers),
            "not draining": not self._stopping.is_set(),
        }

    def notes(self) -> list[str]:
        """What the workers report, each once: usually all of them say the same."""
        notes = [note for worker in self.workers if worker.report is not None for note in worker.report.notes]
        return list(dict.fromkeys(notes))

    async def status(self) -> dict[str, object]:
        """The status of all workers together: each is asked at its own admin port."""
        conditions = self.readiness()
        asked = await asyncio.gather(*(_ask(worker, "/status") for worker in self.workers))
        own = {
            "version": __version__,
            "pid": os.getpid(),
            "startedAt": timestamp(self._started_at),
            "state": "draining" if self._stopping.is_set() else "ready" if all(conditions.values()) else "not ready",
            "conditions": conditions,
        }
        workers = [worker.describe() for worker in self.workers]
        return merge(own, workers, [status for status in asked if status is not None], time.time())

    async def scaling(self) -> dict[str, object] | None:
        """The load that all workers share; None if one of them does not tell its own. They are asked once a second at
        most, whoever asks for it."""
        now = self._loop.time()
        if self._asked is None or now - self._asked_at >= PERIOD:
            self._asked, self._asked_at = self._loop.create_task(self._add_up()), now
        return await asyncio.shield(self._asked)

    async def _add_up(self) -> dict[str, object] | None:
        pages = await asyncio.gather(*(_ask(worker, "/scaling") for worker in self.workers))
        known = [page for page in pages if page is not None]
        return add_up(known) if known and len(known) == len(pages) else None

    def _point_to_workers(self, stream: Downstream, head: RequestHead) -> None:
        """`/tap` and `/stat` are on the admin ports of the workers, which carry the calls."""
        from meshproxy.sidecar.live_pages import point_to_workers  # its memory is for those who look

        reports = [worker.report for worker in self.workers]
        point_to_workers(stream, head, [_loopback(report.admin) for report in reports if report is not None])

    def _admin_ports(self) -> dict[int, str]:
        """Where the workers that have started are reached."""
        return {
            worker.slot.number: _loopback(worker.report.admin) for worker in self.workers if worker.report is not None
        }

    def calls(self) -> None:
        """Each worker tells its own."""

    def configuration(self) -> dict[str, object]:
        """Which documents the workers use. What they say in detail is on /config of each worker's own admin port."""
        workers = [worker.describe() for worker in self.workers]
        fingerprints = {worker["fingerprint"] for worker in workers}
        is_same = len(fingerprints) == 1 and None not in fingerprints
        return {
            "fingerprint": fingerprints.pop() if is_same else None,
            "same": is_same,
            "pid": os.getpid(),
            **self._addresses,
            "workers": workers,
        }


async def _ask(worker: Worker, path: str) -> dict[str, Any] | None:
    """A page of one worker; None if it does not answer."""
    if worker.report is None:
        return None
    from meshproxy.sidecar.http_get import Access, FetchError, Url, fetch  # its memory is for those who ask

    try:
        url = Url.read(f"http://{_loopback(worker.report.admin)}{path}")
        async with asyncio.timeout(ASK_SECONDS):
            found = json.loads(await fetch(url, STATUS_BYTES, Access()))
    except (FetchError, ClientError, ValueError, TimeoutError) as error:
        why = str(error) or f"not within {ASK_SECONDS:g} s"
        logger.warning("worker %d does not answer %s: %s", worker.slot.number, path, why)
        return None
    return found if isinstance(found, dict) else None


def _loopback(address: str) -> str:
    """Where an admin port is reached from this host."""
    host, _, port = address.rpartition(":")
    return f"{reachable(host)}:{port}"


def reserve(host: str, port: int) -> socket.socket:
    """A socket that reserves a port, 0 for any, for the workers; it never listens. Raises OSError if the port is in
    use: without this check, the kernel would let another sidecar of the same user share it."""
    if port:
        bind(host, port).close()
    return bind(host, port, is_shared=True)
