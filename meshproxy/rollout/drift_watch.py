"""Watches all versions of all models that sidecars report calls of: three detectors each (`drift`), and three more
where they read answers.

What calls are of is told by the rows that the mesh view is made of, so requests pay nothing for it. Calls at the model
server (inbound) and at its callers (outbound) are watched apart: what has changed at the callers alone is the way
between. A version that was never seen before has nothing to be compared with, and begins to learn. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from meshproxy.rollout.drift import DAY, INTERVAL, OF_ANSWERS, OF_CALLS, Detector, Signal, State
from meshproxy.rollout.levels import Share, Times
from meshproxy.rollout.mix import Mix
from meshproxy.telemetry.metrics import OTHER
from meshproxy.telemetry.model_labels import NONE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshproxy.control_api import ReportedAnswers, ReportedCalls
    from meshproxy.rollout.drift import Found

MOST_VERSIONS = 2_000
"""Versions of models, by direction, that are watched: 30 KB each. Calls of others are counted in `unwatched`."""
MOST_ANSWERING = 500
"""Of these, whose answers are: 100 KB more each."""
VERBS = frozenset({"predict", "classify", "regress", "multi-inference"})


class Watched(NamedTuple):
    """What is watched by itself."""

    direction: str
    model: str
    version: str


class Drift(NamedTuple):
    """One signal of it, as it is now."""

    watched: Watched
    signal: Signal
    found: Found


class _Version:
    """The detectors of one version."""

    __slots__ = ("detectors", "heard")

    def __init__(self, interval: float) -> None:
        self.detectors = [Detector(signal, interval) for signal in OF_CALLS]
        """Behind them those of answers, once there are any."""
        self.heard = 0.0

    @property
    def of_answers(self) -> list[Detector]:
        return self.detectors[len(OF_CALLS) :]


class DriftWatch:
    """All of them.

    Args:
        interval: seconds of a reading, at least.

    Attributes:
        unwatched: calls of versions beyond `MOST_VERSIONS`.
    """

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._versions: dict[Watched, _Version] = {}
        self._pruned = 0.0
        self.unwatched = 0

    def add(self, calls: ReportedCalls, age: float, now: float) -> list[Drift]:
        """Count one row of a report. Returns what it has raised, or ended.

        Args:
            calls: the row.
            age: seconds since the end of the time that it is of; what is older than a reading is not counted.
            now: seconds since the epoch.
        """
        if calls.verb not in VERBS or calls.model in (NONE, OTHER) or calls.version == OTHER or age > self._interval:
            return []
        count = sum(calls.codes.values()) - sum(calls.denied.values())
        if count <= 0:
            return []
        key = Watched(calls.direction, calls.model, calls.version)
        version = self._find(key, count, now)
        if version is None:
            return []
        of_calls = version.detectors[: len(OF_CALLS)]
        errors, upstream, proxy = (detector.reading for detector in of_calls)
        assert isinstance(errors, Share)
        assert isinstance(upstream, Times)
        assert isinstance(proxy, Times)
        errors.add(min(calls.failed, count), count)
        upstream.add(calls.upstream)
        proxy.add(calls.proxy)
        return [Drift(key, detector.signal, detector.found) for detector in of_calls if detector.look(now)]

    def add_answers(self, answers: ReportedAnswers, age: float, now: float) -> list[Drift]:
        """The same of what was read of answers, at the model server."""
        if answers.read <= 0 or age > self._interval:
            return []
        key = Watched("inbound", answers.model, answers.version)
        version = self._find(key, answers.read, now)
        if version is None:
            return []
        if not version.of_answers:
            if sum(1 for each in self._versions.values() if each.of_answers) >= MOST_ANSWERING:
                self.unwatched += answers.read
                return []
            version.detectors += [Detector(signal, self._interval) for signal in OF_ANSWERS]
        nan, classes, scores = (detector.reading for detector in version.of_answers)
        assert isinstance(nan, Share)
        assert isinstance(classes, Mix)
        assert isinstance(scores, Mix)
        nan.add(min(answers.nan, answers.read), answers.read)
        classes.add(answers.classes)
        scores.add(answers.scores)
        return [Drift(key, detector.signal, detector.found) for detector in version.of_answers if detector.look(now)]

    def _find(self, key: Watched, count: int, now: float) -> _Version | None:
        """Where `count` calls belong; None: there is no room."""
        self._prune(now)
        version = self._versions.get(key)
        if version is None:
            if len(self._versions) >= MOST_VERSIONS:
                self.unwatched += count
                return None
            version = self._versions[key] = _Version(self._interval)
        version.heard = now
        return version

    def _prune(self, now: float) -> None:
        """Forget versions that nobody has called for a day."""
        if not 0 <= now - self._pruned < self._interval:
            self._pruned = now
            for key in [key for key, version in self._versions.items() if not 0 <= now - version.heard < DAY]:
                del self._versions[key]

    def found(self, now: float) -> Iterator[Drift]:
        """All that is known, by version and signal: what has had a reading."""
        self._prune(now)
        for key, version in sorted(self._versions.items()):
            for detector in version.detectors:
                if detector.found.level is not None:
                    yield Drift(key, detector.signal, detector.found)

    def raised(self, now: float, model: str = "") -> list[Drift]:
        """What has changed: of one model, or of all."""
        return [
            each for each in self.found(now) if each.found.state is State.RAISED and model in ("", each.watched.model)
        ]


WHERE = {"inbound": "at its servers", "outbound": "at its callers"}


def in_words(drift: Drift) -> str:
    """What has changed, as a sentence of one line. Since when: `Found.since`."""
    (direction, _, version), found = drift.watched, drift.found
    level, expected = found.level or 0.0, found.expected or 0.0
    if drift.signal is Signal.ERRORS:
        what = f"{level:.2%} of the calls fail, {expected:.2%} before"
    elif drift.signal is Signal.NAN:
        what = f"{level:.2%} of the answers have NaN or infinities, {expected:.2%} before"
    elif drift.signal in (Signal.CLASSES, Signal.SCORES):
        what = f"the {drift.signal.value} of answers are others than before: a PSI of {level:.2f}"
    else:
        who = "model server and network take" if drift.signal is Signal.UPSTREAM else "the sidecar takes"
        what = f"{who} {level * 1e3:.3g} ms, typically, {expected * 1e3:.3g} ms before"
    return f"version {version}, {WHERE.get(direction, direction)}: {what}"
