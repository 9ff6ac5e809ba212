"""Who reports, and whether all of it has come: a report that is late or lost is seen as such."""

from __future__ import annotations

from collections import Counter
from enum import Enum
from math import inf
from typing import NamedTuple

import msgspec

from meshproxy.control_api import MeshReport

LATE = 2.5
SILENT = 6.0
"""Times the interval of its reports that have passed since the last one."""
LATE_SECONDS = 15.0
"""A report of a time that has been over for so long came late."""
KEPT_SECONDS = 3_600.0
"""A process that reports no more is shown as long as the ring knows what it has reported."""
PRUNE_SECONDS = 60.0
"""Between two times that all of them are looked at."""
MOST = 40_000
"""Processes: those of as many sidecars as a control plane takes connections of, with two workers each."""
MOST_OF_ONE = 8_000
"""Of one identity: the replicas of the largest deployment. Nobody keeps the others from being watched."""


class ReportState(Enum):
    """How fresh is what a process reports."""

    FRESH = "fresh"
    LATE = "late"
    SILENT = "silent"
    STOPPED = "stopped"
    """It has said that it ends."""


class ReporterKey(NamedTuple):
    """One process of a sidecar. Only the identity is proven."""

    spiffe_id: str
    sidecar: str
    host: str
    worker: int


class Reporter(msgspec.Struct):
    """What is known of one process that reports."""

    run: str
    sequence: int
    heard: float
    """When its last report came."""
    every: float
    """Seconds between its reports, as it was asked."""
    received: int = 1
    lost: int = 0
    """Reports whose numbers were left out, and that no other control plane has taken either."""
    late: int = 0
    repeated: int = 0
    """That were here already: their receipts were lost."""
    has_stopped: bool = False

    def state(self, now: float) -> ReportState:
        if self.has_stopped:
            return ReportState.STOPPED
        self.heard = min(self.heard, now)  # a clock that was set back keeps nobody fresh
        silence = now - self.heard
        if silence <= self.every * LATE:
            return ReportState.FRESH
        return ReportState.LATE if silence <= self.every * SILENT else ReportState.SILENT


class Reporters:
    """The processes that report.

    Attributes:
        lost: reports of all of them.
        late: the same.
        repeated: the same.
        received: the same.
        forgotten: processes for which there was no room: their reports count, but are not watched.
        malformed: reports that could not be read: what they say is missing.
    """

    def __init__(self) -> None:
        self.malformed = 0
        self.known: dict[ReporterKey, Reporter] = {}
        self._of: Counter[str] = Counter()
        """Processes, by identity."""
        self.received = self.lost = self.late = self.repeated = self.forgotten = 0
        self._pruned = -inf

    def take(self, key: ReporterKey, report: MeshReport, every: float, now: float) -> bool:
        """Note a report. Returns whether it is new: if not, it must not be counted again."""
        found = self.known.get(key)
        if found is None or found.run != report.run:
            # What a process lost before this control plane heard of it, another one may have.
            if found is None:
                if not self._has_room(key) and not 0.0 <= now - self._pruned < PRUNE_SECONDS:
                    self._pruned = now
                    self.prune(now)
                if not self._has_room(key):
                    self.forgotten += 1
                    self.received += 1
                    return True
                self._of[key.spiffe_id] += 1
            found = self.known[key] = Reporter(report.run, report.sequence, now, every)
        elif report.sequence <= found.sequence:
            found.repeated += 1
            self.repeated += 1
            return False
        else:
            missed = max(0, report.sequence - 1 - max(found.sequence, report.acknowledged))
            found.lost += missed
            self.lost += missed
            found.sequence, found.heard, found.every = report.sequence, now, every
            found.received += 1
            found.has_stopped = False
        self.received += 1
        if report.age > LATE_SECONDS:
            found.late += 1
            self.late += 1
        return True

    def _has_room(self, key: ReporterKey) -> bool:
        return len(self.known) < MOST and self._of[key.spiffe_id] < MOST_OF_ONE

    def stop(self, key: ReporterKey) -> None:
        """It has said that it ends."""
        if (found := self.known.get(key)) is not None:
            found.has_stopped = True

    def prune(self, now: float) -> None:
        """Forget those that are long silent."""
        for key in [key for key, each in self.known.items() if now - each.heard > KEPT_SECONDS]:
            del self.known[key]
            self._of[key.spiffe_id] -= 1
        self._of = +self._of

    def count(self, now: float) -> dict[ReportState, int]:
        """Processes by state."""
        counts = dict.fromkeys(ReportState, 0)
        for each in self.known.values():
            counts[each.state(now)] += 1
        return counts
