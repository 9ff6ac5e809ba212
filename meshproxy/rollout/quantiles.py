"""Is one arm slower than the other? From the histograms of one window, for `Evidence`; and quantiles of histograms.

**Tail.** The bucket that a share of *all* calls is above (both arms together, as nearly as buckets allow) is a limit
that does not depend on who was slow. How many of those above it are the candidate's is `odds.two_arms`: exact, and free
of any model of the latency. It is the sequential test of a quantile of Lindon, Sanden and Shirikian (arXiv 2205.14762),
given the window.

**Whole distribution.** The ranks of the candidate's calls among all, as Wilcoxon, Mann and Whitney have them: most
powerful where all calls are slower by a factor. Their sum has a known mean and variance if both arms are equal; the
factor for a tilt d is exp(d T - d^2 V / 2), which is exact enough from some ten calls on: ranks are bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.rollout.odds import two_arms
from meshproxy.rollout.window import GROWTH, bucket_value

if TYPE_CHECKING:
    from collections.abc import Mapping

TILTS = (0.3, 0.6, 1.2, 2.4, 4.8)
"""The alternatives of the whole distribution. A tilt of 0.6: the candidate's call is the slower one of two in 55 %; of
1.2: in 60 %; of 4.8: in 88 %."""


def quantile(counts: Mapping[int, int], share: float) -> float:
    """The value that `share` of the calls are not above (seconds, or what the buckets count); 0 of none."""
    left = share * sum(counts.values())
    for number in sorted(counts):
        left -= counts[number]
        if left <= 0:
            return bucket_value(number)
    return bucket_value(max(counts)) if counts else 0.0


def geometric_mean_ratio(counts: Mapping[int, int], other: Mapping[int, int]) -> float:
    """By which factor all calls are slower, typically; 1 if either has none. Unlike means, no single call moves it."""
    if not counts or not other:
        return 1.0
    return float(GROWTH ** (_mean(counts) - _mean(other)))


def _mean(counts: Mapping[int, int]) -> float:
    return sum(number * count for number, count in counts.items()) / sum(counts.values())


def above(counts: Mapping[int, int], number: int) -> int:
    """How many calls are in later buckets than this one."""
    return sum(count for each, count in counts.items() if each > number)


def tail(counts: Mapping[int, int], other: Mapping[int, int], share: float) -> tuple[float, ...]:
    """Factors for "more of `counts` than of `other` are beyond the quantile `share` of all", as `odds.two_arms`."""
    pooled = _pool(counts, other)
    if not pooled:
        return two_arms(0, 0, 0, 0)
    beyond = sum(pooled.values())
    wanted = (1 - share) * beyond
    found: list[tuple[float, int]] = []
    for number in sorted(pooled):
        beyond -= pooled[number]
        found.append((abs(beyond - wanted), number))
    _, threshold = min(found)
    return two_arms(above(counts, threshold), sum(counts.values()), above(other, threshold), sum(other.values()))


def whole(counts: Mapping[int, int], other: Mapping[int, int]) -> tuple[float, ...]:
    """Factors for "`counts` are higher than `other`", one for each of `TILTS`."""
    calls, others = sum(counts.values()), sum(other.values())
    total = calls + others
    if not calls or not others or total < 3:
        return (0.0,) * len(TILTS)
    pooled = _pool(counts, other)
    below = 0
    ranks = squares = 0.0
    for number in sorted(pooled):
        here = pooled[number]
        rank = (below + here / 2) / total - 0.5
        below += here
        squares += here * rank * rank
        ranks += counts.get(number, 0) * rank
    variance = squares * calls * others / (total * (total - 1))
    return tuple(tilt * ranks - tilt * tilt * variance / 2 for tilt in TILTS)


def _pool(counts: Mapping[int, int], other: Mapping[int, int]) -> dict[int, int]:
    pooled = dict(counts)
    for number, count in other.items():
        pooled[number] = pooled.get(number, 0) + count
    return pooled
