"""Which readings are the same time of another day."""

from __future__ import annotations

from array import array

import pytest

from meshproxy.rollout.history import NEIGHBOURS, SLOTS, History

SLOT = 900.0
DAY, WEEK = 86_400.0, 7 * 86_400.0
NOW = 1_700_000_000.0


def test_the_same_time_of_yesterday_and_of_last_week() -> None:
    history = History(SLOT, has_numbers=True)
    for number in range(2 * SLOTS):
        history.add(NOW + number * SLOT, float(number))
    now = NOW + 2 * SLOTS * SLOT
    for days in (1, 7):
        middle = 2 * SLOTS - days * 96
        assert history.around(now - days * DAY) == list(range(middle - NEIGHBOURS, middle + NEIGHBOURS + 1))
    assert history.around(now - WEEK - DAY) == []


def test_slots_without_a_reading_are_left_out() -> None:
    history = History(SLOT, has_numbers=True)
    history.add(NOW, 1.0)
    history.add(NOW + 2 * SLOT, 3.0)
    assert history.around(NOW + SLOT) == [1.0, 3.0]
    assert history.around(NOW + WEEK) == []
    assert all(History(SLOT, has_numbers=False).around(then) == [] for then in (-SLOT, 0.0, SLOT))


@pytest.mark.parametrize("has_numbers", [True, False])
def test_readings_of_one_slot_are_one(has_numbers: bool) -> None:
    history = History(SLOT, has_numbers=has_numbers)
    start = NOW // SLOT * SLOT
    for second, number in ((0, 1.0), (300, 3.0), (600, 4.0)):
        history.add(start + second, number if has_numbers else array("f", [number, 0.0]))
    assert history.around(start) == ([3.0] if has_numbers else [array("f", [3.0, 0.0])])
