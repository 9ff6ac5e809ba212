"""Percentiles, spreads and ratios of raw values, and when there are too few or too different ones for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
RATE_TOLERANCE = 0.01
"""How far the achieved rate of an open loop may be from the offered one for its latencies to count."""
SPREAD_BOUND = 0.35
"""How wide the rounds of one peer may lie (see `width`) for its figures to be divided by another's."""
TRIMMED_FROM = 5


def percentiles(values: Sequence[float], wanted: Sequence[float] = PERCENTILES) -> dict[float, float]:
    """The smallest value that at least this share of all is not above (nearest rank). Empty if there are too few values
    for any; a percentile is left out when fewer than ten values lie beyond it, since it would be chance."""
    ordered = sorted(values)
    count = len(ordered)
    result = {}
    for share in wanted:
        rank = -(-count * share // 100)
        if count - rank >= 10 or (share == 50.0 and count):
            result[share] = ordered[max(0, int(rank) - 1)]
    return result


def has_kept_rate(offered: float, achieved: float, tolerance: float = RATE_TOLERANCE) -> bool:
    """Whether what was done is what was asked for, so that latencies belong to that rate."""
    return abs(achieved - offered) <= tolerance * offered


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over the rounds."""

    median: float
    low: float
    high: float
    rounds: int


def width(values: Sequence[float]) -> float:
    """(highest - lowest) / median. Of `TRIMMED_FROM` rounds or more the highest and the lowest are left out first: on a
    shared machine one round in five is disturbed by other processes, which does not move a median."""
    ordered = sorted(values)
    if len(ordered) >= TRIMMED_FROM:
        ordered = ordered[1:-1]
    middle = median(ordered)
    return (ordered[-1] - ordered[0]) / middle if middle else 0.0


def spread(values: Sequence[float]) -> Spread:
    """
    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no round has this figure")
    return Spread(median(values), min(values), max(values), len(values))


@dataclass(frozen=True, slots=True)
class Ratio:
    """One peer's figure over another's: the median of the ratios of the rounds, whose peers share the load."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Noisy:
    """Why no ratio is given."""

    reason: str


def ratio(ours: Sequence[float], theirs: Sequence[float], bound: float = SPREAD_BOUND) -> Ratio | Noisy:
    """Divides round by round; refuses where there is too little, or the rounds of either side differ too much to trust.

    Args:
        ours, theirs: one figure per round, rounds in the same order.
        bound: see `SPREAD_BOUND`.
    """
    if len(ours) != len(theirs):
        return Noisy(f"{len(ours)} rounds against {len(theirs)}")
    if len(ours) < 3:
        return Noisy(f"{len(ours)} of the 3 rounds that are needed")
    if min(theirs) <= 0:
        return Noisy("a round measured nothing")
    for side, values in (("this side's", ours), ("the other side's", theirs)):
        differ = width(values)
        if differ > bound:
            return Noisy(f"{side} rounds differ by {differ:.0%}, more than {bound:.0%}")
    each = [our / their for our, their in zip(ours, theirs, strict=True)]
    return Ratio(median(each), min(each), max(each))


USUAL = (0.001, 0.003)
"""Seconds that a hop of a service mesh usually adds to the 99th percentile."""


def verdict(added_p50: float, added_p99: float) -> str:
    """The cost of a hop in one sentence, compared with the usual cost in a mesh. Seconds."""
    low, high = USUAL
    if added_p99 < low:
        where = "below the 1 to 3 ms that a hop of a mesh usually costs"
    elif added_p99 <= high:
        where = "within the 1 to 3 ms that a hop of a mesh usually costs"
    else:
        where = "above the 1 to 3 ms that a hop of a mesh usually costs"
    return f"the hop adds {added_p50 * 1e3:.2f} ms at the median and {added_p99 * 1e3:.2f} ms at p99: {where}"
