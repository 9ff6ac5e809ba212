"""Outputs: equal ones never add evidence, others do, classes have no order."""

from __future__ import annotations

import random
from math import exp

from meshproxy.rollout.distributions import CLASSES, GROUPS, LEAST_ANSWERS, Distributions


def drawn(chance: random.Random, weights: list[float], count: int) -> dict[int, int]:
    counts: dict[int, int] = {}
    for number in chance.choices(range(len(weights)), weights, k=count):
        counts[number] = counts.get(number, 0) + 1
    return counts


def test_equal_answers_seldom_look_different() -> None:
    chance = random.Random(5)
    won = 0
    for _ in range(40):
        known = Distributions()
        most = 0.0
        for window in range(20):
            weights = [1.0 + (number + window) % 3 for number in range(30)]  # the day moves both
            known.add(drawn(chance, weights, 60), drawn(chance, weights, 200))
            most = max(most, known.evidence.strength)
        won += exp(most) >= 20
    assert won <= 2


def test_a_shift_is_found_and_has_a_size() -> None:
    chance = random.Random(6)
    known = Distributions()
    weights, shifted = [1.0] * 20, [1.0] * 10 + [4.0] * 10
    for _ in range(4):
        known.add(drawn(chance, shifted, 200), drawn(chance, weights, 200))
    assert known.evidence.strength > 10
    assert known.psi > 0.25


def test_neighbouring_classes_are_told_apart() -> None:
    """Groups of neighbours would hide a class that is answered as the next one."""
    chance = random.Random(7)
    weights, wrong = [1.0] * 10, [0.01, 2.0] + [1.0] * 8
    known = Distributions(ordered=False)
    for _ in range(3):
        known.add(drawn(chance, wrong, 300), drawn(chance, weights, 300))
    assert known.evidence.strength > 10
    assert known.psi > 0.25


def test_too_few_answers_teach_nothing() -> None:
    known = Distributions()
    known.add({1: LEAST_ANSWERS - 1}, {1: 500})
    assert not known.candidate
    assert known.psi == 0.0
    assert known.evidence.windows == 0


def test_an_arm_without_answers_adds_no_evidence() -> None:
    known = Distributions()
    for _ in range(3):
        known.add({1: 30}, {1: 30})
    strength = known.evidence.strength
    known.add({}, {2: 100})
    assert known.evidence.strength == strength


def test_groups_are_bounded() -> None:
    many = dict.fromkeys(range(1_000), 10)
    ordered, classes = Distributions(), Distributions(ordered=False)
    for known in (ordered, classes):
        known.add(many, many)
    assert len(ordered.candidate) <= GROUPS + 1
    assert len(classes.candidate) == CLASSES + 1
    assert sum(ordered.candidate) == sum(classes.candidate)
