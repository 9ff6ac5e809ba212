"""The breaker: one test for each arrow between its states, and a model that is told the same as it."""

from __future__ import annotations

from math import inf, nextafter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meshproxy.config.servers import BreakerSettings
from meshproxy.upstream.breaker import Breaker, State
from tests.thorough import tries

MIDDLE = 0.5  # the draw that adds and takes nothing


def middle() -> float:
    return MIDDLE


def closed(**changes: Any) -> Breaker:
    return Breaker(BreakerSettings(**changes), middle)


def opened(at: float = 100.0, **changes: Any) -> Breaker:
    """Open since `at`, by a single failure."""
    breaker = closed(consecutive_failures=1, **changes)
    breaker.failed(breaker.begin(at), at)
    assert breaker.state is State.OPEN
    return breaker


def facts(breaker: Breaker) -> tuple[object, ...]:
    return breaker.state, breaker.is_closed, breaker.token, breaker.opened, breaker.retry_at


def test_in_the_beginning() -> None:
    breaker = closed()
    assert breaker.state is State.CLOSED
    assert breaker.is_closed
    assert breaker.allows(0.0)
    assert breaker.begin(0.0) == breaker.token != 0
    assert (breaker.opened, breaker.retry_at) == (0, 0.0)
    assert breaker.on_change is None


def test_the_states_are_the_values_of_a_gauge() -> None:
    assert {state.name: state.value for state in State} == {"CLOSED": 0, "HALF_OPEN": 1, "OPEN": 2}


def test_failures_in_a_row_open_it() -> None:
    breaker = closed()
    for second in (1.0, 2.0, 3.0, 4.0):
        breaker.failed(breaker.begin(second), second)
        assert breaker.is_closed
    breaker.failed(breaker.begin(5.0), 5.0)
    assert breaker.state is State.OPEN
    assert not breaker.is_closed
    assert (breaker.opened, breaker.retry_at) == (1, 5.5)


@pytest.mark.parametrize("has_rate", [False, True])
def test_a_success_ends_the_row(has_rate: bool) -> None:
    breaker = closed(consecutive_failures=3, **({"success_rate": 0.01} if has_rate else {}))
    for _ in range(5):
        breaker.failed(breaker.token, 1.0)
        breaker.failed(breaker.token, 1.0)
        breaker.succeeded(breaker.token, 1.0)
    assert breaker.is_closed
    breaker.failed(breaker.token, 1.0)
    breaker.failed(breaker.token, 1.0)
    breaker.failed(breaker.token, 1.0)
    assert breaker.state is State.OPEN


def test_a_cancelled_call_says_nothing_of_the_row() -> None:
    breaker = closed(consecutive_failures=2)
    breaker.failed(breaker.token, 1.0)
    breaker.cancelled(breaker.token, 1.0)
    breaker.failed(breaker.token, 1.0)
    assert breaker.state is State.OPEN


def test_open_until_it_is_time() -> None:
    breaker = opened(100.0)
    assert not breaker.allows(100.0)
    assert not breaker.allows(nextafter(100.5, 0))
    before = facts(breaker)
    assert breaker.allows(100.5)
    assert breaker.allows(1000.0)
    assert facts(breaker) == before  # to ask changes nothing


def test_retry_at_may_be_set_to_sooner() -> None:
    breaker = opened(100.0, open_for=10.0)
    assert not breaker.allows(101.0)
    breaker.retry_at = 101.0
    assert breaker.allows(101.0)


def test_a_single_probe() -> None:
    breaker = opened(100.0)
    token = breaker.begin(100.5)
    assert breaker.state is State.HALF_OPEN
    assert not breaker.is_closed
    assert breaker.retry_at == 100.5
    assert not breaker.allows(100.5)
    assert not breaker.allows(1000.0)
    beside = breaker.begin(101.0)
    before = facts(breaker)
    breaker.succeeded(beside, 101.0)
    breaker.failed(beside, 101.0)
    breaker.cancelled(beside, 101.0)
    assert facts(breaker) == before
    breaker.succeeded(token, 101.0)
    assert breaker.is_closed


def test_a_probe_that_succeeds_closes_it() -> None:
    breaker = opened(100.0)
    breaker.succeeded(breaker.begin(100.5), 100.6)
    assert breaker.state is State.CLOSED
    assert breaker.is_closed
    assert breaker.allows(100.6)
    assert (breaker.opened, breaker.retry_at) == (1, 0.0)


def test_a_closed_breaker_has_forgotten_what_it_counted() -> None:
    breaker = closed(consecutive_failures=3)
    for _ in range(3):
        breaker.failed(breaker.token, 100.0)
    breaker.succeeded(breaker.begin(100.5), 100.5)
    breaker.failed(breaker.token, 100.5)
    breaker.failed(breaker.token, 100.5)
    assert breaker.is_closed
    breaker.failed(breaker.token, 100.5)
    assert breaker.state is State.OPEN
    assert breaker.opened == 2


def test_a_probe_that_fails_keeps_it_open_for_twice_as_long() -> None:
    breaker = opened(0.0)
    lengths = []
    for _ in range(7):
        now = breaker.retry_at
        breaker.failed(breaker.begin(now), now)
        assert breaker.state is State.OPEN
        lengths.append(breaker.retry_at - now)
    assert lengths == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]
    assert breaker.opened == 1


def test_after_a_success_it_opens_for_as_long_as_at_first() -> None:
    breaker = opened(0.0)
    breaker.failed(breaker.begin(1.0), 1.0)
    breaker.succeeded(breaker.begin(2.0), 2.0)
    breaker.failed(breaker.begin(3.0), 3.0)
    assert breaker.retry_at == 3.5


def test_a_cancelled_probe_lets_another_one_go() -> None:
    breaker = opened(100.0)
    first = breaker.begin(100.5)
    breaker.cancelled(first, 100.7)
    assert breaker.state is State.OPEN
    assert (breaker.opened, breaker.retry_at) == (1, 100.5)
    assert breaker.allows(100.7)
    second = breaker.begin(100.8)
    assert breaker.state is State.HALF_OPEN
    before = facts(breaker)
    breaker.succeeded(first, 100.9)  # ended before; not the probe of now
    breaker.failed(first, 100.9)
    breaker.cancelled(first, 100.9)
    assert facts(breaker) == before
    breaker.failed(second, 101.0)
    assert breaker.retry_at == 102.0  # the cancelled one has not lengthened it


@pytest.mark.parametrize(("draw", "length"), [(0.0, 0.8), (0.25, 0.9), (0.5, 1.0), (nextafter(1, 0), 1.2)])
def test_jitter(draw: float, length: float) -> None:
    breaker = Breaker(BreakerSettings(consecutive_failures=1, open_for=1.0), lambda: draw)
    breaker.failed(breaker.token, 100.0)
    assert breaker.retry_at == pytest.approx(100.0 + length, abs=1e-9)


def test_jitter_is_not_carried_on() -> None:
    draws = iter([0.0, 1.0])
    breaker = Breaker(BreakerSettings(consecutive_failures=1, open_for=1.0), lambda: next(draws))
    breaker.failed(breaker.token, 0.0)
    breaker.failed(breaker.begin(1.0), 1.0)
    assert breaker.retry_at == pytest.approx(1.0 + 2.4)  # of 2.0, not of 1.6


def test_the_most_is_the_most_whatever_chance_says() -> None:
    breaker = Breaker(BreakerSettings(consecutive_failures=1, open_for=10.0), lambda: 1.0)
    breaker.failed(breaker.token, 0.0)
    assert breaker.retry_at == 10.0


def test_jitter_of_the_most() -> None:
    breaker = Breaker(BreakerSettings(consecutive_failures=1, open_for=10.0), lambda: 0.0)
    breaker.failed(breaker.token, 0.0)
    for _ in range(3):
        now = breaker.retry_at
        breaker.failed(breaker.begin(now), now)
        assert breaker.retry_at == pytest.approx(now + 8.0)


def test_late_results_change_nothing_while_it_is_open() -> None:
    breaker = closed(consecutive_failures=1)
    early = breaker.begin(99.0)
    breaker.failed(breaker.begin(99.0), 100.0)
    before = facts(breaker)
    for token in (early, 0):
        breaker.failed(token, 101.0)
        breaker.succeeded(token, 101.0)
        breaker.cancelled(token, 101.0)
        assert facts(breaker) == before


def test_late_results_change_nothing_beside_the_probe() -> None:
    breaker = closed(consecutive_failures=1)
    early = breaker.begin(99.0)
    breaker.failed(breaker.begin(99.0), 100.0)
    breaker.begin(100.5)
    before = facts(breaker)
    for token in (early, 0):
        breaker.failed(token, 101.0)
        breaker.succeeded(token, 101.0)
        breaker.cancelled(token, 101.0)
        assert facts(breaker) == before


def test_late_results_change_nothing_after_it_has_closed() -> None:
    """A hundred calls run into their time-out long after the endpoint works again."""
    breaker = closed(consecutive_failures=5)
    tokens = [breaker.begin(70.0) for _ in range(105)]
    for token in tokens[:5]:
        breaker.failed(token, 100.0)
    probe = breaker.begin(100.5)
    breaker.succeeded(probe, 100.6)
    before = facts(breaker)
    for token in [*tokens[5:], probe]:
        breaker.failed(token, 101.0)
    assert facts(breaker) == before
    for _ in range(4):
        breaker.failed(breaker.token, 102.0)
    breaker.succeeded(tokens[5], 102.0)  # a late success does not end a row of now
    breaker.failed(breaker.token, 102.0)
    assert breaker.state is State.OPEN


def test_changes_are_told_when_they_are_complete() -> None:
    breaker = closed(consecutive_failures=1)
    told: list[tuple[State, State, bool, float, int]] = []

    def tell(old: State, new: State) -> None:
        assert breaker.state is new
        told.append((old, new, breaker.is_closed, breaker.retry_at, breaker.opened))

    breaker.on_change = tell
    breaker.failed(breaker.begin(1.0), 1.0)
    breaker.cancelled(breaker.begin(2.0), 2.0)
    breaker.failed(breaker.begin(3.0), 3.0)
    breaker.succeeded(breaker.begin(4.0), 4.0)
    assert told == [
        (State.CLOSED, State.OPEN, False, 1.5, 1),
        (State.OPEN, State.HALF_OPEN, False, 1.5, 1),
        (State.HALF_OPEN, State.OPEN, False, 1.5, 1),
        (State.OPEN, State.HALF_OPEN, False, 1.5, 1),
        (State.HALF_OPEN, State.OPEN, False, 4.0, 1),
        (State.OPEN, State.HALF_OPEN, False, 4.0, 1),
        (State.HALF_OPEN, State.CLOSED, True, 0.0, 1),
    ]


# The success rate


def watched(**changes: float) -> Breaker:
    return closed(**{"consecutive_failures": 1000, "success_rate": 0.8, "min_requests": 10} | changes)


def feed(breaker: Breaker, successes: int, failures: int, now: float) -> None:
    for _ in range(successes):
        breaker.succeeded(breaker.token, now)
    for _ in range(failures):
        breaker.failed(breaker.token, now)


def test_the_rate_itself_is_good_enough() -> None:
    breaker = watched()
    feed(breaker, 8, 2, 100.0)
    assert breaker.is_closed
    feed(breaker, 0, 1, 100.0)
    assert breaker.state is State.OPEN
    assert (breaker.opened, breaker.retry_at) == (1, 100.5)


def test_a_rate_that_floats_cannot_hold_is_met_exactly() -> None:
    breaker = watched(success_rate=0.55, min_requests=20)  # 0.55 * 20 = 11.000000000000002
    feed(breaker, 11, 9, 100.0)
    assert breaker.is_closed


def test_few_results_say_nothing() -> None:
    breaker = watched()
    feed(breaker, 0, 9, 100.0)
    assert breaker.is_closed
    feed(breaker, 0, 1, 100.0)
    assert breaker.state is State.OPEN


def test_a_success_never_opens_it() -> None:
    breaker = watched()
    feed(breaker, 0, 9, 100.0)
    feed(breaker, 1, 0, 100.0)
    assert breaker.is_closed
    feed(breaker, 0, 1, 100.0)
    assert breaker.state is State.OPEN


def test_without_a_rate_failures_that_are_not_in_a_row_never_open_it() -> None:
    breaker = closed(consecutive_failures=5)
    for _ in range(100):
        feed(breaker, 1, 4, 100.0)
    assert breaker.is_closed


@pytest.mark.parametrize(
    ("later", "is_closed"),
    [
        (0.0, False),
        (9.0, False),
        (nextafter(10.0, 0), False),
        (10.0, True),
        (10.5, True),
        (1000.0, True),
    ],
)
def test_the_end_of_the_window(later: float, is_closed: bool) -> None:
    """Nine failures at its beginning; the tenth opens it if they still count."""
    breaker = watched()
    feed(breaker, 0, 9, 0.0)
    feed(breaker, 0, 1, later)
    assert breaker.is_closed == is_closed


@pytest.mark.parametrize("later", [0.09, 0.5, 0.89])
def test_a_window_shorter_than_a_second(later: float) -> None:
    breaker = watched(window=1.0)
    feed(breaker, 0, 9, 0.0)
    feed(breaker, 0, 1, later)
    assert breaker.state is State.OPEN


def test_the_window_moves_on_a_tenth_at_a_time() -> None:
    breaker = watched(min_requests=1, success_rate=0.5)
    for second in range(10):
        feed(breaker, 2, 0, float(second))
    feed(breaker, 0, 18, 10.0)  # 18 of the 20 successes still count
    assert breaker.is_closed
    feed(breaker, 0, 1, 10.0)
    assert breaker.state is State.OPEN


def test_a_closed_breaker_begins_a_window() -> None:
    breaker = watched()
    feed(breaker, 0, 10, 100.0)
    breaker.succeeded(breaker.begin(100.5), 100.5)
    feed(breaker, 0, 9, 100.5)
    assert breaker.is_closed
    feed(breaker, 0, 1, 100.5)
    assert breaker.state is State.OPEN


def test_successes_before_the_first_failure_count() -> None:
    breaker = watched()
    for _ in range(2):
        feed(breaker, 8, 2, 100.0)
        assert breaker.is_closed
        feed(breaker, 0, 1, 100.0)
        assert breaker.state is State.OPEN
        breaker.succeeded(breaker.begin(100.5), 100.5)


@settings(max_examples=tries(200))
@given(
    window=st.floats(0.1, 100.0),
    steps=st.lists(st.tuples(st.floats(0.0, 2.0), st.booleans()), min_size=1, max_size=60),
    start=st.floats(0.0, 1e6),
)
def test_a_result_counts_for_nine_tenths_of_the_window_and_never_for_more(
    window: float, steps: list[tuple[float, bool]], start: float
) -> None:
    """Whatever the times: when it opens, some reading of the blurred tenth explains it, and the other way round."""
    breaker = watched(window=window, min_requests=5, success_rate=0.5)
    now = start
    results: list[tuple[float, bool]] = []
    for share, is_ok in steps:
        now += share * window / 4
        results.append((now, is_ok))
        if is_ok:
            breaker.succeeded(breaker.token, now)
            assert breaker.is_closed
            continue
        breaker.failed(breaker.token, now)
        slack = 1e-6 * window + 1e-9 * now
        sure = [ok for at, ok in results if now - at < 0.9 * window - slack]
        maybe = [ok for at, ok in results if 0.9 * window - slack <= now - at <= window + slack]
        # The buckets that count begin at one moment, so that the results of the blurred tenth which count are the last.
        readings = [[*maybe[cut:], *sure] for cut in range(len(maybe) + 1)]
        verdicts = {len(oks) >= 5 and sum(oks) / len(oks) < 0.5 for oks in readings}
        assert (not breaker.is_closed) in verdicts
        if not breaker.is_closed:
            return


# Against a model


class BreakerMachine(RuleBasedStateMachine):
    """The same calls to a breaker and to a model of lists. Time is whole seconds: the window has no blurred end."""

    @initialize(
        in_a_row=st.integers(1, 4),
        success_rate=st.sampled_from([None, 0.5, 0.8]),
        min_requests=st.integers(1, 6),
        open_for=st.sampled_from([0.5, 1.0, 3.0]),
        most=st.sampled_from([3.0, 5.0, 10.0]),
    )
    def begin_with(
        self, in_a_row: int, success_rate: float | None, min_requests: int, open_for: float, most: float
    ) -> None:
        self.settings = BreakerSettings(
            consecutive_failures=in_a_row,
            success_rate=success_rate,
            window=10.0,
            min_requests=min_requests,
            open_for=open_for,
            open_for_most=most,
        )
        self.draw = MIDDLE
        self.breaker = Breaker(self.settings, lambda: self.draw)
        self.breaker.on_change = lambda old, new: self.told.append((old, new))
        self.now = 1000.0
        self.told: list[tuple[State, State]] = []
        self.calls: list[tuple[int, int, bool]] = []  # token, era in which it began, is it the probe
        # What the model knows.
        self.state = State.CLOSED
        self.era = 0  # how many times it has opened
        self.row = 0
        self.results: list[tuple[float, bool]] = []
        self.length = open_for
        self.earliest = self.latest = 0.0  # of retry_at

    def change(self, state: State) -> None:
        assert self.told == [(self.state, state)]
        self.told.clear()
        self.state = state

    def opens(self) -> None:
        most = self.settings.open_for_most
        self.earliest = self.now + min(0.8 * self.length, most)
        self.latest = self.now + min(1.2 * self.length, most)
        self.change(State.OPEN)

    def is_too_much(self) -> bool:
        if self.row >= self.settings.consecutive_failures:
            return True
        recent = [is_ok for at, is_ok in self.results if self.now - at < 10]
        least = self.settings.success_rate
        return least is not None and len(recent) >= self.settings.min_requests and sum(recent) / len(recent) < least

    @rule(seconds=st.integers(0, 12))
    def time_goes_by(self, seconds: int) -> None:
        self.now += seconds

    @rule(draw=st.floats(0, 1, exclude_max=True))
    def chance(self, draw: float) -> None:
        self.draw = draw

    @rule()
    def begin(self) -> None:
        if not self.breaker.allows(self.now):
            return
        token = self.breaker.begin(self.now)
        is_probe = self.state is not State.CLOSED
        if is_probe:
            self.change(State.HALF_OPEN)
        self.calls.append((token, self.era, is_probe))

    @precondition(lambda self: self.state is State.CLOSED)
    @rule()
    def begin_as_the_hot_path_does(self) -> None:
        assert self.breaker.is_closed
        self.calls.append((self.breaker.token, self.era, False))

    @precondition(lambda self: self.state is State.HALF_OPEN)
    @rule()
    def begin_beside_the_probe(self) -> None:
        self.calls.append((self.breaker.begin(self.now), -1, False))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), how=st.sampled_from(["succeeded", "failed", "failed", "cancelled"]))
    def end(self, data: st.DataObject, how: str) -> None:
        token, era, is_probe = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        before = facts(self.breaker)
        getattr(self.breaker, how)(token, self.now)
        if is_probe:
            self.probe_ended(how)
        elif self.state is State.CLOSED and era == self.era and how != "cancelled":
            self.counted(how == "succeeded")
        else:
            assert facts(self.breaker) == before
            assert not self.told

    def probe_ended(self, how: str) -> None:
        if how == "succeeded":
            self.change(State.CLOSED)
            self.row = 0
            self.results.clear()
            self.length = self.settings.open_for
            self.earliest = self.latest = 0.0
        elif how == "failed":
            self.length = min(self.length * 2, self.settings.open_for_most)
            self.opens()
        else:
            self.change(State.OPEN)

    def counted(self, is_ok: bool) -> None:
        self.results.append((self.now, is_ok))
        if is_ok:
            self.row = 0
            return
        self.row += 1
        if self.is_too_much():
            self.era += 1
            self.opens()

    @invariant()
    def is_as_the_model_says(self) -> None:
        breaker = self.breaker
        assert not self.told
        assert breaker.state is self.state
        assert breaker.is_closed == (self.state is State.CLOSED)
        assert breaker.opened == self.era
        assert self.earliest - 1e-9 <= breaker.retry_at <= self.latest + 1e-9
        assert sum(is_probe for _, _, is_probe in self.calls) == (self.state is State.HALF_OPEN)

    @invariant()
    def lets_nobody_through_before_it_is_time(self) -> None:
        breaker = self.breaker
        if self.state is State.CLOSED:
            assert breaker.allows(self.now)
        elif self.state is State.HALF_OPEN:
            assert not breaker.allows(inf)
        else:
            assert breaker.allows(breaker.retry_at)
            assert not breaker.allows(nextafter(breaker.retry_at, 0))


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=tries(150), stateful_step_count=60)
