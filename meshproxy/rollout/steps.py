"""The steps of a rollout: a state machine. What happens comes in with the time, what is to be told comes out.

    phase         until                                                                     then
    waiting       the webhooks `confirm-rollout` and `pre-rollout` say yes                  progressing, first weight
    progressing   windows passed, and `confirm-traffic-increase` says yes                   progressing, next weight
                  the last weight passed, and `confirm-promotion` says yes; `promote`       promoted
                  the judge fails it, a sidecar kills it, `abort`                           rolled back
    promoted      the candidate has all calls                                               `retry`: waiting
    rolled back   the stable version has all calls                                          `retry`: waiting

Other arms in the document begin a new rollout, whatever the phase. Too little data holds a step and never ends it. The
status is all there is: whoever has it goes on where another control plane has stopped. A clock that is set back or
ahead makes one window longer or shorter, and no step is taken without its calls. Pure.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from meshproxy.rollout.analysis import Mode
from meshproxy.rollout.judge import Judge, State
from meshproxy.rollout.settings import analysis_of
from meshproxy.rollout.thresholds import Checks, check
from meshproxy.rollout.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from meshproxy.config.rollouts import RolloutSpec
    from meshproxy.rollout.window import ArmWindow

KEPT_NOTICES = 20
REASON_CHARACTERS = 512


class Phase(Enum):
    """The table above; the value is the word in status, metrics and commands."""

    WAITING = "waiting"
    PROGRESSING = "progressing"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled-back"


class Gate(Enum):
    """What has to be confirmed before the next weight."""

    START = "start"
    INCREASE = "increase"
    PROMOTION = "promotion"


class Command(Enum):
    """What an operator may order; the value is the word of the command line."""

    PAUSE = "pause"
    RESUME = "resume"
    PROMOTE = "promote"
    ABORT = "abort"
    RETRY = "retry"


class CommandRefused(Exception):
    """The phase does not allow it. The text says why, and what does."""


class Notice(msgspec.Struct, frozen=True):
    """Something that people, events, webhooks and the audit trail are told."""

    at: float
    """Seconds since the epoch."""
    reason: str
    """One word in CamelCase, as reasons of Kubernetes events are."""
    message: str
    is_warning: bool = False
    by: str = ""
    """Who ordered it; empty: nobody did."""


class RolloutStatus(msgspec.Struct, omit_defaults=True):
    """Where a rollout is. Kept as `status.rollout` of the document, or in a file. Times are seconds since the epoch."""

    revision: str
    """Of the arms."""
    attempt: int
    """Counts up with each beginning."""
    phase: Phase = Phase.WAITING
    weight: float = 0.0
    """The candidate's percentage."""
    step: int = 0
    """Which of the weights, from 0."""
    passed: int = 0
    """Windows in a row since the step began."""
    gate: Gate | None = Gate.START
    """What has to be confirmed now; None: nothing."""
    paused: bool = False
    stalled: bool = False
    """The step has been held for longer than `progressDeadline`."""
    started: float = 0.0
    step_since: float = 0.0
    window_since: float = 0.0
    verdict: Verdict | None = None
    """Of the last window."""
    evidence: State = msgspec.field(default_factory=State)
    checks: Checks = msgspec.field(default_factory=Checks)
    notices: list[Notice] = []
    """The last ones, the newest last."""

    @property
    def is_active(self) -> bool:
        """Whether it is not over."""
        return self.phase in (Phase.WAITING, Phase.PROGRESSING)


class Steps:
    """One rollout.

    Args:
        spec: of its document.
        revision: of its arms.
        status: as it was kept; None: there is none yet.
        now: seconds since the epoch.
    """

    def __init__(self, spec: RolloutSpec, revision: str, status: RolloutStatus | None, now: float) -> None:
        self.spec = spec
        self.revision = revision
        self.analysis = analysis_of(spec)
        self.weights = spec.analysis.weights
        self.news: list[Notice] = []
        """What has happened and is to be told; whoever tells it empties the list."""
        if status is None or status.revision != revision:
            self.status = self._begin(status.attempt + 1 if status is not None else 1, now)
        else:
            self.status = status

    def _begin(self, attempt: int, now: float) -> RolloutStatus:
        return RolloutStatus(self.revision, attempt, started=now, step_since=now, window_since=now)

    # What happens

    def confirmed(self, gate: Gate, now: float) -> None:
        """The webhooks of a gate said yes, or there are none."""
        status = self.status
        if status.gate is not gate or self.is_paused or not status.is_active:
            return
        status.gate = None
        if gate is Gate.PROMOTION:
            self._promote(now, "every step has passed")
        elif gate is Gate.INCREASE and self._is_last:
            status.gate = Gate.PROMOTION
        else:
            self._take_step(0 if gate is Gate.START else status.step + 1, now)

    def denied(self, gate: Gate, why: str, now: float) -> None:
        """A `pre-rollout` webhook said no: a failed window."""
        status = self.status
        if status.gate is not gate or not status.is_active:
            return
        status.checks.failed += 1
        self._tell(now, "CheckFailed", f"{why} ({status.checks.failed} of {self.analysis.threshold})", is_warning=True)
        if status.checks.failed >= self.analysis.threshold:
            self._roll_back(now, why)

    def window_is_over(self, now: float) -> bool:
        """Whether the calls since the last window are to be judged now."""
        status = self.status
        if not self.is_measuring:
            return False
        if now < status.window_since:  # the clock was set back
            status.window_since = now
        return now - status.window_since >= self.spec.analysis.interval

    def judge(self, candidate: ArmWindow, stable: ArmWindow, now: float) -> Verdict:
        """Take a window that is over, and what follows from it."""
        status = self.status
        status.window_since = now
        judge = Judge(self.analysis, status.evidence)
        if self.analysis.mode is Mode.THRESHOLDS:
            judge.remember(candidate, stable)
            verdict = check(self.analysis, status.checks, candidate, stable)
        else:
            verdict = judge.add(candidate, stable)
        before, status.verdict = status.verdict, verdict
        if verdict.outcome is Outcome.FAIL:
            self._fail(verdict, before, now)
        elif verdict.outcome is Outcome.PASS:
            self._pass(now)
        else:
            self._hold(verdict, now)
        return verdict

    def killed(self, attempt: int, why: str, now: float) -> None:
        """A sidecar has taken the candidate out by itself: so do all."""
        if attempt == self.status.attempt and self.status.is_active:
            self._roll_back(now, why)

    def order(self, command: Command, who: str, now: float) -> None:
        """An operator's command. Raises CommandRefused."""
        status = self.status
        if command is Command.RETRY:
            if status.is_active:
                raise CommandRefused(f"it is {status.phase.value}: only a rollout that is over can be begun anew")
            notices = status.notices
            self.status = self._begin(status.attempt + 1, now)
            self.status.notices = notices
            self._tell(now, "Retried", f"begun anew by {who}", by=who)
            return
        if not status.is_active:
            raise CommandRefused(f"it is {status.phase.value}, and over: retry begins it anew")
        if command is Command.PAUSE or command is Command.RESUME:
            if status.paused is (command is Command.PAUSE):
                raise CommandRefused("it is paused already" if status.paused else "it is not paused")
            status.paused = command is Command.PAUSE
            status.window_since = now
            reason = "Paused" if status.paused else "Resumed"
            self._tell(now, reason, f"by {who}, at {status.weight:g} %", by=who)
        elif command is Command.PROMOTE:
            self._promote(now, f"ordered by {who}", by=who)
        else:
            self._roll_back(now, f"ordered by {who}", by=who)

    @property
    def is_paused(self) -> bool:
        """By a command, or by the document."""
        return self.status.paused or self.spec.paused

    @property
    def is_measuring(self) -> bool:
        """Whether calls count: a window is open."""
        return self.status.phase is Phase.PROGRESSING and not self.is_paused

    # What follows

    def _take_step(self, step: int, now: float) -> None:
        status = self.status
        status.phase, status.step, status.weight = Phase.PROGRESSING, step, float(self.weights[step])
        status.passed, status.stalled, status.verdict = 0, False, None
        status.step_since = status.window_since = now
        status.evidence.begin_step()
        what = "Started" if step == 0 else "Advanced"
        self._tell(now, what, f"the candidate has {status.weight:g} % (step {step + 1} of {len(self.weights)})")

    def _pass(self, now: float) -> None:
        status = self.status
        status.passed += 1
        if status.gate is None and status.passed >= self.spec.analysis.step_windows:
            status.gate = Gate.PROMOTION if self._is_last else Gate.INCREASE

    @property
    def _is_last(self) -> bool:
        # The document may have fewer steps than when this one was taken.
        return self.status.step + 1 >= len(self.weights)

    def _hold(self, verdict: Verdict, now: float) -> None:
        status = self.status
        status.passed, status.gate = 0, None
        if now - status.step_since > self.spec.progress_deadline and not status.stalled:
            status.stalled = True
            why = "; ".join(verdict.reasons)
            self._tell(now, "Stalled", f"held at {status.weight:g} %: {why}", is_warning=True)

    def _fail(self, verdict: Verdict, before: Verdict | None, now: float) -> None:
        why = "; ".join(verdict.reasons)
        if self.spec.rollback.automatic:
            self._roll_back(now, why)
            return
        self.status.passed, self.status.gate = 0, None
        if before is None or before.outcome is not Outcome.FAIL:
            message = f"it would be rolled back, which is not automatic: {why}"
            self._tell(now, "RollbackAdvised", message, is_warning=True)

    def _promote(self, now: float, why: str, by: str = "") -> None:
        self._end(Phase.PROMOTED, 100.0)
        self._tell(now, "Promoted", f"the candidate has all calls: {why}", by=by)

    def _roll_back(self, now: float, why: str, by: str = "") -> None:
        self._end(Phase.ROLLED_BACK, 0.0)
        self._tell(now, "RolledBack", f"the stable version has all calls: {why}", is_warning=True, by=by)

    def _end(self, phase: Phase, weight: float) -> None:
        status = self.status
        status.phase, status.weight, status.gate = phase, weight, None
        status.paused = status.stalled = False

    def _tell(self, now: float, reason: str, message: str, *, is_warning: bool = False, by: str = "") -> None:
        notice = Notice(now, reason, message[:REASON_CHARACTERS], is_warning, by)
        self.news.append(notice)
        self.status.notices = [*self.status.notices, notice][-KEPT_NOTICES:]
