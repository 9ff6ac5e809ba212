"""What one control plane knows of the mesh: all that was reported to it in the last hour."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from meshproxy.rollout.drift import INTERVAL
from meshproxy.rollout.drift_watch import DriftWatch
from meshproxy.view.graph import Reports, graph
from meshproxy.view.hop_times import HopTimes
from meshproxy.view.reporters import ReporterKey, Reporters
from meshproxy.view.ring import NO_SERVER, Ring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from meshproxy.control_api import MeshReport, ReportedDenial
    from meshproxy.rollout.drift_watch import Drift
    from meshproxy.view.graph import Graph

DENIALS = 512
"""The last ones that are kept."""
DENIALS_OF_ONE = 128
"""Of one identity, once there is no room for more: one that denies without end hides nobody else's."""


class Denial(NamedTuple):
    """A call that was denied."""

    reporter: str
    """The SPIFFE id of the sidecar that has denied it."""
    denial: ReportedDenial


class Mesh:
    """The reports of all sidecars of one control plane. Times are seconds since the epoch, by its clock.

    Args:
        drift_interval: seconds of a reading of a model, at least.

    Attributes:
        ring: the calls.
        reporters: the processes that report.
        denials: the last ones, the newest last.
        times: of which models and networks take how much.
        drift: what has changed, of all models.
        on_drift: called when something has, and when it is over.
    """

    def __init__(self, drift_interval: float = INTERVAL) -> None:
        self.ring = Ring()
        self.reporters = Reporters()
        self.drift = DriftWatch(drift_interval)
        self.on_drift: Callable[[Drift], None] = lambda drift: None
        self.denials: deque[Denial] = deque(maxlen=DENIALS)
        self.times = HopTimes()

    def take(
        self, spiffe_id: str, report: MeshReport, every: float, now: float, *, is_server: bool = True
    ) -> ReporterKey:
        """Add a report, unless it is here already. Returns whose it is.

        Args:
            spiffe_id: of the sidecar, by its certificate.
            report: what it says.
            every: seconds between reports, as it was asked.
            now: the time.
            is_server: whether its word counts for calls that others make.
        """
        key = ReporterKey(spiffe_id, report.sidecar, report.host, report.worker)
        if not self.reporters.take(key, report, every, now):
            return key
        ended = now - report.age
        for calls in report.calls:
            if calls.direction == "inbound" and not is_server:
                self.ring.dropped[NO_SERVER] += sum(calls.codes.values())
                continue
            self.ring.add(spiffe_id, calls, ended - report.seconds, ended, now)
            for drift in self.drift.add(calls, report.age, now):
                self.on_drift(drift)
        if not is_server:
            return key
        for answers in report.answers:
            for drift in self.drift.add_answers(answers, report.age, now):
                self.on_drift(drift)
        for denial in report.denials:
            self._add_denial(Denial(spiffe_id, denial))
        for model, time in report.times.items():
            self.times.add(spiffe_id, model, time, now)
        return key

    def _add_denial(self, denial: Denial) -> None:
        if len(self.denials) == self.denials.maxlen:
            own = [each for each in self.denials if each.reporter == denial.reporter]
            if len(own) >= DENIALS_OF_ONE:
                self.denials.remove(own[0])
        self.denials.append(denial)

    def reports(self, now: float) -> Reports:
        """How complete it is."""
        return Reports.of(self.reporters, self.ring, now)

    def graph(self, seconds: float, now: float, models: Iterable[str] = ()) -> Graph:
        """The graph of the last seconds, at most an hour; `models` are shown even if nobody calls them."""
        return graph(self.ring.window(seconds, now), self.reports(now), self.times.models(now), now, models)
