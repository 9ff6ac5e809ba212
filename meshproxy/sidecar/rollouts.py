"""The rollouts that this sidecar chooses for: their weights, what measures them, and the flip to the stable version.

A weight comes from the control plane, and takes effect at the next call: nothing is compiled anew. A burst of failures
is seen here, and the stable version gets all calls at once, whether or not the control plane is there; it is told. What
was told last, and what was taken out, is kept on disk: while the control plane is away, a sidecar that starts again
goes on from there, and never gives calls to a candidate that has failed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from meshproxy.identity.private_files import replace_file
from meshproxy.rollout.link import ReportedRollout, RolloutState
from meshproxy.rollout.meter import Meter
from meshproxy.rollout.settings import fast_kill_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from meshproxy.config.rollouts import ModelRollout, RolloutSpec
    from meshproxy.config.schema import Documents
    from meshproxy.routing.carried_state import CarriedState
    from meshproxy.routing.live_split import LiveSplit
    from meshproxy.routing.routes import Routes

logger = logging.getLogger(__name__)

SHORTEST_PERIOD, LONGEST_PERIOD = 0.2, 5.0
"""Seconds between two reports: a fifth of the shortest window, within these."""


class Killed(msgspec.Struct, frozen=True):
    """A candidate that was taken out here."""

    rollout: str
    revision: str
    attempt: int
    why: str


class Kept(msgspec.Struct):
    """What is on disk."""

    told: tuple[RolloutState, ...] = ()
    killed: tuple[Killed, ...] = ()


class _Ours(NamedTuple):
    """A rollout in use."""

    split: LiveSplit
    document: ModelRollout


def weight_of(told: RolloutState | None, killed: Killed | None, revision: str) -> tuple[float, bool]:
    """The candidate's percentage, and whether it is measured. Pure: what is in doubt is the stable version's."""
    if told is None or told.revision != revision:
        return 0.0, False
    if killed is not None and killed.revision == revision and told.attempt <= killed.attempt:
        return 0.0, False
    return told.weight, told.is_active


def is_loaded(
    spec: RolloutSpec, routes: Routes, server: str | None, available: Callable[[str, str], frozenset[str] | None]
) -> bool | None:
    """Whether the candidate's version is AVAILABLE wherever its calls may go; None: that is not known.

    Args:
        routes: of the direction that chooses.
        server: of calls whose route names none, if that is known.
        available: `Clusters.available`.
    """
    version = spec.candidate.version
    if version is None:
        return None
    servers = set()
    for conditions, route in routes.choices(spec.model):
        servers.add(spec.candidate.server or route.server or server)
        if not conditions:
            break  # what follows is asked for no call
    model = spec.candidate.model or spec.model
    known = [available(each, model) if each is not None else None for each in servers]
    if any(versions is not None and version not in versions for versions in known):
        return False
    return None if None in known else True


class Rollouts:
    """The rollouts of one sidecar.

    Args:
        live: has the arms, whose weights are set here.
        path: the file in which the state is kept; None: nowhere.
        is_loaded: whether the candidate's version is AVAILABLE where its calls go; None: not known.

    Attributes:
        meters: what measures those that are being judged, by name. The pipelines look them up there.
        has_news: set when there is something to say at once.
        exist: set while there are rollouts.
    """

    def __init__(
        self,
        live: CarriedState,
        path: Path | None,
        is_loaded: Callable[[ModelRollout], bool | None] = lambda rollout: None,
        now: Callable[[], float] = time.monotonic,
        cpu_time: Callable[[], float] = time.thread_time,
    ) -> None:
        self._live = live
        self._path = path
        self._is_loaded = is_loaded
        self._loaded: dict[str, tuple[str, int]] = {}
        """Revision and attempt whose candidate was AVAILABLE once: what it does from then on is its own doing."""
        self._now = now
        self._cpu_time = cpu_time
        self.meters: dict[str, Meter] = {}
        self.has_news = asyncio.Event()
        self.exist = asyncio.Event()
        self._ours: dict[str, _Ours] = {}
        self._measured: dict[str, tuple[object, ...]] = {}
        """What a meter is of."""
        kept = self._read()
        self._told = {state.rollout: state for state in kept.told}
        self._killed = {killed.rollout: killed for killed in kept.killed}
        self.kills = 0
        """Candidates that were taken out here."""

    def adopt(self, documents: Documents) -> None:
        """These documents are in use (`Configuration.on_adopted`)."""
        by_name = {rollout.metadata.name: rollout for rollout in documents.rollouts}
        self._ours = {split.name: _Ours(split, by_name[split.name]) for split in self._live.splits()}
        for name in self.meters.keys() - self._ours.keys():
            self._forget(name)
        for name in self._ours:
            self._settle(name)
        (self.exist.set if self._ours else self.exist.clear)()
        self.has_news.set()

    def take(self, states: Iterable[RolloutState]) -> None:
        """The control plane says where these are. Of others it says nothing: they stay where they are. Raises OSError:
        it is in use, and could not be kept."""
        for state in states:
            self._told[state.rollout] = state
            if state.rollout in self._ours:
                self._settle(state.rollout)
        self._keep()

    def _settle(self, name: str) -> None:
        """Use what is known of a rollout."""
        ours, told = self._ours[name], self._told.get(name)
        split, spec = ours.split, ours.document.spec
        weight, is_active = weight_of(told, self._killed.get(name), split.revision)
        if told is not None and is_active and weight and not self._may_begin(name, ours, told):
            weight = 0.0
        if weight != split.weight:
            fields = {"rollout": name, "revision": split.revision, "from": split.weight, "to": weight}
            logger.info("rollout weight", extra={"fields": fields})
        split.weight = weight
        if not is_active or told is None:
            self._forget(name)
            return
        kill = spec.rollback.fast_kill
        measured = split.revision, told.attempt, spec.warm_up, kill
        if self._measured.get(name) != measured:
            self._measured[name] = measured
            self.meters[name] = Meter(
                spec.warm_up, fast_kill_of(kill), lambda why: self._kill(name, why), self._now, self._cpu_time
            )

    def _may_begin(self, name: str, ours: _Ours, told: RolloutState) -> bool:
        """Whether a candidate that is being judged gets calls: not before its version is AVAILABLE, where that is
        known. One that was promoted waits for nothing: the stable version may be gone."""
        this = ours.split.revision, told.attempt
        if self._loaded.get(name) == this:
            return True
        is_loaded = self._is_loaded(ours.document)
        if is_loaded:
            self._loaded[name] = this
        return is_loaded is not False

    def checked(self) -> None:
        """A model server has said which versions are AVAILABLE."""
        for name in self._ours:
            self._settle(name)

    def _forget(self, name: str) -> None:
        self.meters.pop(name, None)
        self._measured.pop(name, None)

    def _kill(self, name: str, why: str) -> None:
        """The candidate is out: from the next call on, all are the stable version's."""
        ours, told = self._ours.get(name), self._told.get(name)
        if ours is None or told is None:
            return
        ours.split.weight = 0.0
        self._killed[name] = Killed(name, ours.split.revision, told.attempt, why)
        self.kills += 1
        logger.error("rollout: back to the stable version", extra={"fields": {"rollout": name, "reason": why}})
        try:
            self._keep()
        except OSError as error:
            logger.error("a failed candidate could not be noted", extra={"fields": {"problem": str(error)}})
        self.has_news.set()

    # What is said of them

    @property
    def period(self) -> float:
        """Seconds between two reports."""
        shortest = min((ours.document.spec.analysis.interval for ours in self._ours.values()), default=LONGEST_PERIOD)
        return min(max(shortest / 5, SHORTEST_PERIOD), LONGEST_PERIOD)

    def reports(self) -> list[ReportedRollout]:
        """What each has done since the last call; nothing of those that have done nothing."""
        found = []
        for name, ours in self._ours.items():
            report = self._report(name, ours.split.revision)
            if report.stable.calls or report.candidate.calls or report.candidate.shadows or report.killed:
                found.append(report)
        return found

    def _report(self, name: str, revision: str) -> ReportedRollout:
        killed, told, meter = self._killed.get(name), self._told.get(name), self.meters.get(name)
        report = ReportedRollout(name, revision, told.attempt if told is not None else 0)
        if meter is not None:
            report.stable, report.candidate = meter.take()
        if killed is not None and (killed.revision, killed.attempt) == (revision, report.attempt):
            report.killed = killed.why
        return report

    def weights(self) -> list[tuple[tuple[str], float]]:
        """Of each rollout, in percent: a metric."""
        return [((name,), ours.split.weight) for name, ours in self._ours.items()]

    # On disk

    def _read(self) -> Kept:
        if self._path is None:
            return Kept()
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Kept)
        except FileNotFoundError:
            return Kept()
        except (OSError, msgspec.DecodeError) as error:
            # In doubt the stable version has all calls.
            logger.error("the state of rollouts is unreadable", extra={"fields": {"problem": str(error)}})
            return Kept()

    def _keep(self) -> None:
        """Raises OSError."""
        if self._path is None:
            return
        known = self._ours.keys() if self._ours else self._told.keys()
        kept = Kept(
            tuple(state for name, state in self._told.items() if name in known),
            tuple(killed for name, killed in self._killed.items() if name in known),
        )
        # The disk is not waited for, as calls are: if the host fails too, the candidate has to fail once more.
        replace_file(self._path, msgspec.json.encode(kept), 0o600, survives=False)
