"""Has a model changed, without anybody having rolled out anything? One detector for each signal of a version.

    signal      level of one reading                                      matters from
    errors      share of calls that failed                                1 percentage point more
    upstream    geometric mean of what model server and network took      15 % and half a millisecond more
    proxy       the same of what the sidecar took                         the same
    nan         share of the answers that were read with NaN or infinity  1 percentage point more
    classes     how far their classes are from what they were             0.1 of PSI (`mix`)
    scores      the same of their scores                                  the same

**A reading** has at least `interval` and `LEAST_CALLS`; a model that is called less has larger readings, and one that
is hardly called has none: idle is no failure. How far it is from the last hours, from the same time of yesterday, and
of a week ago: the smallest is its height, so that neither the rhythm of a day, nor that of a week, nor yesterday's
trouble is news.

**Evidence.** A CUSUM (Page, 1954) for a shift of `SHIFT` standard deviations. What a standard deviation is, the heights
of the last day say by their quantiles, and the correlation of neighbours says how much a reading adds, as bad minutes
come together. How often it is wrong is not proven but simulated: docs/drift.md.

    state      until                                                      then
    LEARNING   there are `LEAST_READINGS`                                 STEADY
    STEADY     the sum reaches `LIMITS`, and the difference matters        RAISED
    RAISED     `CALM` readings in a row are within half of what matters   STEADY
               it has lasted for a day: that is what is normal now        LEARNING
    any        there was no reading for a day                             LEARNING

A change must not make itself normal while it is being found: as long as the sum is above 0 the last hours stay those of
before, and heights wait. Evidence of what does not matter is kept, as it may matter on average of the next hours: for
half a day (`LONGEST_RISE`), then it is what is normal. Heights that have raised the alarm are never learned. Pure:
`now` is an argument, seconds of a clock.
"""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from math import log, pi, sin
from typing import TYPE_CHECKING, Any

from meshproxy.rollout.history import History
from meshproxy.rollout.levels import Share, Times
from meshproxy.rollout.mix import Groups, Mix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.rollout.levels import Distance

DAY = 86_400.0
INTERVAL = 300.0
LEAST_CALLS = 200
"""Of one reading."""
LONGEST = 24
"""Intervals after which a reading that still has too few calls is dropped."""
LEAST_READINGS = 36
MOST_READINGS = 288
"""Whose heights are remembered: a day of five minutes each."""
SLOT = 3
"""Intervals of a slot of the `History`: a quarter of an hour."""
RECENT, LEAST_RECENT = 36, 6
"""The last hours: intervals (three hours), and readings where these are longer."""
SHIFT = 2.0
"""Standard deviations: what is looked for."""
MOST_ADDED = 2.6
"""By one reading: it takes five, seven of errors, however far out they are."""
LONGEST_RISE = 144
"""Readings for which the sum may be above 0: half a day of five minutes each."""
LATELY = 36
"""Readings: a difference that matters on average of those is not diluted by what was before."""
CALM = 3
MOST_CORRELATED = 0.85
"""Neighbours of which each is a twelfth of news."""
LEAST_SECONDS = 0.000_5
"""Less is not worth an alarm, whatever its ratio is."""


class Signal(Enum):
    """What is watched; the value is the label of the metrics."""

    ERRORS = "errors"
    UPSTREAM = "upstream"
    PROXY = "proxy"
    NAN = "nan"
    CLASSES = "classes"
    SCORES = "scores"


class State(Enum):
    """The table above."""

    LEARNING = "learning"
    STEADY = "steady"
    RAISED = "raised"


OF_CALLS = (Signal.ERRORS, Signal.UPSTREAM, Signal.PROXY)
OF_ANSWERS = (Signal.NAN, Signal.CLASSES, Signal.SCORES)
"""Known only where answers are read."""
MIXES = frozenset({Signal.CLASSES, Signal.SCORES})
LIMITS = dict.fromkeys(Signal, 12.0) | {Signal.ERRORS: 18.0}
"""Of the sum. Failures come in bursts, and raised three of four false alarms at 12 (decision 37)."""
MATTERS = {
    Signal.ERRORS: 0.01,
    Signal.UPSTREAM: log(1.15),
    Signal.PROXY: log(1.15),
    Signal.NAN: 0.01,
    Signal.CLASSES: 0.1,
    Signal.SCORES: 0.1,
}
"""The heights that matter, on average of the readings since the sum began to rise, or of the last `LATELY`."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a detector says."""

    state: State = State.LEARNING
    since: float = 0.0
    """When it was raised; 0: it is not."""
    level: float | None = None
    """Of the last reading: a share, seconds, or a PSI; None: there was none."""
    expected: float | None = None
    """What that was compared with."""


class Detector:
    """One signal of one version of a model.

    Args:
        signal: which.
        interval: seconds of a reading, at least.

    Attributes:
        reading: what is counted now; `look` takes it.
        found: what came of those before.
    """

    __slots__ = (
        "_began", "_calm", "_groups", "_heights", "_history", "_interval", "_last", "_lately", "_normal", "_risen",
        "_risen_readings", "_sum", "_waiting", "found", "reading", "signal",
    )  # fmt: skip

    def __init__(self, signal: Signal, interval: float = INTERVAL) -> None:
        self.signal = signal
        self._interval = interval
        self._groups = Groups(ordered=signal is Signal.SCORES)
        self.reading: Share | Times | Mix = self._new()
        self._began: float | None = None
        """Of the reading."""
        self._learn_anew()

    def _new(self) -> Share | Times | Mix:
        if self.signal in MIXES:
            return Mix(self._groups)
        return Times() if self.signal in (Signal.UPSTREAM, Signal.PROXY) else Share()

    def _learn_anew(self) -> None:
        self.found = Found()
        self._groups.forget()
        self._last = 0.0
        """When the last reading ended."""
        self._history = History(SLOT * self._interval, has_numbers=self.signal not in MIXES)
        self._normal: deque[tuple[float, Any]] = deque(maxlen=RECENT)
        """The last of them that are learned."""
        self._heights = array("f")
        """Those that are learned, as scores (`levels.Distance`)."""
        self._waiting: deque[float] = deque(maxlen=MOST_READINGS)
        """Those that are not yet."""
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._sum = self._risen = 0.0
        """The CUSUM, and the sum of the heights since that is above 0."""
        self._risen_readings = self._calm = 0
        self._lately: deque[float] = deque(maxlen=LATELY)
        """The last of those heights."""

    def look(self, now: float) -> bool:
        """Take the reading if it is complete. Returns whether it has raised the alarm, or ended it."""
        if self._began is None or now < self._began:
            self._began = now  # the first time, or the clock was set back
        age, was_raised = now - self._began, self.found.state is State.RAISED
        if self._last and not 0 <= now - self._last < DAY:
            self._learn_anew()
        elif age >= self._interval and self.reading.size >= LEAST_CALLS:
            self._take(now)
        elif age < LONGEST * self._interval:
            return False
        self.reading, self._began = self._new(), now
        return was_raised is not (self.found.state is State.RAISED)

    def _take(self, now: float) -> None:
        reading, state, since = self.reading, self.found.state, self.found.since
        self._last = now
        references = self._references(now)
        if not references:
            self._history.add(now, reading.cell)
            self._normal.append((now, reading.cell))
            return
        distance = min((reading.against(cells) for cells in references), key=lambda each: (each.height, each.score))
        if state is State.STEADY and self._is_raised_by(distance):
            state, since = State.RAISED, now
        elif state is State.RAISED:
            self._calm = self._calm + 1 if distance.height < MATTERS[self.signal] / 2 else 0
            if self._calm >= CALM:
                state, since = State.STEADY, 0.0
                self._waiting.clear()
                self._begin_anew()
            elif now - since >= DAY:
                self._learn_anew()
                return
        self._history.add(now, reading.cell)
        self._waiting.append(distance.score)
        if not self._sum and state is not State.RAISED:
            self._normal.append((now, reading.cell))
            self._learn()
            if len(self._heights) >= LEAST_READINGS:
                state = State.STEADY
        self.found = Found(state, since, distance.level, distance.expected)

    def _learn(self) -> None:
        self._heights.extend(self._waiting)
        self._waiting.clear()
        del self._heights[:-MOST_READINGS]

    def _is_raised_by(self, distance: Distance) -> bool:
        middle, deviation, news = habits(self._heights)
        away = (distance.score - middle) / deviation
        self._sum += min(news * SHIFT * (away - SHIFT / 2), MOST_ADDED)
        if self._sum <= 0:
            self._begin_anew()
            return False
        limit = LIMITS[self.signal]
        self._sum = min(self._sum, limit + MOST_ADDED)  # what is over is not held against it for long
        self._risen += distance.height
        self._risen_readings += 1
        self._lately.append(distance.height)
        if self._sum >= limit and self._matters(distance):
            return True
        if self._risen_readings >= LONGEST_RISE:
            self._begin_anew()
        return False

    def _matters(self, distance: Distance) -> bool:
        height = self._risen / self._risen_readings
        if len(self._lately) == LATELY:
            height = max(height, sum(self._lately) / LATELY)
        least = LEAST_SECONDS if self.signal in (Signal.UPSTREAM, Signal.PROXY) else 0.0
        return height >= MATTERS[self.signal] and distance.level - distance.expected >= least

    def _references(self, now: float) -> list[list[Any]]:
        """The last hours that were learned, and the same time of yesterday and of a week ago, where there are readings
        of then: what was not learned yesterday, as it was a change, is none today."""
        # Not until now: while nothing is learned, they stay the same hours.
        last = self._normal[-1][0] if self._normal else now
        recent = [cell for at, cell in self._normal if at > last - RECENT * self._interval]
        if len(recent) < LEAST_RECENT:
            recent = [cell for _, cell in list(self._normal)[-LEAST_RECENT:]]
        before = (self._history.around(now - days * DAY) for days in (1, 7))
        return [cells for cells in (recent, *before) if len(cells) >= LEAST_RECENT // 2]


def habits(heights: Sequence[float]) -> tuple[float, float, float]:
    """What the heights of the last readings are like.

    Returns:
        Their median, their standard deviation by quantiles (the wider one of the middle and of the upper tail, so that
        a heavy tail counts), and how much of a new reading is news where bad readings come together:
        (1 - r) / (1 + r) for a correlation r of neighbours, as for the mean of a series. That is taken from signs,
        which outliers do not move.
    """
    ordered = sorted(heights)
    count = len(ordered)
    middle = ordered[count // 2]
    body = (ordered[count * 84 // 100] - ordered[count * 16 // 100]) / 2
    tail = (ordered[count * 39 // 40] - middle) / 1.96
    signs = [(each > middle) - (each < middle) for each in heights]
    alike = sum(sign * after for sign, after in pairwise(signs)) / (count - 1)
    correlation = min(max(0.0, sin(pi / 2 * alike)), MOST_CORRELATED)
    return middle, max(body, tail, 1.0), (1 - correlation) / (1 + correlation)
