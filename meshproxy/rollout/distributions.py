"""Do both arms answer alike? Compares classes, scores and sizes of answers, group by group.

A window's answers fall into the same groups in both arms. From the windows before, the shares of the groups are known
for the candidate, c, the stable version, s, and both together, b. The factor of this window is
prod (c/b)^(candidate's counts) * prod (s/b)^(stable version's counts): how much better two distributions say what was
seen than one. Without a difference it is at most 1 on average, whatever the common distribution is and however it moves
over the day (Turner, Ly and Gruenwald, arXiv 2106.02693). The first window only teaches.

How large a difference is, is said by the population stability index (PSI): below 0.1 none, above 0.25 significant.
"""

from __future__ import annotations

from bisect import bisect_left
from math import log
from typing import TYPE_CHECKING

import msgspec

from meshproxy.rollout.evidence import Evidence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GROUPS = 10
"""Of numbers in order: about equally large ones, as is usual for the PSI."""
CLASSES = 15
"""Of classes: the most frequent ones, and all others together."""
KEPT = 0.8
"""Of what was learned, from window to window: the last five or so count."""
LEAST_ANSWERS = 20
"""Of each arm, before the groups are made."""
PRIOR = 0.5
"""Added to each count (Jeffreys), so that nothing is impossible."""


class Distributions(msgspec.Struct):
    """Of both arms, and the evidence that they differ. Kept over restarts."""

    ordered: bool = True
    """Whether neighbours are alike: scores and sizes, not classes."""
    ends: list[int] = []
    """Of ordered ones, the last bin of each group but the last group. Made of the first window, as the next."""
    classes: list[int] = []
    """Of others, the bins that are a group each."""
    candidate: list[float] = []
    stable: list[float] = []
    evidence: Evidence = msgspec.field(default_factory=Evidence)

    def add(self, candidate: Mapping[int, int], stable: Mapping[int, int]) -> bool:
        """Takes one window: answers by bin. Returns whether they were compared, and did not only teach."""
        if not self.candidate:
            if min(sum(candidate.values()), sum(stable.values())) < LEAST_ANSWERS:
                return False
            self._make_groups(candidate, stable)
        new, new_stable = self._grouped(candidate), self._grouped(stable)
        compared = bool(sum(self.candidate) and sum(new) and sum(new_stable))
        if compared:
            self.evidence.add((self._factor(new, new_stable),))
        self.candidate = [KEPT * before + count for before, count in zip(self.candidate, new, strict=True)]
        self.stable = [KEPT * before + count for before, count in zip(self.stable, new_stable, strict=True)]
        return compared

    def _make_groups(self, candidate: Mapping[int, int], stable: Mapping[int, int]) -> None:
        """Both arms weigh the same, however many calls each has."""
        weight, other_weight = 1 / sum(candidate.values()), 1 / sum(stable.values())
        shares = {
            number: (candidate.get(number, 0) * weight + stable.get(number, 0) * other_weight) / 2
            for number in sorted(candidate.keys() | stable.keys())
        }
        if self.ordered:
            self.ends = ends_of_groups(shares, 1.0)
        else:
            self.classes = most_frequent(shares)
        groups = len(self.ends) + len(self.classes) + 1
        self.candidate = [0.0] * groups
        self.stable = [0.0] * groups

    def _grouped(self, counts: Mapping[int, int]) -> list[int]:
        groups = [0] * len(self.candidate)
        for number, count in counts.items():
            if number in self.classes:
                groups[self.classes.index(number)] += count
            else:
                groups[len(self.classes) + bisect_left(self.ends, number)] += count
        return groups

    def _factor(self, new: Sequence[int], new_stable: Sequence[int]) -> float:
        calls, others = sum(new), sum(new_stable)
        factor = 0.0
        for share, other, count, count_stable in zip(
            _shares(self.candidate), _shares(self.stable), new, new_stable, strict=True
        ):
            both = (calls * share + others * other) / (calls + others)
            factor += count * log(share / both) + count_stable * log(other / both)
        return factor

    @property
    def psi(self) -> float:
        """The population stability index of the last windows; 0 before there are any."""
        if not self.candidate:
            return 0.0
        return sum(
            (share - other) * log(share / other)
            for share, other in zip(_shares(self.candidate), _shares(self.stable), strict=True)
        )


def ends_of_groups(weights: Mapping[int, float], total: float) -> list[int]:
    """The last bin of each group but the last one, of `GROUPS` that are about equally large.

    Args:
        weights: by bin, ascending.
        total: of the weights.
    """
    ends, weight = [], 0.0
    for number in list(weights)[:-1]:
        weight += weights[number]
        if weight >= total / GROUPS:
            ends.append(number)
            weight = 0.0
    return ends


def most_frequent(weights: Mapping[int, float]) -> list[int]:
    """The bins of the `CLASSES` largest weights, the largest first. `weights`: by bin, ascending."""
    return sorted(weights, key=lambda number: -weights[number])[:CLASSES]


def _shares(counts: Sequence[float]) -> list[float]:
    total = sum(counts) + PRIOR * len(counts)
    return [(count + PRIOR) / total for count in counts]
