"""Who enters, who waits and who is turned away: literal cases, and random lives beside a slow model in plain lists."""

from __future__ import annotations

import functools
from collections.abc import Callable
from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshproxy.routing.admission import Admission, Entry
from meshproxy.routing.concurrency import FixedLimit
from tests.thorough import tries

ADMITTED, QUEUED, FULL, TOO_LATE = Entry.ADMITTED, Entry.QUEUED, Entry.FULL, Entry.TOO_LATE


class Call:
    """Writes down what it hears."""

    def __init__(self, name: str = "", then: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self.then = then
        self.heard: list[Entry] = []

    def admitted(self) -> None:
        self.heard.append(ADMITTED)
        self.then()

    def rejected(self, why: Entry) -> None:
        self.heard.append(why)
        self.then()


def busy(limit: int = 1, queue: int = 3, queue_timeout: float = 10.0, usual: float = 0.0) -> Admission:
    """Nothing is free."""
    admission = Admission(FixedLimit(limit), queue, queue_timeout)
    if usual:
        admission.enter(Call(), 1, inf, 0.0)
        admission.leave(usual, True, 0.0)
    for _ in range(limit):
        assert admission.enter(Call(), 1, inf, 0.0) is ADMITTED
    return admission


def test_lets_in_as_many_as_the_limit_says() -> None:
    admission = Admission(FixedLimit(2), 1, 10.0)

    entries = [admission.enter(Call(), 1, inf, 0.0) for _ in range(4)]

    assert entries == [ADMITTED, ADMITTED, QUEUED, FULL]
    assert (admission.in_flight, admission.waiting) == (2, 1)


def test_whoever_is_let_in_at_once_is_not_called_back() -> None:
    admission = Admission(FixedLimit(1), 1, 10.0)
    call = Call()

    assert admission.enter(call, 1, inf, 0.0) is ADMITTED
    admission.leave(0.1, True, 0.1)

    assert call.heard == []
    assert admission.in_flight == 0


def test_without_a_queue_nobody_waits() -> None:
    admission = busy(queue=0)

    assert admission.enter(Call(), 0, inf, 0.0) is FULL
    assert admission.next_expiry == inf


def test_first_come_first_served() -> None:
    admission = busy()
    first, second = Call(), Call()
    admission.enter(first, 1, inf, 0.0)
    admission.enter(second, 1, inf, 0.0)

    admission.leave(0.1, True, 1.0)

    assert (first.heard, second.heard) == ([ADMITTED], [])
    assert admission.in_flight == 1

    admission.leave(0.1, True, 1.0)

    assert second.heard == [ADMITTED]


def test_the_important_go_first() -> None:
    admission = busy()
    calls = [Call("sheddable"), Call("default"), Call("critical")]
    order: list[str] = []
    for call, priority in zip(calls, (2, 1, 0), strict=True):
        call.then = functools.partial(order.append, call.name)
        admission.enter(call, priority, inf, 0.0)

    for _ in range(3):
        admission.leave(0.1, True, 1.0)

    assert order == ["critical", "default", "sheddable"]


def test_a_full_queue_sends_away_the_least_important_that_has_waited_least() -> None:
    admission = busy(queue=3)
    old, new, default = Call(), Call(), Call()
    admission.enter(old, 2, inf, 0.0)
    admission.enter(new, 2, inf, 0.0)
    admission.enter(default, 1, inf, 0.0)

    assert admission.enter(Call(), 2, inf, 0.0) is FULL
    assert admission.enter(Call(), 1, inf, 0.0) is QUEUED
    assert (old.heard, new.heard, default.heard) == ([], [FULL], [])
    assert admission.enter(Call(), 0, inf, 0.0) is QUEUED
    assert (old.heard, default.heard) == ([FULL], [])
    assert admission.enter(Call(), 1, inf, 0.0) is FULL
    assert admission.waiting == 3


def test_whoever_would_not_be_served_in_time_is_told_at_once() -> None:
    """Two at a time, a second each: a place is free every half second."""
    admission = busy(limit=2, usual=1.0)

    assert admission.enter(Call(), 1, 1.4, 0.0) is TOO_LATE
    assert admission.enter(Call(), 1, 1.6, 0.0) is QUEUED
    assert admission.enter(Call(), 1, 1.9, 0.0) is TOO_LATE
    assert admission.enter(Call(), 0, 1.6, 0.0) is QUEUED


def test_whoever_would_wait_too_long_is_told_at_once() -> None:
    admission = busy(usual=4.0, queue=100)

    assert [admission.enter(Call(), 1, inf, 0.0) for _ in range(3)] == [QUEUED, QUEUED, FULL]


def test_no_time_left_is_too_late_even_if_there_is_room() -> None:
    admission = Admission(FixedLimit(1), 1, 1.0)

    assert admission.enter(Call(), 1, 5.0, 5.0) is TOO_LATE
    assert admission.in_flight == 0


def test_little_time_left_is_no_reason_if_there_is_room() -> None:
    """It may be that what is known is no longer true; whoever is let in will tell."""
    admission = Admission(FixedLimit(1), 1, 1.0)
    admission.enter(Call(), 1, inf, 0.0)
    admission.leave(100.0, True, 0.0)

    assert admission.enter(Call(), 1, 1.0, 0.0) is ADMITTED


def test_those_whose_time_has_come_are_skipped() -> None:
    admission = busy(queue_timeout=5.0)
    late, waited, good = Call(), Call(), Call()
    admission.enter(late, 1, 3.0, 0.0)
    admission.enter(waited, 1, inf, 0.0)
    admission.enter(good, 1, inf, 2.0)

    admission.leave(0.1, True, 6.0)

    assert (late.heard, waited.heard, good.heard) == ([TOO_LATE], [FULL], [ADMITTED])


def test_those_that_cannot_be_answered_in_time_any_more_are_skipped() -> None:
    admission = busy(usual=1.0)
    late, good = Call(), Call()
    admission.enter(late, 1, 3.0, 0.0)
    admission.enter(good, 1, 4.0, 0.0)

    admission.leave(1.0, True, 2.5)

    assert (late.heard, good.heard) == ([TOO_LATE], [ADMITTED])


def test_expires_by_deadline_and_by_time_in_the_queue() -> None:
    admission = busy(queue_timeout=5.0)
    soon, later, last = Call(), Call(), Call()
    admission.enter(later, 0, inf, 0.0)
    admission.enter(soon, 2, 2.0, 0.0)
    admission.enter(last, 1, inf, 1.0)

    assert admission.next_expiry == 2.0
    admission.expire(1.9)
    assert soon.heard == []
    admission.expire(2.0)
    assert (soon.heard, later.heard) == ([TOO_LATE], [])
    assert admission.next_expiry == 5.0
    admission.expire(100.0)
    assert (later.heard, last.heard) == ([FULL], [FULL])
    assert admission.next_expiry == inf
    assert admission.waiting == 0


def test_whoever_withdraws_hears_nothing() -> None:
    admission = busy()
    gone, stays = Call(), Call()
    admission.enter(gone, 1, inf, 0.0)
    admission.enter(stays, 1, inf, 0.0)

    admission.withdraw(gone)
    admission.withdraw(gone)
    admission.withdraw(Call())
    admission.leave(0.1, True, 1.0)
    admission.expire(100.0)

    assert gone.heard == []
    assert stays.heard == [ADMITTED]


def test_a_cancelled_call_makes_room_and_teaches_nothing() -> None:
    class Deaf(FixedLimit):
        def finished(self, seconds: float, in_flight: int, is_ok: bool, now: float) -> None:
            raise AssertionError

    admission = Admission(Deaf(1), 1, 10.0)
    call = Call()
    admission.enter(Call(), 1, inf, 0.0)
    admission.enter(call, 1, inf, 0.0)

    admission.cancelled(1.0)

    assert call.heard == [ADMITTED]
    assert admission.in_flight == 1


def test_failures_do_not_tell_how_long_a_call_takes() -> None:
    admission = busy(limit=1)
    admission.leave(100.0, False, 100.0)
    admission.enter(Call(), 1, inf, 100.0)

    assert admission.enter(Call(), 1, 101.0, 100.0) is QUEUED


def test_a_limit_that_grows_lets_in_more_than_one() -> None:
    limit = FixedLimit(1)
    admission = Admission(limit, 3, 10.0)
    calls = [Call() for _ in range(4)]
    for call in calls:
        admission.enter(call, 1, inf, 0.0)

    limit.current = 3
    admission.leave(0.1, True, 1.0)

    assert [call.heard for call in calls] == [[], [ADMITTED], [ADMITTED], [ADMITTED]]


def test_a_newcomer_does_not_overtake_when_the_limit_has_grown() -> None:
    limit = FixedLimit(1)
    admission = Admission(limit, 3, 10.0)
    waits = Call()
    admission.enter(Call(), 1, inf, 0.0)
    admission.enter(waits, 1, inf, 0.0)

    limit.current = 2

    assert admission.enter(Call(), 0, inf, 0.0) is QUEUED
    assert waits.heard == [ADMITTED]


def test_a_limit_that_shrinks_lets_nobody_in_until_enough_have_left() -> None:
    limit = FixedLimit(3)
    admission = Admission(limit, 3, 10.0)
    for _ in range(3):
        admission.enter(Call(), 1, inf, 0.0)
    waits = Call()
    admission.enter(waits, 1, inf, 0.0)

    limit.current = 1
    admission.leave(0.1, True, 1.0)
    admission.leave(0.1, True, 1.0)
    assert waits.heard == []
    admission.leave(0.1, True, 1.0)
    assert waits.heard == [ADMITTED]


def test_thousands_that_leave_as_soon_as_they_are_let_in_do_not_nest() -> None:
    admission = busy(queue=10_000, queue_timeout=inf)
    calls = [Call(then=lambda: admission.leave(0.0, True, 1.0)) for _ in range(10_000)]
    for call in calls:
        assert admission.enter(call, 1, inf, 0.0) is QUEUED

    admission.leave(0.0, True, 1.0)

    assert all(call.heard == [ADMITTED] for call in calls)
    assert (admission.in_flight, admission.waiting) == (0, 0)


def test_whoever_is_turned_away_may_come_back_at_once() -> None:
    """Its place is taken already: it does not push the queue beyond its size."""
    admission = busy(queue=1)
    entries: list[Entry] = []
    again = Call()
    away = Call(then=lambda: entries.append(admission.enter(again, 2, inf, 0.0)))
    admission.enter(away, 2, inf, 0.0)

    assert admission.enter(Call(), 0, inf, 0.0) is QUEUED
    assert away.heard == [FULL]
    assert entries == [FULL]
    assert admission.waiting == 1


def test_whoever_makes_room_while_it_is_turned_away_lets_the_next_in() -> None:
    admission = busy(queue=1)
    away = Call(then=lambda: admission.leave(0.1, True, 0.0))
    admission.enter(away, 2, inf, 0.0)

    assert admission.enter(Call(), 0, inf, 0.0) is ADMITTED
    assert (admission.in_flight, admission.waiting) == (1, 0)


def test_waiters_that_come_and_go_leave_nothing_behind() -> None:
    admission = busy(queue_timeout=1e9)

    for _ in range(10_000):
        call = Call()
        assert admission.enter(call, 1, inf, 0.0) is QUEUED
        admission.withdraw(call)

    assert len(admission._times) < 200


@pytest.mark.parametrize("seconds", [0.001, 5.0])
def test_the_usual_time_follows(seconds: float) -> None:
    """After a hundred calls it knows what they take now, within a tenth; one long one does not matter."""
    admission = busy(usual=0.1)
    for _ in range(100):
        admission.leave(seconds, True, 0.0)
        admission.enter(Call(), 1, inf, 0.0)
    admission.leave(1000 * seconds, True, 0.0)
    admission.enter(Call(), 1, inf, 0.0)

    assert admission.enter(Call(), 1, 2 * 0.85 * seconds, 0.0) is TOO_LATE
    assert admission.enter(Call(), 1, 2 * 1.15 * seconds, 0.0) is QUEUED


class Waiting:
    """A waiter as the model of the machine sees it."""

    def __init__(self, call: Call, priority: int, deadline: float, since: float) -> None:
        self.call = call
        self.priority = priority
        self.deadline = deadline
        self.since = since


class Life(RuleBasedStateMachine):
    """Calls come, leave, withdraw; time goes on; the limit changes. Beside it lists of who waits, in order."""

    QUEUE = 4
    TIMEOUT = 3.0

    def __init__(self) -> None:
        super().__init__()
        self.limit = FixedLimit(2)
        self.admission = Admission(self.limit, self.QUEUE, self.TIMEOUT)
        self.now = 100.0
        self.in_flight = 0
        self.waiting: list[Waiting] = []
        self.told: list[tuple[Call, Entry]] = []
        self.withdrawn: list[Call] = []
        self.left: list[Call] = []
        """Waiters that the machine has seen go."""

    def _call(self) -> Call:
        call = Call()

        def heard() -> None:
            # Nobody is let in above the limit.
            if call.heard[-1] is ADMITTED:
                assert self.admission.in_flight <= self.limit.current
            self.told.append((call, call.heard[-1]))

        call.then = heard
        return call

    def _take_in(self) -> None:
        """What was told since: check it, in order, against who waits."""
        for call, entry in self.told:
            place = next(place for place in self.waiting if place.call is call)
            if entry is ADMITTED:
                # Highest priority first, then who came first; nobody whose time is up.
                assert place is min(self.waiting, key=lambda one: one.priority)
                assert place.deadline > self.now
                assert self.now < place.since + self.TIMEOUT
                self.in_flight += 1
            elif entry is TOO_LATE:
                assert place.deadline - self.now <= 1.0  # what the slowest call takes
            else:
                assert entry is FULL
            self.waiting.remove(place)
            self.left.append(call)
        self.told.clear()

    @rule(
        priority=st.integers(0, 2),
        patience=st.sampled_from([0.0, 0.2, 1.0, 2.0, 5.0, inf]),
    )
    def come(self, priority: int, patience: float) -> None:
        call = self._call()
        was_waiting = list(self.waiting)
        has_room = self.in_flight < self.limit.current
        entry = self.admission.enter(call, priority, self.now + patience, self.now)
        displaced = [told for told, why in self.told if why is FULL]
        self._take_in()
        if patience == 0.0:
            assert entry is TOO_LATE
        elif entry is ADMITTED:
            assert has_room
            assert not self.waiting
            self.in_flight += 1
            assert self.admission.in_flight <= self.limit.current
        elif entry is QUEUED:
            self.waiting.append(Waiting(call, priority, self.now + patience, self.now))
            assert len(self.waiting) <= self.QUEUE
        if entry is FULL and len(was_waiting) >= self.QUEUE:
            assert all(place.priority <= priority for place in self.waiting)
        if not has_room and displaced:
            # Sent away: of the least important the one that came last, and less important than the newcomer.
            least = max(place.priority for place in was_waiting)
            assert least > priority
            assert displaced == [[place.call for place in was_waiting if place.priority == least][-1]]
        assert call.heard == []

    @precondition(lambda self: self.in_flight)
    @rule(seconds=st.sampled_from([0.01, 0.1, 1.0]), is_ok=st.booleans())
    def leave(self, seconds: float, is_ok: bool) -> None:
        self.in_flight -= 1
        self.admission.leave(seconds, is_ok, self.now)
        self._take_in()
        assert not self.waiting or self.in_flight >= self.limit.current

    @precondition(lambda self: self.in_flight)
    @rule()
    def cancel(self) -> None:
        self.in_flight -= 1
        self.admission.cancelled(self.now)
        self._take_in()
        assert not self.waiting or self.in_flight >= self.limit.current

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(self.waiting))
        self.admission.withdraw(place.call)
        self.waiting.remove(place)
        self.withdrawn.append(place.call)
        assert not self.told

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        self.admission.expire(self.now)
        assert all(why is (TOO_LATE if self._of(call).deadline <= self.now else FULL) for call, why in self.told)
        self._take_in()
        assert all(place.deadline > self.now for place in self.waiting)
        assert all(place.since + self.TIMEOUT > self.now for place in self.waiting)

    def _of(self, call: Call) -> Waiting:
        return next(place for place in self.waiting if place.call is call)

    @rule(limit=st.integers(1, 4))
    def limit_changes(self, limit: int) -> None:
        self.limit.current = limit

    @invariant()
    def counts_are_right(self) -> None:
        assert self.admission.in_flight == self.in_flight
        assert self.admission.waiting == len(self.waiting)
        ends = [min(place.deadline, place.since + self.TIMEOUT) for place in self.waiting]
        assert self.admission.next_expiry == min(ends, default=inf)

    @invariant()
    def everybody_hears_once(self) -> None:
        assert all(place.call.heard == [] for place in self.waiting)
        assert all(call.heard == [] for call in self.withdrawn)
        assert all(len(call.heard) == 1 for call in self.left)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=tries(150), stateful_step_count=40)
