"""Shares and times: their levels, their noise, and that single bad minutes are no reference."""

from __future__ import annotations

import random
from math import isclose, log, sqrt
from statistics import pstdev

from hypothesis import given
from hypothesis import strategies as st

from meshproxy.rollout.levels import LOGARITHMS, ROOT_NOISE, TIME_NOISE, Share, Times
from meshproxy.telemetry.quantiles import BOUNDS


def test_a_share_against_those_before() -> None:
    share = Share()
    share.add(3, 100)
    share.add(0, 100)
    found = share.against([0.01, 0.9, 0.01])  # an outage among them
    assert found.expected == 0.01
    assert isclose(found.height, 0.005)
    assert isclose(found.score, (sqrt(0.015) - 0.1) / sqrt(0.25 / 200 + ROOT_NOISE**2))


def test_the_score_of_a_share_is_in_standard_deviations() -> None:
    chance = random.Random(1)
    scores = []
    for _ in range(400):
        share = Share()
        share.add(sum(chance.random() < 0.05 for _ in range(300)), 300)
        scores.append(share.against([0.05]).score)
    assert 0.8 < pstdev(scores) < 1.1


def test_times_are_a_geometric_mean() -> None:
    times = Times()
    times.add({10: 3, 20: 1})
    times.add({10: 1, 20: 3})
    expected = BOUNDS[15] / 1.1**0.5
    assert isclose(times.level, expected, rel_tol=1e-5)
    found = times.against([log(expected / 1.2)])
    assert isclose(found.height, log(1.2), rel_tol=1e-5)
    assert isclose(found.expected, expected / 1.2, rel_tol=1e-5)


def test_equal_times_have_the_noise_that_is_no_news() -> None:
    times = Times()
    times.add({30: 1_000})
    assert isclose(times.against([times.cell - TIME_NOISE]).score, 1.0)


@given(st.dictionaries(st.integers(0, 2**53), st.integers(1, 2**40), min_size=1, max_size=5))
def test_whatever_is_reported_has_a_level(counts: dict[int, int]) -> None:
    """Buckets are checked nowhere before."""
    times = Times()
    times.add(counts)
    assert LOGARITHMS[0] - 1e-6 <= times.cell <= LOGARITHMS[-1] + 1e-6
    assert times.against([0.0]).expected == 1.0
