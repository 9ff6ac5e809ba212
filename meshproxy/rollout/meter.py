"""What the two arms of one rollout do at one sidecar, call by call: windows, warm-up, and the fast kill.

A call of an arm is one that its server answered or failed to answer: not what the sidecar refused by itself, nor what
the caller gave up. The latency is that of the model server: from the request, written, to the response's head.
"""

from __future__ import annotations

from math import log
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
LONGEST_SETTLING = 10
"""Times the calls of the warm-up: what is not settled then is how the version is, and is judged."""
LEAST_SETTLING = 10
"""Calls of a warm-up: the halves of a shorter one say nothing of whether the latency has settled."""
STILL_FASTER = log(1.25)
"""Between two halves. Of ten calls each, chance alone makes such a difference once in nine."""
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

    __slots__ = ("calls", "first", "is_warm", "settling", "window")

    def __init__(self, warm_up: WarmUp) -> None:
        self.window = ArmWindow()
        self.is_warm = not warm_up.calls and not warm_up.duration
        self.calls = 0
        """In the warm-up."""
        self.first = 0.0
        """When the first one ended."""
        self.settling = Settling(warm_up.calls)

    def warms_up(self, length: WarmUp, now: float, seconds: float) -> bool:
        """Whether the call that ends now is one of the warm-up. `seconds`: that it took; 0: it says nothing of that."""
        if self.calls and self.calls >= length.calls and now - self.first >= length.duration:
            self.is_warm = self.settling.is_over or self.calls >= LONGEST_SETTLING * length.calls
            if self.is_warm:
                return False
        if not self.calls:
            self.first = now
        self.calls += 1
        if seconds > 0:
            self.settling.add(seconds)
        return True


class Settling:
    """Whether calls still become faster: of each half of the warm-up the geometric mean, which no single call moves.

    Args:
        calls: of the warm-up.

    Attributes:
        is_over: the last half was about as slow as the one before.
    """

    __slots__ = ("_before", "_count", "_half", "_sum", "is_over")

    def __init__(self, calls: int) -> None:
        self._half = max(calls // 2, 1)
        self._before: float | None = None
        self._sum = 0.0
        self._count = 0
        self.is_over = calls < LEAST_SETTLING

    def add(self, seconds: float) -> None:
        """A call took so long; above 0."""
        if self.is_over:
            return
        self._sum += log(seconds)
        self._count += 1
        if self._count == self._half:
            mean, before = self._sum / self._count, self._before
            self.is_over = before is not None and mean >= before - STILL_FASTER
            self._before, self._sum, self._count = mean, 0.0, 0


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
        self._arms = (_Measured(warm_up), _Measured(warm_up))

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
        arm, seconds = self._arms[is_candidate], exchange.first_byte - exchange.connected
        if not arm.is_warm:
            is_timed = kind == GOOD and exchange.connected
            if arm.warms_up(self._warm_up, self._now(), seconds if is_timed else 0.0):
                return
        window = arm.window
        window.calls += 1
        if kind != GOOD:
            window.failures[kind] = window.failures.get(kind, 0) + 1
            return
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
