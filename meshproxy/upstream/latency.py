"""The median latency of one model, and whether a call's remaining deadline is too short for it."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from math import inf

KEPT = 64
"""Responses of the median. Few, so that it follows a server that has become fast again after half of them, as refused
calls measure nothing. About 6 KB for each model."""
ENOUGH = 20
"""Responses below which there is no median."""
REMEMBERED = 60.0
"""Seconds after which a response no longer counts."""
ONE_IN = 20
PROBE_SECONDS = 1.0
"""Of the calls to refuse, one in `ONE_IN`, and one each `PROBE_SECONDS`, is let through: if all were refused, it would
never be noticed that the model has become faster."""


class Latency:
    """The exact median of the last response times of one model."""

    __slots__ = ("_answers", "_last_let", "_refused", "_sorted")

    def __init__(self) -> None:
        self._answers: deque[tuple[float, float]] = deque()
        """Time of arrival and latency of each response; the oldest first."""
        self._sorted: list[float] = []
        self._refused = 0
        self._last_let = -inf

    def add(self, seconds: float, now: float) -> None:
        """Add the latency of a response; not of an aborted call. Costs 0.3 us: a short sorted list is searched and
        moved in C."""
        ordered = self._sorted
        if len(ordered) == KEPT:
            del ordered[bisect_left(ordered, self._answers.popleft()[1])]
        self._answers.append((now, seconds))
        insort(ordered, seconds)

    def p50(self, now: float) -> float:
        """The median in seconds; 0.0 with fewer than 20 responses in the last 60 seconds."""
        ordered = self._sorted
        oldest = now - REMEMBERED
        while ordered and self._answers[0][0] < oldest:
            del ordered[bisect_left(ordered, self._answers.popleft()[1])]
        count = len(ordered)
        return ordered[count >> 1] if count >= ENOUGH else 0.0

    def should_refuse(self, remaining: float, now: float) -> bool:
        """Whether a call with `remaining` seconds left would probably miss its deadline. Costs 0.1 us.

        Some of those are let through, so that a wrong median is noticed; never one without time left.
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
