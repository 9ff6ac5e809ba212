"""How the answers of a model spread over classes, or over the scale of its scores. For `drift`, beside `levels`.

The bins of `window` are too many to be compared each by itself. The first reading makes groups of them, and all later
ones are cut in the same way, so that one of them leaves a dozen numbers for the history.

How far two such spreads are apart is said as a population stability index (PSI): below 0.1 none, above 0.25 much. It is
taken from the square roots of the shares, 4 * sum (sqrt(p) - sqrt(q))^2, which is the same for small differences, has
the same noise in each group whatever its share is, and stays finite where a group is empty. Pure.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from math import sqrt
from statistics import median
from typing import TYPE_CHECKING

from meshproxy.rollout.distributions import ends_of_groups, most_frequent
from meshproxy.rollout.levels import ROOT_NOISE, Distance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Groups:
    """Which bins are one. Empty until the first reading has been taken.

    Args:
        ordered: whether neighbours are alike: scores, not classes.
    """

    __slots__ = ("_classes", "_ends", "count", "ordered")

    def __init__(self, *, ordered: bool) -> None:
        self.ordered = ordered
        self._ends: list[int] = []
        """Of scores: the last bin of each group but the last one."""
        self._classes: dict[int, int] = {}
        """Of classes: bin -> group; the last group has the others."""
        self.count = 0

    def forget(self) -> None:
        """The next reading is the first one."""
        self.count = 0

    def make(self, counts: Mapping[int, int]) -> None:
        """Of a first reading. What it never was has a group of its own: below, above, another class."""
        counts = dict(sorted(counts.items()))
        if self.ordered:
            self._ends = [min(counts) - 1, *ends_of_groups(counts, sum(counts.values())), max(counts)]
            self.count = len(self._ends) + 1
        else:
            often = most_frequent(counts)
            self._classes = {number: place for place, number in enumerate(often)}
            self.count = len(often) + 1

    def cut(self, counts: Mapping[int, int]) -> array[float]:
        """The share of each group."""
        found = [0] * self.count
        for number, count in counts.items():
            place = bisect_left(self._ends, number) if self.ordered else self._classes.get(number, self.count - 1)
            found[place] += count
        total = sum(found)
        return array("f", [count / total for count in found])


class Mix:
    """Some answers by bin.

    Args:
        groups: those of the readings before.
    """

    def __init__(self, groups: Groups) -> None:
        self.size = 0
        self._counts: dict[int, int] = {}
        self._groups = groups

    def add(self, counts: Mapping[int, int]) -> None:
        """Count answers by `window.class_bin` or `window.score_bin`."""
        into = self._counts
        for number, count in counts.items():
            into[number] = into.get(number, 0) + count
        self.size += sum(counts.values())

    @property
    def cell(self) -> array[float]:
        """The share of each group. The first reading makes the groups."""
        if not self._groups.count:
            self._groups.make(self._counts)
        return self._groups.cut(self._counts)

    def against(self, cells: Sequence[Sequence[float]]) -> Distance:
        """From the medians of the cells, of which there are some. The height is the PSI beyond what it is by chance,
        and so is the level. The score: twice the sum of squares is nearly that of a normal distribution (Fisher)."""
        shares = self.cell
        middle = [median(column) for column in zip(*cells, strict=True)]
        total = sum(middle) or 1.0
        squares = sum((sqrt(share) - sqrt(other / total)) ** 2 for share, other in zip(shares, middle, strict=True))
        free = self._groups.count - 1
        height = max(0.0, 4 * squares - free / self.size)
        score = sqrt(2 * squares / (0.25 / self.size + ROOT_NOISE**2)) - sqrt(2 * free - 1)
        return Distance(height, score, 0.0, height)
