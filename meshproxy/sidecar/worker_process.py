"""A worker as its supervisor sees it: the running process, what it reports, and how long to wait before a restart."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from meshproxy.sidecar.worker import REPORT_BYTES, Report, WorkerSlot

if TYPE_CHECKING:
    from collections.abc import Sequence

EARLY = 1.0
"""A worker that exits within this many seconds of listening has crashed early."""
MOST_EARLY_EXITS = 5
"""Early exits in a row after which the supervisor gives up."""
STEADY = 10.0
"""Seconds of listening after which the restart delay begins again at `FIRST_DELAY`."""
FIRST_DELAY = 0.1
LONGEST_DELAY = 5.0
REPORT_TIMEOUT = 2.0
"""Seconds without a report after which a worker counts as not ready: its event loop is blocked."""
HELD_BACK = frozenset({signal.SIGHUP, signal.SIGUSR1})
"""They ask for something to be read or opened again."""


class WorkerState(Enum):
    """The values of the label `state` of `meshproxy_workers`."""

    STARTING = "starting"
    SERVING = "serving"
    WAITING = "waiting"
    """It exited, and will be restarted after a delay."""


class RestartBackoff:
    """How long to wait before a worker is restarted: doubling from `FIRST_DELAY` to `LONGEST_DELAY`."""

    def __init__(self) -> None:
        self._delay = FIRST_DELAY
        self._early_exits = 0

    def exited(self, lived: float) -> float | None:
        """Seconds to wait after an exit; None to give up. `lived`: seconds it had listened, 0.0 if it never did."""
        self._early_exits = self._early_exits + 1 if lived < EARLY else 0
        if self._early_exits >= MOST_EARLY_EXITS:
            return None
        if lived >= STEADY:
            self._delay = FIRST_DELAY
        delay = self._delay
        self._delay = min(2 * delay, LONGEST_DELAY)
        return delay


class Worker:
    """One worker slot and the processes that have it, one after another.

    Attributes:
        starts: how many processes were started.
        report: the last one of the running process; None until it listens.
    """

    def __init__(self, slot: WorkerSlot, command: Sequence[str], paths: Sequence[str]) -> None:
        self.slot = slot
        self.state = WorkerState.STARTING
        self.starts = 0
        self.report: Report | None = None
        self.listening = asyncio.Event()
        """Set while the running process listens."""
        self._loop = asyncio.get_running_loop()
        self._reported_at = 0.0
        self._listened_at = 0.0
        self._command = command
        self._paths = paths
        self._process: asyncio.subprocess.Process | None = None
        self._held_back: set[signal.Signals] = set()
        """Of `HELD_BACK`, those that came before the process could handle them."""

    @property
    def pid(self) -> int | None:
        """The running process's id."""
        return self._process.pid if self._process is not None else None

    async def run(self) -> tuple[int, float]:
        """Run one process until it exits. Returns its status and for how many seconds it listened. Raises OSError."""
        self.state = WorkerState.STARTING
        self._held_back.clear()
        slot = replace(self.slot, is_restart=self.starts > 0)
        self.starts += 1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            ours.setblocking(False)
            with theirs:
                self._process = process = await asyncio.create_subprocess_exec(
                    *self._command, slot.option(), *self._paths, stdin=theirs.fileno()
                )
            self._loop.add_reader(ours, self._read_report, ours)
            try:
                status = await process.wait()
            finally:
                self._loop.remove_reader(ours)
                lived = self._loop.time() - self._listened_at if self.listening.is_set() else 0.0
                self._process = self.report = None
                self.listening.clear()
        return status, lived

    def _read_report(self, control: socket.socket) -> None:
        try:
            message = control.recv(REPORT_BYTES)
        except OSError:
            message = b""
        if not message:
            self._loop.remove_reader(control)
            return
        self.report = msgspec.json.decode(message, type=Report)
        self._reported_at = self._loop.time()
        if not self.listening.is_set():
            self._listened_at = self._reported_at
            self.state = WorkerState.SERVING
            self.listening.set()
            for number in self._held_back:
                self.signal(number)

    def conditions(self) -> dict[str, bool]:
        """What the readiness of this worker depends on: `worker N is ready`, and the conditions that do not hold."""
        name = f"worker {self.slot.number}"
        report = self.report
        if report is None:
            return {f"{name} is ready": False}
        if self._loop.time() - self._reported_at > REPORT_TIMEOUT:
            return {f"{name} is ready": False, f"{name}: it reports": False}
        return {f"{name} is ready": report.is_ready, **{f"{name}: {unmet}": False for unmet in report.unmet}}

    def describe(self) -> dict[str, object]:
        """The worker's entry on the page /config."""
        report = self.report
        return {
            "number": self.slot.number,
            "pid": self.pid,
            "state": self.state.value,
            "admin": report.admin if report is not None else None,
            "ready": all(self.conditions().values()),
            "fingerprint": report.fingerprint if report is not None else None,
            "notes": list(report.notes) if report is not None else [],
        }

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if one runs. Those of `HELD_BACK` are until the process listens: before that it
        has no handler and would be terminated."""
        if number in HELD_BACK and not self.listening.is_set():
            self._held_back.add(number)
        elif self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
