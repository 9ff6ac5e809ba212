"""How long one model usually takes, as of late; and whether a call has too little time left to be worth making."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from math import inf

KEPT = 64
"""Answers that the median is taken of. Few, so that a server that has become fast again is believed after half of them:
those who were refused meanwhile brought no news. About 6 KB for each model."""
ENOUGH = 20
"""Fewer say nothing."""
REMEMBERED = 60.0
"""Seconds after which an answer no longer counts."""
ONE_IN = 20
PROBE_SECONDS = 1.0
"""Of the calls that had better be refused, one in so many, and one in so many seconds, goes through: if all were
refused, nobody would learn that the model has become faster."""


class Latency:
    """The median of the last answers of one model, exact."""

    __slots__ = ("_answers", "_last_let", "_refused", "_sorted")

    def __init__(self) -> None:
        self._answers: deque[tuple[float, float]] = deque()
        """When each came, and after how many seconds; the oldest first."""
        self._sorted: list[float] = []
        self._refused = 0
        self._last_let = -inf

    def add(self, seconds: float, now: float) -> None:
        """An answer came after `seconds`. What was broken off before says nothing and does not belong here. Costs
        0.3 us: a place in a short sorted list is found and moved in C."""
        ordered = self._sorted
        if len(ordered) == KEPT:
            del ordered[bisect_left(ordered, self._answers.popleft()[1])]
        self._answers.append((now, seconds))
        insort(ordered, seconds)

    def p50(self, now: float) -> float:
        """Seconds; 0.0 as long as fewer than 20 answers of the last 60 seconds are known."""
        ordered = self._sorted
        oldest = now - REMEMBERED
        while ordered and self._answers[0][0] < oldest:
            del ordered[bisect_left(ordered, self._answers.popleft()[1])]
        count = len(ordered)
        return ordered[count >> 1] if count >= ENOUGH else 0.0

    def should_refuse(self, remaining: float, now: float) -> bool:
        """Whether a call that has `remaining` seconds left would most likely come too late. Costs 0.1 us.

        Some of those that would are let through all the same, so that it finds out when it is wrong; never one that has
        no time left at all.
        """
        if remaining <= 0.0:
            return True
        ordered = self._sorted
        # No less than the slowest of them is no less than the median: most calls need not ask for that.
        if not ordered or remaining >= ordered[-1] or remaining >= self.p50(now):
            return False
        self._refused += 1
        if self._refused < ONE_IN and now - self._last_let < PROBE_SECONDS:
            return True
        self._refused = 0
        self._last_let = now
        return False
