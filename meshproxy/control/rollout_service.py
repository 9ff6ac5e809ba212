"""`Rollouts/Watch`: what the arms of rollouts did at each sidecar is added up, and each sidecar is told the weights.

A sidecar reports under the identity of its certificate, and only of rollouts that are among its documents; anything
else is counted and dropped. It is told nothing of others either. What is added up here is as much as its bounds allow:
one window of each arm for each rollout, however many sidecars there are.
"""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING

import msgspec

from meshproxy.codec.grpc import frame
from meshproxy.control.channel import Paces, decode
from meshproxy.control.expiries import Expiries
from meshproxy.control_api import ROLLOUTS
from meshproxy.identity.caller import Workload
from meshproxy.refusal import GrpcStatus
from meshproxy.rollout.link import Kill, Merged, RolloutsReport, RolloutStates
from meshproxy.rollout.window import CLASS_BINS, LAST_BUCKET, LAST_SCORE, ArmWindow
from meshproxy.transport.grpc_server import CallFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from meshproxy.control.distribution import DocumentService
    from meshproxy.rollout.link import ReportedRollout, RolloutState
    from meshproxy.telemetry.control_metrics import ControlMetrics
    from meshproxy.transport.grpc_server import Method, ServerCall

logger = logging.getLogger(__name__)

REPORT_RATE = 20.0
REPORT_BURST = 400.0
"""Reports of one identity at one address, a second."""
MOST_COUNT = 10_000_000
"""Of anything in one window of one sidecar."""
MOST_CALLS = 100_000_000
"""Of an arm in one window of all sidecars: what judging takes grows with the root of it."""
_KIND = re.compile(r"broken|(grpc|http) [0-9]{1,3}")


class _Watcher:
    """A sidecar that is connected."""

    def __init__(self, call: ServerCall, workload: Workload) -> None:
        self.call = call
        self.workload = workload
        self.spiffe_id = workload.spiffe_id
        self.told: dict[str, RolloutState] = {}
        self.permitted: set[str] = set()
        """Rollouts that are among its documents."""
        self.refused: set[str] = set()
        """Rollouts that are not, when the states were published last."""
        self.killed: set[tuple[str, str, int]] = set()
        """What it has said that it took out: rollout, revision, attempt."""


class RolloutService:
    """The sidecars, as the controller of rollouts sees them (`rollout.link.Fleet`).

    Args:
        distribution: knows which documents each sidecar has.
    """

    def __init__(
        self, distribution: DocumentService, metrics: ControlMetrics, clock: Callable[[], float] = time.time
    ) -> None:
        self._distribution = distribution
        self._metrics = metrics
        self._clock = clock
        self._paces = Paces(REPORT_RATE, REPORT_BURST)
        self._expiries = Expiries()
        self._watchers: set[_Watcher] = set()
        self._states: dict[str, RolloutState] = {}
        self._merged: dict[tuple[str, str], tuple[Merged, set[str]]] = {}
        """By rollout and revision, with the sidecars that have reported: only of revisions that are published."""
        self.on_kill: Callable[[Kill], None] = lambda kill: None

    @property
    def methods(self) -> dict[bytes, Method]:
        """For `GrpcServer`."""
        return {ROLLOUTS: self.watch}

    # For the controller (rollout.link.Fleet)

    def publish(self, states: Iterable[RolloutState]) -> None:
        """These are the states of all rollouts now: sidecars are told what has changed for them."""
        self._states = {state.rollout: state for state in states}
        current = {(state.rollout, state.revision) for state in self._states.values()}
        self._merged = {key: merged for key, merged in self._merged.items() if key in current}
        for watcher in self._watchers:
            watcher.refused.clear()
            watcher.killed = {key for key in watcher.killed if key[0] in self._states}
            watcher.call.wake()

    def collect(self, rollout: str, revision: str) -> Merged:
        """What was reported of these arms since the last call."""
        found = self._merged.pop((rollout, revision), None)
        return found[0] if found is not None else Merged(ArmWindow(), ArmWindow())

    # For the sidecars

    async def watch(self, call: ServerCall) -> None:
        """`Rollouts/Watch`."""
        workload = call.info.peer
        if not isinstance(workload, Workload):
            raise CallFailed(GrpcStatus.UNAUTHENTICATED, "rollouts are for sidecars that show their certificate")
        watcher = _Watcher(call, workload)
        self._expiries.add(call, workload, self._clock())
        self._watchers.add(watcher)
        try:
            while True:
                while (message := call.take()) is not None:
                    self._paces.check(call, workload, "reports", self._clock())
                    for report in decode(message, RolloutsReport).rollouts:
                        self._take(watcher, report)
                if call.has_ended:
                    break
                self._give(watcher)
                await call.wait()
        finally:
            self._watchers.discard(watcher)
            self._expiries.discard(call)

    def _take(self, watcher: _Watcher, report: ReportedRollout) -> None:
        state = self._states.get(report.rollout)
        if state is not None and not self._may_report(watcher, report.rollout):
            self._drop("scope")
        elif state is None or (state.revision, state.attempt) != (report.revision, report.attempt):
            self._drop("revision")  # it has not heard of the newest one yet
        elif not (is_sane(report.stable) and is_sane(report.candidate)):
            self._drop("counts")
        else:
            merged, who = self._merged.setdefault(
                (report.rollout, report.revision), (Merged(ArmWindow(), ArmWindow()), set())
            )
            if any(
                total.calls + new.calls > MOST_CALLS
                for total, new in ((merged.stable, report.stable), (merged.candidate, report.candidate))
            ):
                self._drop("counts")
            else:
                merged.stable += report.stable
                merged.candidate += report.candidate
                who.add(f"{watcher.spiffe_id} {watcher.call.info.remote.rpartition(':')[0]}")
                merged.sidecars = len(who)
            if report.killed:
                self._killed(watcher, report)

    def _killed(self, watcher: _Watcher, report: ReportedRollout) -> None:
        key = report.rollout, report.revision, report.attempt
        if key not in watcher.killed:
            watcher.killed.add(key)
            kill = Kill(*key, watcher.spiffe_id, report.killed)
            logger.error("a sidecar took a candidate out", extra={"fields": msgspec.to_builtins(kill)})
            self.on_kill(kill)

    def _drop(self, why: str) -> None:
        self._metrics.rollout_reports_dropped.labels(why).value += 1

    def _may_report(self, watcher: _Watcher, rollout: str) -> bool:
        """Whether its word counts for the rollout, which is among the documents of a sidecar with this identity. The
        documents may take that from it at any time. Whether it has the rollout is not looked up again where it had it:
        what it says of one that is gone has no state to be added to. Where it had not, it is looked up once for each
        time that states are published: all sidecars are gone through for it."""
        if rollout in watcher.refused:
            return False
        may_report = self._distribution.entitlements.may_report(watcher.workload, rollout)
        if rollout in watcher.permitted:
            return may_report
        key = f"ModelRollout/{rollout}"
        if may_report and any(
            other.spiffe_id == watcher.spiffe_id and key in other.group.keys
            for other in self._distribution.watchers.values()
        ):
            watcher.permitted.add(rollout)
            return True
        watcher.refused.add(rollout)
        return False

    def _give(self, watcher: _Watcher) -> None:
        """Say what the sidecar does not know, unless it has not yet taken what it was sent before."""
        if not watcher.call.is_drained:
            return
        news = tuple(
            state
            for name, state in self._states.items()
            if watcher.told.get(name) != state and self._may_report(watcher, name)
        )
        if news:
            watcher.told |= {state.rollout: state for state in news}
            watcher.call.post(frame(msgspec.json.encode(RolloutStates(news))))


def is_sane(window: ArmWindow) -> bool:
    """Whether the counts of one window may be true: none is negative or beyond what a sidecar can do, no part is more
    than the whole, and there are no other buckets, bins and kinds than those of `rollout.window`. That bounds the sums
    of windows, and whatever they are judged by has a value."""
    numbers = (window.calls, window.examples, window.answers, window.values, window.shadows)
    if not all(0 <= number <= MOST_COUNT * 1_000 for number in numbers) or window.calls > MOST_COUNT:
        return False
    parts = (
        (window.latency, window.calls, 0, LAST_BUCKET),
        (window.latency_per_example, window.calls, 0, LAST_BUCKET),
        (window.sizes, window.calls, 0, LAST_BUCKET),
        (window.classes, window.answers, 0, CLASS_BINS - 1),
        (window.scores, window.answers, -LAST_SCORE, LAST_SCORE),
    )
    for counts, most, first, last in parts:
        if not _are_parts(counts.values(), most) or not all(first <= number <= last for number in counts):
            return False
    if not _are_parts(window.failures.values(), window.calls) or not all(map(_KIND.fullmatch, window.failures)):
        return False
    return (
        window.answers <= window.calls
        and 0 <= window.nan_answers <= window.answers
        and 0 <= window.nan_values <= window.values
        and 0 <= window.disagreements <= window.shadows
    )


def _are_parts(counts: Collection[int], most: int) -> bool:
    return all(count > 0 for count in counts) and sum(counts) <= most
