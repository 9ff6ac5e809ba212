"""Latency: ranks as scipy has them, and quantiles of histograms."""

from __future__ import annotations

import random
from math import exp

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from meshproxy.rollout.quantiles import TILTS, above, geometric_mean_ratio, quantile, tail, whole
from meshproxy.rollout.window import GROWTH, bucket, bucket_value

histograms = st.dictionaries(st.integers(0, 30), st.integers(1, 20), min_size=1, max_size=10)


def spread(counts: dict[int, int]) -> list[int]:
    return [number for number, count in counts.items() for _ in range(count)]


@settings(max_examples=15, deadline=None)
@given(histograms, histograms)
def test_the_whole_distribution_as_mann_whitney(counts: dict[int, int], other: dict[int, int]) -> None:
    """d T - d^2 V / 2 gives T and V, and so z, which scipy's p-value has with ties and without a correction."""
    if len(counts.keys() | other.keys()) < 2 or sum(counts.values()) + sum(other.values()) < 3:
        assert whole(counts, other) == (0.0,) * len(TILTS)
        return
    (first, second), (d, e) = whole(counts, other)[:2], TILTS[:2]
    variance = 2 * (first / d - second / e) / (e - d)
    z = (first / d + d * variance / 2) / variance**0.5
    expected = stats.mannwhitneyu(
        spread(counts), spread(other), alternative="greater", method="asymptotic", use_continuity=False
    )
    assert float(stats.norm.sf(z)) == pytest.approx(float(expected.pvalue), abs=1e-6)


def test_the_whole_distribution_is_fair_without_a_difference() -> None:
    """The mean of the factors over permutations is 1, to a few per cent for the tilts in use."""
    chance = random.Random(3)
    values = [int(10 * chance.paretovariate(1.2)) for _ in range(120)]
    sums = [0.0] * len(TILTS)
    for _ in range(800):
        chance.shuffle(values)
        arms = [dict.fromkeys(set(part), 0) for part in (values[:40], values[40:])]
        for arm, part in zip(arms, (values[:40], values[40:]), strict=True):
            for value in part:
                arm[value] += 1
        for position, factor in enumerate(whole(*arms)):
            sums[position] += exp(factor) / 800
    assert sums[0] == pytest.approx(1.0, abs=0.1)
    assert max(sums) < 1.3


def test_a_tail_is_of_both_arms_together() -> None:
    quick, slow = {100: 99, 200: 1}, {100: 80, 200: 20}
    assert max(tail(slow, quick, 0.9)) > 5
    assert max(tail(quick, slow, 0.9)) < 0
    assert max(tail(quick, quick, 0.9)) <= 0
    assert tail({}, quick, 0.9) == (0.0,) * len(tail(slow, quick, 0.9))


@given(histograms, st.floats(0.01, 1.0))
@settings(max_examples=40)
def test_quantiles_are_of_the_counts(counts: dict[int, int], share: float) -> None:
    ordered = sorted(spread(counts))
    value = quantile(counts, share)
    at_most = sum(bucket_value(each) <= value for each in ordered)
    below = sum(bucket_value(each) < value for each in ordered)
    assert at_most >= share * len(ordered) - 1e-9
    assert below < share * len(ordered) + 1e-9


def test_of_nothing() -> None:
    assert quantile({}, 0.99) == 0.0
    assert geometric_mean_ratio({}, {3: 1}) == 1.0
    assert above({}, 3) == 0


def test_the_ratio_of_typical_calls() -> None:
    base = {bucket(0.01): 50, bucket(0.02): 50}
    slower = {bucket(0.012): 50, bucket(0.024): 50}
    assert geometric_mean_ratio(slower, base) == pytest.approx(1.2, rel=GROWTH - 1)
