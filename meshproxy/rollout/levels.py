"""What is counted of a model in some minutes, and how far it is from what was counted before. For `drift`.

Both kinds add up counts, say how many calls they are of (`size`), leave one number for the history (`cell`), and
compare themselves with such numbers (`against`): with their median, so that bad minutes among good ones do not count.
Pure.
"""

from __future__ import annotations

from math import exp, log, sqrt
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from meshproxy.telemetry.quantiles import BOUNDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT_NOISE = 0.01
TIME_NOISE = log(1.03)
"""Differences that are no news, however exactly they are measured. Without them a model with many calls would have a
noise of its own by day, and another one by night."""
LOGARITHMS = tuple(log(bound / 1.1**0.5) for bound in (*BOUNDS, BOUNDS[-1] * 1.1))
"""Of the seconds in the middle of each bucket of `telemetry.quantiles`."""


class Distance(NamedTuple):
    """How far a reading is from what was before."""

    height: float
    """Above it: a difference of shares, or of natural logarithms of seconds."""
    score: float
    """The same in standard deviations that it would have by chance alone."""
    expected: float
    """What was before: a share, or seconds."""
    level: float
    """What is now."""


class Share:
    """How many of some calls failed."""

    def __init__(self) -> None:
        self.failed = 0
        self.size = 0

    def add(self, failed: int, calls: int) -> None:
        """Count `calls` more, of which `failed` did."""
        self.failed += failed
        self.size += calls

    @property
    def level(self) -> float:
        """The share."""
        return self.failed / self.size

    @property
    def cell(self) -> float:
        """The same."""
        return self.level

    def against(self, cells: Sequence[float]) -> Distance:
        """From the median of the cells, of which there are some. The score is one of roots: their noise is 1 / (4 n),
        whatever the share is."""
        expected = median(cells)
        score = (sqrt(self.level) - sqrt(expected)) / sqrt(0.25 / self.size + ROOT_NOISE**2)
        return Distance(self.level - expected, score, expected, self.level)


class Times:
    """How long some calls took: the mean of the logarithms, which a single call of any length hardly moves."""

    def __init__(self) -> None:
        self.size = 0
        self._counts: dict[int, int] = {}

    def add(self, counts: Mapping[int, int]) -> None:
        """Count calls by bucket of `telemetry.quantiles`."""
        into = self._counts
        for bucket, count in counts.items():
            into[bucket] = into.get(bucket, 0) + count
        self.size += sum(counts.values())

    @property
    def level(self) -> float:
        """The geometric mean, in seconds."""
        return exp(self.cell)

    @property
    def cell(self) -> float:
        """Its logarithm."""
        return sum(count * _logarithm(bucket) for bucket, count in self._counts.items()) / self.size

    def against(self, cells: Sequence[float]) -> Distance:
        """From the median of the cells, of which there are some."""
        expected, mean = median(cells), self.cell
        squares = sum(count * (_logarithm(bucket) - mean) ** 2 for bucket, count in self._counts.items())
        score = (mean - expected) / sqrt(squares / self.size**2 + TIME_NOISE**2)
        return Distance(mean - expected, score, exp(expected), exp(mean))


def _logarithm(bucket: int) -> float:
    return LOGARITHMS[min(bucket, len(LOGARITHMS) - 1)]
