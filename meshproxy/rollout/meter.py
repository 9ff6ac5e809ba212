"""What the two arms of one rollout do at one sidecar, call by call: windows, warm-up, and the fast kill.

A call of an arm is one that its server answered or failed to answer: not what the sidecar refused by itself, nor what
the caller gave up. The latency is that of the model server: from the request, written, to the response's head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.proxy.exchange import NO_FLAGS, ResponseFlags
from meshproxy.refusal import Reason
from meshproxy.rollout.fast_kill import FastKill
from meshproxy.rollout.window import (
    BROKEN,
    ArmWindow,
    Blame,
    blame,
    bucket,
    class_bin,
    grpc_kind,
    rest_kind,
    score_bin,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.config.rollouts import WarmUp
    from meshproxy.inference.surface import Signals
    from meshproxy.proxy.exchange import Exchange
    from meshproxy.rollout.analysis import FastKillSettings

READING = 20
"""Reading answers takes at most one part in so many of the time."""
GOOD = ""
"""The kind of a call that did not fail."""

_LEFT = ResponseFlags.DC | ResponseFlags.DT
_UPSTREAM = frozenset(
    {
        Reason.NO_UPSTREAM, Reason.CONNECT_FAILED, Reason.UPSTREAM_RESET, Reason.UPSTREAM_TIMEOUT,
        Reason.UPSTREAM_PROTOCOL,
    }
)  # fmt: skip


def kind_of(exchange: Exchange, is_whole: bool) -> str | None:
    """`GOOD`, or the kind of a failure (`window`); None: it is no call of an arm."""
    if exchange.flags is not NO_FLAGS and exchange.flags & _LEFT:
        return None
    refusal = exchange.refusal
    if refusal is not None:
        if refusal.reason in _UPSTREAM:
            return BROKEN
        # The arm had the call when its time was over; before that it was ours.
        return BROKEN if refusal.reason is Reason.DEADLINE_EXCEEDED and exchange.connected else None
    if not exchange.status:
        return None
    if exchange.is_grpc and exchange.grpc_status:
        return grpc_kind(exchange.grpc_status)
    if exchange.status >= 400:
        return rest_kind(exchange.status)
    return GOOD if is_whole and (not exchange.is_grpc or exchange.grpc_status == 0) else BROKEN


class _Measured:
    """One arm."""

    __slots__ = ("calls", "first", "window")

    def __init__(self) -> None:
        self.window = ArmWindow()
        self.calls = 0
        """With those of the warm-up."""
        self.first = 0.0
        """When the first one ended."""


class Meter:
    """Measures one rollout (`proxy.ports.Meter`). 2 us a call, and what reading an answer takes.

    Args:
        tripped: called with the reason when the candidate is to be taken out at once.
        now: seconds; any clock that does not jump.
        cpu_time: seconds of processor time that this thread has used.
    """

    __slots__ = ("_arms", "_cpu_time", "_kill", "_now", "_reads_again", "_tripped", "_warm_up")

    def __init__(
        self,
        warm_up: WarmUp,
        fast_kill: FastKillSettings,
        tripped: Callable[[str], None],
        now: Callable[[], float],
        cpu_time: Callable[[], float],
    ) -> None:
        self._warm_up = warm_up
        self._kill = FastKill(fast_kill)
        self._tripped = tripped
        self._now = now
        self._cpu_time = cpu_time
        self._reads_again = 0.0
        self._arms = (_Measured(), _Measured())

    def take(self) -> tuple[ArmWindow, ArmWindow]:
        """What stable version and candidate have done since the last call."""
        stable, candidate = (arm.window for arm in self._arms)
        for arm in self._arms:
            arm.window = ArmWindow()
        return stable, candidate

    def wants_answer(self, now: float) -> bool:
        """As in `proxy.ports.Meter`."""
        return now >= self._reads_again

    def compared(self, agrees: bool) -> None:
        """As in `proxy.ports.Meter`."""
        window = self._arms[True].window
        window.shadows += 1
        window.disagreements += not agrees

    def ended(
        self,
        exchange: Exchange,
        is_candidate: bool,
        examples: int,
        size: int,
        read: Callable[[], Signals | None] | None,
    ) -> None:
        """As in `proxy.ports.Meter`."""
        kind = kind_of(exchange, size >= 0)
        if kind is None:
            return
        has_failed = kind != GOOD and blame(kind) is Blame.ARM
        # What fails from its first call on must not be protected by its warm-up.
        if not is_candidate:
            self._kill.add_stable(has_failed)
        elif self._kill.add_candidate(has_failed):
            self._tripped(f"a burst of failures of the candidate, the last one: {kind}")
        now, arm = self._now(), self._arms[is_candidate]
        arm.calls += 1
        if not arm.first:
            arm.first = now
        if arm.calls <= self._warm_up.calls or now - arm.first < self._warm_up.duration:
            return
        window = arm.window
        window.calls += 1
        if kind != GOOD:
            window.failures[kind] = window.failures.get(kind, 0) + 1
            return
        seconds = exchange.first_byte - exchange.connected
        if exchange.connected and seconds >= 0:
            _count(window.latency, bucket(seconds))
            if examples:
                window.examples += examples
                _count(window.latency_per_example, bucket(seconds / examples))
        _count(window.sizes, bucket(float(size)))
        if read is not None:
            self._read(window, read)

    def _read(self, window: ArmWindow, read: Callable[[], Signals | None]) -> None:
        began = self._cpu_time()
        signals = read()
        self._reads_again = self._now() + (self._cpu_time() - began) * (READING - 1)
        if signals is None:
            return
        window.answers += 1
        window.nan_answers += signals.nan_values > 0
        window.values += signals.values
        window.nan_values += signals.nan_values
        count_outputs(signals, window.classes, window.scores)


def count_outputs(signals: Signals, classes: dict[int, int], scores: dict[int, int]) -> None:
    """Count the class and the score of an answer, where it has them."""
    if signals.top is not None:
        _count(classes, class_bin(signals.top))
    if signals.score is not None:
        _count(scores, score_bin(signals.score))


def _count(counts: dict[int, int], key: int) -> None:
    counts[key] = counts.get(key, 0) + 1
