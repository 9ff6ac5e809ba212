"""Several workers behind one port: starts them, starts them again, passes signals on, and waits for them to end.

The workers listen for themselves (SO_REUSEPORT), so that no connection passes here. `overview` answers on the admin
port for all of them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from meshproxy.codec.limits import Limits
from meshproxy.sidecar.admin import ADMIN_CONNECTIONS, ADMIN_TIMES, Unobserved
from meshproxy.sidecar.overview import Overview
from meshproxy.sidecar.worker import (
    LISTENING,
    Seat,
    WorkersFailed,
    make_folder,
    read_documents,
    remove_folder,
    write_documents,
)
from meshproxy.telemetry.metrics import Counter, Gauge, Registry, Rows
from meshproxy.telemetry.process import watch_process
from meshproxy.transport.connection import Driving
from meshproxy.transport.listener import Listener, Security, bind, format_address
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import Reaper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from meshproxy.config.schema import Documents
    from meshproxy.transport.listener import ListenerEvents

logger = logging.getLogger(__name__)

AT_ONCE = 1.0
"""Seconds of listening that a worker must live for its death not to count as one at once."""
DEATHS_AT_ONCE = 5
"""So many in a row, and there is no point in going on."""
STEADY = 10.0
"""Seconds of listening after which a death has nothing to do with the one before."""
FIRST_WAIT = 0.1
LONGEST_WAIT = 5.0
PARTING = 5.0
"""Seconds that workers get to close beyond the time to drain."""
STATES = ("starting", "serving", "waiting")


class Patience:
    """How long to wait before a worker is started again."""

    def __init__(self) -> None:
        self._wait = FIRST_WAIT
        self._deaths = 0

    def died(self, lived: float) -> float | None:
        """Seconds to wait after a death; None: no more. `lived`: for how long it had listened, 0.0 if it never did."""
        self._deaths = self._deaths + 1 if lived < AT_ONCE else 0
        if self._deaths >= DEATHS_AT_ONCE:
            return None
        if lived >= STEADY:
            self._wait = FIRST_WAIT
        wait = self._wait
        self._wait = min(2 * wait, LONGEST_WAIT)
        return wait


class Worker:
    """One worker process after another in one seat.

    Attributes:
        state: `starting`, `serving`, or `waiting` to be started again.
        lives: how many processes there were.
    """

    def __init__(self, seat: Seat, command: Sequence[str], paths: Sequence[str]) -> None:
        self.seat = seat
        self.state = "starting"
        self.lives = 0
        self.listening = asyncio.Event()
        """The process that runs now has said so."""
        self._command = command
        self._paths = paths
        self._process: asyncio.subprocess.Process | None = None
        self._is_outdated = False

    @property
    def pid(self) -> int | None:
        """Of the process that runs."""
        return self._process.pid if self._process is not None else None

    async def live(self) -> tuple[int, float]:
        """Run one process to its end. Returns its status and how long it has listened. Raises OSError."""
        loop = asyncio.get_running_loop()
        self.state = "starting"
        self._is_outdated = False
        seat = replace(self.seat, is_successor=self.lives > 0)
        self.lives += 1
        ours, theirs = socket.socketpair()
        listened_at: list[float] = []

        def read() -> None:
            try:
                said = ours.recv(64)
            except OSError:
                said = b""
            if said == LISTENING:
                listened_at.append(loop.time())
                self.state = "serving"
                self.listening.set()
                if self._is_outdated:
                    self.signal(signal.SIGHUP)
            elif not said:
                loop.remove_reader(ours)

        with ours:
            ours.setblocking(False)
            with theirs:
                self._process = process = await asyncio.create_subprocess_exec(
                    *self._command, seat.option(), *self._paths, stdin=theirs.fileno()
                )
            loop.add_reader(ours, read)
            try:
                status = await process.wait()
            finally:
                loop.remove_reader(ours)
                self._process = None
                self.listening.clear()
        return status, loop.time() - listened_at[0] if listened_at else 0.0

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if there is one. One that still starts has no ear for SIGHUP and would end of
        it: it is told later."""
        if number is signal.SIGHUP and not self.listening.is_set():
            self._is_outdated = True
        elif self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


class Supervisor:
    """The process in front of several workers, from its documents to its end."""

    def __init__(
        self,
        paths: Sequence[str],
        documents: Documents,
        command: Sequence[str] = (sys.executable, "-m", "meshproxy.sidecar"),
    ) -> None:
        """Nothing runs yet. `command` starts a worker, with its seat and `paths` for arguments."""
        self._paths = list(paths)
        self._documents = documents
        self._command = command
        loop = self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._folder: Path
        self._addresses: dict[str, str] = {}
        """Where workers listen, by direction."""
        self.workers: list[Worker] = []

        self.registry = registry = Registry()
        watch_process(registry)
        Gauge(registry, "meshproxy_workers", "Worker processes.", ("state",)).read_from(self._count_states)
        self._restarts = Counter(
            registry, "meshproxy_worker_restarts_total", "Workers that were started again after they died.", ()
        ).labels()
        missed = Counter(
            registry, "meshproxy_worker_answers_missed_total", "Pages that a worker did not give in time.", ()
        ).labels()

        self._reaper = Reaper(loop)
        page = Overview(loop, registry, self, missed)
        nobody: ListenerEvents = Unobserved()
        self.admin = Listener(
            direction="admin",
            driving=Driving(
                loop=loop,
                outbox=Outbox(loop),
                reaper=self._reaper,
                limits=Limits(),
                times=ADMIN_TIMES,
                on_limit=nobody.limit,
            ),
            serve=page.serve,
            reject=page.reject,
            events=nobody,
            security=Security.PLAINTEXT,
            context=None,
            identify=lambda der: None,
            max_connections=ADMIN_CONNECTIONS,
        )
        self._page = page

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT or `POST /drain`.

        Raises:
            OSError: a port is taken, or a folder or process cannot be made.
            WorkersFailed: workers cannot be kept alive, or did not end well.
        """
        for number, action in (
            (signal.SIGTERM, self.drain),
            (signal.SIGINT, self.drain),
            (signal.SIGHUP, self._hang_up),
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
            self._folder = make_folder()
            try:
                write_documents(self._folder, self._documents)
                self.admin.listen(spec.admin.listen.host, spec.admin.listen.port)
                self._reaper.start()
                await self._run_workers(spec.workers, ports)
            finally:
                await self.admin.close()
                await self._page.close()
                self._reaper.stop()
                remove_folder(self._folder)
        logger.info("stopped")

    async def _run_workers(self, count: int, ports: Mapping[str, int]) -> None:
        self.workers = [
            Worker(Seat(number, ports["inbound"], ports["outbound"], self._folder), self._command, self._paths)
            for number in range(count)
        ]
        keepers = [self._loop.create_task(self._keep(worker)) for worker in self.workers]
        # A keeper ends when it is told to stop, or fails.
        first = self._loop.create_task(self._say_when_listening())
        stopping = self._loop.create_task(self._stopping.wait())
        try:
            await asyncio.wait((stopping, *keepers), return_when=asyncio.FIRST_COMPLETED)
            self._stopping.set()
            grace = read_documents(self._folder).sidecar.spec.drain_timeout
            logger.info("draining", extra={"fields": {"workers": count, "grace_seconds": grace}})
            self._signal(signal.SIGTERM)
            _, late = await asyncio.wait(keepers, timeout=grace + PARTING)
            if late:
                logger.warning("workers do not end: making them", extra={"fields": {"workers": len(late)}})
                self._signal(signal.SIGKILL)
        finally:
            first.cancel()
            stopping.cancel()
            ended = await asyncio.gather(*keepers, return_exceptions=True)
        for each in ended:
            if isinstance(each, BaseException):
                raise each
        failed = [worker.seat.number for worker, status in zip(self.workers, ended, strict=True) if status]
        if failed:
            raise WorkersFailed(f"workers {failed} did not end well")

    async def _keep(self, worker: Worker) -> int:
        """Keep a seat taken until told to stop. Returns the last process' status, 0 if it had nothing to end."""
        patience = Patience()
        while True:
            try:
                status, lived = await worker.live()
            except OSError as error:
                if worker.lives == 1:
                    raise
                # Out of processes or memory for now: the others serve.
                logger.error("a worker cannot be started: %s", error)
                status, lived = 1, 0.0
            if self._stopping.is_set():
                # One that had not begun has no handler yet for the signal that was to end it.
                return 0 if status == -signal.SIGTERM and not lived else status
            self._page.died(worker.seat.number)
            worker.state = "waiting"
            fields = {"number": worker.seat.number, "status": status, "lived_seconds": round(lived, 3)}
            wait = patience.died(lived)
            if wait is None:
                logger.error("a worker dies again and again: giving up", extra={"fields": fields})
                raise WorkersFailed(f"worker {worker.seat.number} died {DEATHS_AT_ONCE} times in a row")
            logger.error("a worker died", extra={"fields": {**fields, "wait_seconds": wait}})
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._stopping.wait()
                return 0
            self._restarts.value += 1

    async def _say_when_listening(self) -> None:
        for worker in self.workers:
            await worker.listening.wait()
        logger.info(
            "listening",
            extra={
                "fields": {
                    **self._addresses,
                    "admin": self.admin.address,
                    "pid": os.getpid(),
                    "workers": [worker.pid for worker in self.workers],
                }
            },
        )

    def _signal(self, number: signal.Signals) -> None:
        for worker in self.workers:
            worker.signal(number)

    def _hang_up(self) -> None:
        self._signal(signal.SIGHUP)

    def _count_states(self) -> Rows:
        return [((state,), sum(worker.state == state for worker in self.workers)) for state in STATES]

    # What the admin port asks (overview.Supervised)

    def drain(self) -> None:
        """Begin to go away."""
        self._stopping.set()

    def readiness(self) -> dict[str, bool]:
        """What being ready hangs on, as far as it is known here."""
        conditions = {f"worker {worker.seat.number} listens": worker.state == "serving" for worker in self.workers}
        return {
            **conditions,
            "all workers are started": bool(self.workers),
            "not draining": not self._stopping.is_set(),
        }

    def configuration(self) -> dict[str, object]:
        """What is known here."""
        return {"pid": os.getpid(), **self._addresses}


def reserve(host: str, port: int) -> socket.socket:
    """A socket that keeps a port, 0 for any, for the workers. It never listens. Raises OSError if somebody has it: the
    kernel would let another sidecar of our user share it."""
    if port:
        bind(host, port).close()
    return bind(host, port, is_shared=True)
