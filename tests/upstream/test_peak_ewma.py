"""The load of one endpoint: what calls teach it, and how that fades."""

from __future__ import annotations

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshproxy.upstream.peak_ewma import FIRST_SHARE, TIME_CONSTANT, PeakEwma

latencies = st.floats(min_value=0.0, max_value=60.0)


def measured(*calls: tuple[float, float]) -> PeakEwma:
    """A load that has seen calls end well: (seconds, now)."""
    load = PeakEwma()
    for seconds, now in calls:
        load.start()
        load.finish(seconds, now)
    return load


def failing(load: PeakEwma, now: float, times: int = 1) -> PeakEwma:
    for _ in range(times):
        load.start()
        load.failed(now)
    return load


def test_nothing_known_is_tried_with_one_call_at_a_time() -> None:
    load = PeakEwma()
    assert load.score(0.0) == 0.0
    load.start()
    assert load.score(0.0) > measured((60.0, 0.0)).score(0.0) * 100
    load.cancel()
    assert load.score(0.0) == 0.0


def test_a_call_that_was_given_up_counts_as_long_as_it_was_waited_for() -> None:
    load = measured((0.002, 0.0))
    load.start()
    load.cancel(0.3, 1.0)
    assert load.score(1.0) == pytest.approx(0.3)
    load.start()
    load.cancel(0.2, 1.0)  # of that nothing new is known
    assert load.score(1.0) == pytest.approx(0.3)
    assert load.score(1.0 + TIME_CONSTANT) == pytest.approx(0.3 * exp(-1))
    load.start()
    load.cancel(0.2, 1.0 + TIME_CONSTANT)  # of that there is: it has not become as fast as it seemed
    assert load.score(1.0 + TIME_CONSTANT) == pytest.approx(0.2)
    load.start()
    load.finish(0.002, 1.0 + TIME_CONSTANT * 9)
    assert load.score(1.0 + TIME_CONSTANT * 9) == pytest.approx(0.002, rel=0.1)


def test_one_that_never_answered_does_not_look_idle_when_its_calls_are_given_up() -> None:
    load = PeakEwma()
    load.start()
    load.cancel(0.3, 1.0)
    assert load.score(1.0) == pytest.approx(0.3)


@pytest.mark.parametrize("silence", [1e-38, 0.00005, 0.5])
def test_one_that_has_only_ever_failed_does_not_look_better_for_a_call_that_is_given_up(silence: float) -> None:
    load = failing(PeakEwma(), 0.0)
    before = load.score(0.0)
    load.start()
    load.cancel(silence, 0.0)
    assert load.score(0.0) == before
    load.start()
    load.failed(0.0, silence)
    assert load.score(0.0) > before


def test_a_call_that_failed_for_its_silence_counts_as_that_long_too() -> None:
    load = measured((0.002, 0.0))
    load.start()
    load.failed(1.0, 0.9)
    assert load.latency == 0.9
    load.start()
    load.failed(2.0, 0.1)
    assert load.latency == 0.9


def test_the_penalty_decays_when_a_call_is_given_up() -> None:
    load = failing(measured((0.002, 0.0)), 0.0)
    load.start()
    load.cancel(1.0, 100.0)
    assert load.score(100.0) == pytest.approx(1.0)


def test_of_two_that_nothing_is_known_of_the_one_with_fewer_calls_is_better() -> None:
    one, other = PeakEwma(), PeakEwma()
    one.start()
    other.start()
    other.start()
    assert one.score(0.0) < other.score(0.0)


def test_score_is_latency_times_one_more_than_the_calls_under_way() -> None:
    load = measured((0.02, 5.0))
    assert load.score(5.0) == pytest.approx(0.02)
    load.start()
    load.start()
    assert load.in_flight == 2
    assert load.score(5.0) == pytest.approx(0.06)


def test_a_peak_counts_at_once_and_in_full() -> None:
    assert measured(*[(0.01, now / 10) for now in range(100)], (1.5, 10.0)).score(10.0) == pytest.approx(1.5)


def test_quick_answers_pull_a_peak_down_with_the_time_constant() -> None:
    load = measured((1.0, 0.0))
    for tick in range(1, 401):
        load.start()
        load.finish(0.01, tick / 100)
    assert tick / 100 == TIME_CONSTANT
    assert load.score(TIME_CONSTANT) == pytest.approx(0.01 + 0.99 * exp(-1))


def test_silence_fades_a_peak_with_the_time_constant() -> None:
    load = measured((1.0, 100.0))
    assert load.score(104.0) == pytest.approx(exp(-1))
    assert load.score(108.0) == pytest.approx(exp(-2))
    assert load.score(104.0) == pytest.approx(exp(-1)), "looking changes nothing"


def test_after_hours_of_silence_one_call_finds_out() -> None:
    load = measured((1.0, 0.0))
    assert 0 < load.score(100_000.0) < 0.001
    load.start()
    assert load.score(100_000.0) == 2.0, "as slow as it was, as long as nobody knows better"
    load.finish(0.01, 100_000.0)
    assert load.score(100_000.0) == pytest.approx(0.01)


def test_an_answer_within_no_time_is_not_free() -> None:
    load = measured((0.0, 1.0))
    idle = load.score(1.0)
    load.start()
    assert 0 < idle < load.score(1.0) < 0.001


def test_a_clock_that_goes_back_changes_nothing() -> None:
    load = measured((1.0, 100.0), (0.5, 90.0))
    assert load.score(100.0) == load.score(50.0) == 1.0
    assert failing(load, 10.0).score(100.0) == pytest.approx(10.0)


def test_a_failure_makes_it_look_ten_times_as_slow_and_failures_a_hundred_times() -> None:
    assert failing(measured((0.01, 1.0)), 1.0).score(1.0) == pytest.approx(0.1)
    assert failing(measured((0.01, 1.0)), 1.0, times=50).score(1.0) == pytest.approx(1.0)


def test_an_endpoint_that_failed_is_tried_again_after_a_while() -> None:
    once = failing(measured((0.01, 1.0)), 1.0)
    assert once.score(5.8) > 0.01 > once.score(6.4)
    always = failing(measured((0.01, 1.0)), 1.0, times=50)
    assert always.score(10.2) > 0.01 > always.score(10.5)


def test_failures_at_long_intervals_do_not_wear_off_the_latency() -> None:
    load = measured((0.01, 0.0))
    for now in range(25, 1000, 25):
        failing(load, float(now))
        assert load.score(now) >= 0.1


def test_each_success_halves_the_penalty_until_it_is_forgotten() -> None:
    load = failing(measured((0.01, 1.0)), 1.0)
    scores = []
    for _ in range(12):
        load.start()
        load.finish(0.01, 1.0)
        scores.append(load.score(1.0))
    assert scores[:3] == pytest.approx([0.055, 0.0325, 0.02125])
    assert scores[-1] == 0.01


def test_what_has_only_ever_failed_costs_seconds_and_its_first_success_counts_alone() -> None:
    load = failing(PeakEwma(), 1.0)
    assert load.score(1.0) == pytest.approx(10.0)
    load.start()
    assert load.score(1.0) == pytest.approx(20.0)
    load.finish(0.01, 1.0)
    assert load.score(1.0) == pytest.approx(0.01 * 5.5)


def test_a_call_that_was_cancelled_teaches_nothing() -> None:
    load = measured((0.01, 1.0))
    load.start()
    load.cancel()
    assert load.in_flight == 0
    assert load.score(1.0) == pytest.approx(0.01)


def test_the_share_rises_from_a_tenth_to_all() -> None:
    load = PeakEwma()
    assert (load.is_warming, load.share(0.0)) == (False, 1.0)
    load.warm_up(since=100.0, seconds=10.0)
    assert load.is_warming
    assert [load.share(now) for now in (90.0, 100.0, 105.0, 109.0)] == pytest.approx([0.1, 0.1, 0.55, 0.91])
    assert (load.share(110.0), load.is_warming) == (1.0, False)
    assert load.share(100.0) == 1.0, "once warm it stays warm"


def test_no_warm_up_is_all_at_once() -> None:
    load = PeakEwma()
    load.warm_up(since=0.0, seconds=10.0)
    load.warm_up(since=0.0, seconds=0.0)
    assert (load.is_warming, load.share(0.0)) == (False, 1.0)


def test_while_it_warms_up_calls_under_way_count_for_more_and_the_next_one_does_not() -> None:
    load = measured((0.01, 0.0))
    load.warm_up(since=0.0, seconds=10.0)
    assert load.score(0.0) == pytest.approx(0.01)
    load.start()
    assert load.score(0.0) == pytest.approx(0.01 * (1 / FIRST_SHARE + 1))


@given(st.lists(latencies, min_size=1, max_size=20), st.floats(min_value=0.0, max_value=60.0))
def test_the_estimate_stays_among_what_was_seen(seconds: list[float], gap: float) -> None:
    load = measured(*[(each, number * gap) for number, each in enumerate(seconds)])
    score = load.score((len(seconds) - 1) * gap)
    assert seconds[-1] * 0.999_999 <= score <= max(*seconds, 0.0001) * 1.000_001


@given(latencies, latencies, latencies, st.floats(min_value=0.0, max_value=100.0))
def test_a_slower_answer_never_looks_better(before: float, one: float, other: float, now: float) -> None:
    quick, slow = sorted((one, other))
    assert (
        measured((before, 0.0), (quick, now)).score(now) <= measured((before, 0.0), (slow, now)).score(now) * 1.000_001
    )


class Life(RuleBasedStateMachine):
    """Any order of calls, whatever becomes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.load = PeakEwma()
        self.now = 0.0
        self.started = 0
        self.ended = 0
        self.warm_at = 0.0
        self.is_known = False

    @rule(ticks=st.integers(min_value=0, max_value=16_000))
    def wait(self, ticks: int) -> None:
        self.now += ticks / 16  # sums of such are exact

    @rule()
    def start(self) -> None:
        self.load.start()
        self.started += 1

    @precondition(lambda self: self.started > self.ended)
    @rule(seconds=latencies)
    def finish(self, seconds: float) -> None:
        self.load.finish(seconds, self.now)
        self.ended += 1
        self.is_known = True

    @precondition(lambda self: self.started > self.ended)
    @rule()
    def fail(self) -> None:
        before = self.load.score(self.now) / (self.load.in_flight + 1)
        self.load.failed(self.now)
        self.ended += 1
        if self.is_known and not self.load.is_warming:
            assert self.load.score(self.now) / (self.load.in_flight + 1) >= before

    @precondition(lambda self: self.started > self.ended)
    @rule(silence=st.just(0.0) | latencies)
    def cancel(self, silence: float) -> None:
        before = self.load.score(self.now) / (self.load.in_flight + 1)
        self.load.cancel(silence, self.now)
        self.ended += 1
        self.is_known = self.is_known or silence > 0.0001
        if silence > 0.0001 and not self.load.is_warming and self.load.in_flight:
            assert self.load.score(self.now) / (self.load.in_flight + 1) >= min(before, silence) * (1 - 1e-9)

    @rule(seconds=st.integers(min_value=0, max_value=100))
    def warm_up(self, seconds: int) -> None:
        self.load.warm_up(self.now, seconds)
        self.warm_at = self.now + seconds

    @invariant()
    def counts_and_bounds(self) -> None:
        assert self.load.in_flight == self.started - self.ended
        share = self.load.share(self.now)
        assert FIRST_SHARE <= share <= 1.0
        assert self.load.is_warming == (share < 1.0) == (self.now < self.warm_at)
        assert 0.0 <= self.load.score(self.now) <= 1e6 * (self.load.in_flight + 1) / share

    @invariant()
    def another_call_never_makes_it_look_better(self) -> None:
        before = self.load.score(self.now)
        self.load.start()
        assert self.load.score(self.now) > before
        self.load.cancel()


TestLife = Life.TestCase
