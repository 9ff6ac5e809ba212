"""Detects that a level has risen: a one-sided CUSUM (Page, 1954) on readings against their own recent past.

    state      until                                                          then
    LEARNING   there are `LEAST_READINGS`                                     STEADY
    STEADY     the sum of what is above the expected level reaches `LIMIT`    RAISED
    RAISED     the sum is back at zero                                        STEADY
               it has lasted for `MOST_RAISED` seconds: the new level         LEARNING

The expected level is the median of the last hour's readings: it follows the rhythm of a day, and with it a rise that
takes hours, which is not detected. What a reading is above it counts in *units*: the unit is
what is worth an alarm and more than the noise, see `Expected.unit`. A reading adds its height, less one unit, and at
most `MOST_ADDED`, so that it takes three to raise the alarm, however far out they are: when everything stands still for
a moment, or a call of a heavy tail is in it, one reading is, and now and then two are. While RAISED nothing is learned.

A rise of two units is detected by the fifth reading after it, one of three units and more by the third. How often a
healthy day raises it, and what is found how fast: docs/hop-lag.md. Pure: the time is an argument.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

WINDOW = 3_600.0
"""Seconds of readings that the expected level and the noise are taken from."""
LEAST_READINGS = 20
"""More than there are in a window, where readings are rare: then they are older."""
MOST_READINGS = 240
LIMIT = 5.0
MOST_ADDED = 2.0
MOST_SUM = 8.0
"""The alarm ends at most eight normal readings after the level is back."""
MOST_RAISED = 86_400.0

LEAST_UNIT = 0.000_5
"""Seconds: less is not worth an alarm."""
SHARE_OF_LEVEL = 0.25
SHARE_OF_WHOLE = 0.02
DEVIATIONS = 3.0
QUARTILES = 1.349
"""Standard deviations of normal noise between its first and its third quartile."""


class State(Enum):
    """The table above; the value is in logs."""

    LEARNING = "learning"
    STEADY = "steady"
    RAISED = "raised"


@dataclass(frozen=True, slots=True)
class Expected:
    """What is normal, as learned from the last readings. Seconds."""

    level: float
    """The median."""
    noise: float
    """The standard deviation, from the quartiles: outliers do not move it."""

    def unit(self, whole: float) -> float:
        """What counts as one step of a rise: half a millisecond, a quarter of the level, a fiftieth of what a call
        takes in all, or three standard deviations, whichever is most. `whole`: seconds of a call."""
        return max(LEAST_UNIT, SHARE_OF_LEVEL * self.level, SHARE_OF_WHOLE * whole, DEVIATIONS * self.noise)


class ChangeDetector:
    """The detector of one level."""

    def __init__(self) -> None:
        self.state = State.LEARNING
        self.expected: Expected | None = None
        """None before the first reading."""
        self.since = 0.0
        """When it was raised."""
        self._sum = 0.0
        self._readings: deque[tuple[float, float]] = deque(maxlen=MOST_READINGS)
        """Each with its time."""

    def add(self, value: float, whole: float, now: float) -> State:
        """Take one reading.

        Args:
            value: the level, in seconds.
            whole: what it is a part of, in seconds.
            now: seconds.
        """
        if self.state is State.LEARNING:
            self._learn(value, now)
            if len(self._readings) >= LEAST_READINGS:
                self.state = State.STEADY
            return self.state
        expected = self.expected
        assert expected is not None
        added = (value - expected.level) / expected.unit(whole) - 1.0
        self._sum = min(max(0.0, self._sum + min(added, MOST_ADDED)), MOST_SUM)
        if self.state is State.STEADY:
            if self._sum >= LIMIT:
                self.state = State.RAISED
                self.since = now
            else:
                self._learn(value, now)
        elif not self._sum:
            self.state = State.STEADY
        elif now - self.since >= MOST_RAISED:
            self._forget()
        return self.state

    def _learn(self, value: float, now: float) -> None:
        readings = self._readings
        readings.append((now, value))
        while len(readings) > LEAST_READINGS and readings[0][0] < now - WINDOW:
            readings.popleft()
        ordered = sorted(each for _, each in readings)
        count = len(ordered)
        noise = (ordered[count * 3 // 4] - ordered[count // 4]) / QUARTILES
        self.expected = Expected(ordered[count // 2], noise)

    def _forget(self) -> None:
        """The level of the last day is what is normal now."""
        self.state = State.LEARNING
        self.expected = None
        self._sum = 0.0
        self._readings.clear()
