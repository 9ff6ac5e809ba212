"""Limits before a simulated model server: so many workers, a queue that nobody sees, and calls that keep coming.

Seeds are fixed, time is simulated: every run is the same, and takes a fraction of a second.
"""

from __future__ import annotations

import functools
import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.routing.admission import Admission, Entry
from meshproxy.routing.concurrency import FixedLimit, GradientLimit, Limit
from tests.thorough import tries

REFUSED_AFTER = 0.001
"""Seconds after which a server with a full queue says so."""


class Request:
    """One call, from its arrival to its answer."""

    def __init__(self, world: World, work: float) -> None:
        self.world = world
        self.work = work
        self.came = world.now
        self.sent = 0.0
        self.is_over = False

    def admitted(self) -> None:
        world = self.world
        self.sent = world.now
        world.at(max(world.now, self.came + world.patience), self.give_up)
        world.server_takes(self)

    def rejected(self, why: Entry) -> None:
        self.world.refused.append((self.world.now, why))

    def give_up(self) -> None:
        """The deadline has come. The server works on it all the same."""
        self.end(False)

    def end(self, is_ok: bool) -> None:
        if not self.is_over:
            self.is_over = True
            world = self.world
            if is_ok:
                world.answered.append((world.now, world.now - self.came))
            else:
                world.failed.append(world.now)
            world.admission.leave(world.now - self.sent, is_ok, world.now)


class World:
    """Callers, the admission, and a server: `workers` calls at a time, each `seconds` times its work."""

    def __init__(self, limit: Limit, workers: int, seconds: float, patience: float = 0.5) -> None:
        self.limit = limit
        self.workers = workers
        self.seconds = seconds
        self.patience = patience
        self.server_queue: int | None = None
        """Calls that may wait in the server; it refuses others."""
        self.admission = Admission(limit, 64, 0.1 if seconds < 0.1 else 1.0)
        self.random = random.Random(7)
        self.rate = 0.0
        self.work: Callable[[], float] = lambda: self.random.uniform(0.5, 1.5)
        self.now = 0.0
        self.offered = 0
        self.answered: list[tuple[float, float]] = []
        self.failed: list[float] = []
        self.refused: list[tuple[float, Entry]] = []
        self.limits: list[int] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._turn = 0
        self._busy = 0
        self._inside: deque[Request] = deque()
        self.at(0.0, self._arrive)
        self.at(0.0, self._tick)

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._turn += 1
        heapq.heappush(self._events, (when, self._turn, what))

    def run(self, seconds: float, rate: float | None = None) -> Span:
        """Go on for `seconds`, with `rate` calls a second."""
        if rate is not None:
            self.rate = rate
        began = self.now
        marks = len(self.answered), len(self.failed), len(self.refused), len(self.limits), self.offered
        while self._events and self._events[0][0] <= began + seconds:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = began + seconds
        return Span(self, seconds, marks)

    def _arrive(self) -> None:
        self.at(self.now + self.random.expovariate(self.rate or 20.0), self._arrive)
        if not self.rate:
            return
        self.offered += 1
        request = Request(self, self.work())
        entry = self.admission.enter(request, 1, self.now + self.patience, self.now)
        if entry is Entry.ADMITTED:
            request.admitted()
        elif entry is not Entry.QUEUED:
            request.rejected(entry)

    def _tick(self) -> None:
        self.at(self.now + 0.01, self._tick)
        self.admission.expire(self.now)
        self.limits.append(self.limit.current)

    def server_takes(self, request: Request) -> None:
        if self.server_queue is not None and len(self._inside) >= self.server_queue:
            self.at(self.now + REFUSED_AFTER, lambda: request.end(False))
            return
        self._inside.append(request)
        self._work()

    def _work(self) -> None:
        while self._inside and self._busy < self.workers:
            request = self._inside.popleft()
            self._busy += 1
            self.at(self.now + self.seconds * request.work, functools.partial(self._served, request))

    def _served(self, request: Request) -> None:
        self._busy -= 1
        request.end(True)
        self._work()


class Span:
    """What happened while the world went on for some seconds."""

    def __init__(self, world: World, seconds: float, marks: tuple[int, int, int, int, int]) -> None:
        self.latencies = sorted(latency for _, latency in world.answered[marks[0] :])
        self.failed = len(world.failed) - marks[1]
        self.refused = len(world.refused) - marks[2]
        self.limits = world.limits[marks[3] :]
        self.offered = world.offered - marks[4]
        self.goodput = len(self.latencies) / seconds
        """Answers a second that came before their deadline."""

    @property
    def p99(self) -> float:
        return self.latencies[len(self.latencies) * 99 // 100]

    @property
    def limit(self) -> int:
        """The median: probes are short."""
        return sorted(self.limits)[len(self.limits) // 2]

    @property
    def probes(self) -> int:
        """How often the limit fell to about one half at once."""
        return sum(after <= 0.6 * self.limit < before for before, after in pairwise(self.limits))


UNLOADED_P99 = 1.5 * 0.02
"""Of a server whose calls take 20 ms, give or take a half."""


def test_carries_half_a_load_untouched() -> None:
    world = World(GradientLimit(16, 2, 1000), 8, 0.02)

    span = world.run(10, 0.5 * 400)

    assert span.refused == 0
    assert span.failed == 0
    assert span.p99 <= 1.1 * UNLOADED_P99
    assert set(span.limits) == {16}


@pytest.mark.parametrize(("times", "share"), [(1, 0.9), (2, 0.95), (10, 0.95)])
def test_overload_costs_no_goodput(times: int, share: float) -> None:
    """From the first second on. The drills ask for 0.9 at twice and 0.75 at ten times what the server carries."""
    world = World(GradientLimit(16, 2, 1000), 8, 0.02)

    span = world.run(10, times * 400)

    assert span.goodput >= share * 400
    assert span.p99 <= 2 * UNLOADED_P99 + 0.1
    assert 8 <= span.limit <= 16


@pytest.mark.parametrize(("workers", "seconds", "rest"), [(1, 0.01, (2, 4)), (2, 0.05, (3, 4)), (32, 0.02, (40, 56))])
@pytest.mark.parametrize("times", [2, 10])
def test_finds_the_limit_of_servers_of_other_sizes(
    workers: int, seconds: float, rest: tuple[int, int], times: int
) -> None:
    world = World(GradientLimit(16, 2, 1000), workers, seconds)
    capacity = workers / seconds

    world.run(4, times * capacity)
    span = world.run(4)

    assert span.goodput >= 0.9 * capacity
    assert rest[0] <= span.limit <= rest[1]


def test_finds_the_limit_where_calls_are_slow() -> None:
    """Half a second each, four at a time: twenty calls take two and a half seconds."""
    world = World(GradientLimit(16, 2, 1000), 4, 0.5, patience=5.0)

    first = world.run(30, 2 * 8)
    then = world.run(60)

    assert first.goodput >= 0.85 * 8
    assert then.goodput >= 0.95 * 8
    assert 4 <= then.limit <= 9
    assert sum(limit <= 0.75 * then.limit for limit in then.limits) <= 0.12 * len(then.limits)  # probes


@pytest.mark.parametrize("times", [2, 10])
def test_comes_down_fast_from_a_limit_that_is_far_too_high(times: int) -> None:
    world = World(GradientLimit(64, 2, 1000), 8, 0.02)

    first = world.run(3, times * 400)
    then = world.run(1)

    assert first.goodput >= 0.85 * 400
    assert 8 <= then.limit <= 16


def test_probes_become_rare() -> None:
    world = World(GradientLimit(16, 2, 1000), 8, 0.02)

    first = world.run(15, 2 * 400)
    world.run(15)
    then = world.run(30)

    assert 3 <= first.probes <= 6
    assert then.probes <= 1
    assert then.goodput >= 0.98 * 400


def test_a_probe_that_finds_something_new_is_repeated_soon() -> None:
    world = World(GradientLimit(64, 2, 1000), 8, 0.02)
    world.run(2, 2 * 400)

    assert world.run(4).probes >= 1


@pytest.mark.parametrize("times", [2, 10])
def test_follows_when_half_of_the_workers_go_and_come_back(times: int) -> None:
    world = World(GradientLimit(16, 2, 1000), 16, 0.02)
    rate = times * 800
    before = world.run(5, rate)

    world.workers = 8
    change = world.run(2)
    less = world.run(3)
    world.workers = 16
    world.run(2)
    again = world.run(3)

    assert change.goodput >= 0.8 * 400
    assert less.goodput >= 0.95 * 400
    assert again.goodput >= 0.95 * 800
    assert 18 <= before.limit <= 28
    assert 8 <= less.limit <= 15
    assert 18 <= again.limit <= 28


def test_a_model_that_becomes_slower_is_not_taken_for_a_crowded_one() -> None:
    """As many calls at a time as before, each three times as long; and back."""
    world = World(GradientLimit(16, 2, 1000), 16, 0.02)
    world.run(4, 2 * 800)

    world.seconds = 0.06
    world.run(2)
    slow = world.run(3)
    world.seconds = 0.02
    world.run(2)
    fast = world.run(3)

    assert slow.goodput >= 0.9 * 800 / 3
    assert 16 <= slow.limit <= 30
    assert fast.goodput >= 0.9 * 800
    assert 16 <= fast.limit <= 30


def test_a_model_that_has_long_been_slow_and_becomes_faster() -> None:
    """Probes have become rare, and the calm that is remembered is three times too slow."""
    world = World(GradientLimit(16, 2, 1000), 16, 0.06)
    world.run(40, 2 * 800 / 3)

    world.seconds = 0.02
    span = world.run(4, 2 * 800)

    assert span.goodput >= 0.9 * 800
    assert max(span.limits) <= 40


def test_a_crowd_of_large_requests_after_a_quiet_time_of_small_ones() -> None:
    """What calm calls take was learnt of others: ten times as fast."""
    world = World(GradientLimit(16, 2, 1000), 16, 0.02)
    world.work = lambda: world.random.uniform(0.1, 0.3)
    world.run(5, 100)

    world.work = lambda: world.random.uniform(1.0, 3.0)
    world.run(2, 2 * 400)
    span = world.run(3)

    assert span.goodput >= 0.9 * 400
    assert span.limit >= 16


@pytest.mark.parametrize("times", [2, 10])
def test_requests_of_very_different_sizes(times: int) -> None:
    """A logarithmic normal distribution, mean 1: of a hundred calls one takes sixteen times what most take."""
    world = World(GradientLimit(16, 2, 1000), 8, 0.02, patience=1.0)
    world.work = lambda: world.random.lognormvariate(-0.5, 1.0)

    world.run(2, times * 400)
    span = world.run(15)

    assert span.goodput >= 0.9 * 400
    assert 6 <= span.limit <= 16


def test_neither_grows_nor_shrinks_without_load() -> None:
    """Whatever the latencies do, while one or two calls are under way."""
    limit = GradientLimit(16, 2, 1000)
    world = World(limit, 16, 0.02)
    world.work = lambda: world.random.lognormvariate(-0.5, 1.5)

    span = world.run(30, 20)

    assert set(span.limits) == {16}
    assert limit.current == 16


def test_does_not_grow_while_nobody_is_held_up() -> None:
    """Three quarters of it are in use."""
    limit = GradientLimit(16, 2, 1000)

    for step in range(5000):
        limit.finished(0.02, 12, True, step * 0.01)
        assert limit.current == 16


def test_slow_calls_without_a_crowd_do_not_lower_it() -> None:
    limit = GradientLimit(16, 2, 1000)

    for step in range(2000):
        limit.finished(0.01 if step < 1000 else 0.2, 3, True, step * 0.05)
        assert limit.current == 16


def test_calls_that_began_before_it_shrank_do_not_make_it_shrink_again() -> None:
    limit = GradientLimit(16, 2, 1000)
    now = 0.0

    def finish(seconds: float, in_flight: int) -> None:
        nonlocal now
        now += 0.002
        limit.finished(seconds, in_flight, True, now)

    for _ in range(500):
        finish(0.02, 4)
    while limit.current == 16:
        finish(0.045, 15)
    assert limit.current == 10

    for _ in range(22):
        finish(0.045, 9)
    for _ in range(500):
        finish(0.029, 9)

    assert limit.current == 10


def test_what_was_learnt_survives_an_idle_hour() -> None:
    world = World(GradientLimit(16, 2, 1000), 32, 0.02)
    learnt = world.run(4, 2 * 1600).limit
    world.run(5, 5)
    world.run(3600, 0)

    span = world.run(2, 2 * 1600)

    assert span.goodput >= 0.85 * 1600
    assert learnt / 1.5 <= span.limit <= learnt * 1.5


def test_a_server_that_refuses_is_not_asked_too_much() -> None:
    """Refusals come after a millisecond: they must not look like a fast server."""
    world = World(GradientLimit(64, 2, 1000), 8, 0.02)
    world.server_queue = 4

    world.run(2, 10 * 400)
    span = world.run(5)

    assert span.goodput >= 0.96 * 400
    assert span.failed <= 0.3 * len(span.latencies)  # without a limit there are nine for each answer
    assert 8 <= span.limit <= 13


def test_a_server_that_does_not_answer_gets_the_least_and_is_found_again() -> None:
    """All calls take exactly as long as they may: constant, and yet no sign of calm."""
    world = World(GradientLimit(16, 2, 1000), 8, 0.02)
    world.run(3, 2 * 400)
    world.seconds = 10.0
    world.run(15)
    dead = world.limit.current
    world.seconds = 0.02
    world.run(12)  # those that it has taken in before must come out first

    span = world.run(5)

    assert dead == 2
    assert span.goodput >= 0.9 * 400
    assert 8 <= span.limit <= 16


def test_some_failures_without_a_crowd_are_not_the_fault_of_the_limit() -> None:
    limit = GradientLimit(16, 2, 1000)

    for step in range(1000):
        limit.finished(0.5, 2, step % 5 > 0, step * 0.1)

    assert limit.current == 16


def test_one_failure_among_many_is_chance() -> None:
    limit = GradientLimit(16, 2, 1000)
    limits = []

    for step in range(2000):
        limit.finished(0.01, min(16, limit.current), step % 100 > 0, step * 0.001)
        limits.append(limit.current)

    assert min(limits) == 4  # the first probe
    assert sorted(limits)[1000] >= 16


@given(
    bounds=st.tuples(st.integers(1, 50), st.integers(0, 50), st.integers(0, 50)),
    calls=st.lists(
        st.tuples(
            st.floats(0.0, 100.0),
            st.integers(1, 200),
            st.booleans(),
            st.floats(0.0, 5.0),
            st.integers(1, 60),
        ),
        max_size=60,
    ),
)
@settings(max_examples=tries(200))
def test_stays_within_its_bounds(
    bounds: tuple[int, int, int], calls: Sequence[tuple[float, int, bool, float, int]]
) -> None:
    least, initial, most = bounds[0], bounds[0] + bounds[1], bounds[0] + bounds[1] + bounds[2]
    limit = GradientLimit(initial, least, most)
    now = 0.0
    for seconds, in_flight, is_ok, later, times in calls:
        for _ in range(times):
            now += later / times
            limit.finished(seconds, in_flight, is_ok, now)
            assert least <= limit.current <= most


def test_a_fixed_limit_stays() -> None:
    limit = FixedLimit(3)

    for step in range(100):
        limit.finished(10.0, 3, False, float(step))

    assert limit.current == 3
