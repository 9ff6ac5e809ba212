"""Reports of one process on their way to the control plane: numbered, and kept until there is a receipt.

A report is made when it can be sent. While it cannot, a few wait and counts go on growing, so that the next one is of a
longer time and none of it is lost.
"""

from __future__ import annotations

import secrets
import socket
from collections import deque
from typing import TYPE_CHECKING, Protocol

import msgspec

from meshproxy.control_api import MeshReport
from meshproxy.telemetry.call_reports import parts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from meshproxy.control_api import ReportedAnswers
    from meshproxy.telemetry.call_reports import CallReports

MOST_WAITING = 24
"""Of one process: as many as are sent in two minutes."""
PART_BYTES = 40 << 10
"""Of the rows in one report: more than the largest row. Denials and times have a report of their own if there are rows
in so many parts, and what was read of answers always has one. So each is below what a control plane takes
(`control.app.MESSAGE_BYTES`)."""


class ReportSource(Protocol):
    """Where reports come from: this process, or the workers of a supervisor."""

    def pending(self) -> Awaitable[Sequence[MeshReport]]:
        """A new one, and those that wait for a receipt, the oldest first."""

    def acknowledge(self, run: str, sequence: int) -> None:
        """There is a receipt for this one."""


class ReportQueue:
    """The reports of this process.

    Args:
        calls: counts the calls.
        sidecar: the name of its document.
        worker: which of several workers this is.
        clock: seconds that do not go back.
    """

    def __init__(self, calls: CallReports, sidecar: str, worker: int, clock: Callable[[], float]) -> None:
        self._calls = calls
        self.take_answers: Callable[[], Sequence[ReportedAnswers]] = tuple
        """What was read of answers since the last time; nothing, until somebody reads them."""
        self._sidecar = sidecar
        self._worker = worker
        self._clock = clock
        self._host = socket.gethostname()[:256]
        self.run = secrets.token_hex(8)
        self._sequence = 0
        self._acknowledged = 0
        self._began = clock()
        self._waiting: deque[tuple[float, MeshReport]] = deque()
        """With the ends of their times."""

    async def pending(self) -> Sequence[MeshReport]:
        """`ReportSource`."""
        return self.collect()

    def collect(self) -> list[MeshReport]:
        """A new one, and those that wait, with their age."""
        now = self._clock()
        if len(self._waiting) < MOST_WAITING:
            self._seal(now)
        return [
            msgspec.structs.replace(report, age=max(0.0, now - ended), acknowledged=self._acknowledged)
            for ended, report in self._waiting
        ]

    def _seal(self, now: float) -> None:
        """Make reports of what has come."""
        rows, denials, times, unnamed = self._calls.take()
        split = parts(rows, PART_BYTES)
        if len(split) > 1 and (denials or times):
            split.insert(0, [])
        answers = [part for part in parts(self.take_answers(), PART_BYTES) if part]
        for number in range(len(split) + len(answers)):
            self._sequence += 1
            report = MeshReport(
                self._sidecar,
                self.run,
                self._sequence,
                max(0.0, now - self._began),
                host=self._host,
                worker=self._worker,
            )
            if number < len(split):
                report.calls = tuple(split[number])
            else:
                report.answers = tuple(answers[number - len(split)])
            if number == 0:
                report.denials, report.times, report.unnamed = denials, times, unnamed
            self._waiting.append((now, report))
        self._began = now

    def acknowledge(self, run: str, sequence: int) -> None:
        """`ReportSource`."""
        if run != self.run or sequence > self._sequence:
            return
        self._acknowledged = max(self._acknowledged, sequence)
        while self._waiting and self._waiting[0][1].sequence <= self._acknowledged:
            self._waiting.popleft()
