"""How far two spreads are apart, and that chance alone is not told as a difference."""

from __future__ import annotations

import random
from collections import Counter
from statistics import mean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.rollout.distributions import CLASSES, GROUPS
from meshproxy.rollout.mix import Groups, Mix

COUNTS = st.dictionaries(st.integers(-768, 768), st.integers(1, 2**53), min_size=1, max_size=40)


def mix(groups: Groups, *counts: dict[int, int]) -> Mix:
    found = Mix(groups)
    for each in counts:
        found.add(each)
    return found


def test_scores_are_cut_into_groups_of_about_the_same_size_and_those_beyond() -> None:
    groups = Groups(ordered=True)
    first = mix(groups, dict.fromkeys(range(100), 5))
    assert first.size == 500
    assert list(first.cell) == pytest.approx([0.0, *[1 / GROUPS] * GROUPS, 0.0])
    assert list(mix(groups, {-1: 1, 100: 3}).cell) == [0.25, *[0.0] * GROUPS, 0.75]


def test_classes_that_were_never_there_are_one_group() -> None:
    groups = Groups(ordered=False)
    assert list(mix(groups, {3: 1, 7: 3}).cell) == [0.75, 0.25, 0.0]
    assert list(mix(groups, {1: 1, 2: 1, 3: 2}).cell) == [0.0, 0.5, 0.5]
    groups.forget()
    assert len(mix(groups, dict.fromkeys(range(64), 1)).cell) == CLASSES + 1


@pytest.mark.parametrize("ordered", [True, False])
def test_a_model_that_always_says_the_same_is_seen_to_say_another_thing(ordered: bool) -> None:
    groups = Groups(ordered=ordered)
    before = [mix(groups, {5: 300}).cell for _ in range(3)]
    assert mix(groups, {5: 300}).against(before)[:1] == (0.0,)
    found = mix(groups, {6: 300}).against(before)
    assert found.height == found.level == pytest.approx(8.0, abs=0.02)
    assert found.score > 50
    assert found.expected == 0.0


def test_a_spread_that_stays_has_a_psi_of_nothing_and_scores_in_standard_deviations() -> None:
    chance = random.Random(4)
    groups = Groups(ordered=True)

    def reading(shift: float = 0.0) -> Mix:
        return mix(groups, Counter(round(chance.gauss(50 + shift, 10)) for _ in range(300)))

    before = [reading().cell for _ in range(36)]
    found = [reading().against(before) for _ in range(200)]
    assert mean(each.height for each in found) < 0.02
    assert 0.7 < pstdev(each.score for each in found) < 1.3
    assert abs(mean(each.score for each in found)) < 0.7
    moved = [reading(5.0).against(before) for _ in range(20)]
    assert 0.2 < mean(each.height for each in moved) < 0.35  # the PSI of half a standard deviation is 0.25
    assert min(each.score for each in moved) > 3


@given(COUNTS, COUNTS, st.booleans())
def test_whatever_is_counted_gives_numbers(first: dict[int, int], second: dict[int, int], ordered: bool) -> None:
    groups = Groups(ordered=ordered)
    before = mix(groups, first).cell
    found = mix(groups, second).against([before])
    assert sum(before) == pytest.approx(1, abs=1e-5)
    assert 0 <= found.height <= 8.001
    assert found.score == found.score
