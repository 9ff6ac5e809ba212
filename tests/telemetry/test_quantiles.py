"""Quantiles from buckets: as Prometheus interpolates them, and near the exact ones."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.telemetry.quantiles import BOUNDS, quantile

SHARES = st.floats(0.001, 1.0)


def histogram_quantile(share: float, bounds: list[float], counts: list[int]) -> float:
    """`bucketQuantile` of Prometheus (promql/quantile.go), over cumulative buckets with +Inf as the last one."""
    cumulative = list(accumulate(counts))
    rank = share * cumulative[-1]
    at = next((index for index, count in enumerate(cumulative[:-1]) if count >= rank), len(cumulative) - 1)
    if at == len(cumulative) - 1:
        return bounds[-1]
    begin, count = 0.0, float(cumulative[at])
    if at:
        begin = bounds[at - 1]
        count -= cumulative[at - 1]
        rank -= cumulative[at - 1]
    return begin + (bounds[at] - begin) * (rank / count)


@given(SHARES, st.lists(st.integers(0, 1_000), min_size=6, max_size=6).filter(any))
def test_it_interpolates_as_prometheus_does(share: float, counts: list[int]) -> None:
    bounds = [0.001, 0.0025, 0.005, 0.01, 0.025]
    found = quantile(share, dict(enumerate(counts)), bounds)
    assert found == pytest.approx(histogram_quantile(share, bounds, counts))


@given(SHARES, st.lists(st.floats(51e-6, 90.0), min_size=1))
def test_it_is_at_most_a_tenth_away(share: float, seconds: list[float]) -> None:
    counts = Counter(bisect_left(BOUNDS, each) for each in seconds)
    exact = sorted(seconds)[max(0, math.ceil(share * len(seconds)) - 1)]
    found = quantile(share, counts)
    assert found is not None
    assert exact / 1.1001 <= found <= exact * 1.1001


def test_the_bounds_ascend_by_a_tenth() -> None:
    assert BOUNDS[0] == 50e-6
    assert 95 < BOUNDS[-1] < 100
    assert all(1.099 < high / low < 1.101 for low, high in pairwise(BOUNDS))


def test_ends() -> None:
    assert quantile(0.5, {}) is None
    assert quantile(0.5, {3: 0}) is None
    assert quantile(0.99, {len(BOUNDS): 1}) == BOUNDS[-1]
    assert quantile(0.5, {0: 2}) == pytest.approx(25e-6)
    assert quantile(1.0, {0: 1, 7: 3}) == pytest.approx(BOUNDS[7])
