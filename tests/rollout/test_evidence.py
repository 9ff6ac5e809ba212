"""Evidence: it may be looked at after every window, and a late difference is found."""

from __future__ import annotations

import random
from math import exp, inf, log

import pytest

from meshproxy.rollout.evidence import Evidence, log_sum


def test_sums_of_logarithms() -> None:
    assert log_sum([]) == -inf
    assert log_sum([-inf, -inf]) == -inf
    assert log_sum([log(2), log(3), -inf]) == pytest.approx(log(5))
    assert log_sum([1_000.0, 1_000.0]) == pytest.approx(1_000.0 + log(2))


def test_without_windows_it_says_nothing() -> None:
    assert Evidence().strength == 0.0


def test_factors_of_one_leave_it_at_one() -> None:
    evidence = Evidence()
    for _ in range(50):
        evidence.add((0.0, 0.0, 0.0))
        assert evidence.strength == pytest.approx(0.0)


def test_it_grows_with_the_alternative_that_is_right() -> None:
    evidence = Evidence()
    for _ in range(10):
        evidence.add((2.0, -2.0))
    assert 19.0 < evidence.strength < 20.0  # less than log 2 and log 4/3 are paid


def test_a_difference_that_begins_late_is_found() -> None:
    evidence = Evidence()
    for _ in range(100):
        evidence.add((-5.0,))
    assert evidence.strength < 0
    for _ in range(10):
        evidence.add((4.0,))
    assert evidence.strength > 20


def test_a_fair_game_is_seldom_won() -> None:
    """Ville's inequality, at 20 to 1: at most one of twenty, though each is looked at fifty times."""
    chance = random.Random(1)
    won = 0
    for _ in range(150):
        evidence = Evidence()
        most = 0.0
        for _ in range(50):
            heads = sum(chance.random() < 0.5 for _ in range(10))
            evidence.add(tuple(heads * log(2 * p) + (10 - heads) * log(2 - 2 * p) for p in (0.6, 0.7)))
            most = max(most, evidence.strength)
        won += exp(most) >= 20
    assert won <= 8
