"""Compared with scipy: the factors are ratios of probabilities."""

from __future__ import annotations

from math import exp, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from meshproxy.rollout.odds import ALTERNATIVES, against, log_ratio, two_arms


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.data())
def test_two_arms_as_the_noncentral_hypergeometric(calls: int, other_calls: int, data: st.DataObject) -> None:
    events = data.draw(st.integers(0, calls))
    other_events = data.draw(st.integers(0, other_calls))
    total, size = events + other_events, calls + other_calls
    if total == size or not total:
        return
    found = two_arms(events, calls, other_events, other_calls)
    central = stats.hypergeom.logpmf(events, calls + other_calls, total, calls)
    for (most, difference), factor in zip(ALTERNATIVES, found, strict=True):
        ratio = exp(log_ratio(most, total / size - difference * calls / size, difference))
        expected = stats.nchypergeom_fisher.logpmf(events, calls + other_calls, total, calls, ratio) - central
        assert factor == pytest.approx(float(expected), abs=1e-6)


def test_two_arms_are_fair_without_a_difference() -> None:
    """The mean of the factors is exactly 1, so evidence from them is."""
    calls, other_calls, total = 40, 90, 25
    for position in range(len(ALTERNATIVES)):
        mean = sum(
            float(stats.hypergeom.pmf(k, calls + other_calls, total, calls))
            * 2.718281828459045 ** two_arms(k, calls, total - k, other_calls)[position]
            for k in range(total + 1)
        )
        assert mean == pytest.approx(1.0)


def test_large_counts_cost_little_and_stay_finite() -> None:
    factors = two_arms(60_000, 1_000_000, 50_000, 1_000_000)
    assert max(factors) > 100
    assert factors == pytest.approx(two_arms(60_000, 1_000_000, 50_000, 1_000_000))


@pytest.mark.parametrize(
    ("events", "calls", "other_events", "other_calls"), [(0, 10, 0, 10), (0, 0, 3, 10), (3, 10, 0, 0), (5, 5, 7, 7)]
)
def test_what_says_nothing(events: int, calls: int, other_events: int, other_calls: int) -> None:
    assert two_arms(events, calls, other_events, other_calls) == (0.0,) * len(ALTERNATIVES)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 500), st.floats(0.001, 0.5), st.data())
def test_against_a_limit_as_the_binomial(calls: int, share: float, data: st.DataObject) -> None:
    events = data.draw(st.integers(0, calls))
    for (most, difference), factor in zip(ALTERNATIVES, against(events, calls, share), strict=True):
        ratio = exp(log_ratio(most, share, difference))
        higher = ratio * share / (1 - share + ratio * share)
        expected = stats.binom.logpmf(events, calls, higher) - stats.binom.logpmf(events, calls, share)
        assert factor == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize(
    ("share", "ratio"),
    [
        pytest.param(0.02, 0.04 / 0.96 / (0.02 / 0.98), id="two points are twice as many"),
        pytest.param(0.000_1, 8.0, id="of few failures the ratio is the limit"),
        pytest.param(-0.01, 8.0, id="so few that there is no share below"),
        pytest.param(0.985, 8.0, id="so many that there is none above"),
    ],
)
def test_what_is_looked_for(share: float, ratio: float) -> None:
    assert log_ratio(8.0, share, 0.02) == pytest.approx(log(ratio))
