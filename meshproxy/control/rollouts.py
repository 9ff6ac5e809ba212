"""The controller of rollouts: reads what the sidecars measured, takes the steps, keeps them, and tells the sidecars.

Every control plane does this for the sidecars that are connected to it. The leader alone judges and takes steps; the
others read them from where they are kept. A rollback is told to the sidecars first and kept afterwards; every other
step is kept first, so that a control plane that is killed in between is followed by one that goes on from what sidecars
know. While it cannot be kept, nothing goes up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Protocol

import msgspec

from meshproxy.config.rollouts import ModelRollout, WarmUp
from meshproxy.rollout.link import RolloutState
from meshproxy.rollout.steps import CommandRefused, Gate, Phase, RolloutStatus, Steps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meshproxy.control.rollout_hooks import Hooks
    from meshproxy.rollout.link import Fleet, Kill
    from meshproxy.rollout.steps import Command, Notice
    from meshproxy.telemetry.control_metrics import ControlMetrics

logger = logging.getLogger(__name__)

PERIOD = 1.0
"""Seconds between two looks."""
FOLLOW_EVERY = 5.0
"""Seconds after which a control plane that does not lead reads again what the leader has kept."""


class KeepFailed(Exception):
    """The status was not written or read. The text says why."""


class Keeper(Protocol):
    """Where the status of rollouts is kept."""

    def is_leader(self) -> bool:
        """Whether this control plane takes the steps."""

    async def load(self, name: str) -> RolloutStatus | None:
        """What was kept; None: nothing yet. Raises KeepFailed."""

    async def keep(self, name: str, status: RolloutStatus) -> None:
        """Write it. Raises KeepFailed."""

    async def tell(self, name: str, notice: Notice) -> None:
        """Record something where people look for it: an event of the cluster. Raises KeepFailed."""


class Shown(msgspec.Struct, frozen=True):
    """One rollout on the page /rollouts."""

    name: str
    model: str
    stable: str
    candidate: str
    weights: tuple[int, ...]
    interval: float
    mode: str
    paused: bool
    sidecars: int
    """That have reported in the last window."""
    status: RolloutStatus
    warm_up: WarmUp = WarmUp(0, 0.0)


class _Rollout:
    """One that is under way, or over."""

    def __init__(self, steps: Steps) -> None:
        """Nothing is told to sidecars yet."""
        self.steps = steps
        self.published = RolloutState("", "")
        self.kept = b""
        """The status as it is kept."""
        self.sidecars = 0
        self.followed = 0.0
        """When it was read last."""
        self.leads = False
        self.confirming: asyncio.Task[None] | None = None


class RolloutController:
    """All rollouts among the documents in force.

    Args:
        documents: gives the documents in force, by `Kind/name`.
        fleet: the sidecars.
        keeper: keeps the status.
        hooks: calls webhooks.
        metrics: of the control plane.
        clock: seconds since the epoch.
        record: is given each notice, by the name of its rollout: the audit trail.
    """

    def __init__(
        self,
        documents: Callable[[], Mapping[str, object]],
        fleet: Fleet,
        keeper: Keeper,
        hooks: Hooks,
        metrics: ControlMetrics,
        clock: Callable[[], float] = time.time,
        record: Callable[[str, Notice], None] = lambda name, notice: None,
    ) -> None:
        self._record = record
        self._documents = documents
        self._fleet = fleet
        self._keeper = keeper
        self._hooks = hooks
        self._metrics = metrics
        self._clock = clock
        self._rollouts: dict[str, _Rollout] = {}
        self._problem = ""
        self._looking = asyncio.Lock()
        fleet.on_kill = self._killed
        metrics.rollout_weight.read_from(lambda: [((name,), each.steps.status.weight) for name, each in self._items()])
        metrics.rollout_phase.read_from(
            lambda: [
                ((name, phase.value), int(each.steps.status.phase is phase))
                for name, each in self._items()
                for phase in Phase
            ]
        )
        metrics.rollout_stalled.read_from(
            lambda: [((name,), int(each.steps.status.stalled)) for name, each in self._items()]
        )

    def _items(self) -> list[tuple[str, _Rollout]]:
        return sorted(self._rollouts.items())

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            while True:
                await self.look()
                await asyncio.sleep(PERIOD)
        finally:
            for each in self._rollouts.values():
                if each.confirming is not None:
                    each.confirming.cancel()

    async def look(self) -> None:
        """What is due now, of all rollouts."""
        async with self._looking:
            found = {
                document.metadata.name: document
                for document in self._documents().values()
                if isinstance(document, ModelRollout)
            }
            for name in [name for name in self._rollouts if name not in found]:
                del self._rollouts[name]
            is_kept = True
            for name, document in found.items():
                try:
                    await self._look_at(name, document)
                except KeepFailed as error:
                    is_kept = False
                    self._failed(str(error))
            if is_kept:
                self._problem = ""
            self._publish()

    async def _look_at(self, name: str, document: ModelRollout) -> None:
        now, spec = self._clock(), document.spec
        each = self._rollouts.get(name)
        if each is None or each.steps.spec != spec:
            # Those that know nothing of it yet have to read where it is before they say anything to the sidecars.
            status = each.steps.status if each is not None else await self._keeper.load(name)
            steps = Steps(spec, spec.revision, status, now)
            if each is None:
                each = self._rollouts[name] = _Rollout(steps)
            steps.news = each.steps.news
            each.steps = steps
        leads = self._keeper.is_leader()
        if leads is not each.leads or not 0 <= now - each.followed < FOLLOW_EVERY:
            await self._read(name, each, now, adopts=not leads or not each.leads)
            each.leads = leads
        if not leads:
            self._fleet.collect(name, each.steps.revision)
            if each.steps.news:  # a sidecar of ours has killed it, and the leader does not know
                await self._settle(name, each)
            return
        await self._settle(name, each)
        steps = each.steps
        if not steps.is_measuring:
            self._fleet.collect(name, steps.revision)  # what comes before a window is not part of it
        elif steps.window_is_over(now):
            merged = self._fleet.collect(name, steps.revision)
            each.sidecars = merged.sidecars
            verdict = steps.judge(merged.candidate, merged.stable, now)
            self._metrics.rollout_windows.labels(name, verdict.outcome.value).value += 1
        self._pass_gate(each, name)
        await self._settle(name, each)

    async def _read(self, name: str, each: _Rollout, now: float, *, adopts: bool) -> None:
        """Whoever does not lead, or has just begun to, goes on with what was kept. The leader takes from there that a
        sidecar of another control plane has ended it, or that another leader has begun it anew."""
        kept = await self._keeper.load(name)
        each.followed = now
        ours = each.steps.status
        if kept is None or kept.revision != each.steps.revision or kept.attempt < ours.attempt:
            return
        # Of two ends of one attempt, the rollback counts.
        is_back = ours.phase is Phase.ROLLED_BACK
        is_over = kept.attempt > ours.attempt or (not is_back and kept.phase is Phase.ROLLED_BACK)
        has_ended = ours.is_active and not kept.is_active
        if is_over or has_ended or (adopts and not (is_back and each.steps.news)):
            each.steps.status = kept
            each.steps.news.clear()  # what was never kept has not happened
            each.kept = msgspec.json.encode(kept)

    async def _settle(self, name: str, each: _Rollout) -> None:
        """Have the status kept and the news told. What takes traffic away from the candidate does not wait for that."""
        status = each.steps.status
        if each.published.rollout and status.weight < each.published.weight:
            self._publish()
        if msgspec.json.encode(status) != each.kept:
            await self._read(name, each, self._clock(), adopts=False)
            status = each.steps.status
            content = msgspec.json.encode(status)
            await self._keeper.keep(name, status)
            each.kept = content  # a kill or a webhook may have changed the status meanwhile
        while each.steps.news:
            notice = each.steps.news.pop(0)
            self._log(name, each, notice)
            self._record(name, notice)
            self._hooks.event(name, each.steps, notice)
            try:
                await self._keeper.tell(name, notice)
            except KeepFailed as error:
                self._failed(str(error))

    def _log(self, name: str, each: _Rollout, notice: Notice) -> None:
        status = each.steps.status
        fields = {
            "rollout": name,
            "reason": notice.reason,
            "detail": notice.message,
            "phase": status.phase.value,
            "weight": status.weight,
            "attempt": status.attempt,
        }
        logger.log(logging.WARNING if notice.is_warning else logging.INFO, "rollout", extra={"fields": fields})
        self._metrics.rollout_notices.labels(name, notice.reason).value += 1

    def _pass_gate(self, each: _Rollout, name: str) -> None:
        """Ask the webhooks of the gate that the rollout stands at, one round at a time; without any it is open."""
        gate = each.steps.status.gate
        if gate is None or not each.steps.status.is_active or each.steps.is_paused:
            return
        if not self._hooks.has(each.steps, gate):
            each.steps.confirmed(gate, self._clock())
        elif each.confirming is None or each.confirming.done():
            each.confirming = asyncio.get_running_loop().create_task(self._confirm(each, name, gate))

    async def _confirm(self, each: _Rollout, name: str, gate: Gate) -> None:
        steps, attempt = each.steps, each.steps.status.attempt
        answer = await self._hooks.ask(name, steps, gate)
        if steps is not each.steps or steps.status.attempt != attempt or not self._keeper.is_leader():
            return
        if answer.is_yes:
            steps.confirmed(gate, self._clock())
        elif answer.is_failure:
            steps.denied(gate, answer.why, self._clock())
        if not answer.is_yes:
            await asyncio.sleep(min(10.0, steps.spec.analysis.interval))

    def _killed(self, kill: Kill) -> None:
        """At once, for the sidecars of this control plane."""
        each = self._rollouts.get(kill.rollout)
        if each is not None and each.steps.revision == kill.revision:
            each.steps.killed(kill.attempt, f"{kill.sidecar}: {kill.why}", self._clock())
            self._publish()

    def _publish(self) -> None:
        """What goes up is told when it is kept, what goes down at once."""
        states = []
        for name, each in self._items():
            status = each.steps.status
            state = RolloutState(name, each.steps.revision, status.attempt, status.weight, status.is_active)
            is_same = each.published.revision == state.revision
            is_down = not status.weight or (is_same and status.weight <= each.published.weight)
            if self._keeper.is_leader() and not is_down and msgspec.json.encode(status) != each.kept:
                state = each.published
            if state.rollout:
                each.published = state
                states.append(state)
        self._fleet.publish(states)

    def _failed(self, problem: str) -> None:
        if problem != self._problem:
            logger.warning("the state of rollouts is not kept; trying again", extra={"fields": {"problem": problem}})
        self._problem = problem

    # For operators

    async def order(self, name: str, command: Command, who: str) -> None:
        """A command. Raises CommandRefused and KeepFailed."""
        async with self._looking:
            each = self._rollouts.get(name)
            if each is None:
                known = ", ".join(sorted(self._rollouts)) or "none"
                raise CommandRefused(f"there is no ModelRollout {name!r}; there are: {known}")
            if not self._keeper.is_leader():
                raise CommandRefused("this control plane does not lead: name the web ports of all with --control")
            each.steps.order(command, who, self._clock())
            await self._settle(name, each)
            self._publish()

    def shown(self) -> list[Shown]:
        """All of them, by name."""
        return [
            Shown(
                name,
                each.steps.spec.model,
                describe(each.steps.spec.stable),
                describe(each.steps.spec.candidate),
                each.steps.weights,
                each.steps.spec.analysis.interval,
                each.steps.spec.analysis.mode,
                each.steps.is_paused,
                each.sidecars,
                each.steps.status,
                each.steps.spec.warm_up,
            )
            for name, each in self._items()
        ]


def describe(arm: msgspec.Struct) -> str:
    """An arm in a few words."""
    given = ((field, getattr(arm, field)) for field in arm.__struct_fields__)
    return ", ".join(f"{field} {value}" for field, value in given if value is not None)
