"""The detector: what it takes for a rise, and what not. How often healthy days raise it: tests/benchmarks."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.telemetry.change_detector import (
    LEAST_READINGS,
    LEAST_UNIT,
    MOST_RAISED,
    WINDOW,
    ChangeDetector,
    Expected,
    State,
)

WHOLE = 0.005
QUIET = 0.000_4


class Series:
    """A detector that gets a reading each quarter of a minute."""

    def __init__(self, interval: float = 15.0) -> None:
        self.detector = ChangeDetector()
        self.now = 0.0
        self.interval = interval

    def add(self, value: float, times: int = 1, whole: float = WHOLE) -> list[State]:
        states = []
        for _ in range(times):
            self.now += self.interval
            states.append(self.detector.add(value, whole, self.now))
        return states


@pytest.fixture
def steady() -> Series:
    series = Series()
    assert series.add(QUIET, LEAST_READINGS)[-2:] == [State.LEARNING, State.STEADY]
    return series


def test_a_rise_of_two_units_is_found_by_the_fifth_reading(steady: Series) -> None:
    rise = QUIET + 2.001 * LEAST_UNIT
    assert steady.add(rise, 5) == [State.STEADY] * 4 + [State.RAISED]
    assert steady.detector.since == steady.now


def test_a_great_rise_is_found_by_the_third_reading(steady: Series) -> None:
    assert steady.add(1.0, 3) == [State.STEADY, State.STEADY, State.RAISED]


def test_no_two_readings_raise_it(steady: Series) -> None:
    for _ in range(50):
        assert steady.add(10.0, 2) + steady.add(QUIET, 4) == [State.STEADY] * 6


def test_one_unit_is_not_worth_it(steady: Series) -> None:
    assert set(steady.add(QUIET + 0.99 * LEAST_UNIT, 200)) == {State.STEADY}


def test_a_fall_is_no_rise(steady: Series) -> None:
    assert set(steady.add(-1.0, 200)) == {State.STEADY}


def test_it_ends_when_the_level_is_back(steady: Series) -> None:
    assert steady.add(0.1, 100)[-1] is State.RAISED
    states = steady.add(QUIET, 9)
    assert states[0] is State.RAISED
    assert states[-1] is State.STEADY


def test_nothing_is_learned_while_it_is_raised(steady: Series) -> None:
    steady.add(0.1, 2_000)
    assert steady.detector.expected == Expected(QUIET, 0.0)


def test_after_a_day_the_new_level_is_normal(steady: Series) -> None:
    states = steady.add(0.1, int(MOST_RAISED / 15) + LEAST_READINGS + 10)
    assert State.LEARNING in states
    assert states[-1] is State.STEADY
    assert steady.detector.expected == Expected(0.1, 0.0)


def test_a_rise_that_takes_hours_is_followed(steady: Series) -> None:
    """A limitation: it is not told from the rhythm of a day."""
    states = [state for step in range(4 * 240) for state in steady.add(QUIET + step * LEAST_UNIT / 240)]
    assert set(states) == {State.STEADY}


def test_the_unit_is_the_most_of_four() -> None:
    assert Expected(0.0, 0.0).unit(0.0) == 0.000_5
    assert Expected(0.01, 0.0).unit(0.0) == 0.002_5
    assert Expected(0.0, 0.0).unit(1.0) == 0.02
    assert Expected(0.0, 0.01).unit(0.0) == pytest.approx(0.03)


def test_noise_widens_the_unit() -> None:
    chance = random.Random(1)
    series = Series()
    for _ in range(240):
        series.add(chance.gauss(0.01, 0.004))
    assert series.detector.expected is not None
    assert series.detector.expected.noise == pytest.approx(0.004, rel=0.25)
    assert series.detector.state is State.STEADY


def test_rare_readings_are_older_than_the_window() -> None:
    series = Series(interval=WINDOW)
    assert series.add(QUIET, LEAST_READINGS)[-1] is State.STEADY
    assert set(series.add(QUIET, 50)) == {State.STEADY}
    assert series.add(0.1, 3)[-1] is State.RAISED


@given(st.lists(st.floats(-1.0, 1e6), max_size=300), st.floats(0, 1e6))
def test_any_readings(values: list[float], whole: float) -> None:
    series = Series()
    states = [state for value in values for state in series.add(value, whole=whole)]
    for before, after in pairwise(states):
        assert (before, after) != (State.LEARNING, State.RAISED)
        assert (before, after) != (State.STEADY, State.LEARNING)
