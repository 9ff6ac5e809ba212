"""Who gives up a tenth of its requests is impatient."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.codec.h2.patience import WINDOW, Patience


@pytest.mark.parametrize(
    ("given_up", "of", "is_short"), [(9, 100, False), (10, 100, True), (49, 49, False), (5, 50, True), (4, 50, False)]
)
def test_a_tenth_of_enough_requests(given_up: int, of: int, is_short: bool) -> None:
    patience = Patience(1_000, 5.0)
    patience.gave_up(given_up, 1_000, 5.5)
    assert patience.is_short(1_000 + of, 6.0) == is_short


def test_few_requests_are_judged_at_the_end_of_the_window() -> None:
    patience = Patience(0, 0.0)
    patience.gave_up(1, 1, 1.0)
    assert not patience.is_short(2, WINDOW - 0.1)
    assert patience.is_short(2, WINDOW)
    assert patience.is_short(3, 2 * WINDOW - 0.1)
    assert not patience.is_short(4, 2 * WINDOW), "it gave nothing up for a window"


def test_what_was_long_ago_does_not_count() -> None:
    patience = Patience(0, 0.0)
    patience.gave_up(50, 50, 1.0)
    assert not patience.is_short(50, 1.0 + 2 * WINDOW)


@given(st.lists(st.floats(0.001, 0.1), min_size=100, max_size=300))
def test_who_gives_up_all_is_not(pauses: list[float]) -> None:
    patience, now = Patience(0, 0.0), 0.0
    for number, pause in enumerate(pauses, 1):
        now += pause
        patience.gave_up(1, number, now)
    assert patience.is_short(len(pauses), now)
