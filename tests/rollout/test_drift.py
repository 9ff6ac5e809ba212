"""The detector, state by state. How often it is wrong and what it finds is simulated: `make simulate`."""

from __future__ import annotations

import random
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.rollout import drift as module
from meshproxy.rollout.drift import (
    CALM,
    DAY,
    INTERVAL,
    LATELY,
    LEAST_CALLS,
    LEAST_READINGS,
    LEAST_RECENT,
    LIMITS,
    LONGEST,
    LONGEST_RISE,
    MOST_ADDED,
    MOST_CORRELATED,
    Detector,
    Signal,
    State,
    habits,
)
from meshproxy.rollout.levels import Share, Times

FIRST = LEAST_READINGS + LEAST_RECENT // 2
"""Readings until there are enough that could be compared with something."""


class Model:
    """Calls of one model, a reading at a time."""

    def __init__(self, signal: Signal, interval: float = INTERVAL) -> None:
        self.detector = Detector(signal, interval)
        self._interval = interval
        self.now = 1_000_000.0
        self._chance = random.Random(3)
        self.detector.look(self.now)

    def errors(self, share: float, readings: int, calls: int = 1_000) -> list[State]:
        found = []
        for _ in range(readings):
            reading = self.detector.reading
            assert isinstance(reading, Share)
            reading.add(round(calls * share * exp(self._chance.gauss(0, 0.2))), calls)
            found.append(self._look())
        return found

    def times(self, bucket: int, readings: int) -> list[State]:
        found = []
        for _ in range(readings):
            reading = self.detector.reading
            assert isinstance(reading, Times)
            for _ in range(300):
                reading.add({max(0, round(self._chance.gauss(bucket, 4))): 1})
            found.append(self._look())
        return found

    def _look(self) -> State:
        self.now += self._interval
        self.detector.look(self.now)
        return self.detector.found.state


def test_it_learns_and_is_steady() -> None:
    model = Model(Signal.ERRORS)
    states = model.errors(0.01, FIRST + 100)
    assert states[FIRST - 2] is State.LEARNING
    assert set(states[FIRST - 1 :]) == {State.STEADY}


def test_failures_that_treble_are_found_and_end() -> None:
    model = Model(Signal.ERRORS)
    model.errors(0.01, 100)
    states = model.errors(0.03, 12)
    assert State.RAISED in states
    raised = states.index(State.RAISED)
    assert raised + 1 >= LIMITS[Signal.ERRORS] / MOST_ADDED  # no single bad minute raises it
    assert model.detector.found.since == model.now - (11 - raised) * INTERVAL
    assert 0.005 < (model.detector.found.expected or 0) < 0.015
    states = model.errors(0.01, CALM)
    assert states == [*[State.RAISED] * (CALM - 1), State.STEADY]


def test_two_bad_readings_are_no_change() -> None:
    model = Model(Signal.ERRORS)
    model.errors(0.01, 60)
    for _ in range(5):
        assert set(model.errors(0.9, 2) + model.errors(0.01, 20)) == {State.STEADY}


def test_what_does_not_matter_raises_nothing() -> None:
    """Half a percentage point, for certain."""
    model = Model(Signal.ERRORS)
    model.errors(0.002, 60, 20_000)
    assert set(model.errors(0.007, 60, 20_000)) == {State.STEADY}


def test_slower_calls_are_found() -> None:
    """By two buckets: 21 %."""
    model = Model(Signal.UPSTREAM)
    model.times(60, 100)
    assert State.RAISED in model.times(62, 12)
    found = model.detector.found
    assert 1.15 < (found.level or 0) / (found.expected or 1) < 1.27


def test_faster_calls_are_not() -> None:
    model = Model(Signal.UPSTREAM)
    model.times(60, 60)
    assert State.RAISED not in model.times(50, 60)


def test_less_than_half_a_millisecond_is_not_worth_an_alarm() -> None:
    model = Model(Signal.PROXY)
    model.times(10, 60)  # 0.13 ms
    assert State.RAISED not in model.times(20, 30)


def test_a_level_that_lasts_for_a_day_is_normal() -> None:
    model = Model(Signal.ERRORS)
    model.errors(0.01, 60)
    states = model.errors(0.05, 400)
    first = states.index(State.RAISED)
    over = states.index(State.STEADY, first)
    assert abs((over - first) * INTERVAL - DAY) <= 3_600
    assert State.RAISED not in states[over:]


def test_a_change_does_not_become_normal_while_it_is_being_found() -> None:
    """By a tenth per reading, which takes a day's evidence: the last hours stay those of before."""
    model = Model(Signal.UPSTREAM)
    model.times(60, 60)
    before = list(model.detector._normal)
    model.times(61, 30)  # 10 %: it does not matter
    assert list(model.detector._normal) == before
    assert model.detector.found.state is State.STEADY
    assert State.RAISED in model.times(62, LATELY)


def test_what_does_not_matter_is_normal_after_half_a_day() -> None:
    model = Model(Signal.UPSTREAM)
    model.times(60, 60)
    assert set(model.times(61, LONGEST_RISE + 20)) == {State.STEADY}
    assert (model.detector.found.level or 0) / (model.detector.found.expected or 1) < 1.05


def test_the_rhythm_of_a_week_is_no_change_on_the_second_monday() -> None:
    """At weekends there is a fifth of the failures."""
    hour = 3_600.0
    model = Model(Signal.ERRORS, hour)

    def live() -> list[State]:
        return model.errors(0.05, 5 * 24) + model.errors(0.01, 2 * 24)

    live()
    assert State.RAISED not in live() + live()


def test_the_rhythm_of_a_day_is_no_change_on_the_second_day() -> None:
    """Each noon, failures are five times as many, within an hour."""
    model = Model(Signal.ERRORS)
    day = int(DAY / INTERVAL)
    noon = 40

    def live() -> list[State]:
        return model.errors(0.01, day - noon) + model.errors(0.05, noon)

    live()
    live()
    assert State.RAISED not in live() + live()


@pytest.mark.parametrize("calls", [0, 1])
def test_idle_is_no_failure(calls: int) -> None:
    """A model that is hardly called has no readings, however long; then it learns anew."""
    model = Model(Signal.ERRORS)
    model.errors(0.01, 60)
    before = model.detector.found
    assert set(model.errors(0.0, 250, calls)) == {State.STEADY}
    assert model.detector.found.level == before.level or calls
    model.errors(0.0, 100, 0)
    assert model.detector.found.state is State.LEARNING


def test_few_calls_make_larger_readings() -> None:
    model = Model(Signal.ERRORS)
    calls = LEAST_CALLS // 4
    states = model.errors(0.02, 4 * FIRST, calls)
    assert states[-1] is State.STEADY
    assert states[-5] is State.LEARNING


def test_a_reading_that_takes_too_long_is_dropped() -> None:
    model = Model(Signal.ERRORS)
    reading = model.detector.reading
    model.errors(1.0, LONGEST, 1)
    assert model.detector.reading is not reading


def test_a_clock_that_is_set_back_begins_anew() -> None:
    model = Model(Signal.ERRORS)
    model.errors(0.01, 60)
    model.now -= 7_200
    model.errors(0.01, 2)
    assert model.detector.found.state is State.LEARNING
    assert State.RAISED not in model.errors(0.01, 100)


def test_how_heights_come_together() -> None:
    chance = random.Random(4)
    apart = [chance.gauss(1.0, 2.0) for _ in range(288)]
    middle, deviation, news = habits(apart)
    assert 0.5 < middle < 1.5
    assert 1.6 < deviation < 2.6
    assert news > 0.6
    wanders = [0.0]
    for _ in range(287):
        wanders.append(0.9 * wanders[-1] + chance.gauss(0, 1.0))
    assert (1 - MOST_CORRELATED) / (1 + MOST_CORRELATED) <= habits(wanders)[2] < 0.25
    assert habits([0.0] * 36) == (0.0, 1.0, 1.0)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400), st.floats(-1e5, 1e5)), max_size=60))
def test_any_counts_and_any_clock(steps: list[tuple[int, int, float]]) -> None:
    """It stays bounded, and never says that it is raised without a reading that is above what is expected."""
    detector = Detector(Signal.ERRORS, 1.0)
    now = 1e6
    for failed, good, later in steps:
        reading = detector.reading
        assert isinstance(reading, Share)
        reading.add(failed, failed + good)
        now += later
        detector.look(now)
        assert len(detector._heights) <= module.MOST_READINGS
        if detector.found.state is State.RAISED:
            assert detector.found.level is not None
