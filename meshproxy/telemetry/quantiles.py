"""Quantiles of durations that were counted in buckets.

The bounds of the buckets grow by a tenth from 50 us to 98 s, so a quantile is at most 10 % away from the exact one. It
is interpolated as `histogram_quantile` of Prometheus does it for classic histograms
(https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

BOUNDS = tuple(round(50e-6 * 1.1**step, 9) for step in range(153))
"""Upper bounds in seconds, inclusive, ascending. Bucket `len(BOUNDS)` counts what is above the last one."""


def quantile(share: float, counts: Mapping[int, int], bounds: Sequence[float] = BOUNDS) -> float | None:
    """The duration that `share` of the counted ones do not exceed.

    Args:
        share: above 0, at most 1: 0.99 for the 99th percentile.
        counts: durations in each bucket, by the bucket's index in `bounds`; empty ones may be missing.
        bounds: as `BOUNDS`.

    Returns:
        Seconds; the last bound if it is above that; None if nothing was counted.
    """
    return quantiles((share,), counts, bounds)[0] if any(counts.values()) else None


def quantiles(
    shares: Sequence[float], counts: Mapping[int, int], bounds: Sequence[float] = BOUNDS
) -> tuple[float, ...]:
    """The quantiles of several ascending shares at once. Arguments as of `quantile`; something must be counted."""
    total = sum(counts.values())
    found: list[float] = []
    ranks = [share * total for share in shares]
    below = 0
    for index in sorted(counts):
        count = counts[index]
        while count and len(found) < len(ranks) and below + count >= ranks[len(found)]:
            if index >= len(bounds):
                found.append(bounds[-1])
                continue
            lower = bounds[index - 1] if index else 0.0
            found.append(lower + (bounds[index] - lower) * (ranks[len(found)] - below) / count)
        below += count
    found += [bounds[-1]] * (len(ranks) - len(found))
    return tuple(found)
